"Grad-CAM against its formula and against the grad-cam package; mass in boxes."
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fgar
from fgar.core import Prediction
from fgar.explain import grad_cam, layer_gradient, mass_inside, overlay


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = fgar.create('tsm', classes=4, frames=4, size=32, body='small')
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_var.uniform_(.5, 2)
    return model


def clips(n=2): return torch.randn(n, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def test_formula(net):
    "By plain autograd, without hooks or clones."
    net.eval()
    b, c = net.body, clips()
    x = b.layer2(b.layer1(b.maxpool(b.relu(b.bn1(b.conv1(c.transpose(1, 2).flatten(0, 1))))))).detach().requires_grad_()
    scores = b.fc(b.avgpool(b.layer4(b.layer3(x))).flatten(1)).unflatten(0, (2, 4)).unflatten(-1, (net.parts, -1))[:, torch.arange(4), net.part].mean(1)
    gradient, = torch.autograd.grad(scores[0, 1] + scores[1, 3], x)
    wanted = (gradient.mean((2, 3), keepdim=True)*x).sum(1).relu().detach()
    found = grad_cam(net, 'body.layer2', c, torch.tensor([1, 3]), scale='none')
    assert_close(found, nn.functional.interpolate(wanted[:, None], (32, 32), mode='bilinear', align_corners=False)[:, 0].unflatten(0, (2, 4)))


@pytest.mark.parametrize('layer', ['body.layer1', 'body.layer4', 'body.layer2.0.conv2', 'body.conv1'])
def test_equals_the_package(net, layer):
    package = pytest.importorskip('pytorch_grad_cam', reason='pip install grad-cam')
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Frames(nn.Module):
        def __init__(self): super().__init__(); self.model = net
        def forward(self, frames): return self.model(frames.transpose(0, 1)[None]).logits.expand(4, -1)      # one clip's score, once for each frame

    net.eval()
    module = dict(net.named_modules())[layer]
    theirs = package.GradCAM(Frames(), [module])(clips()[0].transpose(0, 1), [ClassifierOutputTarget(2)]*4)
    assert_close(grad_cam(net, layer, clips()[:1], 2)[0], torch.as_tensor(theirs), atol=2e-5, rtol=0)


@pytest.mark.parametrize('name, layer, ndim', [('small3d', None, 5), ('gsf', 'body.layer3', 4), ('fstfl', 'stc.res2', 4)])
def test_shapes_range_and_state(name, layer, ndim):
    options = {'body': 'small'} if name != 'small3d' else {}
    model = fgar.create(name, classes=4, frames=4, size=32, **options).train()
    model.body.train() if hasattr(model, 'body') else None
    frozen = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)).eval()
    layer = layer or [n for n, m in model.named_modules() if isinstance(m, nn.Conv3d)][-1]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    maps = grad_cam(model, layer, clips(), 1)
    assert layer_gradient(model, layer, (clips(),), 1)[0].ndim == ndim
    assert maps.shape == (2, 4, 32, 32) and maps.min() >= 0 and maps.max() <= 1 and maps.isfinite().all()
    assert torch.equal(maps, grad_cam(model, layer, clips(), 1))
    assert model.training and not frozen.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and not dict(model.named_modules())[layer]._forward_hooks


def test_frozen_weights_and_no_grad(net):
    net.requires_grad_(False)
    with torch.no_grad(): assert grad_cam(net, 'body.layer3', clips(), 0).any()


@pytest.mark.parametrize('name, layer', [('tsn', 'body.layer2'), ('small3d', None)])
def test_inside_inference_mode(name, layer):
    model = fgar.create(name, classes=4, frames=4, size=32, **({} if name == 'small3d' else {'body': 'small'}))
    layer = layer or [n for n, m in model.named_modules() if isinstance(m, nn.Conv3d)][-1]
    wanted = grad_cam(model, layer, clips(), 0)
    with torch.inference_mode(): inside, made_there = grad_cam(model, layer, clips(), 0), clips().clone()
    assert wanted.any() and torch.equal(inside, wanted) and made_there.is_inference() and torch.equal(grad_cam(model, layer, made_there, 0), wanted)


def test_scales(net):
    none, clip, each = (grad_cam(net, 'body.layer2', clips(), 0, scale=s) for s in ('none', 'clip', 'map'))
    low, high = none.amin((1, 2, 3), keepdim=True), none.amax((1, 2, 3), keepdim=True)
    assert_close(clip, (none - low)/(high - low).clamp_min(1e-7))
    assert ((each.amax((2, 3)) - 1).abs().lt(1e-4) | (each.amax((2, 3)) == 0)).all()


def test_two_streams():
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.conv, self.fc = nn.Conv3d(2, 4, 3, padding=1), nn.Linear(4, 3)
        def forward(self, rgb, flow): return Prediction(self.fc(self.conv(flow).relu().mean((2, 3, 4)) + rgb.mean()))
    assert grad_cam(Two(), 'conv', (clips(), torch.randn(2, 2, 4, 16, 16)), 0).shape == (2, 4, 32, 32)


def test_errors(net):
    with pytest.raises(KeyError, match='body.layer1'): grad_cam(net, 'layer4', clips())
    with pytest.raises(ValueError, match='a module of this model'): grad_cam(net, nn.ReLU(), clips())
    with pytest.raises(ValueError, match='label: expected 0 to 3'): grad_cam(net, 'body.layer4', clips(), 4)
    with pytest.raises(ValueError, match='label: expected a whole number, or one for each of 2 clips, got torch.int64 of shape .3,'): grad_cam(net, 'body.layer4', clips(), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match='label: expected a whole number.*float'): grad_cam(net, 'body.layer4', clips(), torch.rand(2))
    for names in ('spin', ['spin', 'dunk']):
        with pytest.raises(ValueError, match='labels.index'): grad_cam(net, 'body.layer4', clips(), names)
    with pytest.raises(ValueError, match='runs once, this one ran'): grad_cam(net, 'body.layer2.0.relu', clips(), 0)
    with pytest.raises(ValueError, match='maps'): grad_cam(net, 'body.fc', clips(), 0)
    with pytest.raises(ValueError, match='clip: expected'): grad_cam(net, 'body.layer4', clips()[0], 0)
    with pytest.raises(ValueError, match='scale'): grad_cam(net, 'body.layer4', clips(), 0, scale='all')
    assert not any(m._forward_hooks for n, m in net.named_modules() if n in ('body.layer4', 'body.fc'))


def test_mass_inside_by_hand():
    maps = torch.arange(24.).view(2, 3, 4)
    boxes = torch.tensor([[[1., 0, 3, 2]], [[0, 0, 4, 3]]])
    assert_close(mass_inside(maps, boxes), torch.tensor([(1+2+5+6)/maps[0].sum().item(), 1.]))
    assert_close(mass_inside(maps, boxes[:, 0]), mass_inside(maps, boxes))
    assert_close(mass_inside(maps, boxes.repeat(1, 3, 1)), mass_inside(maps, boxes))          # a union, not a sum
    assert mass_inside(maps, torch.full((2, 1, 4), torch.nan)).eq(0).all()
    assert mass_inside(torch.zeros(2, 3, 4), boxes).isnan().all()
    with pytest.raises(ValueError, match='boxes: expected'): mass_inside(maps, boxes[:1])
    with pytest.raises(ValueError, match='negative'): mass_inside(-maps, boxes)


def test_overlay():
    frames = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    maps, boxes = torch.zeros(2, 8, 8), torch.tensor([[[2., 2, 6, 6]]]).expand(2, -1, -1)
    maps[:, 4, 4] = 1
    assert torch.equal(overlay(frames), frames)
    assert torch.equal(overlay(frames, maps)[:, 0, 0], frames[:, 0, 0]) and (overlay(frames, maps)[:, 4, 4] != 100).any()
    assert (overlay(frames, None, boxes)[:, 2, 2:6] != 100).any()


@pytest.mark.parametrize('name', ['nts', 'mhssa', 'deepfusion', 'fstfl', 'stmanet'])
def test_explanations_are_deterministic(name):
    "Two models from one seed, one of them in training mode, with dropout; asked twice, alone and in a batch."
    def build():
        torch.manual_seed(0)
        return fgar.create(name, classes=4, frames=4, size=32, body='small')
    model, twin = build().eval(), build().train()
    layer = {'nts': 'body.layer2', 'mhssa': 'rgb.body.layers', 'deepfusion': 'fuse', 'fstfl': 'stc.res2', 'stmanet': 'body.layer2'}[name]
    inputs = fgar.core.example_inputs(model, 2)
    maps = grad_cam(model, layer, inputs, 1, run=0)
    torch.rand(3)                                            # nobody listens to the global stream
    assert torch.equal(maps, grad_cam(model, layer, inputs, 1, run=0)) and torch.equal(maps, grad_cam(twin, layer, inputs, 1, run=0))
    assert_close(maps[:1], grad_cam(model, layer, tuple(x[:1] for x in inputs), 1, run=0), atol=1e-4, rtol=1e-3)
    assert maps.shape == (2, 4, 32, 32) and twin.training


class Twice(nn.Module):
    "One convolution, first on the clip, then on its own output."
    def __init__(self): super().__init__(); self.conv, self.fc = nn.Conv3d(3, 3, 3, padding=1), nn.Linear(6, 4)
    def forward(self, clip):
        a = self.conv(clip).relu(); b = self.conv(a).relu()
        return Prediction(self.fc(torch.cat([a.mean((2, 3, 4)), b.mean((2, 3, 4))], 1)))


@pytest.mark.parametrize('run', [0, 1])
def test_a_layer_that_runs_twice(run):
    "By plain autograd: the first run also counts through the second."
    torch.manual_seed(0)
    model, c = Twice(), clips(1)
    first = model.conv(c); second = model.conv(first.relu())
    wanted, score = (first, second)[run], model.fc(torch.cat([x.relu().mean((2, 3, 4)) for x in (first, second)], 1))[0, 2]
    gradient, = torch.autograd.grad(score, wanted)
    out, found, _ = layer_gradient(model, 'conv', (c,), 2, run)
    assert_close(out, wanted.detach()); assert_close(found, gradient)


def test_errors_of_runs():
    with pytest.raises(ValueError, match='ran 2 times. Choose one of them: run=0 to 1'): grad_cam(Twice(), 'conv', clips(1), 0)
    with pytest.raises(ValueError, match='run: expected 0 to 1, got 2'): grad_cam(Twice(), 'conv', clips(1), 0, run=2)


def test_maps_of_regions_are_not_laid_over_frames():
    "NTS-Net's second run sees K regions per frame: N·T·K maps, which belong into boxes."
    model = fgar.create('nts', classes=4, frames=4, size=32, body='small')
    with pytest.raises(ValueError, match='at most T=4 frames per clip, got 16: maps of regions'): grad_cam(model, 'body.layer2', clips(), 1, run=1)
    assert len(layer_gradient(model, 'body.layer2', (clips(),), 1, 1)[0]) == 2*4*4
