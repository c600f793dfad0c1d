"Anchors, IoU and NMS: the matrix of cases, against exact arithmetic in fractions."
import json, re
from fractions import Fraction
from pathlib import Path

import pytest, torch, torchvision
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from fgar.ops.boxes import anchors, inside, iou, nms, removed_by

BOX = st.tuples(*[st.integers(0, 12)]*4)                                  # any order of corners: empty and reversed boxes too
PROPER = st.tuples(*[st.integers(0, 8)]*2, *[st.integers(1, 8)]*2).map(lambda b: (b[0], b[1], b[0]+b[2], b[1]+b[3]))
LISTS = st.lists(st.tuples(st.one_of(BOX, PROPER), st.integers(0, 3)), max_size=14)    # few distinct scores: ties
TWENTIETHS = st.integers(0, 20)
FAST = settings(max_examples=150, deadline=None)

def exact_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width)*max(0, height)
    union = sum(max(0, c[2]-c[0])*max(0, c[3]-c[1]) for c in (a, b)) - both
    return Fraction(both, union) if union > 0 else Fraction(0)

def exact_nms(boxes, scores, threshold):
    "Kept indices, and for each box the one that removed it (itself when kept)."
    left, kept, by = sorted(range(len(boxes)), key=lambda i: -scores[i]), [], list(range(len(boxes)))
    while left:
        best, *left = left
        kept.append(best)
        for i in left:
            if exact_iou(boxes[best], boxes[i]) > threshold: by[i] = best
        left = [i for i in left if by[i] == i]
    return kept, by

def tensors(items, dtype=torch.float32):
    return torch.tensor([b for b, _ in items], dtype=dtype).reshape(-1, 4), torch.tensor([s for _, s in items], dtype=dtype)

# ---- anchors

def test_the_published_networks_anchors():
    boxes = anchors(448, sizes=(48, 96, 192), border='pad')
    expected = []                                                        # the published order: level, scale, ratio, y, x
    for stride, size, scales in zip((32, 64, 128), (48, 96, 192), ([2**(1/3), 2**(2/3)], [2**(1/3), 2**(2/3)], [1, 2**(1/3), 2**(2/3)])):
        cells = -(-448//stride)
        for scale in scales:
            for ratio in (2/3, 1, 3/2):
                w, h = size*scale*ratio**.5, size*scale/ratio**.5
                for row in range(cells):
                    for column in range(cells):
                        x, y = stride*(column + .5), stride*(row + .5)
                        expected.append((x-w/2, y-h/2, x+w/2, y+h/2))
    assert boxes.shape == (1614, 4)
    assert_close(boxes, torch.tensor(expected))
    assert -boxes.min() < 224 and boxes.max() - 448 < 224                # padding by half the input holds every crop

@pytest.mark.parametrize('size', [224, (224, 224), (100, 333), (31, 65), (1, 1)])
def test_map_side_is_rounded_up_and_height_comes_first(size):
    height, width = (size, size) if isinstance(size, int) else size
    boxes = anchors(size, strides=(32,), sizes=(10,), scales=(1, 2), ratios=(1,), border='pad')
    rows, columns = -(-height//32), -(-width//32)
    assert len(boxes) == 2*rows*columns
    centre = (boxes[:, :2] + boxes[:, 2:])/2
    assert_close(centre[:rows*columns].reshape(rows, columns, 2)[-1, 0], torch.tensor([16., 32*rows - 16]))

def test_drop_is_pad_filtered_and_touching_the_border_is_inside():
    every = anchors(border='pad')
    assert torch.equal(anchors(), every[inside(every, 224)]) and 0 < len(anchors()) < len(every) == 426
    assert inside(torch.tensor([[0., 0, 20, 10], [0, 0, 10, 20], [-.1, 0, 5, 5]]), (10, 20)).tolist() == [True, False, False]

def test_one_list_of_scales_serves_all_levels():
    assert torch.equal(anchors(scales=[1, 2], border='pad'), anchors(scales=[[1, 2]]*3, border='pad'))

@pytest.mark.parametrize('bad', [dict(sizes=(24, 48)), dict(border='crop'), dict(scales=[[1], [1]])])
def test_anchor_errors(bad):
    with pytest.raises(ValueError, match='expected'): anchors(**bad)

# ---- IoU

@FAST
@given(st.lists(BOX, max_size=6), st.lists(BOX, max_size=5))
def test_iou_equals_exact_arithmetic(a, b):
    got = iou(torch.tensor(a, dtype=torch.double).reshape(-1, 4), torch.tensor(b, dtype=torch.double).reshape(-1, 4))
    assert got.shape == (len(a), len(b))
    assert_close(got, torch.tensor([[float(exact_iou(p, q)) for q in b] for p in a], dtype=torch.double).reshape(len(a), len(b)))

@FAST
@given(st.lists(st.tuples(*[st.floats(-300, 300, width=32)]*4), min_size=1, max_size=6))
def test_iou_is_symmetric_and_between_0_and_1(a):
    boxes = torch.tensor(a)
    overlap = iou(boxes, boxes)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    assert torch.equal(overlap, overlap.T) and 0 <= overlap.min() and overlap.max() <= 1
    assert torch.equal(overlap.diagonal(), (area > 0).float())

def test_iou_agrees_with_torchvision_and_broadcasts():
    a, b = (torch.rand(3, n, 4, dtype=torch.double).cumsum(-1) for n in (4, 5))
    assert_close(iou(a, b), torch.stack([torchvision.ops.box_iou(p, q) for p, q in zip(a, b)]))
    assert iou(a[:, None], b[0]).shape == (3, 1, 4, 5)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    boxes = torch.tensor([[0, 0, 448, 448], [0, 0, 448, 224]], dtype=dtype)
    assert_close(iou(boxes, boxes), torch.tensor([[1, .5], [.5, 1]]))
    assert nms(boxes, torch.tensor([1., 2], dtype=dtype), .4).tolist() == [1]

# ---- NMS

@FAST
@given(LISTS, TWENTIETHS, st.sampled_from([torch.float32, torch.double]))
def test_nms_equals_exact_arithmetic(items, twentieths, dtype):
    boxes, scores = tensors(items, dtype)
    kept, by = exact_nms([b for b, _ in items], [s for _, s in items], Fraction(twentieths, 20))
    assert nms(boxes, scores, twentieths/20).tolist() == kept
    assert removed_by(boxes, scores, twentieths/20).tolist() == by

@FAST
@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.tuples(BOX, st.integers(0, 3)), min_size=n, max_size=n), min_size=1, max_size=4)),
       TWENTIETHS, st.integers(0, 11))
def test_a_batch_equals_its_images(images, twentieths, max_keep):
    boxes, scores = (torch.stack(x) for x in zip(*map(tensors, images)))
    got = nms(boxes, scores, twentieths/20, max_keep)
    assert got.shape == (len(images), max_keep) and got.dtype == torch.int64
    for row, b, s in zip(got, boxes, scores):
        assert torch.equal(row, nms(b, s, twentieths/20, max_keep))
        kept = nms(b, s, twentieths/20)[:max_keep].tolist()
        assert row.tolist() == kept + [-1]*(max_keep - len(kept))

@FAST
@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.tuples(st.lists(st.one_of(BOX, PROPER), min_size=n, max_size=n), st.permutations(range(n))), min_size=1, max_size=4)), TWENTIETHS)
def test_a_batch_equals_batched_nms(images, twentieths):
    "Scores without ties, whole and non-negative coordinates: there torchvision's shift of each image is exact."
    boxes, scores = (torch.tensor(x, dtype=torch.double) for x in zip(*images))
    N, A = scores.shape
    image = torch.arange(N).repeat_interleave(A)
    flat = torchvision.ops.batched_nms(boxes.flatten(0, 1), scores.flatten(), image, twentieths/20)
    for i, kept in enumerate(nms(boxes, scores, twentieths/20)): assert torch.equal(kept[kept >= 0], flat[image[flat] == i] % A)

@FAST
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_properties_on_random_boxes(seed, threshold):
    g = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, 40, 2, generator=g)
    boxes, scores = torch.cat([corner, corner + side], -1), torch.rand(40, generator=g)
    kept = nms(boxes, scores, threshold)
    limit = torch.tensor(threshold)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values) and scores[kept[0]] == scores.max()
    assert (iou(boxes[kept], boxes[kept]).fill_diagonal_(0) <= limit).all()                  # survivors do not overlap
    gone = torch.tensor(sorted(set(range(40)) - set(kept.tolist())), dtype=torch.int64)
    overlap = iou(boxes[gone], boxes[kept]) > limit
    assert ((scores[kept] >= scores[gone][:, None]) & overlap).any(1).all()                  # each other one has a better cause
    assert torch.equal(nms(boxes[kept], scores[kept], threshold), torch.arange(len(kept)))   # again changes nothing
    assert torch.equal(nms(boxes*64, scores, threshold), kept)                               # IoU has no unit

@pytest.mark.parametrize('dtype', [torch.float32, torch.double])
def test_an_iou_equal_to_the_threshold_stays(dtype):
    for tenths in range(1, 10):
        boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, tenths]], dtype=dtype)
        assert nms(boxes, torch.tensor([2., 1]), tenths/10).tolist() == [0, 1]
        assert nms(boxes, torch.tensor([2., 1]), tenths/10 - 1e-4).tolist() == [0]
        assert nms(boxes[None], torch.tensor([[2., 1]]), tenths/10).tolist() == [[0, 1]]

def test_thresholds_0_and_1():
    boxes, scores = torch.tensor([[0., 0, 10, 10], [10, 0, 20, 10], [9.9, 0, 12, 10], [0, 0, 10, 10]]), torch.tensor([4., 3, 2, 1])
    assert nms(boxes, scores, 0).tolist() == [0, 1] and nms(boxes, scores, 1).tolist() == [0, 1, 2, 3]

def test_all_equal_boxes_and_scores_keep_the_lowest_index():
    boxes, scores = torch.tensor([0., 0, 5, 5]).expand(500, 4), torch.zeros(500)
    assert nms(boxes, scores, .5).tolist() == [0] and nms(boxes, scores, 1).tolist() == list(range(500))
    assert nms(boxes.expand(2, 500, 4), scores.expand(2, 500), .5, 2).tolist() == [[0, -1]]*2

def test_boxes_without_area_stay_and_remove_nothing():
    boxes = torch.tensor([[3., 3, 3, 9], [3, 3, 3, 9], [0, 0, 10, 10], [8, 8, 2, 2]])
    scores = torch.tensor([4., 3, 2, 1])
    assert nms(boxes, scores, 0).tolist() == [0, 1, 2, 3] == nms(boxes[None], scores[None], 0)[0].tolist()

@pytest.mark.parametrize('boxes, scores, options, shape', [
    ((0, 4), (0,), {}, (0,)), ((0, 4), (0,), dict(max_keep=3), (3,)), ((2, 0, 4), (2, 0), dict(max_keep=3), (2, 3)),
    ((0, 5, 4), (0, 5), dict(max_keep=3), (0, 3)), ((2, 5, 4), (2, 5), {}, (2, 5)), ((2, 5, 4), (2, 5), dict(max_keep=0), (2, 0))])
def test_empty_input(boxes, scores, options, shape):
    kept = nms(torch.zeros(boxes), torch.zeros(scores), .5, **options)
    assert kept.shape == shape and kept.dtype == torch.int64
    if 0 in boxes: assert (kept == -1).all()

def test_scores_of_minus_infinity_are_scores():
    boxes, scores = torch.tensor([[0., 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 1]]), torch.tensor([-torch.inf, 1, -torch.inf])
    assert nms(boxes, scores, .5).tolist() == [1, 0] and nms(boxes[None], scores[None], .5, 3).tolist() == [[1, 0, -1]]

def test_negative_coordinates_do_not_mix_images():
    boxes = torch.tensor([[[0., 0, 20, 20]], [[-21, -21, -1, -1]]])
    assert nms(boxes, torch.tensor([[.9], [.8]]), .5, 1).tolist() == [[0], [0]]

def test_anchors_at_full_size_batch_equals_loop():
    boxes = anchors(448, sizes=(48, 96, 192), border='pad').expand(3, -1, -1)
    scores = torch.randint(50, boxes.shape[:2], generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(nms(boxes, scores, .25, 6), torch.stack([nms(b, s, .25, 6) for b, s in zip(boxes, scores)]))

def test_no_gradient_flows_through_indices():
    boxes, scores = torch.rand(5, 4).cumsum(1).requires_grad_(), torch.rand(5, requires_grad=True)
    assert not nms(boxes, scores, .5).requires_grad and not nms(boxes[None], scores[None], .5, 2).requires_grad

@pytest.mark.parametrize('boxes, scores, threshold, options, words', [
    (torch.zeros(3, 5), torch.zeros(3), .5, {}, r'boxes: expected \(A, 4\)'),
    (torch.zeros(3, 4), torch.zeros(2), .5, {}, r'scores: expected \(A=3\)'),
    (torch.zeros(2, 3, 4), torch.zeros(3), .5, {}, 'scores: expected'),
    (torch.zeros(3, 4), torch.zeros(3), 1.5, {}, 'threshold: expected'),
    (torch.zeros(3, 4), torch.zeros(3), -.1, {}, 'threshold: expected'),
    (torch.zeros(2, 3, 4), torch.zeros(2, 3), 30, {}, 'threshold: expected'),
    (torch.zeros(3, 4), torch.zeros(3), float('nan'), {}, 'threshold: expected'),
    (torch.zeros(3, 4).long(), torch.zeros(3), .5, {}, 'floating point'),
    (torch.full((3, 4), torch.inf), torch.zeros(3), .5, {}, 'boxes: expected finite'),
    (torch.zeros(3, 4), torch.full((3,), torch.nan), .5, {}, 'scores: expected numbers'),
    (torch.zeros(3, 4), torch.zeros(3), .5, dict(max_keep=-1), 'max_keep: expected')])
def test_errors_say_what_was_expected(boxes, scores, threshold, options, words):
    with pytest.raises(ValueError, match=words): nms(boxes, scores, threshold, **options)

def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/12_nms.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 3
    for block in blocks: exec(block, dict(torch=torch, iou=iou, nms=nms))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('threshold', [0, .3, .5, 1])
def test_gpu_equals_cpu(threshold):
    g = torch.Generator().manual_seed(0)
    corner, side = torch.randint(20, (2, 4, 300, 2), generator=g).float()
    boxes, scores = torch.cat([corner, corner + side], -1), torch.randint(5, (4, 300), generator=g).float()
    assert torch.equal(nms(boxes.cuda(), scores.cuda(), threshold, 20).cpu(), nms(boxes, scores, threshold, 20))
    assert torch.equal(nms(boxes[0].cuda(), scores[0].cuda(), threshold).cpu(), nms(boxes[0], scores[0], threshold))


def test_sizes_as_numpy_gives_them():
    numpy = pytest.importorskip('numpy')
    assert torch.equal(anchors(numpy.int64(64), [32], [24], [1], [1]), anchors(64, [32], [24], [1], [1]))


def test_half_a_box_cannot_be_kept():
    with pytest.raises(ValueError, match='max_keep: expected None or a whole number of at least 0, got 2.5'): nms(torch.rand(3, 4), torch.rand(3), .5, 2.5)

def test_a_batch_without_a_limit_keeps_what_each_image_keeps():
    boxes, scores = torch.rand(3, 60, 4).mul(30).cumsum(-1), torch.rand(3, 60).mul(20).round()/20        # with ties
    kept = nms(boxes, scores, .3)
    assert kept.shape == (3, 60) and torch.equal(kept, nms(boxes, scores, .3, max_keep=60))
    for b, s, k in zip(boxes, scores, kept): assert torch.equal(k[k >= 0], nms(b, s, .3)) and len(nms(b, s, .3)) < 60
    assert nms(boxes[:0], scores[:0], .3).shape == (0, 60)

def test_removed_by_takes_one_image():
    with pytest.raises(ValueError, match=r'boxes: expected \(A, 4\), got \(2, 3, 4\). One image at a time'): removed_by(torch.rand(2, 3, 4), torch.rand(2, 3), .5)
