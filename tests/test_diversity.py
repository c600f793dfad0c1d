"Diversity loss: the matrix of cases."
import json, re
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.losses.diversity import align_maps, diversity_loss, map_cosines

def rand(*shape, seed=0, dtype=torch.double):
    return torch.rand(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()

def loops(maps):
    N, S = len(maps[0]), len(maps)
    return sum(F.cosine_similarity(maps[i][n].flatten(), maps[j][n].flatten(), dim=0) for n in range(N) for i in range(S) for j in range(S) if i != j)/N

@pytest.mark.parametrize('shape', [(1, 4), (3, 5, 7), (2, 3, 2, 3, 2)])
@pytest.mark.parametrize('S', [2, 3, 5])
def test_values_and_gradients_equal_the_loops(shape, S):
    maps = [rand(*shape, seed=i) for i in range(S)]
    fast, slow = diversity_loss(maps), loops(maps)
    assert_close(fast, slow)
    assert_close(grad(fast, maps), grad(slow, maps))

@pytest.mark.parametrize('size, expected', [(None, (3, 2)), (4, (4, 4)), ((5, 3), (5, 3)), (1, (1, 1)), (9, (9, 9))])
def test_alignment_is_area_averaging_to_the_smallest_or_the_given_size(size, expected):
    maps = [rand(2, 8, 6), rand(2, 3, 7, seed=1), rand(2, 5, 2, seed=2)]
    got = align_maps(maps, size)
    assert_close(got, torch.stack([F.adaptive_avg_pool2d(m, expected).flatten(1) for m in maps], 1))
    same = [F.adaptive_avg_pool2d(m, expected) for m in maps]
    assert_close(diversity_loss(maps, size), loops(same))
    assert_close(grad(diversity_loss(maps, size), maps), grad(loops(same), maps))

def test_places_are_pooled_in_blocks_not_in_strips():
    side = rand(1, 4, 4, 4, 4).detach()
    block = side.reshape(1, 2, 2, 2, 2, 2, 2, 2, 2).mean((2, 4, 6, 8))
    assert_close(align_maps([side], 2).reshape(block.shape), block)
    assert map_cosines([side, block])[0, 0, 1] == pytest.approx(1)
    assert map_cosines([side.reshape(1, 16, 16), block.reshape(1, 4, 4)])[0, 0, 1] < .9999

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.lists(st.floats(.01, 100), min_size=5, max_size=5))
def test_properties(seed, S, scales):
    g = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, 3, 4, generator=g, dtype=torch.double) for _ in range(S)]
    loss = diversity_loss(maps)
    assert -S - 1e-9 <= loss <= S*(S-1) + 1e-9                          # |Σu|² ≥ 0 bounds it below by −S
    assert_close(diversity_loss([m*s for m, s in zip(maps, scales)]), loss)
    assert_close(diversity_loss(maps[::-1]), loss)
    assert diversity_loss([m.softmax(-1) for m in maps]) >= 0

@pytest.mark.parametrize('S', [1, 2, 4])
def test_equal_opposite_constant_zero(S):
    a = rand(3, 4, 4)
    loss = diversity_loss([a]*S)
    assert_close(loss, torch.tensor(float(S*(S-1)), dtype=torch.double))
    assert_close(grad(loss, a)[0], torch.zeros_like(a))                  # flat at the maximum
    assert_close(diversity_loss([a, -a]), torch.tensor(-2., dtype=torch.double))
    assert_close(diversity_loss([torch.ones(1, 4, 4), 3*torch.ones(1, 2, 2)]), torch.tensor(2.))
    b, zero = rand(3, 4, 4, seed=1), torch.zeros(3, 4, 4, dtype=torch.double, requires_grad=True)
    loss = diversity_loss([a, b, zero])
    assert_close(loss, diversity_loss([a, b]))
    assert all(g.isfinite().all() and g.abs().max() < 10 for g in grad(loss, (a, b, zero)))

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    maps = [(rand(2, 6, 6, seed=i)*100).detach().to(dtype) for i in range(3)]
    assert_close(diversity_loss(maps), diversity_loss([m.float() for m in maps]))
    full = [m.float() for m in maps[:2]] + [maps[2].float()[:, :4, :4]]
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = diversity_loss(full)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, diversity_loss(full))

def test_mean_over_the_batch_and_empty_batch():
    maps = [rand(3, 4, 4, seed=i) for i in range(3)]
    assert_close(diversity_loss(maps), sum(diversity_loss([m[n:n+1] for m in maps]) for n in range(3))/3)
    assert diversity_loss([torch.zeros(0, 4, 4), torch.zeros(0, 2, 2)]) == 0

def test_unchecked_non_finite_values_are_not_hidden():
    for bad in (torch.nan, torch.inf):
        maps = [torch.rand(1, 4, 4), torch.rand(1, 2, 2).index_fill(1, torch.tensor([0]), bad)]
        assert diversity_loss(maps, check=False).isnan()

@pytest.mark.parametrize('maps, size, words', [
    ([], None, 'at least one map'),
    ([torch.rand(1, 4, 4), torch.rand(2, 4, 4)], None, 'maps: expected'),
    ([torch.rand(1, 4, 4), torch.rand(1, 2, 2, 2, 2)], None, 'Unflatten'),
    ([torch.rand(3)], None, 'maps: expected'),
    ([torch.rand(1, 4, 4)], (2, 2, 2), 'size: expected 2'),
    ([torch.rand(1, 4, 4)], 0, 'size: expected'),
    ([torch.rand(1, 2, 2), torch.tensor([[[1., torch.nan], [torch.inf, 0]]])], None, r'maps\[1\]: expected finite values, got 2 of 4'),
    ([torch.full((1, 2, 2), -torch.inf)], None, r'maps\[0\]: expected finite')])
def test_errors_say_what_was_expected(maps, size, words):
    with pytest.raises(ValueError, match=words): diversity_loss(maps, size)

def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/21_diversity_loss.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 2
    for block in blocks: exec(block, dict(torch=torch, align_maps=align_maps, diversity_loss=diversity_loss))


def test_maps_from_a_generator():
    maps = [torch.rand(2, 4, 4) for _ in range(3)]
    assert_close(diversity_loss(x for x in maps), diversity_loss(maps))
