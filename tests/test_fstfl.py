"STC against its definition, placements, costs, recipes, bad input."
import copy
from dataclasses import asdict

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import fgar
from fgar.core import UnknownName, cost
from fgar.models.fstfl import PROTOCOLS, RECIPES, STC, parse_offsets, parse_stages
from fgar.ops.correlation import spatiotemporal_correlation

SMALL = dict(classes=3, frames=4, size=32, body='small', radius=3)


def clips(n=2, seed=0): return torch.randn(n, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('offsets', [(0,), (1,), (0, 1, 2), (3, 0)])
@pytest.mark.parametrize('perceptrons', [1, 3])
@pytest.mark.parametrize('shape', [(2, 5, 4, 3, 5), (1, 3, 4, 1, 2)])
def test_features_equal_the_whole_tensor(offsets, perceptrons, shape):
    torch.manual_seed(0)
    stc = STC(shape[1], shape[2], 2, offsets, 4, perceptrons).double()
    x = torch.randn(*shape, dtype=torch.double, requires_grad=True)
    s = spatiotemporal_correlation(x, 2, offsets, 'unfold').flatten(2, 3).movedim(2, -1)             # N L T H W K
    slow = []
    for i, l in enumerate(offsets):
        f = s[:, i]
        for layer in (stc.temporal if l else stc.spatial): f = F.relu(layer(f))
        slow.append(f.movedim(-1, 1))
    fast, slow = stc.features(x), torch.stack(slow, 1)
    inputs = (x, *(p for m in (stc.spatial, stc.temporal) if m is not None for p in m.parameters()))
    assert_close(fast, slow)
    assert_close(*(torch.autograd.grad(out.square().sum(), inputs, retain_graph=True) for out in (fast, slow)))


def test_the_shared_perceptron_gets_the_sum_of_its_gradients():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4, 4, dtype=torch.double)
    both, parts = STC(3, 4, 1, (1, 2), 2).double(), [STC(3, 4, 1, (l,), 2).double() for l in (1, 2)]
    for p in parts: p.temporal.load_state_dict(both.temporal.state_dict())
    both.features(x).square().sum().backward()
    for p in parts: p.features(x).square().sum().backward()
    assert_close(both.temporal[0].weight.grad, sum(p.temporal[0].weight.grad for p in parts))


def test_it_is_a_residual_of_the_gsf_twin():
    "With the branch switched off, FSTFL-Net is the GSF network."
    torch.manual_seed(0)
    net, twin = fgar.create('fstfl', stages='res2-5', **SMALL).eval(), fgar.create('gsf', **{k: v for k, v in SMALL.items() if k != 'radius'}).eval()
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith('stc.')})
    assert_close(net(clips()).logits, twin(clips()).logits)                 # its gains start at 0
    net.loss(net.train()(clips()), torch.tensor([0, 1]))['total'].backward()
    assert all(stc.gain.grad.abs().max() > 0 for stc in net.stc.values())   # from which they can leave
    for stc in net.stc.values(): torch.nn.init.ones_(stc.gain)
    opened, printed = net.eval()(clips()).logits, fgar.create('fstfl', stages='res2-5', gate=None, **SMALL).eval()
    assert not torch.allclose(opened, twin(clips()).logits)
    printed.load_state_dict({k: v for k, v in net.state_dict().items() if not k.endswith('.gain')})
    assert_close(opened, printed(clips()).logits)


@pytest.mark.parametrize('centre, mean', [('clip', (2, 5, 1, 1, 1)), ('vector', (2, 1, 4, 6, 6))])
def test_centring_takes_a_mean_away(centre, mean):
    "Each channel's mean over the clip, or each vector's own: adding to it changes nothing, and changes plain cosines."
    torch.manual_seed(0)
    stc, x = STC(5, 4, 2, centre=centre).double(), torch.randn(2, 5, 4, 6, 6, dtype=torch.double)
    shift = 10*torch.randn(mean, dtype=torch.double)
    assert_close(stc.features(x), stc.features(x + shift))
    stc.centre = 'none'
    assert not torch.allclose(stc.features(x), stc.features(x + shift))


def test_counts():
    parameters, gmacs = cost('fstfl', 174)
    assert parameters == 23_974_702 + 20_800 + 512              # a gain per channel of res3
    assert cost('fstfl', 174, gate=None)[0] == 23_974_702 + 20_800
    assert 1.9 < gmacs - cost('gsf', 174)[1] < 2.3 and abs(gmacs/35.3 - 1) < .01
    assert cost('fstfl', 174, radius='half')[1] - gmacs > 5
    for t in (16, 32): assert cost('fstfl', 174, frames=t)[0] == parameters


@pytest.mark.parametrize('text, wanted', [('res3', ['res3']), ('res2-4', ['res2', 'res3', 'res4']), ('res2–res3', ['res2', 'res3']), ('res5, res2', ['res2', 'res5']), ('res2-3,res3', ['res2', 'res3'])])
def test_stages(text, wanted):
    assert list(parse_stages(text)) == wanted
    net = fgar.create('fstfl', stages=text, **SMALL).eval()
    assert list(net.stc) == wanted and net(clips()).logits.shape == (2, 3)


def test_defaults():
    with torch.device('meta'): big, small = fgar.create('fstfl', classes=5), fgar.create('fstfl', classes=5, size=64, body='small')
    assert list(big.stc) == ['res3'] and list(small.stc) == ['res2']
    assert (big.stc['res3'].radius, big.stc['res3'].offsets) == (7, (0, 1, 2))


@pytest.mark.parametrize('size, stage, radius', [(224, 'res3', 14), (112, 'res3', 7), (224, 'res2', 28), (200, 'res4', 7), (100, 'res3', 7)])
def test_half_is_half_of_the_map(size, stage, radius):
    with torch.device('meta'): net = fgar.create('fstfl', classes=5, size=size, stages=stage, radius='half')
    assert net.stc[stage].radius == radius
    seen = []
    net.stc[stage].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[-1]))
    net(torch.empty(1, 3, 8, size, size, device='meta'))
    assert radius == -(-seen[0]//2)


def test_offsets_from_text_and_lists():
    assert parse_offsets('0, 2') == (0, 2) == parse_offsets([0, 2])
    assert fgar.create('fstfl', offsets='0,3', **SMALL).stc['res2'].offsets == (0, 3)
    with pytest.raises(ValueError, match="offsets: expected whole numbers"): parse_offsets('0;1')


@pytest.mark.parametrize('options, message', [
    (dict(frames=2), 'offsets: expected distances below frames=2.*longer clips or smaller offsets'), (dict(radius=0), 'radius: expected an int of at least 1'), (dict(radius=-3), 'radius'), (dict(radius=2.5), 'radius'),
    (dict(radius=True), 'radius'), (dict(radius='hlaf'), "Did you mean 'half'"), (dict(offsets=()), 'offsets: expected one or more'), (dict(offsets=(-1,)), 'offsets'), (dict(stages='res6'), 'stages: expected one of'),
    (dict(stages='res4-2'), 'res2-4'), (dict(backend='cuda'), 'backend: expected one of'), (dict(perceptrons=0), 'perceptrons')])
def test_bad_options_are_explained(options, message):
    with pytest.raises((ValueError, UnknownName), match=message): fgar.create('fstfl', **{**SMALL, **options})


def test_bad_clips_are_explained():
    net = fgar.create('fstfl', **SMALL)
    with pytest.raises(ValueError, match='expected T=4'): net(torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(ValueError, match='frames: expected a divisor'): net.stc['res2'](torch.zeros(5, 24, 8, 8))


def test_absent_backend_is_explained():
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    with pytest.raises(ValueError, match="'triton' cannot run here"): fgar.create('fstfl', backend='triton', **SMALL)(clips())


def test_backends_and_layouts_agree():
    torch.manual_seed(0)
    net = fgar.create('fstfl', **SMALL).eval()
    with torch.no_grad():
        wanted = net(clips()).logits
        for layout in (clips().contiguous(memory_format=torch.channels_last_3d), clips().transpose(3, 4).contiguous().transpose(3, 4), clips(4)[::2] if False else clips()):
            assert_close(net(layout).logits, wanted)
        for backend in ('unfold', 'gemm'):
            twin = copy.deepcopy(net)
            twin.stc['res2'].backend = backend
            assert_close(twin(clips()).logits, wanted)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    net = fgar.create('fstfl', dropout=0., **SMALL).eval()
    with torch.no_grad():
        wanted = net(clips()).logits
        assert (net.to(dtype)(clips().to(dtype)).logits.float() - wanted).abs().max() < .05


def test_autocast_trains():
    net = fgar.create('fstfl', **SMALL)
    with torch.autocast('cpu', torch.bfloat16): loss = net.loss(net(clips()), torch.tensor([0, 2]))['total']
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_recipes_are_the_papers():
    for name, r in RECIPES.items():
        assert (r.optimizer, r.momentum, r.weight_decay, r.batch, r.lr, r.warmup, r.schedule) == ('sgd', .9, 1e-4, 32, .01, 10, 'cosine')
        assert (r.epochs, r.options['dropout']) == ((40, .8) if name == 'ucf101' else (60, .5))
        fgar.train.TrainConfig.from_dict(asdict(r))
    assert RECIPES['ucf101'].init == f"{RECIPES['kinetics'].out}/best.pt"
    assert RECIPES['ucf101'].val_split == 'test' and RECIPES['kinetics'].val_split == 'val'          # UCF101's lists have no validation part
    assert [(p['clips'], p['crops']) for p in PROTOCOLS.values()] == [(1, 1), (10, 3), (2, 3)]
