"Ranking, teacher, scrutinizer and joint loss: the matrix of cases."
import json, re
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.losses.ranking import joint_loss, ranking_loss, region_confidence, region_loss, scrutinizer_loss

def loops(informativeness, confidence, margin=1., valid=None):
    total = informativeness.new_zeros(())
    N, M = informativeness.shape
    for n in range(N):
        for i in range(M):
            for s in range(M):
                counts = valid is None or (valid[n, i] and valid[n, s])
                if counts and confidence[n, i] < confidence[n, s]:
                    lacking = margin - (informativeness[n, s] - informativeness[n, i])
                    if lacking > 0: total = total + lacking
    return total/N

def randn(*shape, seed=0, **options):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).requires_grad_(options.get('grad', True))

@pytest.mark.parametrize('N, M', [(1, 1), (1, 2), (3, 5), (2, 7)])
@pytest.mark.parametrize('margin', [0., .5, 1., 3.])
@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_values_and_gradients_equal_the_loops(N, M, margin, ties, padded):
    I, C = randn(N, M), randn(N, M, seed=1, grad=False)
    if ties: C = (C*1.5).round()
    valid = torch.rand(N, M, generator=torch.Generator().manual_seed(2)) < .6 if padded else None
    fast, slow = ranking_loss(I, C, margin, valid), loops(I, C, margin, valid)
    assert_close(fast, slow)
    if slow.requires_grad: assert_close(grad(fast, I), grad(slow, I))
    else: assert not grad(fast, I)[0].any()

@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 3)), min_size=1, max_size=8), st.integers(0, 7), st.integers(-100, 100))
def test_properties(regions, turn, shift):
    I, C = (torch.tensor([x], dtype=torch.double)/4 for x in zip(*regions))
    I.requires_grad_()
    loss = ranking_loss(I, C)
    assert loss >= 0
    assert_close(ranking_loss(I.roll(turn, 1), C.roll(turn, 1)), loss)         # the order of the list does not matter
    assert_close(ranking_loss(I + shift, C), loss)                             # only differences count
    assert_close(ranking_loss(I, C.exp()*3), loss)                             # only the order of C counts
    assert_close(grad(loss, I)[0].sum(), torch.tensor(0., dtype=torch.double)) # pushes apart, never along
    ranks = (C[0, :, None] > C[0]).double().sum(1)[None]
    assert ranking_loss(ranks, C) == 0                                         # in order by at least the margin

@pytest.mark.parametrize('M', [2, 3, 6])
def test_a_flat_start_counts_pairs(M):
    I, C = torch.zeros(1, M, requires_grad=True), torch.arange(M)[None].double()
    loss = ranking_loss(I, C)
    assert loss == M*(M-1)/2
    assert grad(loss, I)[0].tolist() == [[float(M - 1 - 2*m) for m in range(M)]]

def test_ties_contribute_nothing_and_neither_does_the_teacher_learn():
    I, C = randn(4, 6), randn(4, 6, seed=1)
    assert ranking_loss(I, torch.ones(4, 6)) == 0
    assert not grad(ranking_loss(I, torch.ones(4, 6)), I)[0].any()
    assert grad(ranking_loss(I, C), C, allow_unused=True) == (None,)

def test_padding_is_ignored_whatever_it_holds():
    I, C, valid = torch.tensor([[.5, .2, .9, torch.inf]], requires_grad=True), torch.tensor([[.1, .6, .3, 1]]), torch.tensor([[True]*3 + [False]])
    loss = ranking_loss(I, C, valid=valid)
    assert_close(loss, torch.tensor(3.6))
    assert grad(loss, I)[0][0, 3] == 0
    regions, whole, target = randn(1, 4, 5), randn(1, 5), torch.tensor([2])
    assert_close(region_loss(regions, whole, target, valid), region_loss(regions[:, :3], whole, target))

def test_summed_over_pairs_mean_over_the_batch():
    I, C = randn(3, 5), randn(3, 5, seed=1)
    assert_close(ranking_loss(I, C), sum(ranking_loss(I[n:n+1], C[n:n+1]) for n in range(3))/3)
    regions, whole, target = randn(3, 5, 7), randn(3, 7), torch.tensor([6, 0, 3])
    expected = sum(F.cross_entropy(regions[:, m], target) for m in range(5)) + F.cross_entropy(whole, target)
    assert_close(region_loss(regions, whole, target), expected)
    assert_close(grad(region_loss(regions, whole, target), (regions, whole)), grad(expected, (regions, whole)))
    assert_close(scrutinizer_loss(whole, target), F.cross_entropy(whole, target))

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_summed_in_float32(dtype):
    I = torch.full((1, 400), .25, dtype=dtype)                                  # 79,800 pairs: more than float16 can hold
    assert_close(ranking_loss(I, torch.arange(400.)[None]), torch.tensor(400*399/2, dtype=torch.promote_types(dtype, torch.float32)))

@pytest.mark.parametrize('lam, mu', [(1, 1), (0, 0), (.3, 2)])
def test_joint_loss_weighs_its_parts_and_each_part_trains_its_network(lam, mu):
    I, regions, whole, logits, target = randn(3, 5), randn(3, 5, 7, seed=1), randn(3, 7, seed=2), randn(3, 7, seed=3), torch.tensor([6, 0, 3])
    got = joint_loss(I, regions, whole, logits, target, lam, mu)
    C = region_confidence(regions, target)
    assert_close(C, regions.softmax(-1)[torch.arange(3), :, target].detach())
    assert not C.requires_grad
    assert_close(got['total'], ranking_loss(I, C) + lam*scrutinizer_loss(logits, target) + mu*region_loss(regions, whole, target))
    for part, trained in dict(ranking=[I], region=[regions, whole], scrutinizer=[logits]).items():
        grads = grad(got[part], (I, regions, whole, logits), allow_unused=True, retain_graph=True)
        assert [g is not None for g in grads] == [any(x is t for t in trained) for x in (I, regions, whole, logits)]

@pytest.mark.parametrize('N, M', [(0, 5), (3, 0), (0, 0)])
def test_empty_batches_and_no_regions(N, M):
    I = torch.zeros(N, M, requires_grad=True)
    losses = joint_loss(I, torch.zeros(N, M, 4), torch.zeros(N, 4), torch.zeros(N, 4, requires_grad=True), torch.zeros(N, dtype=torch.int64))
    assert losses['ranking'] == 0 and losses['total'].isfinite()
    losses['total'].backward()
    if N: assert_close(losses['region'], torch.tensor(4.).log())

L = torch.zeros(2, dtype=torch.int64)
@pytest.mark.parametrize('call, words', [
    (lambda: ranking_loss(torch.zeros(2, 6), torch.zeros(2, 5)), r'confidence: expected \(N=2, M=6\), got \(2, 5\)'),
    (lambda: ranking_loss(torch.zeros(6), torch.zeros(6)), 'informativeness: expected'),
    (lambda: ranking_loss(torch.zeros(2, 6), torch.zeros(2, 6), valid=torch.ones(2, 5) > 0), 'valid: expected'),
    (lambda: ranking_loss(torch.zeros(2, 6), torch.zeros(2, 6), valid=torch.ones(2, 6)), 'valid: expected bool'),
    (lambda: region_loss(torch.zeros(2, 6, 5), torch.zeros(2, 4), L), 'whole: expected'),
    (lambda: region_loss(torch.zeros(2, 6, 5), torch.zeros(2, 5), L + 5), 'target: expected labels'),
    (lambda: region_confidence(torch.zeros(2, 6, 5), L + 5), 'target: expected labels'),
    (lambda: scrutinizer_loss(torch.zeros(2, 5), L.float()), 'target: expected int64'),
    (lambda: scrutinizer_loss(torch.zeros(2, 5, 1), L), 'logits: expected')])
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words): call()

def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/20_ranking_loss.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 3
    for block in blocks: exec(block, dict(torch=torch, F=F, ranking_loss=ranking_loss))

def test_padding_that_is_not_finite_passes_no_gradient():
    regions = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    regions[0, 2] = torch.nan
    regions.requires_grad_(); whole, valid = torch.zeros(2, 5, requires_grad=True), torch.ones(2, 3, dtype=torch.bool); valid[0, 2] = False
    region_loss(regions, whole, torch.tensor([1, 4]), valid).backward()
    assert regions.grad.isfinite().all() and (regions.grad[0, 2] == 0).all() and (regions.grad[valid] != 0).all()
