"Correlation: every form against the definition, over sizes, radii, dtypes, layouts and bad input."
import base64, json, os, re, subprocess, sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.core import UnknownName
from fgar.ops import correlation as module
from fgar.ops.correlation import correlate, correlation_features, pick_backend, spatiotemporal_correlation, unit

ROOT = Path(__file__).parent.parent
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 7, 3), (3, 2, 1, 9)]


def randn(*shape, seed=0, dtype=torch.double):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()

def same(fast, slow, inputs):
    assert_close(fast, slow)
    slope = torch.randn(slow.shape, dtype=slow.dtype, generator=torch.Generator().manual_seed(9))
    assert_close(*(torch.autograd.grad(out, inputs, slope, retain_graph=True) for out in (fast, slow)))


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('backend', ['unfold', 'gemm', 'auto'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('radius', [1, 2, 8])
def test_correlate_equals_loops(shape, radius, backend, normalize):
    a, b = randn(*shape), randn(*shape, seed=1)
    same(correlate(a, b, radius, normalize, backend), correlate(a, b, radius, normalize, 'naive'), (a, b))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 9))
def test_tiles_of_any_size(maps, height, width, radius):
    a, b = randn(maps, 2, height, width), randn(maps, 2, height, width, seed=1)
    same(correlate(a, b, radius, False), correlate(a, b, radius, False, 'unfold'), (a, b))


def test_small_budget_splits_maps(monkeypatch):
    tiles = module._tiles
    monkeypatch.setattr(module, '_tiles', lambda maps, *rest: ((slice(m, m+1), *t[1:]) for m in range(maps) for t in tiles(1, *rest)))
    a, b = randn(3, 2, 9, 31), randn(3, 2, 9, 31, seed=1)
    same(correlate(a, b, 3), correlate(a, b, 3, backend='unfold'), (a, b))


def test_gradcheck():
    a, b, w = randn(1, 2, 3, 4), randn(1, 2, 3, 4, seed=1), randn(1, 3, 9, seed=2)
    assert torch.autograd.gradcheck(lambda a, b: correlate(a, b, 1), (a, b))
    assert torch.autograd.gradcheck(unit, (a,))
    assert torch.autograd.gradcheck(lambda x, w: correlation_features(x, w, 1, (1,)), (randn(1, 2, 2, 3, 4), w))


@pytest.mark.parametrize('offsets', [(0,), (1,), (0, 1, 2), (3,), (2, 0), [1, 1]])
@pytest.mark.parametrize('backend', ['unfold', 'gemm'])
def test_spatiotemporal_equals_loops(backend, offsets):
    x = randn(2, 3, 4, 3, 5)
    fast = spatiotemporal_correlation(x, 2, offsets, backend)
    assert fast.shape == (2, len(offsets), 5, 5, 4, 3, 5)
    same(fast, spatiotemporal_correlation(x, 2, offsets, 'naive'), (x,))
    for l, offset in enumerate(offsets):
        for t in range(4):
            if t + offset >= 4: assert not fast[:, l, :, :, t].any()
            else: assert_close(fast[:, l, :, :, t], correlate(x[:, :, t], x[:, :, t+offset], 2, backend='naive'))


@pytest.mark.parametrize('radius', [1, 2, 6])
@pytest.mark.parametrize('backend', ['unfold', 'gemm', 'auto'])
def test_features_equal_tensor_form(backend, radius):
    x, w = randn(2, 3, 3, 3, 5), randn(3, 4, (2*radius+1)**2, seed=1)
    tensor = spatiotemporal_correlation(x, radius, (0, 1, 2), 'naive').flatten(2, 3)
    same(correlation_features(x, w, radius, (0, 1, 2), backend), torch.einsum('nlkthw,ldk->nldthw', tensor, w), (x, w))


def test_features_weights_are_those_of_a_linear_layer():
    x, layer = randn(1, 3, 2, 4, 4), torch.nn.Linear(9, 5, bias=False).double()
    tensor = spatiotemporal_correlation(x, 1, (0, 1)).flatten(2, 3).movedim(2, -1)
    weights = torch.stack([layer.weight, layer.weight])
    same(correlation_features(x, weights, 1, (0, 1)), layer(tensor).movedim(-1, 2), (x, layer.weight))


def test_self_correlation_is_one_and_symmetric():
    a, b = randn(2, 5, 6, 6), randn(2, 5, 6, 6, seed=1)
    assert_close(correlate(a, a, 2)[:, 2, 2], torch.ones(2, 6, 6, dtype=torch.double))
    there, back = correlate(a, b, 2), correlate(b, a, 2)
    assert_close(there[:, 3, 4, 1, 1], back[:, 1, 0, 2, 3])      # (dy, dx) = (1, 2) from (1, 1), and the way back
    assert correlate(a, b, 2).abs().max() <= 1 + 1e-12


@pytest.mark.parametrize('dy,dx', [(0, 2), (-1, 3), (2, -2)])
def test_peak_follows_a_shift(dy, dx):
    a = randn(1, 8, 11, 13).detach()
    cost = correlate(a, a.roll((dy, dx), (-2, -1)), 3)[0, :, :, 5, 6]
    assert divmod(cost.argmax().item(), 7) == (dy+3, dx+3)


@pytest.mark.parametrize('backend', ['naive', 'unfold', 'gemm'])
def test_empty_vectors(backend):
    a, b = randn(1, 3, 4, 4).detach(), randn(1, 3, 4, 4, seed=1).detach()
    a[:, :, 1, 2] = 0; b[:, :, 3] = 0
    a.requires_grad_(); b.requires_grad_()
    out = correlate(a, b, 1, backend=backend)
    assert not out[0, :, :, 1, 2].any() and not out[0, 2, :, 2].any()
    grads = torch.autograd.grad(out.square().sum(), (a, b))
    assert all(g.isfinite().all() for g in grads) and not grads[0][:, :, 1, 2].any() and not grads[1][:, :, 3].any()


@pytest.mark.parametrize('backend', ['naive', 'unfold', 'gemm'])
def test_infinite_neighbours_stay_where_they_are(backend):
    a, b = torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    b[:, :, 0, 0] = float('inf')
    out = correlate(a, b, 1, normalize=False, backend=backend)
    assert out.isinf().sum() == 4 and not out.isnan().any()


@pytest.mark.parametrize('dtype,tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float32, 1e-5)])
def test_lower_precision(dtype, tolerance):
    x, w = randn(1, 32, 3, 5, 7), randn(2, 4, 25, seed=1)
    low_x, low_w = (v.detach().to(dtype).requires_grad_() for v in (x, w))
    for low, high in ((spatiotemporal_correlation(low_x, 2, (0, 1)), spatiotemporal_correlation(x, 2, (0, 1))),
                      (correlation_features(low_x, low_w, 2, (0, 1)), correlation_features(x, w, 2, (0, 1)))):
        assert low.dtype == dtype
        assert_close(low.double(), high, rtol=tolerance, atol=4*tolerance)
        slope = torch.ones_like(high)
        assert_close(torch.autograd.grad(low, low_x, slope.to(dtype))[0].double(), torch.autograd.grad(high, x, slope)[0], rtol=tolerance, atol=4*tolerance)


@pytest.mark.parametrize('value', [3e-7, 2e4])
def test_half_vectors_of_any_length_have_a_direction(value):
    "In float16 the norm of the long one would be infinite, and so would one over that of the short one."
    x = torch.full((1, 64, 1, 1), value, dtype=torch.float16)
    assert torch.equal(unit(x), torch.full_like(x, 1/8))


def test_plain_half_does_not_overflow_on_the_way():
    a = torch.full((1, 512, 2, 2), 4., dtype=torch.float16)
    assert correlate(a, a, 1, normalize=False)[0, 1, 1, 0, 0] == 8192


def test_autocast_gives_its_dtype():
    x, w = randn(1, 8, 2, 5, 7, dtype=torch.float32), randn(1, 4, 9, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = correlation_features(x, w, 1, (1,))
        out.float().sum().backward()
        assert correlate(x[:, :, 0], x[:, :, 1], 1).dtype == torch.bfloat16
        assert spatiotemporal_correlation(x.double(), 1, (1,)).dtype == torch.double
    assert out.dtype == torch.bfloat16 and x.grad.dtype == w.grad.dtype == torch.float32


def test_layout_does_not_matter():
    x = randn(2, 5, 7, 4, 3)
    strided = x.detach().permute(0, 4, 3, 1, 2)                       # N C T H W, not contiguous
    assert not strided.is_contiguous()
    w = randn(2, 3, 25, seed=1)
    assert_close(spatiotemporal_correlation(strided, 2, (0, 1)), spatiotemporal_correlation(strided.contiguous(), 2, (0, 1)))
    assert_close(correlation_features(strided, w.mT.contiguous().mT, 2, (0, 1)), correlation_features(strided.contiguous(), w, 2, (0, 1)))
    a, b = randn(2, 3, 4, 6), randn(2, 3, 6, 4, seed=1)
    turned = b.mT
    same(correlate(a, turned, 2), correlate(a, turned.contiguous(), 2), (a, b))
    assert correlate(a, turned, 2).is_contiguous()
    slope = torch.ones(()).double().expand(2, 5, 5, 4, 6)             # gradients may come expanded
    torch.autograd.grad(correlate(a, turned, 2), (a, b), slope)


def test_no_gradient_wanted():
    a, b = randn(1, 3, 4, 4), randn(1, 3, 4, 4, seed=1).detach()
    correlate(a, b, 1).sum().backward()
    assert a.grad is not None and b.grad is None
    with torch.no_grad(): assert not correlate(a, b, 1).requires_grad


A, X = torch.zeros(1, 3, 5, 5), torch.zeros(1, 3, 4, 5, 5)
W = torch.zeros(1, 2, 9)
BAD = {
    'radius 0': (lambda: correlate(A, A, 0), 'radius'), 'radius negative': (lambda: correlate(A, A, -2), 'radius'),
    'radius float': (lambda: correlate(A, A, 1.5), 'radius'), 'radius bool': (lambda: correlate(A, A, True), 'radius'),
    'unlike shapes': (lambda: correlate(A, A[..., :4], 1), 'b: expected'), 'three axes': (lambda: correlate(A[0], A[0], 1), r'a\[None\]'),
    'unlike dtypes': (lambda: correlate(A, A.double(), 1), 'b: expected'), 'integers': (lambda: correlate(A.int(), A.int(), 1), 'floating'),
    'unknown backend': (lambda: correlate(A, A, 1, backend='gemmm'), "Did you mean 'gemm'"), 'fused only': (lambda: correlate(A, A, 1, backend='triton'), 'correlation_features'),
    'short clip': (lambda: spatiotemporal_correlation(X, 1, (0, 4)), 'T=4'), 'short clip, features': (lambda: correlation_features(X, W, 1, (4,)), 'T=4'),
    'no offsets': (lambda: spatiotemporal_correlation(X, 1, ()), 'offsets'), 'negative offset': (lambda: spatiotemporal_correlation(X, 1, (-1,)), 'offsets'),
    'offset alone': (lambda: spatiotemporal_correlation(X, 1, 2), 'offsets'), 'float offset': (lambda: spatiotemporal_correlation(X, 1, (1.,)), 'offsets'),
    'frames folded': (lambda: spatiotemporal_correlation(A, 1, (0,)), 'x: expected'), 'clip radius': (lambda: spatiotemporal_correlation(X, 0, (0,)), 'radius'),
    'weights per offset': (lambda: correlation_features(X, W, 1, (0, 1)), 'L=2'), 'weights window': (lambda: correlation_features(X, W, 2, (0,)), 'K=25'),
    'weights integer': (lambda: correlation_features(X, W.int(), 1, (0,)), 'weights'), 'features backend': (lambda: correlation_features(X, W, 1, (0,), 'cuda'), 'backend'),
}

@pytest.mark.parametrize('case', BAD)
def test_bad_input(case):
    call, said = BAD[case]
    with pytest.raises(ValueError, match=said): call()


def test_unknown_backend_is_a_key_error_too():
    with pytest.raises(UnknownName): correlate(A, A, 1, backend='nope')


def test_fallback_says_why(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert pick_backend(X, 1, 2) == ('gemm', pick_backend(X, 1, 2, 'gemm')[1])
    assert 'CUDA' in pick_backend(X, 1, 2)[1]
    with pytest.raises(ValueError, match='triton.*cannot run here.*CUDA'): correlation_features(X, W, 1, (0,), 'triton')
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    with pytest.raises(ValueError, match='float64'): pick_backend(X.double(), 1, 2, 'triton')
    with pytest.raises(ValueError, match='radius'): pick_backend(X, 99, 2, 'triton')
    monkeypatch.setattr(module.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='not installed'): pick_backend(X, 1, 2, 'triton')
    assert pick_backend(X, 1, 2)[0] == 'gemm'


def test_importing_does_not_import_triton():
    code = "import sys, torch; before = 'triton' in sys.modules; import fgar.ops.correlation as c; c.correlation_features(torch.ones(1, 2, 1, 3, 3), torch.ones(1, 1, 9), 1, (0,)); assert before or 'triton' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.parametrize('radius', [5, 7])
def test_features_never_hold_the_tensor(radius):
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    class Largest(TorchDispatchMode):
        elements = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.elements = max([self.elements, *(t.untyped_storage().nbytes()//t.element_size() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
            return out
    x, w = randn(2, 4, 6, 24, 24, dtype=torch.float32), randn(3, 2, (2*radius+1)**2, dtype=torch.float32)
    tensor = 2*3*(2*radius+1)**2*6*24*24
    with Largest() as seen: correlation_features(x, w, radius, (0, 1, 2)).square().sum().backward()
    assert seen.elements < tensor/4
    with Largest() as seen: spatiotemporal_correlation(x, radius, (0, 1, 2))
    assert seen.elements >= tensor                       # the probe sees the tensor where there is one


# The kernel. Triton decides when it is imported whether to interpret, so on a CPU the matrix runs in one process of its own.
KERNEL = '''
import torch
from torch.testing import assert_close
from fgar.ops.correlation import correlation_features
device = 'cuda' if torch.cuda.is_available() else 'cpu'
for N, C, T, H, W, radius, offsets, D in ((2, 5, 3, 5, 7, 2, (0, 1, 2), 3), (1, 70, 2, 9, 11, 7, (1,), 16), (1, 3, 2, 4, 37, 3, (1, 0), 2), (1, 130, 1, 3, 3, 9, (0,), 2)):
    torch.manual_seed(0)
    x, w = torch.randn(N, C, T, H, W), torch.randn(len(offsets), D, (2*radius+1)**2)/10
    x[:, :, 0, 1, 1] = 0
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        if dtype == torch.bfloat16 and C != 130: continue
        forms = {}
        for backend, place, kind in (('triton', device, dtype), ('unfold', 'cpu', torch.double)):
            inputs = [v.to(dtype).to(place, kind).requires_grad_() for v in (x, w)]
            if backend == 'triton' and T == 3: inputs[0] = inputs[0].detach().to(memory_format=torch.channels_last_3d).requires_grad_()
            out = correlation_features(*inputs, radius, offsets, backend)
            slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(place, kind)
            forms[backend] = [v.double().cpu() for v in (out, *torch.autograd.grad(out, inputs, slope))]
        for got, expected in zip(forms['triton'], forms['unfold']): assert_close(got, expected, rtol=tolerance, atol=tolerance*expected.abs().max().item())
x, w = torch.randn(1, 4, 2, 3, 5, device=device, requires_grad=True), torch.randn(2, 3, 9, device=device, requires_grad=True)
plain = lambda x, w: correlation_features(x.exp(), w, 1, (0, 1), 'triton').relu().sum()
for eager, compiled in zip(*(torch.autograd.grad(form(x, w), (x, w)) for form in (plain, torch.compile(plain, backend='aot_eager')))): assert_close(compiled, eager)
print('equal')
'''

def test_kernel_equals_tensor_form():
    pytest.importorskip('triton', reason='Triton is not installed')
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0): pytest.skip('the GPU is older than the kernel needs')
    env = {**os.environ, 'TRITON_INTERPRET': '0' if torch.cuda.is_available() else '1'}
    done = subprocess.run([sys.executable, '-c', KERNEL], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and 'equal' in done.stdout, done.stderr[-2000:]


# A GPU is not needed to compile for one. 99 KiB is what the smallest GPUs that the kernel supports (8.6, 8.9, 12.0) give to a program.
COMPILED = '''
import torch
from fgar.ops import correlation_triton as m
for dtype, capability, (W, C, k, D, L) in ((torch.bfloat16, 89, (28, 512, 15, 16, 3)), (torch.bfloat16, 90, (14, 1024, 29, 32, 1)), (torch.float16, 89, (9, 40, 5, 1, 3)),
                                           (torch.float32, 90, (28, 512, 15, 16, 3)), (torch.float32, 89, (14, 1024, 15, 16, 1)), (torch.float32, 89, (9, 40, 63, 64, 3))):
    size, deep = m._geometry(W, C, k, D, dtype)
    for kernel, form in ((m._forward, size), (m._backward_x, deep), (m._backward_w, size)):
        made = m.compiled(kernel, form | ({'L': 1} if L == 1 else {}), dtype, capability)      # Triton makes a constant of an argument that is 1
        print(made.metadata.shared, dtype, capability, kernel.__name__, W, C, k, D)
'''

def test_kernel_compiles_and_fits_on_every_gpu_it_is_for():
    pytest.importorskip('triton', reason='Triton is not installed')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', COMPILED], capture_output=True, text=True, cwd=ROOT, env={**os.environ, 'TRITON_INTERPRET': '0'})
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 18 and not [line for line in lines if int(line.split()[0]) > 99*1024]


def test_meta_counts_the_definition():
    "On the meta device costs are counted: window × channels per position and pair, and the layer after it for each frame."
    from torch.utils.flop_counter import FlopCounterMode
    x, w = torch.empty(2, 16, 5, 6, 7, device='meta'), torch.empty(2, 4, 25, device='meta')
    with FlopCounterMode(display=False) as counter: out = correlation_features(x, w, 2, (0, 2))
    assert out.shape == (2, 2, 4, 5, 6, 7)
    assert counter.get_total_flops()/2 == 2*(5 + 3)*25*16*42 + 2*2*5*25*4*42
    assert correlate(x[:, :, 0], x[:, :, 1], 2).shape == (2, 5, 5, 6, 7)


@pytest.mark.parametrize('chapter', ['13_correlation', '43_fstfl'])
def test_explorers_hold_their_data(chapter):
    "What a page's script decodes is whole: a name that is replaced in the page must not hit the data."
    cells = json.loads((ROOT/f'nbs/{chapter}.ipynb').read_text())['cells']
    pages = [page for c in cells for o in c.get('outputs', []) if '<canvas' in (page := ''.join(o.get('data', {}).get('text/html', '')))]
    data = [text for page in pages for text in re.findall(r'bytes\("([^"]*)"\)', page)]
    assert len(data) == 2 and all(base64.b64decode(text, validate=True) for text in data)


@pytest.mark.parametrize('backend', ['naive', 'unfold', 'gemm'])
def test_no_clips(backend):
    x = torch.randn(0, 3, 4, 5, 6)
    assert spatiotemporal_correlation(x, 2, (0, 1), backend).shape == (0, 2, 5, 5, 4, 5, 6)
    assert correlation_features(x, torch.randn(2, 7, 25), 2, (0, 1), backend).shape == (0, 2, 7, 4, 5, 6)


def test_offsets_as_a_tensor():
    x = torch.randn(1, 3, 4, 5, 6)
    assert_close(spatiotemporal_correlation(x, 1, torch.tensor([0, 2])), spatiotemporal_correlation(x, 1, (0, 2)))


@pytest.mark.parametrize('normalize', [True, False])
def test_second_derivatives_are_refused_where_they_would_be_zero(normalize):
    a, b = (torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True) for _ in 'ab')
    with pytest.raises(RuntimeError, match='first derivative'): torch.autograd.grad(correlate(a, b, 1, normalize).sum(), a, create_graph=True)
    second = lambda x, y: torch.autograd.grad(correlate(x, y, 1, False, 'unfold').sum(), x, create_graph=True)[0]
    assert torch.autograd.gradcheck(second, (a, b))
