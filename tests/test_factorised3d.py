"Factorised 3D convolutions and C3D: the matrix of cases."
import re

import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import fgar
from fgar.models.factorised3d import C3D_LAYERS, FactorisedConv3d, MST3D, load_c3d


def randn(*shape, seed=0): return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).requires_grad_()

@pytest.mark.parametrize('k, t', [(1, 1), (1, 3), (3, 1), (3, 3), (5, 3), (3, 5)])
@pytest.mark.parametrize('middle', [None, 1, 6])
def test_the_pair_is_one_convolution(k, t, middle):
    layer, x = FactorisedConv3d(2, 3, k, t, middle, relu=False).double(), randn(2, 2, 4, 5, 6)
    layer[1].bias.data.normal_()
    w = torch.einsum('oml,mcuv->ocluv', layer[1].weight[..., 0, 0], layer[0].weight[:, :, 0])
    whole = F.conv3d(x, w, layer[1].bias, padding=(t//2, k//2, k//2))
    assert_close(layer(x), whole)
    assert_close(torch.autograd.grad(layer(x).square().sum(), x), torch.autograd.grad(whole.square().sum(), x))
    assert layer[0].out_channels == (middle or 3)

@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('relu', [False, True])
def test_what_ends_the_pair(norm, relu):
    layer = FactorisedConv3d(2, 3, norm=norm, relu=relu)
    assert [type(m) for m in list(layer)[2:]] == [nn.BatchNorm3d]*norm + [nn.ReLU]*relu
    assert (layer[1].bias is None) == norm                                # a norm takes the mean away, a bias before it does nothing
    y = layer(torch.randn(2, 2, 4, 5, 6))
    assert y.shape == (2, 3, 4, 5, 6) and bool((y < 0).any()) != relu

@pytest.mark.parametrize('space, time', [((1, 3, 5), (3, 3, 5)), ((3,), (3,)), ((3, 5), (5, 1))])
def test_branches_reach_their_own_neighbourhood(space, time):
    mst = MST3D(2, 8, space, time).double()
    x = randn(1, 2, 9, 9, 9)
    y = mst(x)
    assert y.shape == (1, 8*len(space), 9, 9, 9)
    for i, (k, t) in enumerate(zip(space, time)):
        reach = torch.autograd.grad(y[0, 8*i:8*i+8, 4, 4, 4].sum(), x, retain_graph=True)[0][0].abs().sum(0) > 0
        if not reach.any(): continue                                      # all eight channels may be below 0
        box = [(reach.any(-1).any(-1).sum()).item(), (reach.any(0).any(-1).sum()).item(), (reach.any(0).any(0).sum()).item()]
        assert box == [t, k, k]
    assert y.sum() > 0

def test_split_layers_keep_their_scale():
    "Activations neither vanish nor explode through four of them: the initialisation is for the pair."
    torch.manual_seed(0)
    x = torch.randn(1, 32, 8, 12, 12)
    for layer in (MST3D(32, 32), FactorisedConv3d(96, 32), MST3D(32, 32), FactorisedConv3d(96, 32)): x = layer(x)
    assert .1 < x.square().mean().sqrt() < 10

@pytest.mark.parametrize('frames, size', [(16, 112), (8, 64), (8, 48), (1, 16), (3, 40), (17, 56)])
def test_c3d_of_any_length_and_size(frames, size):
    model = fgar.create('c3d', classes=4, frames=frames, size=size, body='small').eval()
    with torch.no_grad(): pred = model(torch.randn(1, 3, frames, size, size))
    assert pred.logits.shape == (1, 4) and pred.logits.isfinite().all()

def test_c3d_has_the_public_names_and_counts():
    with torch.device('meta'): model = fgar.create('c3d', classes=487)
    layers = [f'conv{n}' for n, _ in C3D_LAYERS] + ['fc6', 'fc7', 'fc8']
    assert list(model.state_dict()) == [f'{layer}.{p}' for layer in layers for p in ('weight', 'bias')]
    assert model.fc6.in_features == 8192
    assert fgar.core.cost('c3d', classes=101)[0] == 78_409_573

def test_c3d_weights(tmp_path):
    build = lambda K, **o: fgar.create('c3d', classes=K, frames=4, size=16, **o)
    old = build(5)
    torch.save(old.state_dict(), tmp_path/'c3d.pt')
    same, other = build(5, weights=tmp_path/'c3d.pt').eval(), build(3, weights=str(tmp_path/'c3d.pt'))
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad(): assert torch.equal(same(x).logits, old.eval()(x).logits)
    assert torch.equal(other.fc7.weight, old.fc7.weight) and other.fc8.out_features == 3
    with pytest.raises(FileNotFoundError, match='state-dict'): build(3, weights=tmp_path/'none.pt')
    torch.save({k: v for k, v in old.state_dict().items() if 'conv2' not in k}, tmp_path/'part.pt')
    with pytest.raises(ValueError, match='conv2.weight'): load_c3d(other, tmp_path/'part.pt')

@pytest.mark.parametrize('call, words', [
    (lambda: FactorisedConv3d(2, 3, space=2), 'space'), (lambda: FactorisedConv3d(2, 3, time=0), 'time'), (lambda: MST3D(2, 3, (), ()), 'space, time'), (lambda: MST3D(2, 3, (1, 3), (3,)), 'space, time'),
    (lambda: MST3D(2, 3)(torch.zeros(1, 3, 4, 5, 5)), 'C=2'), (lambda: fgar.create('c3d', classes=3, body='smal'), "Did you mean 'small'"), (lambda: fgar.create('c3d', classes=3, size=8), '16 px'),
    (lambda: fgar.create('c3d', classes=3, body='small', frames=8, size=32)(torch.zeros(1, 3, 4, 32, 32)), 'T=8')])
def test_what_is_wrong_is_said(call, words):
    with pytest.raises(ValueError, match=re.escape(words)): call()
