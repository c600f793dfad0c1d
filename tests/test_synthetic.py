"Cases of fgar.synthetic and fgar.motion that would clutter their chapters."
import csv, sys, types

import pytest
import torch
from torch.nn import functional as F

from fgar.motion import Chance, bend, mix, perform
from fgar.synthetic import CLASSES, COARSE, FLIP, JOINTS, SPLITS, court26, court26_pose, render, untrimmed, write_court26

def test_names():
    assert len(CLASSES) == len(set(CLASSES)) == len(COARSE) == 26
    assert [COARSE.count(c) for c in ('dribble', 'pass', 'shot')] == [8, 9, 9]
    assert [FLIP[f] for f in FLIP] == list(range(26)) and {CLASSES[i] for i in range(26) if FLIP[i] != i} == {'crossover left to right', 'crossover right to left'}

@pytest.mark.parametrize('label', range(26), ids=CLASSES)
def test_bones_keep_their_length_and_feet_stay_above_the_floor(label):
    pose = perform(torch.full((4,), label), mix(torch.arange(4)), torch.arange(24)/12)
    for side in ('left', 'right'):
        for a, b, length in (('shoulder', 'elbow', .3), ('elbow', 'hand', .3), ('hip', 'knee', .45), ('knee', 'foot', .44)):
            bone = (pose.joints[:, :, JOINTS.index(f'{side} {a}')] - pose.joints[:, :, JOINTS.index(f'{side} {b}')]).norm(dim=-1)
            torch.testing.assert_close(bone, torch.full_like(bone, length), atol=2e-3, rtol=0)
    assert pose.joints[..., 1].min() > -.05 and pose.ball[..., 1].min() > 0
    assert (pose.moment[:, 0] > 0).all() and (pose.moment[:, 1] < 2).all() and (pose.moment.diff(dim=1) <= 2/3 + 1e-4).all()

@pytest.mark.parametrize('label', range(26), ids=CLASSES)
def test_ball_moves_without_jumps(label):
    pose = perform(torch.full((8,), label), mix(torch.arange(8) + 50), torch.arange(400)/200)
    assert pose.ball.diff(dim=1).norm(dim=-1).max()*200 < 30      # m/s

def test_crossovers_go_where_they_say():
    for name, sign in (('crossover left to right', -1), ('crossover right to left', 1)):      # the player's left is +x
        pose = perform(torch.full((20,), CLASSES.index(name)), mix(torch.arange(20)), torch.arange(200)/100)
        x = pose.ball[..., 0].gather(1, (pose.moment*100).round().long())
        assert ((x[:, 1] - x[:, 0]).sign() == sign).all()

def test_handedness_is_free_elsewhere():
    pose = perform(torch.full((60,), CLASSES.index('one-hand push pass')), mix(torch.arange(60)), torch.arange(4)/2)
    assert 15 < pose.acting[:, 0].sum() < 45 and (pose.acting.sum(1) == 1).all()

@pytest.mark.parametrize('difficulty', [0., .5, 1.])
def test_same_clip_whatever_the_batch(difficulty):
    labels, index = torch.tensor([3, 20, 3, 11]), torch.tensor([5, 9, 12, 40])
    many = render(labels, index, size=32, frames=4, difficulty=difficulty, truth=True)
    one = render(labels[2:3], index[2:3], size=32, frames=4, difficulty=difficulty, truth=True)
    assert torch.equal(many.frames[2:3], one.frames)
    for field in ('flow', 'hidden', 'joints', 'player_box', 'ball_box', 'moment'): torch.testing.assert_close(getattr(many, field)[2:3], getattr(one, field))

@pytest.mark.parametrize('other', [dict(seed=1), dict(split='val')])
def test_another_seed_or_split_is_another_clip(other):
    assert not torch.equal(render([4], [7], size=32, frames=2).frames, render([4], [7], size=32, frames=2, **other).frames)

def test_truth_does_not_change_the_frames():
    assert torch.equal(render([4], [7], size=32, frames=3).frames, render([4], [7], size=32, frames=3, truth=True).frames)

@pytest.mark.parametrize('size,frames', [(33, 1), (48, 7)])
def test_shapes(size, frames):
    c = render([0, 25], [0, 1], size=size, frames=frames, truth=True)
    assert c.frames.shape == (2, frames, size, size, 3) and c.frames.dtype == torch.uint8
    assert c.flow.shape == (2, 2, frames - 1, size, size) and c.hidden.shape == (2, frames - 1, size, size)
    assert c.joints.shape == (2, frames, 15, 2) and c.hand_boxes.shape == (2, frames, 2, 4)

@pytest.mark.parametrize('difficulty', [0., 1.])
def test_flow_explains_the_next_frame(difficulty):
    c = render(range(0, 26, 3), range(0, 26, 3), size=128, frames=32, difficulty=difficulty, truth=True)
    video = c.frames.permute(0, 1, 4, 2, 3).float()/255
    a, b, flow = video[:, :-1].flatten(0, 1), video[:, 1:].flatten(0, 1), c.flow.transpose(1, 2).flatten(0, 1)
    x, y = flow[:, 0] + torch.arange(128), flow[:, 1] + torch.arange(128)[:, None]
    warped = F.grid_sample(b, torch.stack([2*x/127 - 1, 2*y/127 - 1], -1), align_corners=True, padding_mode='border')
    use = ~c.hidden.flatten(0, 1) & (flow.norm(dim=1) > 1)
    error = lambda x: (x - a).abs().mean(1)[use].median()
    assert error(warped) < .6*error(b) and error(warped) < error(warped.roll(1, -1))

def test_splits_share_nobody():
    seen = [render(torch.arange(200) % 26, torch.arange(200), s, size=16, frames=1, difficulty=0) for s in SPLITS]
    for field in ('player', 'kit', 'court'):
        sets = [set(getattr(c, field).tolist()) for c in seen]
        assert sum(map(len, sets)) == len(set.union(*sets))

def test_classes_take_turns_and_subsets_count_within_themselves():
    frames, labels = court26('val', 7, size=16, frames=2, classes=['catch', 'dunk', 'spin'], batch=3, progress=False)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and frames.shape == (7, 2, 16, 16, 3)
    assert torch.equal(frames[1], render([CLASSES.index('dunk')], [1], 'val', size=16, frames=2).frames[0])

def test_untrimmed_actions_follow_each_other():
    c = untrimmed([0, 7, 25, 16], index=3, size=32, fps=6, truth=True)
    assert c.frames.shape == (1, 48, 32, 32, 3) and c.moment.shape == (4, 2)
    assert (c.moment.flatten().diff() > 0).all() and c.moment.max() < 8
    assert c.joints.diff(dim=1).norm(dim=-1).max() < 16          # px at 32 px: nobody teleports

@pytest.mark.parametrize('arguments', [dict(labels=[26], indices=[0]), dict(labels=[-1], indices=[0]), dict(labels=[], indices=[]),
                                       dict(labels=[1], indices=[0], difficulty=2.), dict(labels=[1], indices=[0, 1]), dict(labels=[1], indices=[0], split='tset')])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError): render(**arguments)

def test_chance_is_even_and_independent():
    c = Chance(mix(torch.arange(20_000)))
    a, b = c(), c()
    assert abs(a.mean() - .5) < .01 and abs(a.std() - 12**-.5) < .01 and abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < .03

def test_bend_stops_at_full_reach():
    joint, end = bend(torch.zeros(3), torch.tensor([5., 0, 0]), torch.tensor(.3), torch.tensor(.2), torch.tensor([0., 1, 0]))
    assert .49 < end[0] < .5 and joint.isfinite().all()

def test_write(tmp_path, monkeypatch):
    written = {}
    stub = types.ModuleType('fgar.data.video')
    stub.write_video = lambda path, frames, fps: written.update({str(path): (tuple(frames.shape), frames.dtype, fps)})
    monkeypatch.setitem(sys.modules, 'fgar.data.video', stub)
    manifest = write_court26(tmp_path, train=3, val=1, test=1, size=16, frames=4, fps=2, classes=['catch', 'dunk'])
    rows = list(csv.DictReader(manifest.open()))
    assert [r['label'] for r in rows] == ['catch', 'dunk', 'catch', 'catch', 'catch'] and [r['split'] for r in rows] == ['train']*3 + ['val', 'test']
    assert all(written[str(tmp_path/r['path'])] == ((4, 16, 16, 3), torch.uint8, 2) for r in rows)
    assert all(0 <= float(r['moment_start']) < float(r['moment_end']) <= float(r['end']) == 2 for r in rows)
    with pytest.raises(ValueError, match='even'): write_court26(tmp_path, size=15)


@pytest.mark.parametrize('draw,match', [
    (lambda: court26('train', count=0), 'count: expected at least 1 clip, got 0'), (lambda: court26('train', count=1, size=0, progress=False), 'size, frames: expected at least 1 px and 1 frame, got 0 and 16'),
    (lambda: untrimmed([]), 'labels: expected at least one'), (lambda: untrimmed([99]), r'labels: expected at least one, from 0 to 25, got \[99\]'),
    (lambda: untrimmed([1], fps=.1), 'size, frames: expected'), (lambda: untrimmed([1], difficulty=5), 'difficulty: expected')])
def test_scenes_that_cannot_be_drawn(draw, match):
    with pytest.raises(ValueError, match=match): draw()


def test_fewer_clips_than_none_are_not_written(tmp_path):
    with pytest.raises(ValueError, match='train, val, test: expected at least 0 clips'): write_court26(tmp_path, train=-1, size=16)
    assert not list(tmp_path.iterdir())

def test_actions_of_a_long_video_lie_in_their_own_frames():
    c = untrimmed([8]*20, size=16, fps=8, seconds=1.3, difficulty=0.)                      # 10.4 frames per action: 10 are drawn
    lo = torch.arange(20)*10/8
    assert c.frames.shape[1] == 200 and (c.moment[:, 0] > lo).all() and (c.moment[:, 1] <= lo + 10/8).all()

@pytest.mark.parametrize('classes', [[], ['spin', 'spin']])
def test_a_subset_has_each_class_once(classes, tmp_path):
    for call in (lambda: court26('val', 2, classes=classes), lambda: court26_pose('val', 2, classes=classes), lambda: write_court26(tmp_path, classes=classes)):
        with pytest.raises(ValueError, match='classes: expected at least one name, and each once'): call()
