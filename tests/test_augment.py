"fgar.data.augment: known answers, equality with torchvision, label maps, errors."
import json, os
from pathlib import Path

import pytest, torch
from torch.testing import assert_close
from torchvision.transforms import v2

from fgar.core import generator
from fgar.data.augment import Augment, CROPS, Draw, colour, colour_matrix, crop_resize, denormalise, draw_boxes, fixed_boxes, flip_map, resize_matrix, test_crops as make_crops

def clips(N=3, T=2, H=37, W=53, seed=0):
    return torch.randint(0, 256, (N, T, H, W, 3), generator=generator('frames', seed), dtype=torch.uint8)

# ---- crop and resize
@pytest.mark.parametrize('size', [1, 7, 16, 37, 60])
@pytest.mark.parametrize('box', [(0, 0, 53, 37), (5, 3, 41, 30), (50, 30, 53, 37), (10, 10, 11, 11)])
def test_both_backends_equal_torchvision(size, box):
    frames, (x1, y1, x2, y2) = clips(N=1), box
    known = v2.functional.resized_crop(frames[0].permute(0, 3, 1, 2), y1, x1, y2-y1, x2-x1, [size, size], antialias=True).float()
    exact = v2.functional.resized_crop(frames[0].permute(0, 3, 1, 2).float(), y1, x1, y2-y1, x2-x1, [size, size], antialias=True)
    boxes = torch.tensor([box])
    assert torch.equal(crop_resize(frames, boxes, size, backend='loop')[0].transpose(0, 1), known)
    assert_close(crop_resize(frames, boxes, size, backend='matmul')[0].transpose(0, 1), exact, atol=1e-3, rtol=0)

@pytest.mark.parametrize('backend', ['loop', 'matmul'])
def test_each_clip_has_its_own_box_and_mirror(backend):
    frames, boxes, flip = clips(4), torch.tensor([[0, 0, 53, 37], [4, 5, 30, 31], [20, 1, 53, 20], [0, 0, 9, 9]]), torch.tensor([True, False, True, False])
    batch = crop_resize(frames, boxes, 12, flip, backend)
    assert batch.shape == (4, 3, 2, 12, 12) and batch.dtype == torch.float32 and batch.is_contiguous()
    for i in range(4):
        alone = crop_resize(frames[i:i+1], boxes[i:i+1], 12, backend=backend)[0]
        assert_close(batch[i], alone.flip(-1) if flip[i] else alone, atol=1e-3, rtol=0)

def test_gradients_of_both_backends_agree():
    x, boxes = torch.rand(2, 1, 9, 11, 2, dtype=torch.double, requires_grad=True), torch.tensor([[1, 0, 10, 9], [2, 3, 5, 6]])
    flip = torch.tensor([True, False])
    grads = [torch.autograd.grad(crop_resize(x, boxes, 5, flip, b).pow(3).sum(), x)[0] for b in ('loop', 'matmul')]
    assert_close(*grads)

def test_matmul_keeps_grey_levels_under_autocast():
    frames, boxes = clips(2), torch.tensor([[0, 0, 53, 37]]*2)
    with torch.autocast('cpu', dtype=torch.bfloat16): inside = crop_resize(frames, boxes, 20, backend='matmul')
    assert inside.dtype == torch.float32
    assert_close(inside, crop_resize(frames, boxes, 20, backend='matmul'))

def test_resize_matrix_rows_sum_to_one_and_stay_in_the_box():
    w = resize_matrix(torch.tensor([3., 0.]), torch.tensor([20., 31.]), 40, 31)
    assert_close(w.sum(-1), torch.ones(2, 40))
    assert (w[0, :, :3] == 0).all() and (w[0, :, 20:] == 0).all() and (w >= 0).all()

def test_constant_pictures_stay_constant():
    frames = torch.full((1, 1, 20, 30, 3), 77, dtype=torch.uint8)
    for backend in ('loop', 'matmul'): assert_close(crop_resize(frames, torch.tensor([[3, 4, 17, 15]]), 9, backend=backend), torch.full((1, 3, 1, 9, 9), 77.))

# ---- boxes
@pytest.mark.parametrize('crop', CROPS)
@pytest.mark.parametrize('valid', [(37, 53), (53, 37), (1, 1), (2, 300), (240, 240)])
def test_boxes_lie_inside_the_valid_part(crop, valid):
    u = torch.rand(500, 4, generator=generator(1))
    u[0], u[1] = 0, 1 - 2**-24
    x1, y1, x2, y2 = draw_boxes(u, torch.tensor([valid]).expand(500, 2), crop).unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= valid[1]).all() and (y2 <= valid[0]).all() and (x2 > x1).all() and (y2 > y1).all()
    assert all(torch.equal(x, x.round()) for x in (x1, y1, x2, y2))

def test_square_and_multiscale_sides():
    u, valid = torch.rand(2000, 4, generator=generator(2)), torch.tensor([[100, 160]]).expand(2000, 2)
    sides = lambda crop, **o: (lambda b: b[:, 2:] - b[:, :2])(draw_boxes(u, valid, crop, **o))
    square = sides('square')
    assert torch.equal(square[:, 0], square[:, 1]) and square.min() >= 50 and square.max() <= 100
    assert abs(square.mean().item() - 75) < 2
    found = set(map(tuple, sides('multiscale').int().tolist()))
    assert found == {(w, h) for i,w in enumerate((100, 88, 75, 66)) for j,h in enumerate((100, 88, 75, 66)) if abs(i-j) <= 1}
    area = sides('resized').prod(1)/16000
    assert area.min() >= .07 and area.max() <= 1

def test_multiscale_uses_all_thirteen_places():
    boxes = draw_boxes(torch.rand(2000, 4, generator=generator(3)), torch.tensor([[100, 100]]).expand(2000, 2), 'multiscale', scale=(.6,))
    assert {tuple(b) for b in boxes[:, :2].int().tolist()} == {(x, y) for x in (0, 20, 40) for y in (0, 20, 40)} | {(x, y) for x in (10, 30) for y in (10, 30)}

@pytest.mark.parametrize('scale', [(), (0, 1), (.5, 1.2), (-1,)])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match='scale'): draw_boxes(torch.rand(1, 4), torch.tensor([[9, 9]]), 'square', scale)

@pytest.mark.parametrize('valid', [(40, 100), (100, 40)])
def test_three_crops_cover_the_long_side(valid):
    boxes = fixed_boxes(torch.tensor([valid]), 3)[0]
    long, short = (0, 1) if valid[1] > valid[0] else (1, 0)
    assert boxes[0, long] == 0 and boxes[2, long+2] == 100 and boxes[1, long] == 30
    assert (boxes[:, short] == 0).all() and (boxes[:, short+2] == 40).all()
    assert torch.equal(fixed_boxes(torch.tensor([valid]), 1)[0, 0], boxes[1])

# ---- flip
def test_flip_map_pairs_and_is_its_own_inverse():
    names = ['Swiping Left', 'Swiping Right', 'Turning Hand Clockwise', 'Turning Hand Counterclockwise', 'crossover left to right', 'crossover right to left', 'upright', 'Copyright', 'left_foot', 'right_foot']
    mirror = flip_map(names)
    assert mirror.tolist() == [1, 0, 3, 2, 5, 4, 6, 7, 9, 8]
    assert torch.equal(mirror[mirror], torch.arange(10))
    assert flip_map(['run', 'jump']).tolist() == [0, 1]
    assert flip_map(['links', 'rechts'], pairs=[('links', 'rechts')]).tolist() == [1, 0]

def test_flip_map_accepts_symmetric_names_and_refuses_lonely_ones():
    assert flip_map(['left then right', 'right then left']).tolist() == [1, 0]
    with pytest.raises(ValueError, match='turn left.*flip=False'): flip_map(['turn left', 'jump'])

@pytest.mark.parametrize('bad', [[1, 2, 0], [0, 0], [0, 3], [[0, 1]]])
def test_flip_labels_must_be_a_mirror(bad):
    with pytest.raises(ValueError, match='flip_labels'): Augment(8, flip_labels=bad)

def test_labels_follow_the_flip():
    augment, frames, target = Augment(8, flip_labels=[1, 0, 2]), clips(60), torch.arange(60) % 3
    draw = augment.draw(frames, generator=generator(0))
    clip, label = augment(frames, target, generator=generator(0))
    assert 15 < draw.flip.sum() < 45
    assert torch.equal(label, torch.where(draw.flip, torch.tensor([1, 0, 2])[target], target))
    several = torch.nn.functional.one_hot(target, 3).float()
    assert torch.equal(augment.labels(several, draw).argmax(1), label)
    assert torch.equal(Augment(8)(frames, target, generator=generator(0))[1], target)

def test_flip_map_of_real_label_lists():
    folder = Path(os.environ.get('FGAR_REAL', Path(__file__).parents[1].parent/'shared'/'real'))/'annotations'
    if not folder.is_dir(): pytest.skip('FGAR_REAL: no folder with real annotations')
    jester = (folder/'jester'/'jester-v1-labels.csv').read_text().splitlines()
    something = list(json.loads((folder/'something_v2'/'something-something-v2-labels.json').read_text()))
    pairs = lambda names, same=(): {(names[i].lower(), names[k].lower()) for i,k in enumerate(flip_map(names, same).tolist()) if i != k}
    assert {('swiping left', 'swiping right'), ('turning hand clockwise', 'turning hand counterclockwise'), ('sliding two fingers left', 'sliding two fingers right')} <= pairs(jester) and len(pairs(jester)) == 6
    assert sum('right out' in name for name in something) == 1
    found = pairs(something)
    assert ('pushing something from left to right', 'pushing something from right to left') in found and len(found) == 6

# ---- colour
def test_neutral_factors_change_nothing():
    matrix, offset = colour_matrix(torch.tensor([[1., 1, 1, 0]]))
    assert_close(matrix[0], torch.eye(3), atol=1e-5, rtol=0)
    assert offset.item() == 0

@pytest.mark.parametrize('factors', [(1.1, 1, 1, 0), (1, .7, 1, 0), (1, 1, .6, 0), (.9, 1.2, .8, 0)])
def test_colour_equals_torchvision_step_by_step(factors):
    x = 80 + 60*torch.rand(1, 3, 1, 9, 11, generator=generator(0))
    known = x[:, :, 0]/255
    for step, f in zip((v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation), factors): known = step(known, f)
    assert_close(colour(x, torch.tensor([factors]))[:, :, 0]/255, known, atol=5e-4, rtol=0)

def test_greys_stay_grey_under_saturation_and_hue():
    x = torch.rand(2, 1, 3, 4, 5, generator=generator(0)).expand(-1, 3, -1, -1, -1)*255
    assert_close(colour(x, torch.tensor([[1, 1, .2, .3], [1, 1, 1.9, -.4]])), x.contiguous(), atol=1e-2, rtol=0)

def test_colour_is_the_same_for_all_frames():
    frame = torch.rand(1, 3, 1, 6, 6)*255
    clip = torch.cat((frame, frame, torch.zeros_like(frame)), 2)                 # the third frame is dark
    out = colour(clip, torch.tensor([[1.2, .6, 1.4, .1]]))
    assert torch.equal(out[:, :, 0], out[:, :, 1])

# ---- Augment
@pytest.mark.parametrize('crop', CROPS)
@pytest.mark.parametrize('jitter', [(0, 0, 0, 0), (.4, .4, .4, .1)])
def test_output_and_repeatability(crop, jitter):
    augment, frames = Augment(16, crop=crop, jitter=jitter), clips()
    before = frames.clone()
    clip, target = augment(frames, torch.tensor([0, 1, 2]), generator=generator(5))
    assert clip.shape == (3, 3, 2, 16, 16) and clip.dtype == torch.float32 and torch.isfinite(clip).all()
    assert torch.equal(clip, augment(frames, generator=generator(5))[0]) and torch.equal(frames, before)
    assert crop == 'centre' and not any(jitter) or not torch.equal(clip, augment(frames, generator=generator(6))[0])

def test_testing_needs_no_generator_and_draws_nothing():
    state = torch.get_rng_state()
    a, b = (Augment(16, train=False, jitter=(.4, .4, .4, .1))(clips())[0] for _ in 'ab')
    assert torch.equal(a, b) and torch.equal(state, torch.get_rng_state())
    assert_close(a, make_crops(clips(), 16)[:, 0])

def test_a_passed_generator_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    Augment(16, jitter=(.4, .4, .4, .1))(clips(), generator=generator(0))
    assert torch.equal(state, torch.get_rng_state())

def test_padding_is_never_seen():
    frames = torch.full((50, 1, 40, 60, 3), 255, dtype=torch.uint8)
    frames[:, :, :30, :36] = 100                                                  # the valid part; the rest is poison
    valid = torch.tensor([[30, 36]]).expand(50, 2)
    for crop in CROPS: assert denormalise(Augment(16, crop=crop)(frames, valid=valid, generator=generator(0))[0]).unique().tolist() == [100]
    assert denormalise(make_crops(frames, 16, 3, valid).flatten(0, 1)).unique().tolist() == [100]

def test_flow_follows_a_moving_picture():
    "A ramp that moves by (2, -1) px per frame, cropped, resized and mirrored, must still move by the flow that comes with it."
    y, x = torch.meshgrid(torch.arange(40.), torch.arange(60.), indexing='ij')
    ramp = lambda t: torch.stack([(x - 2*t)*3 + 40, (y + t)*4 + 20, torch.zeros_like(x)], -1)
    frames = torch.stack([ramp(0), ramp(1)])[None].round().byte().expand(20, -1, -1, -1, -1)
    flow = torch.tensor([2., -1.])[None, :, None, None, None].expand(20, 2, 1, 40, 60)
    augment = Augment(30, crop='resized', scale=(.3, .9))
    draw = augment.draw(frames, generator=generator(1))
    clip, moved = denormalise(augment.rgb(frames, draw)).float(), augment.flow(flow, draw)
    inner = clip[:, :, 8:-8, 8:-8]
    change = inner[:, 1] - inner[:, 0]                                            # brightness constancy: I_t = -(I_x dx + I_y dy)
    slope = [(inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1)[:, 0]/(inner.shape[3]-1), (inner[:, 0, -1] - inner[:, 0, 0]).mean(1)[:, 1]/(inner.shape[2]-1)]
    assert_close(-slope[0]*moved[:, 0].mean((1, 2, 3)), change[..., 0].mean((1, 2)), atol=.3, rtol=.05)
    assert_close(-slope[1]*moved[:, 1].mean((1, 2, 3)), change[..., 1].mean((1, 2)), atol=.3, rtol=.05)
    assert draw.flip.any() and not draw.flip.all()

def test_an_empty_batch_passes():
    frames = torch.zeros(0, 4, 0, 0, 3, dtype=torch.uint8)
    clip, target = Augment(16, jitter=(.1, .1, .1, .1), flip_labels=[1, 0])(frames, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64))
    assert clip.shape == (0, 3, 4, 16, 16) and target.shape == (0,)
    assert make_crops(frames, 16, 3).shape == (0, 3, 3, 4, 16, 16)

def test_denormalise_undoes():
    frames = clips(H=16, W=16)
    assert torch.equal(denormalise(Augment(16, train=False)(frames)[0]), frames)

@pytest.mark.parametrize('call, match', [
    (lambda: Augment(0), 'size'), (lambda: Augment(16, crop='random'), 'crop'), (lambda: Augment(16, jitter=(1, 1)), 'jitter'), (lambda: Augment(16, jitter=(0, 0, 0, .7)), 'jitter'),
    (lambda: Augment(16)(clips()[0]), r'frames\[None\]'), (lambda: Augment(16)(clips().float()), 'uint8'), (lambda: Augment(16)(clips(), valid=torch.tensor([[3, 3]])), 'valid'),
    (lambda: Augment(16, flip_labels=[1, 0])(clips(), torch.tensor([0, 1, 2])), 'target'), (lambda: Augment(16).flow(torch.zeros(3, 3, 1, 9, 9), Augment(16).draw(clips())), 'flow'),
    (lambda: make_crops(clips(), 16, 2), 'crops'), (lambda: make_crops(clips(), 16, 1, scale=2), 'scale'), (lambda: crop_resize(clips(), torch.zeros(1, 4), 8), 'boxes'),
    (lambda: crop_resize(clips(), torch.zeros(3, 4), 8, backend='fast'), 'backend'), (lambda: denormalise(clips()), 'clip')])
def test_errors_name_the_argument(call, match):
    with pytest.raises(ValueError, match=match): call()

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_gpu_equals_cpu_and_never_waits():
    augment, frames, valid = Augment(16, jitter=(.4, .4, .4, .1), flip_labels=[1, 0, 2]), clips(), torch.tensor([[30, 40]]*3)
    cpu, _ = augment(frames, torch.tensor([0, 1, 2]), valid, generator(0))
    on, target = frames.cuda(), torch.tensor([0, 1, 2]).cuda()
    augment(on, target, valid, generator(0))                                       # tables are copied once
    torch.cuda.set_sync_debug_mode('error')
    try: gpu, _ = augment(on, target, valid.cuda(non_blocking=True), generator(0))
    finally: torch.cuda.set_sync_debug_mode('default')
    assert_close(denormalise(gpu).cpu().int(), denormalise(cpu).int(), atol=3, rtol=0)

def test_eval_switches_the_dice_off():
    augment = Augment(16)
    assert torch.equal(augment.eval()(clips())[0], Augment(16, train=False)(clips())[0])
    assert not torch.equal(augment.train()(clips(), generator=generator(0))[0], augment.eval()(clips())[0])

def test_flip_map_reads_words_however_they_are_joined():
    for left, right in (('turn-left', 'turn-right'), ('TurnLeft', 'TurnRight'), ('hook left-handed', 'hook right-handed'), ('spin-clockwise', 'spin-counter-clockwise'), ('anti-clockwise', 'clockwise')):
        assert flip_map([left, 'up-front', right]).tolist() == [2, 1, 0]
    for alone in ('turn-left', 'TurnLeft', 'counter-clockwise'):
        with pytest.raises(ValueError, match='mirror image'): flip_map([alone, 'jump'])

def test_three_crops_of_a_square_lie_side_by_side():
    assert fixed_boxes(torch.tensor([[100, 100]]), 3, .8)[0].tolist() == [[0, 10, 80, 90], [10, 10, 90, 90], [20, 10, 100, 90]]
