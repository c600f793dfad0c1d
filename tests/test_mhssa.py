"The basketball system: heads, streams, vote, localisation; through training and prediction."
import re

import pytest, torch
from torch.testing import assert_close

import fgar
from fgar.metrics import recall_at, temporal_iou
from fgar.models.mhssa import BasketballCompressed, BasketballTwoStream, SpatialHead, TimeHead, both_ways, localise, sines

SMALL = dict(body='small', size=56)
FLOW_NAMES = ['mhssa-flow', 'mhssa-flow-softmax', 'mhssa-flow-rnn', 'mhssa-flow-lstm', 'mhssa-flow-gru']

def randn(*shape, seed=0, dtype=torch.double): return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# ---- space

@pytest.mark.parametrize('pool', ['average', 'max', 'both'])
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('space', ['sigmoid', 'softmax', 'second-order', 'none'])
def test_spatial_head_position_by_position(space, residual, pool):
    torch.manual_seed(0)
    head, x = SpatialHead(6, 3, space, residual, pool, dropout=0.).double(), randn(2, 6, 3, 5)
    scores, weights = head(x)
    p = x.flatten(2).transpose(1, 2)                                                                   # N S C
    if space == 'second-order': value = torch.stack([(p @ head.second.a[k, :, 0])*(p @ head.second.b[:, 0]) for k in range(3)], 1)
    else:
        value = torch.stack([p @ head.evidence.weight[k, :, 0, 0] + head.evidence.bias[k] for k in range(3)], 1)
        if space != 'none':
            e = head.attention.mlp(x).flatten(2)
            w = e.sigmoid() if space == 'sigmoid' else e.softmax(-1)
            assert_close(weights.flatten(2), w)
            value = value*(w*(15 if space == 'softmax' else 1) + residual)
    expected = {'average': value.mean(-1), 'max': value.amax(-1), 'both': value.mean(-1) + value.amax(-1)}[pool]
    assert_close(scores, expected)
    assert (weights is None) == (space in ('second-order', 'none'))


# ---- time

@pytest.mark.parametrize('time', ['sigmoid', 'softmax', 'rnn', 'lstm', 'gru', 'mean'])
@pytest.mark.parametrize('T', [1, 2, 7])
def test_time_head(time, T):
    torch.manual_seed(0)
    head, x = TimeHead(12, 4, time, heads=3, width=24).double().eval(), randn(2, T, 12).requires_grad_()
    scores, moments, weights = head(x)
    assert scores.shape == (2, 4) and moments.shape == (2, T, 4)
    assert (weights is not None) == (time in ('sigmoid', 'softmax')) and (weights is None or weights.shape == (2, 3, T, T))
    assert_close(scores, moments[:, -1] if time in ('rnn', 'lstm', 'gru') else moments.mean(1))
    order = torch.randperm(T, generator=torch.Generator().manual_seed(1))
    if time in ('sigmoid', 'softmax', 'mean'): assert_close(head(x[:, order])[0], scores)             # blind to order
    elif T == 7: assert (head(x[:, order])[0] - scores).abs().max() > 1e-3
    assert torch.autograd.grad(scores.sum(), x)[0].abs().sum() > 0

@pytest.mark.parametrize('heads', [1, 2, 4, 6])
def test_heads_of_the_paper_divide_the_width_of_both_bodies(heads):
    for channels in (1024, 96): TimeHead(channels, 2, heads=heads)

def test_sigmoid_head_is_the_formula():
    torch.manual_seed(0)
    head, x = TimeHead(8, 3, 'sigmoid', heads=2, width=6, bias='-log T').double().eval(), randn(2, 5, 8)
    e = head.embed(x)
    q, k, v = (e @ W.T + b for W, b in zip(head.mix.in_proj_weight.chunk(3), head.mix.in_proj_bias.chunk(3)))
    parts = []
    for i in range(2):
        s = slice(3*i, 3*i + 3)
        parts.append(torch.sigmoid(q[..., s] @ k[..., s].transpose(1, 2)/3**.5 - torch.log(torch.tensor(5.))) @ v[..., s])
    assert_close(head(x)[0], head.fc(head.mix.out_proj(torch.cat(parts, -1))).mean(1))

def test_position_tells_the_order():
    torch.manual_seed(0)
    head, x = TimeHead(96, 5, position=True).eval(), randn(2, 6, 96, dtype=torch.float)
    assert (head(x)[0] - head(x.flip(1))[0]).abs().max() > 1e-3
    p = sines(24, 97)
    assert p.shape == (24, 97) and torch.cdist(p, p).add(torch.eye(24)*9).min() > .1                  # all moments differ


# ---- streams

@pytest.mark.parametrize('stack', [1, 2, 3, 5])
def test_both_ways(stack):
    flow = randn(2, 2, 3*stack, 4, 5)
    out = both_ways(flow, stack)
    for t in range(3):
        group, half = flow[:, :, t*stack:(t + 1)*stack], stack//2
        expected = [group[:, :, i] for i in range(half, stack)] + [-group[:, :, i] for i in reversed(range(half))]
        assert_close(out[:, :, t*stack:(t + 1)*stack], torch.stack(expected, 2))

@pytest.mark.parametrize('name', FLOW_NAMES)
@pytest.mark.parametrize('stack, moments', [(1, 1), (3, 2), (2, 5)])
def test_motion_streams_take_any_number_of_moments(name, stack, moments):
    model = fgar.create(name, 4, stack=stack, frames=8, **SMALL).eval()
    assert model.stack == stack and model.head.time == {'mhssa-flow': 'sigmoid'}.get(name, name.rsplit('-')[-1])
    pred = model(randn(2, 2, moments*stack, 56, 56, dtype=torch.float))
    assert pred.logits.shape == (2, 4) and pred.extras['frame_logits'].shape == (2, moments, 4)

def test_places_of_motion():
    torch.manual_seed(0)
    model, flow = fgar.create('mhssa-flow-space', 4, stack=2, frames=3, **SMALL).eval(), randn(2, 2, 6, 56, 56, dtype=torch.float)
    pred = model(flow)
    assert pred.extras['weights'].shape == (2, 3, 4, 7, 7)
    from fgar.models.two_stream import flow_images
    maps = model.body.maps(flow_images(flow, 2).movedim(2, 1).flatten(0, 1))
    assert_close(pred.logits, model.head(maps)[0].unflatten(0, (2, 3)).mean(1))

@pytest.mark.parametrize('options', [dict(scaling='minmax'), dict(directions='both'), dict(heads=6), dict(time='mean'), dict(bias='-log T'), dict(limit=5.)])
def test_options_change_the_answer(options):
    def run(**o):
        torch.manual_seed(0)
        model = fgar.create('mhssa-flow', 4, stack=2, frames=4, **SMALL, **o).eval()
        return model(2*randn(2, 2, 8, 56, 56, dtype=torch.float) + 3).logits
    assert (run() - run(**options)).abs().max() > 1e-5

def test_vote_and_loss():
    torch.manual_seed(0)
    model = fgar.create('mhssa', 4, stack=2, frames=3, fusion=(1., 3.), **SMALL).eval()
    rgb, flow = randn(2, 3, 3, 56, 56, dtype=torch.float), randn(2, 2, 6, 56, 56, dtype=torch.float)
    pred = model(rgb, flow)
    assert_close(pred.scores, .25*model.rgb(rgb).scores + .75*model.flow(flow).scores)
    loss = model.loss(pred, torch.tensor([0, 3]))
    assert_close(loss['total'], loss['rgb'] + loss['flow'])
    assert pred.extras['rgb'].extras['weights'].shape == (2, 3, 4, 7, 7) and pred.extras['flow'].extras['weights'].shape == (2, 2, 3, 3)

def test_compressed_is_the_same_network_on_other_flow():
    assert BasketballCompressed.flow_source == 'compressed' and getattr(BasketballTwoStream, 'flow_source', 'flow') != 'compressed'
    torch.manual_seed(0); a = fgar.create('mhssa', 3, **SMALL)
    torch.manual_seed(0); b = fgar.create('mhssa-compressed', 3, **SMALL)
    for x, y in zip(a.state_dict().values(), b.state_dict().values()): assert_close(x, y)

def test_weights_reach_both_streams(tmp_path):
    from fgar.models.inception2d import BNInception, from_caffe
    state = BNInception(9).state_dict()
    torch.save(state, tmp_path/'w.pth')
    model = fgar.create('mhssa', 3, weights=str(tmp_path/'w.pth'), frames=2, size=64)
    expected = from_caffe(state)['conv1_7x7_s2.weight']
    assert_close(model.rgb.body.conv1_7x7_s2.weight, expected)
    assert_close(model.flow.body.conv1_7x7_s2.weight, expected.mean(1, keepdim=True).expand(-1, 10, -1, -1))
    model.train()
    frozen = [m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert sum(frozen) == 2                                                                            # the first norm of each body

@pytest.mark.parametrize('call, words', [
    (lambda: fgar.create('mhssa-flow', 4, heads=5, **SMALL), 'Possible: 1, 2, 3, 4, 6'), (lambda: fgar.create('mhssa-flow', 4, stack=0, **SMALL), 'at least one flow field'),
    (lambda: fgar.create('mhssa-flow', 4, time='transformer', **SMALL), 'sigmoid, softmax, rnn'), (lambda: fgar.create('mhssa-rgb', 4, space='sigmoidal', **SMALL), "Did you mean 'sigmoid'"),
    (lambda: fgar.create('mhssa-rgb', 4, pool='mean', **SMALL), 'average, max, both'), (lambda: fgar.create('mhssa-flow', 4, directions='back', **SMALL), 'forward, both'),
    (lambda: fgar.create('mhssa-flow', 4, stack=2, **SMALL)(torch.zeros(1, 2, 3, 56, 56)), 'multiple of stack = 2'), (lambda: fgar.create('mhssa-flow', 4, **SMALL)(torch.zeros(1, 3, 5, 56, 56)), '(N, 2, TL, H, W)'),
    (lambda: fgar.create('mhssa-rgb', 4, **SMALL)(torch.zeros(1, 8, 56, 56, 3)), 'Channels last?'), (lambda: fgar.create('mhssa', 4, fusion=(0, 0), **SMALL), 'not both 0')])
def test_mistakes_are_explained(call, words):
    with pytest.raises(ValueError, match=re.escape(words)): call()

def test_trains_and_predicts_on_files(tmp_path):
    from fgar.synthetic import write_court26
    manifest = write_court26(tmp_path/'data', 4, 2, 2, size=64, frames=8, fps=8., classes=['catch', 'dunk'], progress=False)
    config = fgar.TrainConfig(model='mhssa', options=dict(body='small', stack=1), data=str(manifest), out=str(tmp_path/'run'), frames=2, size=56, epochs=1, warmup=0., batch=2, workers=0, crop='square', quiet=True, tensorboard=False)
    run = fgar.train(config)
    windows = fgar.predict(next((tmp_path/'data'/'test').rglob('*.mp4')), run.folder/'best.pt')
    assert len(windows) == 1 and sorted(windows[0].labels) == ['catch', 'dunk'] and abs(sum(windows[0].scores) - 1) < 1e-5


# ---- long videos

def test_localise_finds_what_the_scores_say():
    truth = torch.tensor([[2.1, 4.2], [5., 6.8]])
    score = lambda windows: torch.stack([temporal_iou(windows, t) for t in truth], 1).float()
    found = localise(score, 9., [0, 1])
    assert found.shape == (2, 5, 2) and recall_at(found, truth, 1, .7) == 1
    overlap = temporal_iou(found, truth[:, None])
    assert (overlap.diff(dim=1) <= 1e-9).all()                                                         # best first

@pytest.mark.parametrize('suppress', [.3, .5, .7])
def test_localise_with_nms_keeps_no_near_twins(suppress):
    score = lambda windows: torch.rand(len(windows), 3, generator=torch.Generator().manual_seed(0))
    found = localise(score, 12., [0, 2], suppress=suppress, top=4)
    for row in found:
        pairs = temporal_iou(row[:, None], row[None])
        assert (pairs[~torch.eye(4, dtype=torch.bool)] <= suppress).all()

def test_localise_fills_with_nan_and_takes_short_videos():
    found = localise(lambda w: torch.ones(len(w), 2), 1., [1], lengths=(2., 3.), top=3)
    assert_close(found[0, 0], torch.tensor([0., 1.]))
    assert found[0, 1:].isnan().all()
    with pytest.raises(ValueError, match='One row per window'): localise(lambda w: torch.ones(3, 2), 9., [0])
