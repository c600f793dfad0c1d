"Does everything that is computed on a GPU stay there? Asked without one: torch traces shapes and devices of `cuda` tensors that hold no numbers."
import functools, importlib

import pytest
import torch

import fgar
from fgar.core import example_inputs
from fgar.data.augment import Augment, test_crops as crops_of
from fgar.losses import diversity, ranking
from fgar.models import nts
from fgar.ops import attention, boxes, correlation, flow, sequence

fake = pytest.importorskip('torch._subclasses.fake_tensor', reason='this torch has no fake tensors')
if not torch.backends.cuda.is_built(): pytest.skip('this torch knows no cuda tensors', allow_module_level=True)
if not torch.cuda.is_available() and tuple(map(int, torch.__version__.split('.')[:2])) < (2, 15):
    pytest.skip('an older torch asks the absent driver when it traces a convolution, and aborts', allow_module_level=True)
D, EVERY = 'cuda:0', fgar.models()

MODULES = [importlib.import_module(f'fgar.{name}') for name in ('core', 'synthetic', 'data.augment', 'ops.boxes', 'ops.correlation', 'ops.flow', 'models.nts')]

def clear_caches():
    "Small tables are kept per device; those of a test hold no numbers."
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper): value.cache_clear()

@pytest.fixture
def mode(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (7, 5))   # too old for the Triton kernel, which cannot be traced
    monkeypatch.setattr(torch.backends.cudnn, 'enabled', False)                  # its recurrent layers ask the driver for a version
    monkeypatch.setattr(flow, 'check_pair', lambda a, b: None)                   # reads the numbers
    clear_caches()
    yield fake.FakeTensorMode(allow_non_fake_inputs=False)
    clear_caches()

def on_gpu(mode, x):
    "A tensor of the same kind without numbers, on the GPU."
    with torch.no_grad(): y = mode.from_tensor(x.detach(), static_shapes=True)
    with mode: return y.to(D)

def model_on_gpu(mode, model):
    "What `model.to(D)` moves, and nothing else: a tensor kept in a plain attribute stays behind."
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None: module._parameters[name] = torch.nn.Parameter(on_gpu(mode, p), requires_grad=p.requires_grad)
        for name, b in module._buffers.items():
            if b is not None: module._buffers[name] = on_gpu(mode, b)
    return model

def devices(x):
    "Of all tensors in a structure, but 0-dim ones."
    if torch.is_tensor(x): return {x.device.type}
    if isinstance(x, dict): x = list(x.values())
    return set().union(*map(devices, x)) if isinstance(x, (list, tuple)) else set()

PAPERS = ['nts-two-stream', 'mhssa', 'deepfusion', 'fstfl', 'stmanet']
@pytest.mark.parametrize('name,train', [(name, True) for name in EVERY] + [(name, False) for name in PAPERS])
def test_a_system_stays_on_its_device(name, train, mode, monkeypatch):
    try: model = fgar.create(name, classes=5, body='small')
    except (TypeError, ValueError): pytest.skip('no small body')
    screens = [m for m in model.modules() if isinstance(m, nts.NTSNet)]
    inputs = example_inputs(model, 2)
    if screens:                                                                  # how many anchors lie inside is a number: find it first
        s = screens[0]
        kept = nts._anchors(*inputs[0].shape[-2:], s.size*s.anchor, s.screening.strides, s.border, torch.device('cpu'))
        kept = (*(on_gpu(mode, x) for x in kept[:2]), kept[2])
        monkeypatch.setattr(nts, '_anchors', lambda *_: kept)
    model, inputs = model_on_gpu(mode, model).train(train), [on_gpu(mode, x) for x in inputs]
    with mode:
        pred = model(*inputs)
        loss = model.loss(pred, torch.zeros(2, dtype=torch.long, device=D))
    assert devices([pred.logits, pred.extras, loss]) == {'cuda'}

rand = lambda *shape: torch.rand(*shape, device=D)
clips = lambda: torch.zeros(4, 3, 40, 50, 3, dtype=torch.uint8, device=D)
CALLS = {
    **{name: lambda f=getattr(flow, name), options=options: f(rand(2, 1, 17, 23), rand(2, 1, 17, 23), **options) for name, options in dict(lucas_kanade={}, horn_schunck=dict(iterations=2), tvl1=dict(iterations=2)).items()},
    'warp': lambda: flow.warp(rand(2, 3, 9, 11), rand(2, 2, 9, 11)), 'flow_to_rgb': lambda: flow.flow_to_rgb(rand(2, 2, 9, 11)), 'clip_minmax': lambda: flow.clip_minmax(rand(2, 2, 9, 11)),
    **{f'correlate {b}': lambda b=b: correlation.correlate(rand(2, 8, 9, 11), rand(2, 8, 9, 11), 3, backend=b) for b in ('unfold', 'gemm')},
    **{f'spatiotemporal_correlation {b}': lambda b=b: correlation.spatiotemporal_correlation(rand(2, 8, 4, 9, 11), 2, (0, 1, 2), backend=b) for b in ('unfold', 'gemm')},
    **{f'correlation_features {b}': lambda b=b: correlation.correlation_features(rand(2, 8, 4, 9, 11), rand(3, 16, 25), 2, (0, 1, 2), backend=b) for b in ('unfold', 'gemm')},
    'nms': lambda: boxes.nms(rand(2, 40, 4), rand(2, 40), .3, 5), 'iou': lambda: boxes.iou(rand(4, 4), rand(3, 4)),
    'attend': lambda: attention.attend(rand(2, 3, 5, 4), rand(2, 3, 5, 4), rand(2, 3, 5, 4), 'sigmoid', 0.), 'temporal_pyramid': lambda: sequence.temporal_pyramid(rand(2, 8, 5), (1, 2, 4)),
    'ranking_loss': lambda: ranking.ranking_loss(rand(2, 6), rand(2, 6)), 'diversity_loss': lambda: diversity.diversity_loss([rand(2, 5, 5), rand(2, 9, 9)]),
    'augment, training': lambda: Augment(32, train=True, jitter=(.4, .4, .4, .1))(clips(), torch.zeros(4, dtype=torch.long, device=D)),
    'augment, testing': lambda: Augment(32, train=False)(clips(), torch.zeros(4, dtype=torch.long, device=D)), 'three crops': lambda: crops_of(clips(), 32, 3)}

@pytest.mark.parametrize('name', CALLS)
def test_a_part_stays_on_its_device(name, mode):
    with mode: assert devices(CALLS[name]()) == {'cuda'}

def test_a_constant_left_on_the_cpu_is_found(mode):
    class Faulty(torch.nn.Module):
        def __init__(self): super().__init__(); self.scale = torch.ones(3)       # not a buffer
        def forward(self, x): return x*self.scale
    with pytest.raises(Exception, match='(?i)device|convert all Tensors'), mode: model_on_gpu(mode, Faulty())(rand(2, 3))
