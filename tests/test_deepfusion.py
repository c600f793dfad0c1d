"Deep fusion and the LSTM baselines: the matrix of cases."
import re
from dataclasses import asdict

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from torchvision import models as tv

import fgar
from fgar.data.clips import interval_indices
from fgar.models.deepfusion import flow_channels, load_vgg, recipe, train_twice

TINY = dict(frames=4, size=32, body='small', stack=2, moments=2)

def build(name='deepfusion', classes=3, **options):
    torch.manual_seed(0)
    return fgar.create(name, classes=classes, **{**TINY, **options})

def clips(model, N=2, T=4, size=32):
    g = torch.Generator().manual_seed(1)
    made = dict(rgb=torch.randn(N, 3, T, size, size, generator=g), flow=torch.randn(N, 2, T*2, size, size, generator=g))
    return [made[k] for k in model.spec.inputs]

# ---- sampling

@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 6), st.integers(0, 8), st.booleans(), st.integers(0, 99))
def test_sampling_stays_inside_and_steps_evenly(frames, count, low, more, train, seed):
    at = interval_indices(frames, count, low, low + more, train, torch.Generator().manual_seed(seed))
    assert at.shape == (count,) and at.dtype == torch.int64 and 0 <= at.min() and at.max() < frames and (at.diff() >= 0).all()
    if frames <= count: assert at.tolist() == [min(i, frames - 1) for i in range(count)]
    elif not train: assert at.tolist() == [i*frames//count for i in range(count)]
    elif count > 1:
        step = at.diff().unique()
        longest = (frames - 1)//(count - 1)
        assert len(step) == 1 and min(low, longest) <= step <= min(low + more, longest)

def test_each_step_and_the_first_and_last_frame_are_drawn():
    g = torch.Generator().manual_seed(0)
    drawn = [interval_indices(60, 6, 2, 10, True, g) for _ in range(600)]
    assert {int(d[1] - d[0]) for d in drawn} == set(range(2, 11)) and min(int(d[0]) for d in drawn) == 0 and max(int(d[-1]) for d in drawn) == 59

@pytest.mark.parametrize('bad,match', [((0, 4), 'frames: expected a whole number of at least 1, got 0'), ((10, 0), 'count: expected'), ((10, 4, 0), 'low: expected'), ((10, 4, 5, 4), 'low ≤ high')])
def test_sampling_says_what_is_wrong(bad, match):
    with pytest.raises(ValueError, match=match): interval_indices(*bad)

# ---- flow

def test_flow_channels_keep_moments_and_fields_in_place():
    flow = torch.arange(2*6.).view(1, 2, 6, 1, 1)/10                        # T = 3, L = 2
    xy, length = flow_channels(flow, 2, 'xy', 10.), flow_channels(flow, 2, 'length', 10.)
    assert xy.shape == (1, 4, 3, 1, 1) and length.shape == (1, 2, 3, 1, 1)
    scale = xy[0, 0, 1, 0, 0]/flow[0, 0, 2, 0, 0]                           # field 0 of moment 1 is image 2
    for t in range(3):
        for j in range(2):
            dx, dy = flow[0, :, 2*t + j, 0, 0]*scale
            assert_close(xy[0, 2*j:2*j + 2, t, 0, 0], torch.stack([dx, dy]), atol=1e-5, rtol=1e-4)
            assert_close(length[0, j, t, 0, 0], torch.stack([dx, dy]).norm(), atol=1e-5, rtol=1e-4)

# ---- the system

@pytest.mark.parametrize('name', ['deepfusion', 'deepfusion-light', 'deepfusion-rgb', 'deepfusion-flow'])
@pytest.mark.parametrize('options', [{}, dict(hidden=0), dict(hidden=5), dict(moments=1, levels=(1,)), dict(channels='length'), dict(moments=3)])
def test_options(name, options):
    model = build(name, **options).train()
    pred = model(*clips(model))
    groups = -(-4//options.get('moments', 2))
    assert pred.logits.shape == (2, 3) and pred.extras['group_logits'].shape == (2, groups, 3)
    assert_close(pred.extras['group_logits'].mean(1), pred.logits)
    model.loss(pred, torch.tensor([0, 2]))['total'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

@pytest.mark.parametrize('name', ['deepfusion', 'deepfusion-rgb', 'deepfusion-flow'])
def test_recomputing_changes_nothing(name):
    grads = []
    for again in (False, True):
        model = build(name, recompute=again, dropout=0., dropout_out=0.).train()
        model.loss(model(*clips(model)), torch.tensor([0, 2]))['total'].backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
    assert_close(grads[0], grads[1])

def test_any_number_of_moments_and_any_size_when_light():
    model = build('deepfusion-light').eval()
    with torch.no_grad():
        for T, size in ((1, 32), (5, 32), (4, 48)): assert model(*clips(model, T=T, size=size)).logits.shape == (2, 3)

def test_order_of_time_matters_and_the_two_streams_meet():
    model = build(moments=4).eval()
    rgb, flow = clips(model)
    with torch.no_grad():
        base = model(rgb, flow).logits
        back = flow.unflatten(2, (4, 2)).flip(2).flatten(2, 3)
        assert (model(rgb.flip(2), back).logits - base).abs().max() > 1e-4
        double = model(2*rgb, 2*flow).logits + base - model(2*rgb, flow).logits - model(rgb, 2*flow).logits
        assert double.abs().max() > 1e-4                                   # not a sum of one function of each

def test_light_has_a_49th_of_the_lstm_at_full_size():
    with torch.device('meta'): full, light = (fgar.create(name, classes=11) for name in ('deepfusion', 'deepfusion-light'))
    assert full.cells == 175_616 == 49*light.cells and full.lstm.weight_ih.numel() == 49*light.lstm.weight_ih.numel()

def test_vgg_weights_by_torchvisions_names(tmp_path):
    torch.manual_seed(1)
    vgg = tv.vgg16(weights=None, num_classes=2).features.state_dict()
    torch.save({**{f'features.{k}': v for k, v in vgg.items()}, 'classifier.0.weight': torch.zeros(2, 2)}, tmp_path/'vgg.pt')
    model = fgar.create('deepfusion-light', classes=2, size=32, frames=2, weights=tmp_path/'vgg.pt')
    for k, v in model.spatial.state_dict().items(): assert torch.equal(v, vgg[k])
    for k, v in model.temporal.features.state_dict().items(): assert k.startswith('0.') or torch.equal(v, vgg[k])
    torch.save({f'features.{k}': v for k, v in vgg.items() if k[0] != '5'}, tmp_path/'part.pt')
    with pytest.raises(ValueError, match='missing'): load_vgg(model, tmp_path/'part.pt')
    with pytest.raises(FileNotFoundError): load_vgg(model, tmp_path/'none.pt')

@pytest.mark.parametrize('call, words', [
    (lambda m, r, f: m(r), 'expected 2 (rgb, flow), got 1'), (lambda m, r, f: m(r, f[:, :, :6]), 'T·L = 4·2'), (lambda m, r, f: m(r, f[:, :, :7]), 'stack = 2'), (lambda m, r, f: m(r[..., :16], f[..., :16]), 'pool_space=True'),
    (lambda m, r, f: m(f, r), 'rgb: expected'), (lambda m, r, f: build(body='smal'), "Did you mean 'small'"), (lambda m, r, f: build(size=8), 'at least 16 px'), (lambda m, r, f: build(channels='magnitude'), 'channels'),
    (lambda m, r, f: build(body='small', weights='x.pt'), "body='vgg16'")])
def test_what_is_wrong_is_said(call, words):
    model = build().eval()
    with pytest.raises(ValueError, match=re.escape(words)): call(model, *clips(model))

# ---- training

def test_recipe_is_the_papers():
    config = recipe(lr=2e-5)
    assert (config.model, config.frames, config.size, config.batch, config.lr) == ('deepfusion', 24, 224, 8, 2e-5)
    assert type(config).from_dict(asdict(config)) == config

def test_the_second_training_starts_where_the_first_ended(tmp_path):
    from fgar.train import MemoryLoader, read_checkpoint
    g = torch.Generator().manual_seed(0)
    data = lambda n: (torch.randint(0, 256, (n, 4, 32, 32, 3), dtype=torch.uint8, generator=g), torch.arange(n) % 3)
    loaders = tuple(MemoryLoader(*data(8), ['a', 'b', 'c'], 4, train=i == 0, flow=torch.randint(0, 256, (8, 8, 32, 32, 2), dtype=torch.uint8, generator=g)) for i in (0, 1))
    config = recipe(frames=4, size=32, batch=4, epochs=2, warmup=0., lr=1e-3, options={k: TINY[k] for k in ('body', 'stack', 'moments')}, out=str(tmp_path), device='cpu', quiet=True, tensorboard=False, flip=False)
    first, second = train_twice(config, epochs=1, loaders=loaders)
    a, b = (read_checkpoint(run.folder/'last.pt') for run in (first, second))
    assert b['config']['init'] == str(first.folder/'last.pt') and b['config']['lr'] == pytest.approx(1e-4) and len(second.history) == 1
    moved = max((a['model'][k] - b['model'][k]).abs().max().item() for k in a['model'] if k.endswith('weight_ih'))
    assert 0 < moved < 2.5e-4                                              # two AdamW steps of at most about 1e-4 each
