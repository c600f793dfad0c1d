"Pyramids and LSTMs: the matrix of cases, against loops and against torch's own."
import re

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.ops.sequence import LayerNormLSTM, pyramid_sequence, temporal_pyramid

def randn(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()

def grads(out, *inputs): return torch.autograd.grad(out.square().sum(), inputs)

# ---- pyramids

@pytest.mark.parametrize('T', [1, 2, 3, 4, 5, 7, 8, 9, 24])
@pytest.mark.parametrize('levels', [(1,), (1, 2, 4), (3, 1), (5,)])
@pytest.mark.parametrize('rest', [(), (3,), (2, 3, 1)])
def test_pyramid_equals_torchs_adaptive_pooling(T, levels, rest):
    x = randn(2, T, *rest)
    ours = temporal_pyramid(x, levels)
    flat = x.reshape(2, T, -1).mT
    theirs = torch.cat([F.adaptive_avg_pool1d(flat, level) for level in levels], 2).mT.reshape(2, sum(levels), *rest)
    assert_close(ours, theirs)
    assert_close(grads(ours, x), grads(theirs, x))

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(-3, 3))
def test_a_steady_signal_stays_and_every_moment_counts(T, levels, value):
    x = torch.full((1, T, 2), value, dtype=torch.double, requires_grad=True)
    out = temporal_pyramid(x, levels)
    assert_close(out, torch.full((1, sum(levels), 2), value, dtype=torch.double))
    first = 0
    for level in levels:                                                  # on each level every moment has some weight
        weight, = torch.autograd.grad(out[:, first:first+level].sum(), x, retain_graph=True)
        assert (weight > 0).all(); first += level

def test_cells_are_in_time_order():
    out = temporal_pyramid(torch.arange(9.)[None], (1, 2, 4))[0]
    assert out[1] < out[2] and (out[3:].diff() > 0).all() and out[0] == 4

@pytest.mark.parametrize('T, groups', [(24, 3), (8, 1), (20, 3), (3, 1), (17, 3)])
def test_sequence_is_a_pyramid_for_each_group(T, groups):
    x = randn(2, T, 5)
    out = pyramid_sequence(x, 8)
    assert out.shape == (2, groups, 7, 5)
    for g in range(groups): assert_close(out[:, g], temporal_pyramid(x[:, 8*g:8*g+8]))
    assert_close(pyramid_sequence(torch.ones(1, T)), torch.ones(1, groups, 7))      # no padding anywhere

def test_half_precision_means_are_rounded_once():
    x = torch.full((1, 1000), 1.)
    assert (temporal_pyramid(x.bfloat16(), (1, 3)) == 1).all()

@pytest.mark.parametrize('call, words', [
    (lambda: temporal_pyramid(torch.zeros(5)), 'x[None]'), (lambda: temporal_pyramid(torch.zeros(2, 0, 5)), 'T of at least 1'), (lambda: temporal_pyramid(torch.zeros(2, 5), ()), 'levels'),
    (lambda: temporal_pyramid(torch.zeros(2, 5), (1, 0)), 'levels'), (lambda: temporal_pyramid(torch.zeros(2, 5, dtype=torch.long)), 'floating'), (lambda: pyramid_sequence(torch.zeros(2, 5), 0), 'moments')])
def test_pyramid_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=re.escape(words)): call()

# ---- LSTM

def copied(theirs):
    ways = [''] + ['_reverse']*theirs.bidirectional
    get = lambda name: torch.stack([getattr(theirs, f'{name}_l0{way}').data for way in ways])
    ours = LayerNormLSTM(theirs.input_size, theirs.hidden_size, theirs.bidirectional, norm=False).double()
    ours.load_state_dict(dict(weight_ih=get('weight_ih'), weight_hh=get('weight_hh'), bias=get('bias_ih') + get('bias_hh')))
    return ours

@pytest.mark.parametrize('both', [False, True])
@pytest.mark.parametrize('N, T, I, H', [(1, 1, 1, 1), (2, 5, 3, 4), (3, 2, 7, 2)])
@pytest.mark.parametrize('started', [False, True])
def test_without_norms_it_is_torchs_lstm(both, N, T, I, H, started):
    torch.manual_seed(T)
    theirs = nn.LSTM(I, H, batch_first=True, bidirectional=both).double()
    ours, x, D = copied(theirs), randn(N, T, I), 1 + both
    state = (randn(D, N, H, seed=1), randn(D, N, H, seed=2)) if started else None
    (a, (ha, ca)), (b, (hb, cb)) = ours(x, state), theirs(x, state)
    assert_close((a, ha, ca), (b, hb, cb))
    inputs = (x, *(state or ()))
    assert_close(torch.autograd.grad(a.square().sum() + ca.sum(), inputs), torch.autograd.grad(b.square().sum() + cb.sum(), inputs))

def loops(lstm, x, d):
    "One direction, one clip, one step at a time; the norms spelled out."
    def norm(y): return (y - y.mean())/torch.sqrt(((y - y.mean())**2).mean() + 1e-5)
    clips = []
    for clip in x:
        h = c = x.new_zeros(lstm.hidden)
        out = []
        for step in clip:
            i, f, g, o = (lstm.gain_x[d]*norm(lstm.weight_ih[d] @ step) + lstm.gain_h[d]*norm(lstm.weight_hh[d] @ h) + lstm.bias[d]).chunk(4)
            c = torch.sigmoid(f)*c + torch.sigmoid(i)*torch.tanh(g)
            h = torch.sigmoid(o)*torch.tanh(lstm.gain_c[d]*norm(c) + lstm.shift_c[d])
            out.append(h)
        clips.append(torch.stack(out))
    return torch.stack(clips)

def shaken(*sizes):
    lstm = LayerNormLSTM(*sizes).double()
    for i, p in enumerate(lstm.parameters()): p.data = randn(*p.shape, seed=i).detach()
    return lstm

@pytest.mark.parametrize('both', [False, True])
@pytest.mark.parametrize('N, T, I, H', [(1, 1, 1, 2), (2, 4, 3, 3), (1, 3, 7, 2)])
def test_with_norms_it_is_the_formula(both, N, T, I, H):
    lstm, x = shaken(I, H, both), randn(N, T, I)
    fast = lstm(x)[0]
    slow = loops(lstm, x, 0) if not both else torch.cat([loops(lstm, x, 0), loops(lstm, x.flip(1), 1).flip(1)], -1)
    assert_close(fast, slow)
    assert_close(grads(fast, x, *lstm.parameters()), grads(slow, x, *lstm.parameters()))

def test_gradcheck(): assert torch.autograd.gradcheck(lambda x: shaken(3, 3, True)(x)[0], randn(2, 3, 3))

def test_clips_do_not_see_each_other():
    lstm, x = shaken(3, 4, True), randn(4, 5, 3)
    out = lstm(x)[0]
    for n in range(4):
        gradient, = torch.autograd.grad(out[n].square().sum(), x, retain_graph=True)
        assert gradient[n].abs().max() > 0 and (gradient.abs().amax((1, 2)) > 0).sum() == 1
        assert_close(lstm(x[n:n+1])[0], out[n:n+1])

def test_continuing_from_a_state_is_one_long_sequence():
    lstm, x = shaken(3, 4), randn(2, 7, 3)
    first, state = lstm(x[:, :4])
    assert_close(torch.cat([first, lstm(x[:, 4:], state)[0]], 1), lstm(x)[0])

@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('both', [False, True])
def test_every_parameter_learns_also_in_half_precision(norm, both):
    for dtype in (torch.float32, torch.bfloat16):
        lstm = LayerNormLSTM(5, 4, both, norm).to(dtype)
        out, (h, c) = lstm(torch.randn(2, 3, 5, dtype=dtype))
        assert out.dtype == dtype and out.shape == (2, 3, 4*(1 + both)) and h.shape == c.shape == (1 + both, 2, 4)
        assert all(g.isfinite().all() and g.abs().max() > 0 for g in torch.autograd.grad(out.float().square().sum(), list(lstm.parameters())))
    with torch.autocast('cpu', torch.bfloat16): assert LayerNormLSTM(5, 4, both, norm)(torch.randn(2, 3, 5))[0].isfinite().all()

def test_state_dict_round_trip():
    a, b, x = LayerNormLSTM(3, 4, True), LayerNormLSTM(3, 4, True), torch.randn(2, 5, 3)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x)[0], b(x)[0])

@pytest.mark.parametrize('call, words', [
    (lambda: LayerNormLSTM(3, 1), 'at least 2'), (lambda: LayerNormLSTM(0, 4), 'at least 1'), (lambda: LayerNormLSTM(3, 4)(torch.zeros(2, 5, 4)), 'I=3'), (lambda: LayerNormLSTM(3, 4)(torch.zeros(5, 3)), '(N, T, I=3)'),
    (lambda: LayerNormLSTM(3, 4)(torch.zeros(2, 0, 3)), 'one step'), (lambda: LayerNormLSTM(3, 4, True)(torch.zeros(2, 5, 3), (torch.zeros(1, 2, 4),)*2), 'D=2')])
def test_lstm_says_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=re.escape(words)): call()


@pytest.mark.parametrize('levels', [3, (), (0, 1), (1.5,)])
def test_levels_are_explained(levels):
    with pytest.raises(ValueError, match='levels: expected one or more whole numbers'): temporal_pyramid(torch.zeros(1, 4, 2), levels)


def test_state_is_a_pair():
    with pytest.raises(ValueError, match='state: expected a pair of h and c'): LayerNormLSTM(3, 4)(torch.zeros(2, 5, 3), torch.zeros(1, 2, 4))
