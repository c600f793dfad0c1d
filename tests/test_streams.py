"Streams: what a moment is, that all streams of a clip get the same crop, and training and prediction on several streams."
import shutil

import pytest
import torch
from torch.testing import assert_close

import fgar
from fgar.core import generator, stack_of
from fgar.data.augment import Augment, Draw
from fgar.data.datasets import Manifest, VideoDataset, collate
from fgar.data.streams import MIRROR_JOINTS, crop_pose, middle, model_inputs, moment_flow, stored_flow
from fgar.evaluate import EvaluateConfig, evaluate
from fgar.models.two_stream import TwoStream, flow_images
from fgar.ops.flow import dequantise, tvl1
from fgar.synthetic import court26_pose, render
from fgar.train import TrainConfig, load_checkpoint, make_loaders


@pytest.mark.parametrize('stack', [1, 2, 5])
def test_moments(stack):
    frames = torch.arange(2*3*(stack + 1)).view(2, -1, 1, 1, 1).expand(-1, -1, 2, 2, 3)
    assert_close(middle(frames, stack)[..., 0, 0, 0], frames[..., 0, 0, 0].view(2, 3, stack + 1)[..., stack//2])


def test_flow_stays_within_a_moment():
    x = torch.rand(2, 3, 6, 20, 24, generator=generator(0))
    flow = moment_flow(x, 2)
    grey = torch.einsum('c,ncthw->nthw', torch.tensor([.299, .587, .114]), x)
    for moment in range(2):
        for field in range(2):
            a = 3*moment + field
            assert_close(flow[:, :, 2*moment + field], tvl1(grey[:, a, None], grey[:, a + 1, None]), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r'groups of L \+ 1 = 4 frames, got 6'): moment_flow(x, 3)


def test_stored_flow_is_the_flow():
    frames = render([0, 5], [0, 1], frames=4, size=32).frames
    exact = moment_flow(frames.movedim(-1, 1).float()/255, 1)
    assert_close(dequantise(stored_flow(frames, 1, batch=1)).movedim(-1, 1), exact.clamp(-20, 20), rtol=0, atol=20/254 + 1e-3)


def test_pose_follows_the_picture():
    "A bright dot is drawn on one joint; after crop and mirror the joint of the other side lies on it."
    frames, pose = torch.zeros(2, 1, 40, 60, 3, dtype=torch.uint8), torch.full((2, 2, 1, 15), .9)
    frames[:, :, 18:21, 36:39] = 255
    pose[:, :, :, 7] = torch.tensor([37.5/60, 19.5/40])[None, :, None]
    draw = Draw(torch.tensor([[20, 4, 52, 36]]*2), torch.tensor([False, True]))
    rgb, new = model_inputs(dict(frames=frames, pose=pose), ('rgb', 'pose'), Augment(32, train=False), draw)
    for i, joint in enumerate((7, MIRROR_JOINTS[7])):
        x, y = (new[i, :, 0, joint]*32 - .5).round().long().tolist()
        assert rgb[i, 0, 0, y, x] == rgb[i, 0].max() > rgb[i, 0].min()
    back = crop_pose(new[1:], Draw(torch.tensor([[0, 0, 32, 32]]), torch.tensor([True])), torch.tensor([[32, 32]]))
    assert_close(back, new[:1])


def test_pose_of_court26_is_that_of_its_clips():
    names = ['low dribble', 'jump shot']
    numbers = [fgar.synthetic.CLASSES.index(n) for n in names]
    truth = render(numbers, [0, 1], 'val', 3, 48, 6, .5, truth=True).joints/48 + .5/48
    assert_close(court26_pose('val', 2, 6, .5, names, 3), truth.movedim(-1, 1), rtol=1e-4, atol=1e-4)


def test_stack_of():
    assert stack_of('tsn', {}) == 0 and stack_of('tsn-flow', {}) == 5 and stack_of('tsn-flow', {'stack': 2}) == 2
    assert fgar.create('tsn-two-stream', 3, body='small', stack=2).stack == 2 and fgar.create('tsn', 3, body='small').stack == 0


@pytest.mark.parametrize('sampling', ['segments', 'dense'])
@pytest.mark.parametrize('clips', [1, 2])
def test_dataset_reads_groups(tiny_run, sampling, clips):
    data = VideoDataset(Manifest.read(tiny_run/'data/manifest.csv'), 3, sampling, clips, stack=2, size=24)
    at = data.indices(0).view(clips, 3, 3)
    assert (at.diff(dim=2) == 1).all()
    assert data[0]['frames'].shape == ((9,) if clips == 1 else (clips, 9)) + (24, 24, 3)
    with pytest.raises(ValueError, match='stack: expected 0 with length'): VideoDataset(data.manifest, 4, length=2, stack=1)


def test_collate_pads_flow_like_frames():
    item = lambda h, w: dict(frames=torch.zeros(2, h, w, 3, dtype=torch.uint8), flow=torch.full((2, h, w, 2), 128, dtype=torch.uint8), label=0, index=0)
    batch = collate([item(8, 10), item(9, 6)], (2,))
    assert batch['flow'].shape == (2, 2, 9, 10, 2) and batch['valid'].tolist() == [[8, 10], [9, 6]]


@pytest.mark.parametrize('model', ['tsn-flow', 'tsn-two-stream'])
def test_trains_evaluates_and_predicts(tiny_run, tmp_path, model):
    small = dict(model=model, options={'body': 'small', 'stack': 1}, frames=3, size=24, epochs=1, warmup=0., batch=4, workers=0, quiet=True, tensorboard=False, flow='lucas_kanade')
    fgar.train(TrainConfig(data=str(tiny_run/'data/manifest.csv'), out=str(tmp_path/'files'), **small))
    result = evaluate(EvaluateConfig(str(tmp_path/'files/best.pt'), workers=0, clips=2, crops=3, quiet=True))
    assert len(result.target) == 6
    video = next((tiny_run/'data/test').rglob('*.mp4'))
    checkpoint = load_checkpoint(tmp_path/'files/best.pt')
    windows = fgar.predict(video, checkpoint)
    assert abs(sum(windows[0].scores) - 1) < 1e-4
    row = result.per_clip[result.per_clip.path == video.relative_to(tiny_run/'data').as_posix()].iloc[0]
    one = evaluate(EvaluateConfig(str(tmp_path/'files/best.pt'), workers=0, quiet=True))
    i = one.names.index(row.path)
    assert_close(one.scores[i].max().item(), windows[0].scores[0], rtol=1e-3, atol=1e-4)
    memory = TrainConfig(data='court26', out=str(tmp_path/'memory'), classes=('low dribble', 'jump shot'), clips=8, val_clips=4, **small)
    fgar.train(memory)
    assert len(evaluate(EvaluateConfig(str(tmp_path/'memory/best.pt'), count=4, quiet=True)).target) == 4
    loader = make_loaders(memory, torch.device('cpu'))[0]
    assert loader.frames.shape[1] == (3 if model == 'tsn-two-stream' else 0) and loader.extra['flow'].shape == (8, 3, 24, 24, 2)


def test_wrong_sources_are_explained(tmp_path):
    small = dict(model='tsn-flow', options={'body': 'small'}, out=str(tmp_path), clips=4, val_clips=4, batch=2, quiet=True, size=24, frames=2, classes=('low dribble', 'jump shot'))
    with pytest.raises(ValueError, match='court26 in memory, got .compressed'): fgar.train(TrainConfig(flow='compressed', **small))
    (tmp_path/'x.csv').write_text('path,label\na.mp4,low dribble\nb.mp4,jump shot\n')
    with pytest.raises(FileNotFoundError, match='fgar flow writes'): fgar.train(TrainConfig(flow='nowhere', **{**small, 'data': str(tmp_path/'x.csv')}))
    with pytest.raises(ValueError, match='weights: expected two numbers'): TwoStream(fgar.create('tsn', 2, body='small'), fgar.create('tsn-flow', 2, body='small'), (0, 0))
    with pytest.raises(ValueError, match="got frames only"): model_inputs(dict(frames=torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)), ('pose',), Augment(8, train=False), Augment(8, train=False).draw(torch.zeros(1, 2, 8, 8, 3)))


def test_streams_of_another_length_are_explained():
    from fgar.train import MemoryLoader
    frames, labels = torch.zeros(4, 1, 8, 8, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match='flow: expected one entry for each of 4 clips, got 3'): MemoryLoader(frames, labels, ['a'], 2, flow=torch.zeros(3, 1, 8, 8, 2, dtype=torch.uint8))


def test_minmax_moves_zero():
    x = torch.zeros(1, 2, 1, 4, 4); x[..., 0] = 10.
    fixed, moved = flow_images(x, 1), flow_images(x, 1, scaling='minmax')
    assert fixed[..., 1:].abs().max() < 1e-5 and moved[..., 1:].abs().min() > 2


@pytest.mark.parametrize('source', ['files', 'compressed'])
def test_flow_that_is_read(tiny_run, tmp_path, source):
    "Flow files and motion vectors through dataset, training, evaluation and prediction."
    from fgar import cli
    if source == 'files': assert cli.main(['flow', str(tiny_run/'data/manifest.csv'), str(tmp_path/'flow'), '--method', 'lucas_kanade', '--workers', '0']) == 0
    flow = str(tmp_path/'flow') if source == 'files' else source
    data = VideoDataset(Manifest.read(tiny_run/'data/manifest.csv'), 3, stack=2, flow=flow, size=24)
    item = data[0]
    assert item['frames'].shape == (3, 24, 24, 3) and item['flow'].shape == (6, 24, 24, 2)
    assert VideoDataset(data.manifest, 3, stack=2, flow=flow, size=24, rgb=False)[0]['frames'].shape == (0, 24, 24, 3)
    assert VideoDataset(data.manifest, 3, clips=2, stack=2, flow=flow, size=24)[0]['flow'].shape == (2, 6, 24, 24, 2)
    if source == 'files':
        computed = VideoDataset(data.manifest, 3, stack=2)[0]['frames']
        grouped = moment_flow(computed.movedim(-1, 0)[None].float()/255, 2, 'lucas_kanade')[0]
        read = dequantise(VideoDataset(data.manifest, 3, stack=2, flow=flow)[0]['flow']).movedim(-1, 0)
        assert_close(read, grouped.clamp(-20, 20), rtol=0, atol=20/254 + 1e-2)
    small = dict(model='tsn-two-stream', options={'body': 'small', 'stack': 2}, frames=3, size=24, epochs=1, warmup=0., batch=4, workers=0, quiet=True, tensorboard=False, flow=flow)
    fgar.train(TrainConfig(data=str(tiny_run/'data/manifest.csv'), out=str(tmp_path/'run'), **small))
    assert len(evaluate(EvaluateConfig(str(tmp_path/'run/best.pt'), workers=0, quiet=True, flow=flow)).target) == 6
    assert fgar.predict(next((tiny_run/'data/test').rglob('*.mp4')), str(tmp_path/'run/best.pt'), device='cpu')[0].labels
