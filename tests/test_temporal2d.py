"The temporal modules: each against its formula, frame by frame; published counts; weights."
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import fgar
from fgar.core import cost
from fgar.models.frames2d import resnet_body, temporal_shift
from fgar.models.temporal2d import (ChannelMotion, GSTConv, MotionExcitation, MotionSqueeze, STMConv, TemporalAdaptive, TemporalConv, next_minus_now, squeeze_motion)
from fgar.ops.correlation import correlate

NAMES = ('stm', 'gst', 'tea', 'tam', 'msnet')
T = 4


def maps(channels=16, videos=2, height=5, width=3, seed=0):
    return torch.randn(videos*T, channels, height, width, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def random_(module):
    "Weights that matter everywhere, statistics too; eval mode."
    torch.manual_seed(1)
    module = module.double()
    for p in module.parameters(): nn.init.normal_(p, std=.5)
    for m in module.modules():
        if hasattr(m, 'running_var'): m.running_mean.normal_(); m.running_var.uniform_(.5, 2)
    return module.eval()


def same(fast, slow, *inputs):
    assert_close(fast, slow)
    slope = torch.randn_like(slow)
    assert_close(*(torch.autograd.grad(out, inputs, slope, retain_graph=True) for out in (fast, slow)))


@pytest.mark.parametrize('fold', [0, 2, 5])
def test_temporal_conv(fold):
    x = maps()
    assert_close(TemporalConv(16, T, fold).double()(x), temporal_shift(x, T, fold) if fold else x)
    conv = random_(TemporalConv(16, T))
    clip = x.unflatten(0, (2, T)).transpose(1, 2)
    slow = F.conv3d(clip, conv.weight[..., None, None].squeeze(3), padding=(1, 0, 0), groups=16).transpose(1, 2).flatten(0, 1)
    same(conv(x), slow, x, conv.weight)


def test_next_minus_now():
    a, b = maps(), maps(seed=1)
    slow = torch.stack([torch.zeros_like(a[0]) if i % T == T-1 else a[i+1] - b[i] for i in range(len(a))])
    same(next_minus_now(a, b, T), slow, a, b)
    assert not next_minus_now(a, b, 1).any()


@pytest.mark.parametrize('stride', [1, 2])
def test_stm_conv(stride):
    plain = nn.Conv2d(16, 32, 3, stride, 1, bias=False)
    module, x = random_(STMConv(plain, T)), maps()
    assert module.weight is plain.weight
    mixed = module.time(x)
    z = F.conv2d(x, module.motion.reduce.weight)
    look = F.conv2d(z, module.motion.look.weight, padding=1, groups=z.shape[1])
    moved = torch.stack([torch.zeros_like(z[0]) if i % T == T-1 else look[i+1] - z[i] for i in range(len(z))])
    slow = F.conv2d(mixed, module.weight, stride=stride, padding=1) + F.conv2d(moved, module.motion.restore.weight, stride=stride)
    same(module(x), slow, x, *module.parameters())


@pytest.mark.parametrize('stride', [1, 2])
def test_gst_conv(stride):
    plain = nn.Conv2d(16, 32, 3, stride, 1, bias=False).double()
    module, x = GSTConv(plain, T).double(), maps()
    assert_close(module.weight, plain.weight[:24, :8])
    slow = []
    for video in x.split(T):
        padded = F.pad(video[:, 8:], (0, 0, 0, 0, 0, 0, 1, 1))
        time = torch.stack([sum(F.conv2d(padded[t+k], module.time.weight[:, :, k], stride=stride, padding=1) for k in range(3)) for t in range(T)])
        slow.append(torch.cat([F.conv2d(video[:, :8], module.weight, stride=stride, padding=1), time], 1))
    same(module(x), torch.cat(slow), x, *module.parameters())


def test_motion_excitation():
    module, x = random_(MotionExcitation(16, T)), maps()
    z = module.bn1(module.conv1(x))
    look = module.conv2(z)
    slow = torch.stack([x[i] + x[i]*(torch.sigmoid(module.bn3(module.conv3((torch.zeros_like(z[i]) if i % T == T-1 else look[i+1] - z[i]).mean((1, 2))[None, :, None, None]))[0]) - .5) for i in range(len(x))])
    same(module(x), slow, x, *module.parameters())


def test_temporal_adaptive():
    module, x = random_(TemporalAdaptive(16, T)), maps()
    slow = []
    for video in x.split(T):
        course = video.mean((2, 3)).T                                  # C T
        kernel, weight = module.G(course), module.L(course[None])[0]   # C 3, C T
        scaled = F.pad(video*weight.T[:, :, None, None], (0, 0, 0, 0, 0, 0, 1, 1))
        slow += [sum(kernel[:, k, None, None]*scaled[t+k] for k in range(3)) for t in range(T)]
    same(module(x), torch.stack(slow), x, *module.parameters())


@pytest.mark.parametrize('shift', [(0, 0), (2, -1), (-3, 3)])
def test_squeeze_motion_finds_the_shift(shift):
    dx, dy = shift
    a = torch.randn(2, 32, 14, 15, generator=torch.Generator().manual_seed(0))
    out = squeeze_motion(correlate(a, a.roll((dy, dx), (2, 3)), 4))[:, :, 4:-4, 4:-4]
    assert_close(out[:, 0]*4, torch.full_like(out[:, 0], dx), atol=.05, rtol=0)
    assert_close(out[:, 1]*4, torch.full_like(out[:, 1], dy), atol=.05, rtol=0)
    assert_close(out[:, 2], torch.ones_like(out[:, 2]))


def test_squeeze_motion_equals_loops():
    cost = torch.rand(1, 5, 5, 2, 3, generator=torch.Generator().manual_seed(0))*2 - 1
    out = squeeze_motion(cost, sigma=2., sharpness=7.)
    for y in range(2):
        for x in range(3):
            c = cost[0, :, :, y, x].clamp(min=0)
            py, px = divmod(c.argmax().item(), 5)
            w = torch.tensor([[torch.exp(torch.tensor(-((i-py)**2 + (j-px)**2)/8.)) for j in range(5)] for i in range(5)])
            p = (c*w*7).flatten().softmax(0).view(5, 5)
            wanted = torch.tensor([sum(p[i, j]*(j-2) for i in range(5) for j in range(5))/2, sum(p[i, j]*(i-2) for i in range(5) for j in range(5))/2, c.max()])
            assert_close(out[0, :, y, x], wanted)


def test_motion_squeeze_repeats_the_last_motion():
    module, x = random_(MotionSqueeze(16, T, radius=2, reduced=8)), maps(height=6, width=7)
    added = (module(x) - x).unflatten(0, (2, T))
    assert_close(added[:, -1], added[:, -2])
    with pytest.raises(ValueError, match='frames: expected at least 2'): MotionSqueeze(16, 1)


PARAMETERS = {'stm': 24_035_194, 'gst': 21_035_246, 'tam': 25_127_246, 'msnet': 23_864_558 + 70_905}


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters_by_hand(name):
    "Sums over the 16 bottlenecks of what each module adds (see the chapter)."
    planes = [64]*3 + [128]*4 + [256]*6 + [512]*3
    by_hand = {'stm': sum(3*c + 2*c*c//16 + 9*c//16 for c in planes), 'gst': sum((9*3/8 + 27/8 - 9)*c*c for c in planes),
               'tam': sum(c*c + c//2 + 8*16 + 2*16 + 16*3 for c in planes), 'msnet': 70_905}
    assert 23_864_558 + by_hand[name] == PARAMETERS[name] == cost(name, 174)[0]


def test_tea_is_res2net():
    "Without excitation and temporal convolutions it is Res2Net-50 26w×4s, published with 25.70 M parameters for 1000 classes."
    with torch.device('meta'): body = fgar.create('tea', classes=1000).body
    plain = sum(p.numel() for n, p in body.named_parameters() if '.me.' not in n and '.shifts.' not in n)
    assert round(plain/1e6, 2) == 25.70


@pytest.mark.parametrize('name, published', [('gst', 29.5), ('tea', 35), ('tam', 33), ('msnet', 34)])
def test_published_gmacs(name, published):
    assert abs(cost(name, 174)[1]/published - 1) < .03


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('body', ['resnet18', 'small'])
def test_other_bodies(name, body):
    model = fgar.create(name, classes=3, frames=4, size=64, body=body).eval()
    assert model(torch.randn(1, 3, 4, 64, 64)).logits.shape == (1, 3)


@pytest.mark.parametrize('name', ['stm', 'gst', 'tam', 'msnet'])
def test_picture_weights_load(name, tmp_path):
    torch.manual_seed(0)
    plain = resnet_body('small', 3)
    torch.save(plain.state_dict(), tmp_path/'w.pth')
    body = fgar.create(name, classes=3, frames=4, size=32, body='small', parts=1, weights=str(tmp_path/'w.pth')).body
    for k, v in plain.state_dict().items():
        own = body.state_dict()[k]
        assert torch.equal(own, v[tuple(slice(n) for n in own.shape)] if 'conv2' in k and name == 'gst' else v), k


def test_tea_takes_res2net_weights(tmp_path):
    torch.manual_seed(0)
    source = fgar.create('tea', classes=3, frames=4, size=32, body='small', parts=1).body.state_dict()
    torch.save({k: v for k, v in source.items() if '.me.' not in k and '.shifts.' not in k}, tmp_path/'w.pth')
    body = fgar.create('tea', classes=3, frames=4, size=32, body='small', parts=1, weights=tmp_path/'w.pth').body.state_dict()
    assert all(torch.equal(body[k], v) for k, v in source.items() if '.me.' not in k and '.shifts.' not in k)
    torch.save(resnet_body('small', 3).state_dict(), tmp_path/'r.pth')
    with pytest.raises(ValueError, match='missing'): fgar.create('tea', classes=3, frames=4, size=32, body='small', weights=tmp_path/'r.pth')


@pytest.mark.parametrize('name', NAMES)
def test_other_lengths_are_refused(name):
    with pytest.raises(ValueError, match='expected T=4.*got 8'): fgar.create(name, classes=3, frames=4, size=32, body='small')(torch.zeros(1, 3, 8, 32, 32))
