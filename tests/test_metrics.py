"fgar.metrics against scikit-learn, torchmetrics and scipy, and the rules they leave open."
import math, warnings

import pytest
import scipy.stats
import sklearn.metrics as sk
import torch
import torchmetrics.functional as tm
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from fgar import metrics as M
from fgar.core import generator

CASES = [(1, 1), (1, 4), (7, 2), (37, 5), (200, 26), (501, 3)]

def make(rows, classes, tied=False, key=0):
    g = generator('metrics', rows, classes, key)
    scores = torch.randn(rows, classes, generator=g, dtype=torch.double)
    return ((2*scores).round() if tied else scores), torch.randint(0, classes, (rows,), generator=g), torch.rand(rows, classes, generator=g) < .3

def sk_ap(scores, hot):
    return torch.tensor([sk.average_precision_score(h, s) if h.any() else math.nan for s,h in zip(scores.T.numpy(), hot.T.numpy())], dtype=torch.double)

@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('rows,classes', CASES)
def test_average_precision_equals_sklearn(rows, classes, tied):
    scores, labels, hot = make(rows, classes, tied)
    assert_close(M.average_precision(scores, hot), sk_ap(scores, hot), equal_nan=True)
    one_hot = F.one_hot(labels, classes)
    assert_close(M.average_precision(scores, labels), sk_ap(scores, one_hot), equal_nan=True)
    assert_close(M.average_precision(scores, one_hot.double()), M.average_precision(scores, labels), equal_nan=True)
    assert_close(M.mean_average_precision(scores, hot), sk_ap(scores, hot).nanmean(), equal_nan=True)

@pytest.mark.parametrize('rows,classes', [(37, 5), (200, 26)])
def test_average_precision_equals_torchmetrics(rows, classes):
    scores, labels, hot = make(rows, classes)
    probs = scores.softmax(-1)
    ours = M.average_precision(probs, labels)
    theirs = tm.classification.multiclass_average_precision(probs, labels, classes, average='none').double()
    seen = labels.bincount(minlength=classes) > 0
    assert_close(ours[seen], theirs[seen], rtol=1e-5, atol=1e-6)
    assert_close(M.average_precision(probs, hot), tm.classification.multilabel_average_precision(probs, hot.long(), classes, average='none').double(), rtol=1e-5, atol=1e-6)

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_average_precision_ignores_order_and_scale(pairs, random):
    shuffled = pairs[:]; random.shuffle(shuffled)
    ap = [M.average_precision(torch.tensor([[float(s)] for s,_ in p]), torch.tensor([[t] for _,t in p])) for p in (pairs, shuffled)]
    assert_close(*ap, equal_nan=True)
    assert ap[0].isnan() == (not any(t for _,t in pairs))
    assert_close(ap[0], M.average_precision(torch.tensor([[math.exp(s)] for s,_ in pairs]), torch.tensor([[t] for _,t in pairs])), equal_nan=True)
    if any(t for _,t in pairs): assert 0 < ap[0] <= 1

def test_average_precision_of_infinite_and_integer_scores():
    scores, hot = torch.tensor([[math.inf], [math.inf], [0.], [-math.inf], [-math.inf]]), torch.tensor([[1], [0], [1], [0], [1]])
    assert_close(M.average_precision(scores, hot), torch.tensor([(1/2 + 2/3 + 3/5)/3], dtype=torch.double))
    assert_close(M.average_precision(torch.tensor([[3], [2], [1]]), torch.tensor([[1], [0], [1]])), torch.tensor([(1 + 2/3)/2], dtype=torch.double))

@pytest.mark.parametrize('rows,classes', [(37, 5), (200, 26), (501, 3)])
def test_topk_equals_sklearn(rows, classes):
    scores, labels, _ = make(rows, classes)
    for k in range(1, classes):
        assert M.topk(scores, labels, k).item() == pytest.approx(sk.top_k_accuracy_score(labels, scores, k=k, labels=range(classes)))
    assert M.topk(scores, labels, classes) == M.topk(scores, labels, classes+3) == 1

@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('rows,classes', [(37, 5), (200, 26), (3, 26)])
def test_confusion_and_what_follows_from_it(rows, classes, tied):
    scores, labels, _ = make(rows, classes, tied)
    predicted = scores.argmax(1)
    matrix = M.confusion(scores, labels)
    assert torch.equal(matrix, M.confusion(predicted, labels, classes)) and matrix.dtype == torch.int64
    assert torch.equal(matrix, torch.from_numpy(sk.confusion_matrix(labels, predicted, labels=range(classes))))
    assert_close(M.topk(scores, labels), matrix.diagonal().sum().double()/rows)          # also where classes tie
    p, r, f, n = sk.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0)
    ours, seen = M.per_class(matrix), torch.from_numpy(n) > 0
    for name, theirs in dict(precision=p, recall=r, f1=f).items():
        assert_close(ours[name][seen], torch.from_numpy(theirs)[seen])
        assert ours[name][~seen].isnan().all()
    assert torch.equal(ours['support'], torch.from_numpy(n))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert M.mean_class_accuracy(scores, labels).item() == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert_close(M.f1(scores, labels), ours['f1'], equal_nan=True)

def test_confusion_of_batches_adds_up():
    scores, labels, _ = make(200, 26)
    assert torch.equal(M.confusion(scores, labels), sum(M.confusion(s, l) for s,l in zip(scores.split(33), labels.split(33))))

def test_no_clips():
    scores, labels = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    assert M.topk(scores, labels).isnan() and M.average_precision(scores, labels).isnan().all() and M.mean_average_precision(scores, labels).isnan()
    assert M.confusion(scores, labels).sum() == 0 and M.mean_class_accuracy(scores, labels).isnan()
    assert math.isnan(M.summary(scores, labels)['map'])

@pytest.mark.parametrize('tied', [False, True])
def test_precision_recall_equals_sklearn(tied):
    scores, _, hot = make(200, 3, tied)
    p, r, t = sk.precision_recall_curve(hot[:, 0], scores[:, 0])
    ours = M.precision_recall(scores[:, 0], hot[:, 0])
    for a, b in zip(ours, (p[:-1], r[:-1], t)): assert_close(a.flip(0), torch.from_numpy(b.copy()))
    steps = (ours[0]*torch.cat([torch.zeros(1).double(), ours[1]]).diff()).sum()
    assert_close(steps, M.average_precision(scores, hot)[0])

@pytest.mark.parametrize('n,m', [(2, 2), (2, 9), (3, 3), (5, 4), (30, 17)])
@pytest.mark.parametrize('shift', [0., .5, 3., 40., 1e4])
@pytest.mark.parametrize('spread', [1., 1e-3])
def test_t_test_equals_scipy(n, m, shift, spread):
    g = generator('t', n, m)
    a, b = torch.randn(n, generator=g).double(), shift + spread*torch.randn(m, generator=g).double()
    expected = scipy.stats.ttest_ind(a, b, equal_var=False)
    t, p = M.t_test(a, b)
    assert t == pytest.approx(expected.statistic, rel=1e-12)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
    assert M.t_test(b, a) == (-t, p)

@pytest.mark.parametrize('t', [0., 1e-6, .3, 2., 12., 300., 1e6])
@pytest.mark.parametrize('dof', [1., 1.01, 1.5, 2., 3.7, 10., 99.5, 1000.])
def test_student_tails_equal_scipy(t, dof):
    ours = M._student_tails(*torch.tensor([t, dof], dtype=torch.double)).item()
    assert ours == pytest.approx(2*scipy.stats.t.sf(t, dof), rel=1e-9, abs=1e-300)

def test_t_test_without_spread():
    assert M.t_test([1., 1.], [2., 2., 2.]) == (-math.inf, 0.)
    assert all(map(math.isnan, M.t_test([1., 1.], [1., 1.])))

def test_mean_std():
    assert M.mean_std([.7, .72, .71]) == '71.00 ± 1.00 (n = 3)'
    assert M.mean_std(torch.tensor([.5101])) == '51.01 (n = 1)'
    assert M.mean_std([3., 4.], scale=1, digits=1) == '3.5 ± 0.7 (n = 2)'

def recall_at_naive(segments, truth, n, iou):
    hits = 0
    for row, (s, e) in zip(segments.tolist(), truth.tolist()):
        overlaps = [max(0, min(e, b) - max(s, a))/(max(e, b) - min(s, a)) for a,b in row[:n] if a < e and b > s]
        hits += any(o > iou for o in overlaps)
    return hits/len(truth)

@pytest.mark.parametrize('n', [1, 2, 5, 50])
@pytest.mark.parametrize('iou', [0., .3, .5, .7, .99])
def test_recall_at_equals_the_loop(n, iou):
    g = generator('recall')
    segments, truth = (torch.rand(*s, 2, generator=g).double().mul(20).sort(-1).values for s in ((61, 7), (61,)))
    assert M.recall_at(segments, truth, n, iou).item() == pytest.approx(recall_at_naive(segments, truth, n, iou))

def test_recall_at_edges():
    truth = torch.tensor([[0., 10.]])
    assert M.recall_at(torch.tensor([[[0., 5.]]]), truth, 1, .5) == 0                       # equal is no hit
    assert M.recall_at(torch.tensor([[[0., 5.]]]), truth, 1, .5, inclusive=True) == 1
    assert M.recall_at(torch.tensor([[[0., 7.]]]), truth, 1, .7) == 0                       # 7/10 is the double 0.7
    assert M.recall_at(torch.full((1, 3, 2), torch.nan), truth, 3, .5) == 0                 # nothing proposed
    assert M.recall_at(torch.tensor([[[3., 3.]]]), truth, 1, 0.) == 0                       # no length
    assert M.recall_at(torch.zeros(1, 0, 2), truth, 1, .5) == 0

def test_groups():
    scores, labels, _ = make(200, 5)
    groups, probs = ['a', 'b', 'a', 'c', 'b'], scores.softmax(-1)
    ids, names = M.group_ids(groups)
    assert ids.tolist() == [0, 1, 0, 2, 1] and names == ['a', 'b', 'c']
    assert_close(M.coarse_scores(probs, groups)[:, 0], probs[:, 0] + probs[:, 2])
    assert torch.equal(M.coarse_confusion(M.confusion(scores, labels), torch.tensor([7, 3, 7, 5, 3])), M.confusion(ids[scores.argmax(1)], ids[labels], 3))

def test_report_and_summary():
    scores, labels = torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 1])
    rows = M.class_report(scores, labels, ['x', 'y', 'z'], ['g', 'g', 'h'])
    assert [r['clips'] for r in rows] == [1, 3, 0] and [r['confused with'] for r in rows] == ['', 'x 33%', '']
    assert math.isnan(rows[2]['ap']) and rows[1]['recall'] == pytest.approx(2/3) and rows[0]['group'] == 'g'
    assert M.summary(scores, labels) == pytest.approx({'top1': .75, 'mean_class': 5/6, 'f1': (2/3 + .8)/2, 'map': M.mean_average_precision(scores, labels).item()})
    assert list(M.summary(scores, F.one_hot(labels, 3))) == ['map']
    assert 'top5' in M.summary(*make(37, 26)[:2]) and 'top5' not in M.summary(*make(37, 5)[:2])

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA GPU here')
@pytest.mark.parametrize('tied', [False, True])
def test_the_same_on_a_gpu(tied):
    scores, labels, hot = make(200, 26, tied)
    groups, probs = list(range(13))*2, scores.softmax(-1)
    for f, args in ((M.topk, (scores, labels, 3)), (M.confusion, (scores, labels)), (M.mean_class_accuracy, (scores, labels)), (M.f1, (scores, labels)), (M.average_precision, (scores, hot)),
                    (M.average_precision, (scores, labels)), (M.coarse_scores, (probs, groups)), (M.coarse_confusion, (M.confusion(scores, labels), groups))):
        on_gpu = f(*(a.cuda() if isinstance(a, torch.Tensor) else a for a in args))
        assert on_gpu.is_cuda
        assert_close(on_gpu.cpu(), f(*args), equal_nan=True)
        if f in (M.topk, M.average_precision): assert_close(f(args[0].cuda(), *args[1:]).cpu(), f(*args), equal_nan=True)      # targets left on the CPU
    segments, truth = torch.rand(9, 4, 2).sort(-1).values, torch.tensor([[0., 1.]]).expand(9, 2)
    assert_close(M.recall_at(segments.cuda(), truth.cuda(), 2, .3).cpu(), M.recall_at(segments, truth, 2, .3))
    assert M.summary(scores.cuda(), labels) == pytest.approx(M.summary(scores, labels)) and M.class_report(scores.cuda(), labels.cuda())[0]['clips'] == (labels == 0).sum()
    assert M.precision_recall(scores[:, 0].cuda(), hot[:, 0])[0].is_cuda

S, L = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
@pytest.mark.parametrize('call,says', [
    (lambda: M.topk(S[0], L), 'scores'), (lambda: M.topk(S, L, 0), 'k:'), (lambda: M.topk(S, L[:3]), 'target'), (lambda: M.topk(S, L+1), 'from 0 to 2'), (lambda: M.topk(S, L-1), 'from 0 to 2'),
    (lambda: M.topk(S, L.float()), 'integer'), (lambda: M.topk(S*torch.nan, L), 'NaN in row 0'), (lambda: M.average_precision(S, S), '0 and 1'), (lambda: M.average_precision(S, L[:, None]), 'targets'),
    (lambda: M.confusion(L, L), 'classes'), (lambda: M.confusion(L, L, 2), 'predicted'), (lambda: M.per_class(torch.zeros(2, 3)), 'matrix'), (lambda: M.precision_recall(S, L), 'scores'),
    (lambda: M.recall_at(torch.rand(4, 2), torch.rand(4, 2)), 'segments'), (lambda: M.recall_at(torch.zeros(4, 1, 2), torch.zeros(4, 2)), 'end after start'),
    (lambda: M.recall_at(torch.tensor([[[2., 1.]]]), torch.tensor([[0., 1.]])), 'start before end'), (lambda: M.recall_at(torch.zeros(1, 1, 2), torch.tensor([[0., 1.]]), 0), 'n:'),
    (lambda: M.t_test([1.], [1., 2.]), 'a: expected at least 2'), (lambda: M.mean_std([]), 'values'), (lambda: M.coarse_scores(S, ['a', 'b']), 'groups'),
    (lambda: M.class_report(S, L, ['a']), 'labels'), (lambda: M.class_report(S, L, groups=['a']), 'groups'),
])
def test_errors_name_the_argument(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_pandas_columns_are_welcome():
    import pandas as pd
    from fgar.metrics import mean_std, t_test
    column = pd.DataFrame(dict(x=[1., 2., 3., 9.])).x[1:]                 # an index that does not begin at 0
    assert mean_std(column, scale=1) == mean_std([2., 3., 9.], scale=1) and t_test(column, [1., 2.]) == t_test([2., 3., 9.], [1., 2.])

def test_tables_of_other_libraries_are_taken_everywhere():
    np, pd = pytest.importorskip('numpy'), pytest.importorskip('pandas')
    scores, label, groups = torch.rand(9, 3, dtype=torch.double), torch.arange(9) % 3, ['x', 'y', 'x']
    matrix = M.confusion(scores, label)
    for given in (scores.numpy(), pd.DataFrame(scores.numpy()), scores.tolist()):
        assert_close(M.coarse_scores(given, groups), M.coarse_scores(scores, groups))
        assert M.summary(given, pd.Series(label.numpy()), k=(1, 2)) == M.summary(scores, label, k=(1, 2))
    for given in (matrix.numpy(), pd.DataFrame(matrix.numpy())):
        assert torch.equal(M.coarse_confusion(given, groups), M.coarse_confusion(matrix, groups))
        assert_close(M.per_class(given), M.per_class(matrix), equal_nan=True)

def test_lists_keep_their_digits():
    a, b = [.712, .719, .701], [.702, .690, .711]
    assert_close(M.t_test(a, b), tuple(float(x) for x in scipy.stats.ttest_ind(a, b, equal_var=False)), rtol=1e-10, atol=0)
    assert M.recall_at([[[0., .7]]], [[0., 1.]], iou=.7, inclusive=True) == 1
