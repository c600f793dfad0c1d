"ST-MANet: attention over times and places, levels, losses, and the whole line through the command."
import json, re
from pathlib import Path


import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import fgar
from fgar.core import cost
from fgar.losses.diversity import diversity_loss
from fgar.models.stmanet import SDA, TDA, STMANet, explore, received, recipe, score_segments

CLIP = torch.randn(2, 3, 8, 40, 40, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4])


def small(**options):
    torch.manual_seed(0)
    return fgar.create('stmanet', classes=5, body='small', frames=8, size=40, **options)


def test_cost_is_near_the_papers():
    (_, base), (parameters, gmacs) = cost('resnet3d50', classes=101), cost('stmanet', classes=101)
    assert 1.22 <= gmacs/base <= 1.28 and parameters < 1.1*46_405_925
    assert cost('stmanet', classes=101, tda=False, sda=False)[1] == pytest.approx(base, rel=1e-3)


def test_maps_have_the_papers_shapes():
    with torch.device('meta'):
        layers, z = TDA(256), torch.empty(1, 256, 16, 28, 28)
        added, onward, _ = layers(z, torch.empty(1, 128, 16, 28, 28))
    assert added.shape == onward.shape == z.shape
    with torch.no_grad(): attention = SDA(8)(torch.randn(1, 8, 4, 28, 28), maps=True)[1]
    assert attention.shape == (1, 28, 28, 28, 28)
    assert_close(attention.flatten(3).sum(-1), torch.ones(1, 28, 28))


def rows(q, k, v, scale): return torch.softmax(torch.einsum('nid,njd->nij', q, k)*scale, -1) @ v

@pytest.mark.parametrize('scale', ['root', 'none'])
@pytest.mark.parametrize('outer', [False, True])
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('values', ['concat', 'previous'])
def test_tda_is_its_equations(scale, outer, dense, values):
    torch.manual_seed(2)
    C, B, T, H, W = 4, 2, 5, 3, 2
    layer = TDA(C, scale, dense, outer, values).double()
    z, p = torch.randn(2, C, T, H, W, dtype=torch.double)/3, torch.randn(2, B, T, H, W, dtype=torch.double)/3
    zc = torch.stack([x for b in range(B) for x in (z[:, 2*b], z[:, 2*b+1], p[:, b])], 1)
    conv = lambda x, m: F.conv3d(x, m.weight, padding=(1, 0, 0), groups=m.groups)
    flat = lambda x: x.transpose(1, 2).flatten(2)
    y = rows(flat(conv(zc, layer.query)), flat(conv(zc, layer.key)), flat(zc), (3*B*H*W)**-.5 if scale == 'root' else 1)
    if outer: y = y.softmax(-1)
    y = y.unflatten(2, (3*B, H, W)).transpose(1, 2)
    of_z, of_p = [3*b + j for b in range(B) for j in (0, 1)], [3*b + 2 for b in range(B)]
    for maps in (False, True):
        added, onward, attention = layer(z, p, maps)
        assert_close(added, conv(y[:, of_z], layer.main))
        assert_close(onward, conv(y if values == 'concat' else y[:, of_p], layer.branch))
        assert (attention is not None) == maps


@pytest.mark.parametrize('scale', ['root', 'none'])
@pytest.mark.parametrize('reduce', [None, 1, 2])
@pytest.mark.parametrize('per', ['clip', 'frame'])
@pytest.mark.parametrize('outer', [False, True])
def test_sda_is_its_equations(scale, reduce, per, outer):
    torch.manual_seed(3)
    layer, z = SDA(4, scale, reduce, outer, per).double(), torch.randn(2, 4, 5, 3, 2, dtype=torch.double)/2
    clips = z if per == 'clip' else z.transpose(1, 2).flatten(0, 1)[:, :, None]      # a frame is a clip of one
    flat = lambda x: x.flatten(3).permute(0, 3, 1, 2).flatten(2)
    q, k = layer.query(clips), layer.key(clips)
    y = rows(flat(q), flat(k), flat(clips), (q.shape[1]*clips.shape[2])**-.5 if scale == 'root' else 1)
    if outer: y = y.softmax(-1)
    y = y.unflatten(2, clips.shape[1:3]).permute(0, 2, 3, 1).unflatten(3, (3, 2))
    if per == 'frame': y = y[:, :, 0].unflatten(0, (2, 5)).transpose(1, 2)
    for maps in (False, True):
        got, attention = layer(z, maps)
        assert_close(got, y)
        assert attention is None or attention.shape == ((2, 3, 2, 3, 2) if per == 'clip' else (2, 5, 3, 2, 3, 2))


def test_gradients_of_both_ways_agree():
    torch.manual_seed(4)
    tda, sda, z, p = TDA(4).double(), SDA(4).double(), torch.randn(1, 4, 3, 2, 3, dtype=torch.double, requires_grad=True), torch.randn(1, 2, 3, 2, 3, dtype=torch.double, requires_grad=True)
    for run in (lambda maps: sum(x.square().sum() for x in tda(z, p, maps)[:2]), lambda maps: sda(z, maps)[0].square().sum()):
        a, b = (torch.autograd.grad(run(maps), (z, p), allow_unused=True) for maps in (False, True))
        for x, y in zip(a, b): assert x is None and y is None or torch.allclose(x, y)


def test_without_aggregation_it_is_the_3d_resnet():
    model = small(tda=False, sda=False, levels='5').eval()
    plain = fgar.create('resnet3d50', classes=5, body='small', frames=8, size=40).eval()
    plain.load_state_dict({k.removeprefix('body.'): v for k, v in model.state_dict().items()})
    with torch.no_grad(): assert_close(model(CLIP).logits, plain(CLIP).logits)


def test_with_gains_at_zero_it_starts_as_the_3d_resnet():
    model, plain = small(levels='5').eval(), small(levels='5', tda=False, sda=False).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        assert_close(model(CLIP).logits, plain(CLIP).logits)
        for g in model.gains: g.fill_(1.)
        printed = small(levels='5', gate=None).eval()
        printed.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith('gains')})
        assert_close(printed(CLIP).logits, model(CLIP).logits)
        assert not torch.allclose(model(CLIP).logits, plain(CLIP).logits)


@pytest.mark.parametrize('options', [{}, dict(tda=False), dict(sda=False), dict(levels='2'), dict(levels=(3, 5)), dict(levels=[4]), dict(levels=5), dict(dense=True), dict(values='previous'), dict(reduce=None), dict(per='frame'),
                                     dict(outer_softmax=True), dict(scale='none'), dict(gate=None), dict(pool='mean'), dict(feed=False), dict(space_weight=0., time_weight=0)])
def test_every_reading_trains(options):
    model = small(**options).train()
    pred = model(CLIP)
    loss = model.loss(pred, TARGET)
    loss['total'].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None] and all(p.grad.isfinite().all() for p in model.parameters())
    stages = max(model.levels) - 1
    assert len(pred.extras['features']) == len(model.levels)
    for kind, on in (('space', options.get('sda', True) and model.space_weight), ('time', options.get('tda', True) and model.time_weight)):
        assert (kind in loss) == bool(on) == (f'{kind}_maps' in pred.extras)
        if on: assert len(pred.extras[f'{kind}_maps']) == stages


def test_total_is_the_weighted_sum():
    model = small(space_weight=.3, time_weight=.2).train()
    pred = model(CLIP)
    loss = model.loss(pred, TARGET)
    assert_close(loss['total'], F.cross_entropy(pred.logits, TARGET) + .3*diversity_loss(pred.extras['space_maps']) + .2*diversity_loss(pred.extras['time_maps']))


def test_maps_are_kept_when_needed_only():
    model = small().eval()
    with torch.no_grad():
        lean = model(CLIP)
        model.keep_maps = True
        full = model(CLIP)
    assert not {'time_maps', 'space_maps'} & set(lean.extras) and {'time_maps', 'space_maps'} <= set(full.extras)
    assert_close(lean.logits, full.logits)
    for m in full.extras['time_maps']: assert_close(m.sum(-1), torch.ones(m.shape[:-1]))
    for m in full.extras['space_maps']: assert_close(received(m).mean((1, 2)), torch.ones(2))


def test_diversity_loss_separates_the_maps():
    alike = {}
    for weight in (0., .01):
        model = small(space_weight=weight, time_weight=weight/10).train(); model.keep_maps = True
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(15):
            loss = model.loss(model(CLIP), TARGET)
            optimizer.zero_grad(); loss['total'].backward(); optimizer.step()
        alike[weight] = loss['space'].item()
    assert alike[.01] < .8*alike[0.]


@pytest.mark.parametrize('shape', [(1, 3, 2, 33, 47), (2, 3, 5, 40, 31), (1, 3, 9, 17, 64)])
def test_odd_sizes(shape):
    model = small().train()
    x = torch.randn(shape).expand(2, -1, -1, -1, -1).contiguous() if shape[0] == 1 else torch.randn(shape)
    assert model.loss(model(x), TARGET)['total'].isfinite()


@pytest.mark.parametrize('options, words', [
    (dict(space_weight=-1e-3), 'space_weight: expected a number of at least 0, got -0.001'), (dict(time_weight=float('nan')), 'time_weight: expected'), (dict(time_weight=True), 'time_weight: expected'),
    (dict(levels='1,2'), 'levels: expected different stages'), (dict(levels=''), 'levels: expected'), (dict(levels=(2, 2)), 'levels: expected'), (dict(scale='sqrt'), 'scale: expected'),
    (dict(values='all'), 'values: expected'), (dict(per='video'), 'per: expected'), (dict(pool='sum'), 'pool: expected'), (dict(reduce=0), 'reduce: expected'), (dict(reduce=99), 'reduce: expected')])
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words): small(**options)


def test_bad_input_is_explained():
    model = small().train()
    with pytest.raises(ValueError, match='at least 2 frames'): model(CLIP[:, :, :1])
    assert small(tda=False).eval()(CLIP[:, :, :1]).logits.isfinite().all()
    nn.init.constant_(model.sda[2].key.weight, float('nan'))
    with pytest.raises(ValueError, match=r'maps\[2\]: expected finite values'): model.loss(model(CLIP), TARGET)
    with pytest.raises(ValueError, match='previous: expected'): TDA(4)(torch.zeros(1, 4, 3, 2, 2), torch.zeros(1, 2, 3, 4, 4))
    with pytest.raises(ValueError, match='even number'): TDA(5)


def test_segments_cover_the_video_and_are_averaged():
    class Mean(fgar.ActionModel):
        def forward(self, clip): return fgar.Prediction(clip.mean((2, 3, 4)))
    frames = (torch.rand(70, 24, 24, 3)*255).byte()
    got = score_segments(Mean(), frames, size=24, length=8, stride=2, batch=2)
    from fgar.data.augment import test_crops
    starts = [0, 16, 32, 48, 70 - 15]
    scores = [Mean()(test_crops(frames[None, s:s+15:2], 24)[:, 0]).scores for s in starts]
    assert_close(got, torch.cat(scores).mean(0))
    assert score_segments(Mean(), frames[:3], size=24).isfinite().all()              # shorter than a segment
    with pytest.raises(ValueError, match='One video'): score_segments(Mean(), frames[None])


def test_recipe_is_the_papers():
    c = recipe(data='x.csv')
    assert (c.frames, c.stride, c.size, c.sampling, c.epochs, c.batch, c.lr, c.momentum, c.optimizer) == (32, 2, 112, 'dense', 90, 32, .01, .9, 'sgd')
    assert c.schedule == 'step' and c.milestones == (15, 30, 45, 60, 75) and c.gamma == .1 and c.crop == 'square' and c.scale == (.5, 1)


def test_explorer_shows_all_stages_and_leaves_models_as_they_were():
    model = small().train()
    player = explore({'a': model, 'b': small(per='frame')}, CLIP[0])
    assert player.frames == 4 and 'stage 5' in player.html and model.training and not model.keep_maps
    with pytest.raises(ValueError, match='lacks one'): explore({'a': small(tda=False)}, CLIP[0])
    with pytest.raises(ValueError, match='One clip'): explore({'a': model}, CLIP)


def test_command_trains_and_predicts(tmp_path, tiny_run):
    from fgar.cli import main
    run = tmp_path/'run'
    assert main(['train', '--model', 'stmanet', '--options', 'body', 'small', 'levels', '3,5', '--data', str(tiny_run/'data/manifest.csv'), '--out', str(run), '--frames', '4', '--size', '32', '--epochs', '1', '--warmup', '0',
                 '--batch', '4', '--workers', '0', '--quiet', '--no-tensorboard']) == 0
    video = next((tiny_run/'data').rglob('*.mp4'))
    assert main(['predict', str(video), '--checkpoint', str(run/'best.pt')]) == 0
    assert fgar.train.load_checkpoint(run/'best.pt').model.levels == (3, 5)


def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/44_st_manet.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 2
    for block in blocks: exec(block, dict(torch=torch, fgar=fgar))
