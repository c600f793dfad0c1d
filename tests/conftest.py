"Small things that several tests need."
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)      # tiny tensors: threads cost more than they bring

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='session')
def real():
    "Folder of real footage, where there is one."
    folder = Path(os.environ.get('FGAR_REAL', ROOT.parent/'shared'/'real'))
    if not folder.is_dir(): pytest.skip('no real footage here: set FGAR_REAL to its folder')
    return folder

@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
    "A folder with court26 files of two classes and a run trained on them for one epoch."
    import fgar.synthetic, fgar.train
    folder = tmp_path_factory.mktemp('tiny')
    fgar.synthetic.write_court26(folder/'data', train=8, val=4, test=6, size=48, frames=16, fps=8, difficulty=0., classes=['low dribble', 'jump shot'])
    fgar.train.train(fgar.train.TrainConfig(model='tsm', options={'body': 'small'}, data=str(folder/'data/manifest.csv'), out=str(folder/'run'), frames=4, size=32,
                                            epochs=1, warmup=0., batch=4, workers=0, quiet=True))
    return folder
