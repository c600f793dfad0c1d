"Attention: the matrix of cases, against loops and against torch's own."
import copy, json, math, re
from pathlib import Path

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.ops.attention import AFF, IAFF, MSCAM, MultiHeadAttention, SecondOrderPool, SpatialAttention, attend, average_max_pool, second_order_pool

def randn(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()

def grads(out, *inputs): return torch.autograd.grad(out.square().sum(), inputs)

def loops(q, k, v, activation, bias, mask):
    "One query, one key at a time; two-dimensional inputs."
    rows = []
    for i in range(len(q)):
        seen = [j for j in range(len(k)) if mask is None or mask[i, j]]
        e = [q[i] @ k[j]/q.shape[1]**.5 for j in seen]
        if activation == 'softmax': w = [x.exp()/sum(y.exp() for y in e) for x in e]
        else:
            b = -math.log(len(seen)) if bias == '-log T' and seen else 0 if bias == '-log T' else bias
            w = [1/(1 + torch.exp(-(x + b))) for x in e]
        rows.append(sum((a*v[j] for a, j in zip(w, seen)), v.new_zeros(v.shape[1])))
    return torch.stack(rows)

MASKS = {'none': None, 'causal': torch.ones(5, 7, dtype=torch.bool).tril(), 'random': torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) > .4,
         'one blind row': torch.ones(5, 7, dtype=torch.bool).index_fill(0, torch.tensor(2), False)}

# ---- attend

@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
@pytest.mark.parametrize('activation, bias', [('softmax', 0.), ('sigmoid', 0.), ('sigmoid', -1.5), ('sigmoid', '-log T')])
def test_attend_equals_loops(activation, bias, mask):
    q, k, v = randn(5, 3), randn(7, 3, seed=1), randn(7, 2, seed=2)
    (fast, weights), slow = attend(q, k, v, activation, bias, mask), loops(q, k, v, activation, bias, mask)
    assert_close(fast, slow)
    assert_close(grads(fast, q, k, v), grads(slow, q, k, v))
    assert weights.shape == (5, 7) and (weights >= 0).all() and (weights <= 1).all()
    if mask is not None: assert (weights[~mask] == 0).all()

@pytest.mark.parametrize('lead', [(), (2,), (2, 3)])
@pytest.mark.parametrize('L, S', [(1, 1), (1, 6), (5, 1), (4, 6)])
@pytest.mark.parametrize('masked', [False, True])
def test_softmax_equals_torch(lead, L, S, masked):
    q, k, v = randn(*lead, L, 4), randn(*lead, S, 4, seed=1), randn(*lead, S, 3, seed=2)
    mask = torch.rand(*lead, L, S, generator=torch.Generator().manual_seed(3)) > .3 if masked else None
    if masked: mask[..., 0] = True
    ours, theirs = attend(q, k, v, mask=mask)[0], F.scaled_dot_product_attention(q, k, v, mask)
    assert_close(ours, theirs)
    assert_close(grads(ours, q, k, v), grads(theirs, q, k, v))

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 5), st.sampled_from(['softmax', 'sigmoid']), st.sampled_from([0., -2., '-log T']), st.integers(0, 99))
def test_padding_changes_nothing(S, padding, activation, bias, seed):
    q, k, v = randn(3, 4, seed=seed), randn(S + padding, 4, seed=seed + 1), randn(S + padding, 2, seed=seed + 2)
    padded, weights = attend(q, k, v, activation, bias, torch.arange(S + padding) < S)
    assert_close(padded, attend(q, k[:S], v[:S], activation, bias)[0])
    assert (weights[:, S:] == 0).all()

def test_log_T_counts_what_a_query_sees():
    q, k = torch.zeros(4, 2), torch.zeros(4, 2)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    for weights, seen in ((attend(q, k, k, 'sigmoid', '-log T', causal)[1], torch.arange(1., 5)), (attend(q, k, k, 'sigmoid', '-log T')[1], torch.full((4,), 4.))):
        assert_close(weights.amax(-1), 1/(1 + seen))               # sigmoid(0 − log n) = 1/(1 + n)

def test_bias_is_that_of_a_column_mask():
    "A mask with a size-one last axis hides or shows all keys of a query."
    q, k = torch.zeros(3, 2), torch.zeros(5, 2)
    weights = attend(q, k, k, 'sigmoid', '-log T', torch.tensor([[True], [False], [True]]))[1]
    assert_close(weights, torch.tensor([[1/6], [0.], [1/6]]).expand(3, 5))

def test_softmax_competes_and_sigmoid_does_not():
    k = torch.zeros(6, 1)
    raised = k.index_fill(0, torch.tensor(2), 8.)
    q, others = torch.ones(1, 1), [0, 1, 3, 4, 5]
    before, after = (attend(q, x, x, 'softmax')[1][0, others] for x in (k, raised))
    assert (after < before/100).all()
    assert_close(attend(q, raised, raised, 'sigmoid')[1][0, others], attend(q, k, k, 'sigmoid')[1][0, others], rtol=0, atol=0)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('activation, bias', [('softmax', 0.), ('sigmoid', 0.), ('sigmoid', '-log T')])
@pytest.mark.parametrize('scale', [1., 60.])
def test_half_precision(dtype, activation, bias, scale):
    q, k, v = ((scale*randn(96, 32, seed=i, dtype=torch.float)).to(dtype).detach().requires_grad_() for i in range(3))
    out, weights = attend(q, k, v, activation, bias)
    assert out.dtype == dtype and weights.dtype == torch.float32
    assert out.isfinite().all() and all(g.isfinite().all() for g in torch.autograd.grad(out.float().sum(), (q, k, v)))
    if activation == 'softmax': assert_close(weights.sum(-1), torch.ones(96))
    if scale == 1:
        truth = attend(q.double(), k.double(), v.double(), activation, bias)[0]
        error = (out.double() - truth).abs().max()/truth.abs().max()
        assert error < 4*torch.finfo(dtype).eps

def test_autocast_keeps_weights_in_float32():
    with torch.autocast('cpu', torch.bfloat16):
        out, weights = MultiHeadAttention(8, 2, 'softmax')(torch.randn(2, 5, 8))
    assert weights.dtype == torch.float32 and out.dtype == torch.bfloat16
    assert_close(weights.sum(-1), torch.ones(2, 2, 5))

@pytest.mark.parametrize('broken, words', [
    (dict(activation='softmx'), "Did you mean 'softmax'"), (dict(bias='-log'), "'-log T'"), (dict(bias=math.nan), 'finite'), (dict(bias=None), 'finite'),
    (dict(mask=torch.ones(5, 7)), 'bool'), (dict(mask=torch.ones(7, 5, dtype=torch.bool)), 'broadcasts'), (dict(mask=torch.ones(1, 1, 5, 7, dtype=torch.bool)), 'broadcasts'),
    (dict(k=torch.zeros(7, 4)), 'D=3'), (dict(v=torch.zeros(6, 2)), 'S=7'), (dict(k=torch.zeros(0, 3), v=torch.zeros(0, 2)), 'at least one key')])
def test_attend_says_what_is_wrong(broken, words):
    arguments = dict(q=torch.zeros(5, 3), k=torch.zeros(7, 3), v=torch.zeros(7, 2), activation='sigmoid')
    with pytest.raises(ValueError, match=re.escape(words)): attend(**(arguments | broken))

def test_shapes_can_be_counted_without_computing():
    with torch.device('meta'): module, x = MultiHeadAttention(8, 2, 'sigmoid', '-log T'), torch.empty(2, 5, 8)
    assert module(x)[0].shape == (2, 5, 8)

# ---- heads

def twins(dim, heads):
    torch.manual_seed(dim*heads)
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias); nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(dim, heads, 'softmax').double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs

@pytest.mark.parametrize('dim, heads', [(6, 1), (6, 2), (6, 6), (12, 4)])
@pytest.mark.parametrize('L, S', [(1, None), (5, None), (5, 7), (1, 4)])
@pytest.mark.parametrize('masked', [False, True])
def test_equals_torch_multihead(dim, heads, L, S, masked):
    ours, theirs = twins(dim, heads)
    x, context = randn(3, L, dim), None if S is None else randn(3, S, dim, seed=1)
    keys = x if context is None else context
    valid = torch.arange(keys.shape[1]) < torch.tensor([1, keys.shape[1], max(1, keys.shape[1]-1)])[:, None] if masked else None
    expected, expected_w = theirs(x, keys, keys, key_padding_mask=None if valid is None else ~valid, average_attn_weights=False)
    out, weights = ours(x, context, None if valid is None else valid[:, None])
    assert_close((out, weights), (expected, expected_w))
    fused, none = ours(x, context, None if valid is None else valid[:, None], needs_weights=False)
    assert none is None
    for other in (out, fused):
        assert_close(other, expected)
        assert_close(grads(other, x, *ours.parameters()), grads(theirs(x, keys, keys, key_padding_mask=None if valid is None else ~valid)[0], x, *theirs.parameters()))

@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_with_and_without_weights_agree(activation, mask):
    torch.manual_seed(0)
    module, x, context = MultiHeadAttention(8, 2, activation).double(), randn(2, 5, 8), randn(2, 7, 8, seed=1)
    (a, weights), (b, none) = (module(x, context, mask, needs) for needs in (True, False))
    assert weights.shape == (2, 2, 5, 7) and none is None
    assert_close(a, b)
    ga, gb = (grads(y, x, context, *module.parameters()) for y in (a, b))
    assert_close(ga, gb)
    assert all(g.isfinite().all() for g in gb)

def test_a_mask_for_each_clip_reaches_all_heads():
    module, x, mask = MultiHeadAttention(8, 4), torch.randn(3, 5, 8), torch.rand(3, 5, 5) > .5
    weights = module(x, mask=mask)[1]
    assert ((weights > 0) == mask[:, None]).all()

@pytest.mark.parametrize('activation, learns', [('softmax', False), ('sigmoid', True)])
def test_one_frame(activation, learns):
    module, x = MultiHeadAttention(6, 2, activation).double(), randn(2, 1, 6)
    out, weights = module(x)
    assert out.shape == (2, 1, 6) and ((weights == 1).all() if activation == 'softmax' else (weights < 1).all())
    gradient = torch.autograd.grad(out.square().sum(), module.in_proj_weight)[0]
    assert (gradient[:12].abs().max() > 1e-9) == learns and gradient[12:].abs().max() > 1e-9

@pytest.mark.parametrize('make, words', [
    (lambda: MultiHeadAttention(20, 6), 'Possible: 1, 2, 4, 5, 10, 20'), (lambda: MultiHeadAttention(8, 0), 'Possible'),
    (lambda: MultiHeadAttention(8, 2, 'tanh'), 'softmax'), (lambda: MultiHeadAttention(8, 2, bias='-log N'), '-log T'),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(5, 8)), '(N, L, C=8)'), (lambda: MultiHeadAttention(8, 2)(torch.zeros(2, 5, 7)), 'C=8'),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(2, 5, 8), torch.zeros(3, 5, 8)), 'N=2'), (lambda: MultiHeadAttention(8, 2)(torch.zeros(2, 0, 8)), 'empty'),
    (lambda: MultiHeadAttention(8, 2, 'softmax')(torch.zeros(2, 5, 8), mask=torch.ones(2, 5), needs_weights=False), 'bool'),
    (lambda: MultiHeadAttention(8, 2, 'softmax')(torch.zeros(2, 5, 8), mask=torch.ones(2, 5, dtype=torch.bool), needs_weights=False), 'valid[:, None]')])
def test_heads_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=re.escape(words)): make()

# ---- space

@pytest.mark.parametrize('N, S, C, K, P', [(1, 1, 1, 1, 1), (2, 5, 7, 3, 2), (3, 49, 16, 5, 4)])
def test_second_order_equals_the_explicit_matrix(N, S, C, K, P):
    x, a, b = randn(N, S, C), randn(K, C, P, seed=1), randn(C, P, seed=2)
    slow = torch.stack([torch.stack([sum((a[k, :, p] @ (x[n].T @ x[n]) @ b[:, p]) for p in range(P)) for k in range(K)]) for n in range(N)])
    fast = second_order_pool(x, a, b)
    assert_close(fast, slow)
    assert_close(second_order_pool(x, a, b, 'mean'), slow/S)
    assert_close(grads(fast, x, a, b), grads(slow, x, a, b))
    module = SecondOrderPool(C, K, P).double()
    assert module(x).shape == (N, K) and module.maps(x).shape == (N, K, S)
    assert_close(module.maps(x).sum(-1), module(x))

def test_second_order_says_what_is_wrong():
    x, a, b = torch.zeros(2, 5, 7), torch.zeros(3, 7, 2), torch.zeros(7, 2)
    for call, words in ((lambda: second_order_pool(x[0], a, b), 'rearrange'), (lambda: second_order_pool(x, a[..., :1], b), 'P=1'), (lambda: second_order_pool(x, a[:, :6], b), 'C=7'),
                        (lambda: second_order_pool(x, a, b, 'max'), 'mean'), (lambda: SecondOrderPool(7, 3, 0), 'at least 1')):
        with pytest.raises(ValueError, match=words): call()

@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('maps', [1, 3])
def test_spatial_attention(activation, residual, maps):
    module, x = SpatialAttention(4, maps, activation=activation, residual=residual).double(), randn(2, 4, 3, 5)
    h, w = module(x)
    assert h.shape == (2, maps, 4, 3, 5) and w.shape == (2, maps, 3, 5)
    scores = module.mlp(x).flatten(2)
    f = (scores.softmax(-1)*15 if activation == 'softmax' else scores.sigmoid()).view_as(w)
    assert_close(h, f[:, :, None]*x[:, None] + (x[:, None] if residual else 0))
    gain, weights = module.gain(x)
    assert_close(gain[:, :, None]*x[:, None], h); assert_close(weights, w)
    assert average_max_pool(h).shape == (2, maps, 4)
    nn.init.zeros_(module.mlp[-1].weight); nn.init.zeros_(module.mlp[-1].bias)
    assert_close(module(x)[0], x[:, None].expand_as(h)*((1 if activation == 'softmax' else .5) + residual))      # equal scores
    assert all(g is not None for g in torch.autograd.grad(module(x)[0].sum(), list(module.parameters())))

def test_average_max_pool():
    x = randn(2, 3, 4, 5)
    assert_close(average_max_pool(x), torch.stack([torch.stack([m.mean() + m.max() for m in row]) for row in x]))

# ---- channels

def published(x, cam):
    "Local and global branch written out."
    local, pooled = cam.branches
    return torch.sigmoid(local(x) + pooled(F.adaptive_avg_pool2d(x, 1)))

@pytest.mark.parametrize('train', [True, False])
def test_fusion_equals_the_formulas(train):
    torch.manual_seed(0)
    x, y = randn(2, 8, 5, 7), randn(2, 8, 5, 7, seed=1)
    cam, aff, iaff = (m.double().train(train) for m in (MSCAM(8), AFF(8), IAFF(8)))
    assert_close(cam(x), x*published(x, copy.deepcopy(cam)))
    m = published(x + y, copy.deepcopy(aff.attention))
    assert_close(aff(x, y), m*x + (1 - m)*y)
    m = published(x + y, copy.deepcopy(iaff.first.attention)); first = m*x + (1 - m)*y
    m = published(first, copy.deepcopy(iaff.second.attention))
    assert_close(iaff(x, y), m*x + (1 - m)*y)
    assert_close(AFF(8).double()(x, x), x)                          # of two equal maps there is nothing to choose

@pytest.mark.parametrize('grids', [(None,), (1,), (None, 1, 2), (None, 4)])
def test_grids(grids):
    cam, x = MSCAM(8, grids=grids).double(), randn(2, 8, 6, 8)
    w = cam.weights(x)
    assert w.shape == x.shape and (w > 0).all() and (w < 1).all()
    if grids == (1,): assert_close(w, w[..., :1, :1].expand_as(w))
    assert not [n for n, p in cam.named_parameters() if torch.autograd.grad(cam(x).square().sum(), p, allow_unused=True)[0] is None]

def test_one_map_in_training_is_refused_and_in_evaluation_fine():
    x = torch.rand(1, 8, 5, 5)
    for module, inputs in ((MSCAM(8), (x,)), (AFF(8), (x, x)), (IAFF(8), (x, x))):
        with pytest.raises(ValueError, match='at least 2 in training'): module(*inputs)
        assert module.eval()(*inputs).shape == x.shape
    with pytest.raises(ValueError, match='shape of x'): AFF(8)(torch.rand(2, 8, 4, 4), torch.rand(2, 8, 8, 8))
    with pytest.raises(ValueError, match='C=8'): MSCAM(8)(torch.rand(2, 7, 4, 4))

# ---- the chapter

def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/14_attention.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 3
    torch.manual_seed(0)
    for block in blocks: exec(block, dict(torch=torch, attend=attend, MultiHeadAttention=MultiHeadAttention, second_order_pool=second_order_pool))


def test_half_a_head_is_refused():
    with pytest.raises(ValueError, match=r'heads: expected a divisor of dim=8, got 2\.0'): MultiHeadAttention(8, 2.)

@pytest.mark.parametrize('kind', [AFF, IAFF])
def test_maps_of_two_precisions_fuse_in_the_finer_one(kind):
    x, y, fuse = torch.randn(2, 8, 5, 7), torch.randn(2, 8, 5, 7), kind(8).eval()
    for a, b in ((x, y.bfloat16()), (x.bfloat16(), y)):
        z = fuse(a, b)
        assert z.dtype == torch.float32
        assert_close(z, fuse(x, y), atol=.05, rtol=0)
