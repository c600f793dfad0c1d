"Optical flow: every method on every motion, layouts, gradients, 8-bit maps, and what bad input says."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.core import generator
from fgar.ops.flow import (BACKENDS, clip_flow, clip_minmax, coarse_to_fine, dequantise, derivatives, divergence, endpoint_error, flow_legend, flow_to_rgb,
                           forward_gradient, grey, horn_schunck, lucas_kanade, median_filter, median_network, optical_flow, quantise, raft, tvl1, tvl1_step, warp)

METHODS = {'lucas_kanade': lucas_kanade, 'horn_schunck': horn_schunck, 'tvl1': tvl1}
TURN = math.radians(3)
STILL = [[1., 0.], [0., 1.]]
MOTIONS = {'shift': (STILL, (1.3, -.7)), 'large': (STILL, (6.5, 4.25)), 'rotation': ([[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]], (0., 0.)),
           'zoom': ([[1.06, 0.], [0., 1.06]], (0., 0.)), 'affine': ([[1.02, .015], [-.01, .985]], (.8, -.5))}
OPENCV_TVL1 = {'shift': .009, 'large': .013, 'rotation': .030, 'zoom': .040, 'affine': .020}     # px, measured once on resampled 96×128 pairs


def picture(seed, h, w):
    "A texture with detail at several sizes, 0…1, in double."
    g, out = generator('picture', seed), 0
    for sigma in (1, 2, 4, 8):
        r = 3*sigma
        k = torch.exp(-torch.arange(-r, r + 1).double().square()/(2*sigma**2)); k = k/k.sum()
        x = torch.randn(1, 1, h + 2*r, w + 2*r, generator=g, dtype=torch.double)
        x = F.conv2d(F.conv2d(x, k.view(1, 1, 1, -1)), k.view(1, 1, -1, 1))
        out = out + x/x.std()
    return (out - out.min())/(out.max() - out.min())


def resampled(motion, seed=0, h=96, w=128, pad=24):
    "b is a cubic resampling of a larger a; the flow is exact."
    A, t = (torch.tensor(m, dtype=torch.double) for m in MOTIONS[motion])
    big = picture(seed, h + 2*pad, w + 2*pad)
    y, x = torch.meshgrid(torch.arange(h + 2*pad).double() - pad - (h-1)/2, torch.arange(w + 2*pad).double() - pad - (w-1)/2, indexing='ij')
    p = torch.stack([x, y])
    forward = torch.einsum('ij,jhw->ihw', A, p) + t[:, None, None] - p
    backward = torch.einsum('ij,jhw->ihw', A.inverse(), p - t[:, None, None]) - p
    crop = (..., slice(pad, -pad), slice(pad, -pad))
    camera = lambda z: z[crop].clamp(0, 1).mul(255).round().div(255).float()
    return camera(big), camera(warp(big, backward[None], 'bicubic')), forward[None][crop].float()


@pytest.fixture(scope='module')
def pairs(): return {motion: resampled(motion) for motion in MOTIONS}


def interior(flow, truth): return endpoint_error(flow, truth, border=8).item()


# accuracy

@pytest.mark.parametrize('motion', MOTIONS)
def test_tvl1_is_as_good_as_opencv(pairs, motion):
    a, b, truth = pairs[motion]
    assert interior(tvl1(a, b), truth) < 1.5*OPENCV_TVL1[motion]


@pytest.mark.parametrize('motion', MOTIONS)
def test_tvl1_beside_opencv_on_the_same_pair(pairs, motion):
    cv2 = pytest.importorskip('cv2')
    if not hasattr(cv2, 'optflow'): pytest.skip('OpenCV TV-L1 needs opencv-contrib-python-headless')
    a, b, truth = pairs[motion]
    eight = lambda x: (x[0, 0]*255).round().byte().numpy()
    theirs = torch.from_numpy(cv2.optflow.DualTVL1OpticalFlow_create().calc(eight(a), eight(b), None)).permute(2, 0, 1)[None]
    assert interior(tvl1(a, b), truth) < 1.5*interior(theirs, truth)


@pytest.mark.parametrize('motion', MOTIONS)
@pytest.mark.parametrize('name', ['farneback', 'dis'])
def test_tvl1_beats_opencvs_fast_methods(pairs, motion, name):
    cv2 = pytest.importorskip('cv2')
    a, b, truth = pairs[motion]
    x, y = ((z[0, 0]*255).round().byte().numpy() for z in (a, b))
    if name == 'dis': flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(x, y, None)
    else: flow = cv2.calcOpticalFlowFarneback(x, y, None, .5, 4, 15, 5, 5, 1.1, 0)
    assert interior(tvl1(a, b), truth) < interior(torch.from_numpy(flow).permute(2, 0, 1)[None], truth)


@pytest.mark.parametrize('motion', MOTIONS)
@pytest.mark.parametrize('method', METHODS)
def test_every_method_finds_every_motion(pairs, method, motion):
    a, b, truth = pairs[motion]
    assert interior(METHODS[method](a, b), truth) < .05*interior(torch.zeros_like(truth), truth)


@pytest.mark.parametrize('method', METHODS)
def test_nothing_moves(method):
    a = picture(3, 40, 50).float()
    assert METHODS[method](a, a).abs().max() < 1e-4


@pytest.mark.parametrize('method', METHODS)
def test_no_texture_gives_zero_flow(method):
    flat = torch.full((1, 1, 33, 41), .5)
    assert METHODS[method](flat, flat).abs().max() < 1e-6


@pytest.mark.parametrize('method', METHODS)
def test_mirror_flips_the_sign_of_dx(pairs, method):
    a, b, _ = pairs['affine']
    sign, close = torch.tensor([-1., 1.]).view(1, 2, 1, 1), lambda x, y: endpoint_error(x, y, border=8) < .02
    assert close(METHODS[method](a.flip(-1), b.flip(-1)), METHODS[method](a, b).flip(-1)*sign)
    assert close(METHODS[method](a.mT.contiguous(), b.mT.contiguous()), METHODS[method](a, b).flip(1).mT)


@pytest.fixture(scope='module')
def court():
    "Two pairs of court26 with exact flow, and the pixels that move and stay visible."
    from fgar.synthetic import CLASSES, render
    film = render([CLASSES.index('lay-up'), CLASSES.index('chest pass')], [5, 3], frames=32, size=112, difficulty=1., truth=True)
    truth = film.flow[:, :, 13]
    return grey(film.frames[:, 13]), grey(film.frames[:, 14]), truth, ~film.hidden[:, 13] & (truth.norm(dim=1) > .5)


@pytest.mark.parametrize('method', METHODS)
def test_court26s_exact_flow_is_nearer_than_no_flow(court, method):
    a, b, truth, moving = court
    flow = METHODS[method](a, b)
    assert moving.any() and endpoint_error(flow, truth, moving) < .9*endpoint_error(0*flow, truth, moving) < endpoint_error(-flow, truth, moving)


def test_outliers_hurt_tvl1_least(pairs):
    "A bright bar that appears in b only."
    a, b, truth = pairs['shift']
    b = b.clone(); b[..., 40:50, 20:110] = 1.
    clear = torch.ones(1, 96, 128, dtype=torch.bool); clear[:, 34:56, 14:116] = False
    error = {name: endpoint_error(f(a, b), truth, clear, border=8).item() for name, f in METHODS.items()}
    assert error['tvl1'] < .5*min(error['lucas_kanade'], error['horn_schunck'])


# batches, dtypes, sizes, gradients

@pytest.mark.parametrize('method', METHODS)
def test_a_batch_is_its_samples(method):
    samples = [resampled(m, h=48, w=61) for m in ('shift', 'zoom', 'affine')]
    a, b = (torch.cat(z) for z in list(zip(*samples))[:2])
    one = torch.cat([METHODS[method](x, y) for x, y, _ in samples])
    assert_close(METHODS[method](a, b), one, atol=1e-3, rtol=0)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('h,w', [(8, 8), (9, 40), (31, 33), (64, 17), (47, 95)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_sizes_and_dtypes(method, h, w, dtype):
    a, b = picture(0, h, w).to(dtype), picture(0, h, w).roll(1, -1).to(dtype)
    before = a.clone(), b.clone()
    flow = METHODS[method](a, b)
    assert flow.shape == (1, 2, h, w) and flow.dtype == dtype and flow.isfinite().all()
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


@pytest.mark.parametrize('method', METHODS)
def test_an_empty_batch(method): assert METHODS[method](torch.rand(0, 1, 20, 30), torch.rand(0, 1, 20, 30)).shape == (0, 2, 20, 30)


@pytest.mark.parametrize('method', METHODS)
def test_gradients_reach_both_frames_and_do_not_change_the_flow(method):
    a, b, _ = (x.double() for x in resampled('shift', h=24, w=31))
    plain = METHODS[method](a, b)
    a.requires_grad_(), b.requires_grad_()
    flow = METHODS[method](a, b)
    assert_close(flow.detach(), plain, atol=1e-3, rtol=0)
    for grad in torch.autograd.grad(flow.square().sum(), (a, b)): assert grad.isfinite().all() and grad.abs().max() > 0


@pytest.mark.parametrize('method', METHODS)
def test_gradient_is_the_slope(method):
    "Move b by a little along a random direction: the flow's mean changes as the gradient says."
    a, b, _ = (x.double() for x in resampled('shift', h=24, w=31))
    f = lambda b: METHODS[method](a, b, median=0, levels=1, warps=1)[:, 0].mean()
    d = 1e-7*picture(9, 24, 31)
    slope = (f(b + d) - f(b - d))/2
    grad, = torch.autograd.grad(f(b.requires_grad_()), b)
    assert_close(slope, (grad*d).sum(), rtol=2e-2, atol=1e-12)


def test_tvl1_options_change_the_flow(pairs):
    a, b, truth = pairs['large']
    base = tvl1(a, b)
    for option in (dict(lam=5.), dict(theta=.1), dict(tau=.1), dict(iterations=10), dict(warps=1), dict(median=0), dict(levels=1), dict(mode='corrected')):
        assert not torch.allclose(base, tvl1(a, b, **option), atol=1e-3), option
    assert interior(tvl1(a, b, levels=1), truth) > 1 > interior(base, truth)


# parts

@pytest.mark.parametrize('size', [1, 3, 5, 7])
def test_median_filter(size):
    x = torch.randn(2, 3, 9, 11, generator=generator(size))
    slow = F.pad(x, (size//2,)*4, mode='replicate').unfold(2, size, 1).unfold(3, size, 1).flatten(-2).median(-1).values
    assert torch.equal(median_filter(x, size), slow)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_median_network_finds_the_median_of_any_number(n, seed):
    v = torch.randint(0, 9, (n,), generator=generator(seed)).tolist()
    middle = sorted(v)[n//2]
    for i, j, low, high in median_network(n):
        a, b = v[i], v[j]
        if low: v[i] = min(a, b)
        if high: v[j] = max(a, b)
    assert v[n//2] == middle


def test_even_median_is_refused():
    with pytest.raises(ValueError, match='odd'): median_filter(torch.rand(1, 1, 8, 8), 4)


@pytest.mark.parametrize('mode', ['bilinear', 'bicubic', 'corrected'])
def test_warp_samples_at_x_plus_flow(mode):
    x = torch.rand(2, 3, 7, 9, dtype=torch.double)
    flow = torch.tensor([2., -1.], dtype=torch.double).view(1, 2, 1, 1).expand(2, 2, 7, 9)
    assert_close(warp(x, flow, mode)[..., 1:, :-2], x[..., :-1, 2:])
    assert_close(warp(x, flow*0, mode), x)
    assert_close(warp(x, flow.abs() + 50, mode), x[..., -1:, -1:].expand_as(x))


def test_derivatives_of_a_cubic_are_exact_inside():
    t = torch.arange(12., dtype=torch.double)
    x = (t**3/100 + t[:, None]**2).expand(1, 1, 12, 12)
    d = derivatives(x)[..., 2:-2, 2:-2]
    assert_close(d[0, 0], (3*t**2/100).expand(12, 12)[2:-2, 2:-2])
    assert_close(d[0, 1], (2*t[:, None]).expand(12, 12)[2:-2, 2:-2])


def test_divergence_is_minus_the_adjoint():
    u, p = torch.randn(2, 6, 5, dtype=torch.double), forward_gradient(torch.randn(2, 6, 5, dtype=torch.double))
    assert_close((forward_gradient(u)*p).sum(), -(u*divergence(p)).sum())


def test_plain_and_in_place_tvl1_agree(pairs):
    a, b, _ = pairs['rotation']
    assert_close(tvl1(a, b), coarse_to_fine(a, b, tvl1_step, 3), atol=2e-3, rtol=0)


def test_endpoint_error():
    truth = torch.zeros(2, 2, 5, 6)
    flow = truth.clone(); flow[:, 0] = 3; flow[:, 1] = 4; flow[1] = 0
    assert endpoint_error(flow, truth) == 2.5
    assert endpoint_error(flow, truth, border=1, reduction='none').shape == (2, 3, 4)
    valid = torch.zeros(2, 5, 6, dtype=torch.bool); valid[0] = True
    assert endpoint_error(flow, truth, valid) == 5
    same = truth.clone().requires_grad_()
    endpoint_error(same, truth).backward()
    assert same.grad.isfinite().all()


# clips

def test_clip_flow_layouts_agree():
    frames = torch.stack([(picture(2, 24, 60)[0, 0, :, 10-t:50-t]*255).round().byte() for t in range(4)])[..., None].repeat(1, 1, 1, 3)
    flow = clip_flow(frames)
    assert flow.shape == (1, 2, 3, 24, 40) and abs(flow[:, 0, :, 4:-4, 6:-6].mean() - 1) < .05 and flow[:, 1, :, 4:-4, 6:-6].abs().mean() < .05
    assert_close(clip_flow(frames[None]), flow)
    assert_close(clip_flow((frames.float()/255)[None].permute(0, 4, 1, 2, 3)), flow, atol=1e-3, rtol=0)
    assert_close(clip_flow(frames, batch=1), flow, atol=1e-3, rtol=0)
    two = clip_flow(torch.stack([frames, frames.flip(0)]), 'lucas_kanade')
    assert_close(two[:1], clip_flow(frames, 'lucas_kanade'), atol=1e-3, rtol=0)
    assert_close(two[1:, :, 0], optical_flow(grey(frames[3:]), grey(frames[2:3]), 'lucas_kanade'), atol=1e-3, rtol=0)


def test_clip_flow_of_no_clips(): assert clip_flow(torch.zeros(0, 4, 16, 20, 3, dtype=torch.uint8)).shape == (0, 2, 3, 16, 20)


def test_grey():
    white = torch.full((2, 4, 5, 3), 255, dtype=torch.uint8)
    assert grey(white).shape == (2, 1, 4, 5)
    assert_close(grey(white), torch.ones(2, 1, 4, 5))
    assert_close(grey(white.double()/255), torch.ones(2, 1, 4, 5, dtype=torch.double))


A, SMALL = torch.rand(1, 1, 20, 24), torch.rand(1, 1, 7, 24)
FRAMES = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
BAD = {
    'no channel': (lambda: tvl1(A[0], A[0]), r'a: expected \(N, 1, H, W\), got \(1, 20, 24\)'),
    'colour': (lambda: tvl1(A.repeat(1, 3, 1, 1), A), r'got \(1, 3, 20, 24\). Use grey'),
    'other size': (lambda: tvl1(A, A[..., :-1]), r'b: expected .*W=24.*got \(1, 1, 20, 23\)'),
    'other batch': (lambda: tvl1(A, A.repeat(2, 1, 1, 1)), 'b: expected .*N=1'),
    'too small': (lambda: tvl1(SMALL, SMALL), 'at least 8 px a side, got 7×24'),
    'uint8': (lambda: tvl1(A.byte(), A.byte()), 'expected float32 or float64'),
    'half': (lambda: tvl1(A.half(), A.half()), 'expected float32 or float64'),
    'dtypes': (lambda: tvl1(A, A.double()), 'like a, got torch.float64'),
    'nan': (lambda: tvl1(A, torch.where(A == A.max(), torch.nan, A)), 'b: expected finite'),
    'infinity': (lambda: tvl1(torch.where(A == A.max(), torch.inf, A), A), 'a: expected finite'),
    'range': (lambda: tvl1(A*255, A), 'Divide 8-bit frames by 255'),
    'normalised': (lambda: tvl1((A - .5)/.2, A), 'before colours are normalised'),
    'an array': (lambda: tvl1(A.numpy(), A.numpy()), 'a: expected a torch.Tensor, got numpy.ndarray'),
    'one frame': (lambda: clip_flow(FRAMES[:1]), 'at least 2 frames, got 1'),
    'no frame': (lambda: clip_flow(FRAMES[:0]), 'at least 2 frames, got 0'),
    'channels first': (lambda: clip_flow(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)), 'clip: expected'),
    'a frame': (lambda: clip_flow(FRAMES[0]), 'clip: expected'),
    'ints': (lambda: grey(FRAMES.long()), 'expected uint8'),
    'even window': (lambda: lucas_kanade(A, A, window=8), 'odd number of at least 3, got 8'),
    'backend': (lambda: optical_flow(A, A, 'raftt'), "Did you mean 'raft'"),
    'warp mode': (lambda: warp(A, torch.zeros(1, 2, 20, 24), 'cubic'), "Did you mean 'bicubic'"),
    'warp size': (lambda: warp(A, torch.zeros(1, 2, 20, 23)), 'flow: expected .*W=24'),
    'error size': (lambda: endpoint_error(torch.zeros(1, 2, 5, 5), torch.zeros(1, 2, 5, 6)), 'truth: expected'),
    'colour of what': (lambda: flow_to_rgb(torch.zeros(1, 3, 5, 5)), 'axis 1'),
    'minmax of one': (lambda: clip_minmax(torch.zeros(5, 5)), 'batch axis'),
    'limit': (lambda: clip_minmax(torch.zeros(1, 2, 5, 5), limit=0), 'above 0'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_says_what_to_do(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message): call()


@pytest.mark.parametrize('method', BACKENDS)
def test_every_backend_checks_its_input(method):
    with pytest.raises(ValueError, match='b: expected finite'): optical_flow(A, A*torch.nan, method)


def test_raft_needs_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match='weights: expected .* found no file .*none.pth'): raft(A, A, weights=tmp_path/'none.pth')


@pytest.mark.parametrize('h,w', [(40, 50), (128, 137)])
def test_raft_runs_on_any_size_from_a_file(tmp_path, h, w):
    from torchvision.models.optical_flow import raft_small
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path/'raft.pth')
    a, b = torch.rand(2, 1, 1, h, w).unbind()
    flow = optical_flow(a, b, 'raft', weights=tmp_path/'raft.pth', updates=1)
    assert flow.shape == (1, 2, h, w) and flow.isfinite().all() and not flow.requires_grad


# flow as pictures and as training data

def test_flow_to_rgb():
    assert flow_to_rgb(torch.zeros(2, 2, 4, 5)).eq(255).all() and flow_to_rgb(torch.zeros(2, 2, 4, 5)).shape == (2, 4, 5, 3)
    assert flow_to_rgb(torch.randn(2, 2, 3, 4, 5)).shape == (2, 3, 4, 5, 3) and flow_to_rgb(torch.randn(2, 4, 5)).shape == (4, 5, 3)
    colour = lambda dx, dy: flow_to_rgb(torch.tensor([dx, dy]).view(2, 1, 1), 1.)[0, 0].tolist()
    assert colour(1., 0.) == [255, 0, 0] and colour(-1., 0.) == [0, 255, 255]                    # complementary
    assert colour(.5, 0.)[0] == 255 and colour(.5, 0.)[1] in (127, 128)
    assert colour(9., 0.) == colour(1., 0.)
    turn = torch.linspace(0, 2*math.pi, 400)[:-1]
    wheel = flow_to_rgb(torch.stack([turn.cos(), turn.sin()])[:, None], 1.).int()[0]
    assert (wheel - wheel.roll(1, 0)).abs().max() <= 5 and len(wheel.unique(dim=0)) > 380            # continuous and one-to-one
    assert flow_legend(33).shape == (33, 33, 3) and flow_legend(33)[16, 16].eq(255).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(.1, 50.))
def test_clip_minmax_is_equation_4(seed, scale):
    flow = scale*torch.randn(3, 2, 4, 5, 6, generator=generator(seed))
    out = clip_minmax(flow)
    for x, y in zip(flow.clamp(-20, 20), out): assert_close(y, 255*(x - x.min())/(x.max() - x.min()), atol=1e-3, rtol=0)
    assert_close(clip_minmax(flow, fixed=True), 255*(flow.clamp(-20, 20) + 20)/40, atol=1e-3, rtol=0)


def test_min_max_moves_zero_and_the_fixed_range_does_not():
    flow = torch.zeros(2, 2, 3, 3); flow[0, 0, 0, 0] = 10; flow[1, 0, 0, 0] = -10
    assert clip_minmax(flow)[:, 0, 2, 2].tolist() == [0., 255.]
    assert clip_minmax(flow, fixed=True)[:, 0, 2, 2].tolist() == [127.5, 127.5]
    assert clip_minmax(torch.full((1, 2, 3, 3), 4.)).eq(127.5).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(.5, 50.))
def test_quantise_and_back(seed, limit):
    x = limit*(2*torch.rand(500, generator=generator(seed)) - 1)
    levels = quantise(x, limit)
    assert levels.dtype == torch.uint8 and (dequantise(levels, limit) - x).abs().max() <= limit/254*1.001
    assert torch.equal(quantise(dequantise(levels, limit), limit), levels)
    assert dequantise(quantise(torch.zeros(3), limit), limit).eq(0).all()
    assert torch.equal(quantise(-x, limit).int() - 128, 128 - levels.int())                      # a flip is exact in 8 bit
    assert dequantise(quantise(torch.tensor([9*limit]), limit), limit).item() == pytest.approx(limit)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_warp_counts_positions_exactly_in_half_precision(dtype):
    image = torch.linspace(0, 1, 600).expand(1, 1, 12, 600).contiguous()
    flow = torch.zeros(1, 2, 12, 600); flow[:, 0] = .5
    out = warp(image.to(dtype), flow.to(dtype))
    assert out.dtype == dtype
    assert_close(out.float(), warp(image, flow), atol=torch.finfo(dtype).eps, rtol=0)


def test_warp_mixes_precisions_and_refuses_integers():
    image, flow = torch.rand(1, 1, 9, 10), torch.randn(1, 2, 9, 10, dtype=torch.double)
    assert_close(warp(image, flow), warp(image, flow.float()))
    with pytest.raises(ValueError, match='image: expected floating point, got torch.uint8'): warp((255*image).byte(), flow)


def test_endpoint_error_explains():
    a = torch.zeros(1, 2, 6, 7)
    with pytest.raises(ValueError, match='valid: expected bool'): endpoint_error(a, a, torch.ones(1, 6, 7))
    with pytest.raises(ValueError, match='border: expected px from 0 to less than half a side, got 3'): endpoint_error(a, a, border=3)


def test_flow_of_no_clips_has_no_colours():
    assert flow_to_rgb(torch.zeros(0, 2, 5, 6)).shape == (0, 5, 6, 3)

def test_a_limit_of_zero_leaves_zero_flow_white():
    still = torch.zeros(1, 2, 3, 4)
    for limit in (None, 0., still.abs().max()): assert flow_to_rgb(still, limit).eq(255).all()

def test_frames_that_are_no_tensor():
    with pytest.raises(ValueError, match=r'clip: expected a torch.Tensor, got numpy.ndarray. torch.as_tensor\(clip\)\?'): clip_flow(torch.zeros(3, 16, 16, 3).numpy())
