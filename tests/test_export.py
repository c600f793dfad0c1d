"Exported graphs against the models they come from: every system, odd batches, and what goes wrong."
import inspect, json, os, subprocess, sys

import pytest, torch
from torch import nn
from torch.testing import assert_close

import fgar
from fgar import cli, core
from fgar.export import NotExportable, REWRITTEN, export_onnx, export_program, open_onnx, parity, random_clips, read_metadata
from fgar.export import _attention, _pool3d, _running, _sort
from fgar.ops.correlation import correlate_pairs, correlate_unfold

for name in ('onnx', 'onnxscript', 'onnxruntime'): pytest.importorskip(name)

# An export takes seconds, so each test run does the five papers' systems and one that reads joints; all of them with FGAR_EXPORT=all.
PAPERS = ['nts', 'mhssa', 'deepfusion', 'fstfl', 'stmanet']
FEW = PAPERS + ['dgcn']
SMALL = {name: dict(frames=4, size=32) for name in ('r3d', 'mc3', 'r2plus1d', 'swin3d', 'mvit')} | {'mvit': dict(frames=4)}

def build(name, **options):
    torch.manual_seed(0)
    entry = fgar.spec(name)
    body = {'body': 'small'} if 'body' in inspect.signature(entry.build.__init__).parameters else {}
    return fgar.create(name, classes=5, **{**dict(frames=min(4, entry.frames), size=min(32, entry.size)), **body, **SMALL.get(name, {}), **options}).eval()

@pytest.mark.parametrize('name', fgar.models() if os.environ.get('FGAR_EXPORT') == 'all' else FEW)
def test_parity(name, tmp_path):
    model = build(name, size=64) if name.startswith('nts') else build(name)
    try: path = export_onnx(model, tmp_path/'model.onnx')
    except NotExportable as e:
        if tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 15): raise
        pytest.skip(f'the exporter of torch {torch.__version__} cannot: {e}')       # 2.9.1: mhssa, deepfusion, dgcn
    assert os.listdir(tmp_path) == ['model.onnx']                                  # one file, nothing beside it
    assert open_onnx(path).get_inputs()[0].shape[0] == 'batch'
    assert parity(model, path, (1, 2, 5)) < 1e-4
    if 'pose' in model.spec.inputs:                                                # joints that were not seen
        clips = random_clips(model, 3)
        clips['pose'][:, :, 1, 4] = torch.nan
        theirs = open_onnx(path).run(None, {k: v.numpy() for k, v in clips.items()})[0]
        with torch.no_grad(): assert_close(torch.from_numpy(theirs), model(*clips.values()).logits, rtol=1e-4, atol=1e-5)

def test_parity_sees_a_difference(tmp_path):
    model = build('small3d')
    path = export_onnx(model, tmp_path/'model.onnx')
    assert parity(model, path) < 1e-5
    with torch.no_grad(): model.fc.bias[2] += .5
    assert parity(model, path) == pytest.approx(.5, abs=1e-4)

class Mean(core.ActionModel):
    def __init__(self, classes): super().__init__(); self.head = nn.Linear(3, classes)
    def forward(self, clip): return core.Prediction(self.head(self.colour(clip)))

@pytest.fixture
def system(monkeypatch):
    "Register a system for one test."
    def make(colour):
        core.models(); monkeypatch.setattr(core, '_REGISTRY', dict(core._REGISTRY))
        core.register('made-up', paper='none', frames=2, size=8)(type('MadeUp', (Mean,), {'colour': colour}))
        torch.manual_seed(0)
        return fgar.create('made-up', classes=2)
    return make

def test_errors_name_the_cause_and_the_remedy(system, tmp_path):
    with pytest.raises(NotExportable, match=r'batch size as a Python number.*batch=1'): export_onnx(system(lambda s, x: x.reshape(len(x), 3, -1).mean(2)), tmp_path/'a.onnx')
    with pytest.raises(NotExportable, match='looking at values.*torch.where'): export_onnx(system(lambda s, x: x.mean((2, 3, 4)) if x.mean() > 0 else x.amax((2, 3, 4))), tmp_path/'a.onnx')
    with pytest.raises(NotExportable, match='operator aten.*eigh.*REWRITTEN'): export_onnx(system(lambda s, x: torch.linalg.eigvalsh(torch.einsum('nctij,ndtij->ncd', x, x))), tmp_path/'a.onnx')
    with pytest.raises(ValueError, match='fgar.create'): export_onnx(nn.Linear(2, 2), tmp_path/'a.onnx')
    with pytest.raises(ValueError, match='at least 1'): export_onnx(build('small3d'), tmp_path/'a.onnx', batch=0)
    with pytest.raises(FileNotFoundError, match='checkpoint'): export_onnx(tmp_path/'nothing.pt', tmp_path/'a.onnx')
    with pytest.raises(FileNotFoundError, match='export_onnx'): open_onnx(tmp_path/'nothing.onnx')
    assert not os.listdir(tmp_path)

def test_an_error_without_words_is_explained_too(system):
    def colour(s, x):
        if torch.compiler.is_exporting(): raise AssertionError
        return x.mean((2, 3, 4))
    with pytest.raises(NotExportable, match='AssertionError'): export_program(system(colour))

@pytest.mark.parametrize('wrong', [dict(frames=0), dict(frames=-1), dict(size=0)])
def test_sizes_that_are_none(wrong):
    with pytest.raises(ValueError, match=f'{list(wrong)[0]}: expected .* at least 1'): export_program(build('small3d'), **wrong)

def test_weights_that_one_file_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr('fgar.export.LARGEST', 1000)
    with pytest.raises(NotExportable, match=r'one ONNX file holds.*small3d.*\.pt2'): export_onnx(build('small3d'), tmp_path/'a.onnx')
    assert not os.listdir(tmp_path)

def test_a_failed_export_leaves_the_old_file(system, tmp_path):
    (tmp_path/'a.onnx').write_text('old')
    with pytest.raises(NotExportable): export_onnx(system(lambda s, x: x.mean((2, 3, 4)) if x.mean() > 0 else x.amax((2, 3, 4))), tmp_path/'a.onnx')
    assert os.listdir(tmp_path) == ['a.onnx'] and (tmp_path/'a.onnx').read_text() == 'old'

def test_fixed_batch_other_sizes_and_training_mode(system, tmp_path):
    model = system(lambda s, x: x.reshape(len(x), 3, -1).mean(2)).train()
    model.head.eval()                                                              # frozen by its owner
    path = export_onnx(model, tmp_path/'a.onnx', frames=5, size=6, batch=2)
    assert model.training and parity(model, path) < 1e-5 and model.training and not model.head.training
    about = read_metadata(path)
    assert open_onnx(path).get_inputs()[0].shape == [2, 3, 5, 6, 6] and (about['frames'], about['size']) == (5, 6)

def test_program_is_saved_with_its_description(tmp_path):
    model = build('small3d')
    program = export_program(model, tmp_path/'model.pt2')
    extra = {'fgar.json': ''}
    again = torch.export.load(tmp_path/'model.pt2', extra_files=extra)
    clip = random_clips(model, 7)['rgb']
    with torch.no_grad():
        assert_close(again.module()(clip), model(clip).logits)
        assert_close(program.module()(clip), model(clip).logits)
    assert json.loads(extra['fgar.json'])['system'] == 'small3d'

@pytest.mark.parametrize('shape,size', [((2, 3, 7, 5, 4), (4, 1, 2)), ((1, 2, 3, 3, 3), (5, 3, 1))])
def test_rewritten_pooling(shape, size):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert_close(_pool3d(x, list(size)), nn.functional.adaptive_avg_pool3d(x, size))

def test_rewritten_operators():
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randint(0, 3, (2, 5, 6), generator=g).float(), torch.rand(5, 5, generator=g) < .7
    mask |= torch.eye(5, dtype=torch.bool)
    for m in (None, mask, mask.float()): assert_close(_attention(x, x, x, m, scale=.3), nn.functional.scaled_dot_product_attention(x, x, x, m, scale=.3))
    for dim in (0, 1, -1):
        assert_close(_running(x, dim, True)[0], x.cummax(dim)[0]); assert_close(_running(x, dim, False)[0], x.cummin(dim)[0])
        for down in (True, False): assert_close(_sort(x, True, dim, down)[0], x.sort(dim=dim, descending=down)[0])
    value, index = _running(x, 1, True)
    assert_close(x.gather(1, index), value)
    assert all(callable(form) for form in REWRITTEN.values())

@pytest.mark.parametrize('N,C,H,W,radius', [(2, 3, 5, 7, 2), (1, 4, 3, 3, 4), (3, 2, 6, 4, 1)])
def test_all_pairs_correlation(N, C, H, W, radius):
    a, b = (torch.randn(N, C, H, W, dtype=torch.double, requires_grad=True, generator=torch.Generator().manual_seed(i)) for i in range(2))
    fast, slow = correlate_pairs(a, b, radius), correlate_unfold(a, b, radius)
    assert_close(fast, slow)
    assert_close(torch.autograd.grad(fast.square().sum(), (a, b)), torch.autograd.grad(slow.square().sum(), (a, b)))

def test_command_and_a_program_without_torch(tiny_run, tmp_path, capsys):
    checkpoint, path = tiny_run/'run/best.pt', tmp_path/'model.onnx'
    assert cli.main(['export', '--checkpoint', str(checkpoint), '--out', str(path)]) == 0
    assert 'largest difference' in capsys.readouterr().out
    from fgar.train import load_checkpoint
    from fgar.data.augment import Augment
    from fgar.synthetic import court26
    import numpy
    saved = load_checkpoint(checkpoint)
    about = read_metadata(path)
    assert about['labels'] == saved.labels and about['config']['model'] == 'tsm' and about['inputs'] == ['rgb'] and (about['frames'], about['size']) == (4, 32)
    frames, _ = court26('test', 3, size=32, frames=4, difficulty=0.)
    numpy.savez(tmp_path/'clips.npz', frames=frames.numpy())
    code = ("import sys\nfor name in ('torch', 'torchvision', 'fgar', 'onnx'): sys.modules[name] = None\nimport json, numpy, onnxruntime\n"
            "s = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider']); m = s.get_modelmeta().custom_metadata_map\n"
            "labels, mean, std = (json.loads(m[k]) for k in ('labels', 'mean', 'std'))\n"
            "clip = ((numpy.load(sys.argv[2])['frames']/255 - mean)/std).transpose(0, 4, 1, 2, 3).astype('float32')\n"
            "print(json.dumps([labels[k] for k in s.run(None, {'rgb': clip})[0].argmax(1)]))")
    out = subprocess.run([sys.executable, '-c', code, str(path), str(tmp_path/'clips.npz')], capture_output=True, text=True, check=True).stdout
    with torch.no_grad(): ours = saved.model(Augment(32, train=False)(frames)[0]).logits
    assert json.loads(out) == [saved.labels[k] for k in ours.argmax(1)]
    assert cli.main(['export', '--checkpoint', str(checkpoint), '--out', str(tmp_path/'model.txt')]) == 1
    assert ".onnx, .pt2" in capsys.readouterr().err
