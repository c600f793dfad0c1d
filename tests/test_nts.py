"Region screening: crops, the three networks, both extensions, both streams, weights with published names."
import copy, json, re
from pathlib import Path

import pytest, torch
from torch.autograd import grad
from torch.nn import functional as F
from torch.testing import assert_close

import fgar
from fgar.core import cost
from fgar.losses.ranking import joint_loss, ranking_loss, region_confidence
from fgar.models.frames2d import TSN, resnet_body
from fgar.models.nts import (FootballTwoStream, NTSNet, PyramidScreening, Screening, StageFusion, covered, crop_regions, published_names, split_norms)
from fgar.models.two_stream import FlowTSN, flow_images
from fgar.ops.boxes import anchors, inside, iou, nms

SMALL = dict(frames=2, size=64, body='small', M=3, K=2)
NAMES = ['nts', 'nts-fpn', 'nts-aff', 'nts-flow', 'nts-two-stream']

def seeded(*shape, seed=0, dtype=torch.float32): return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def build(name='nts', classes=4, **options):
    torch.manual_seed(0)
    if name in ('nts-flow', 'nts-two-stream'): options = {'stack': 3, **options}
    return fgar.create(name, classes=classes, **{**SMALL, **options})

def inputs(model, n=2, t=2, size=64):
    streams = {'rgb': seeded(n, 3, t, size, size), 'flow': 5*seeded(n, 2, t*getattr(model, 'stack', 1), size, size, seed=1)}
    return [streams[kind] for kind in model.spec.inputs]

# ---- crops

def crops_by_loops(images, boxes, size):
    "One bilinear sample at the centre of each pixel of the crop."
    out = []
    for image, regions in zip(images, boxes):
        H, W = image.shape[1:]
        for x1, y1, x2, y2 in regions:
            at = (torch.arange(size, dtype=boxes.dtype) + .5)/size
            x, y = x1 + at*(x2 - x1), y1 + at*(y2 - y1)
            grid = torch.stack(torch.meshgrid(2*x/W - 1, 2*y/H - 1, indexing='xy'), -1)
            out.append(F.grid_sample(image[None], grid[None], align_corners=False)[0])
    return torch.stack(out)

@pytest.mark.parametrize('size', [1, 4, 7])
@pytest.mark.parametrize('B, M, C, H, W', [(1, 1, 1, 9, 9), (3, 2, 2, 11, 17)])
def test_crops_equal_the_loops(size, B, M, C, H, W):
    images = seeded(B, C, H, W, dtype=torch.double).requires_grad_()
    corner = torch.rand(B, M, 2, generator=torch.Generator().manual_seed(2), dtype=torch.double)*3 + 1
    boxes = torch.cat([corner, corner + torch.tensor([W - 6., H - 6.], dtype=torch.double)], -1)
    fast, slow = crop_regions(images, boxes, size), crops_by_loops(images, boxes, size)
    assert fast.shape == (B*M, C, size, size)
    assert_close(fast, slow)
    weights = seeded(*fast.shape, dtype=torch.double, seed=3)
    assert_close(grad((fast*weights).sum(), images), grad((slow*weights).sum(), images))

def test_a_crop_of_the_whole_image_is_the_image():
    images = seeded(2, 3, 8, 8)
    assert_close(crop_regions(images, torch.tensor([0., 0, 8, 8]).expand(2, 1, 4), 8), images)

def test_outside_the_image_is_zero_as_in_a_padded_image():
    images, box = torch.ones(1, 1, 8, 8), torch.tensor([[[-8., -8, 8, 8]]])
    crop = crop_regions(images, box, 16)[0, 0]
    assert not crop[:7].any() and not crop[:, :7].any() and (crop[8:, 8:] == 1).all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_crops_come_from_their_own_image(dtype):
    "bfloat16 knows whole numbers up to 256 only; which image a box belongs to must not pass through it."
    images = (torch.arange(300) % 200).to(dtype)[:, None, None, None].expand(300, 1, 4, 4)
    crops = crop_regions(images, torch.tensor([0., 0, 4, 4]).expand(300, 1, 4), 2)
    assert crops.dtype == dtype and torch.equal(crops[:, 0, 0, 0], images[:, 0, 0, 0])

def test_crops_explain_shapes():
    with pytest.raises(ValueError, match='boxes: expected'): crop_regions(torch.zeros(2, 3, 8, 8), torch.zeros(3, 1, 4), 4)
    with pytest.raises(ValueError, match='images: expected'): crop_regions(torch.zeros(2, 3, 1, 8, 8), torch.zeros(2, 1, 4), 4)

# ---- screening

@pytest.mark.parametrize('height, width', [(64, 64), (80, 48), (72, 56)])
@pytest.mark.parametrize('head', [Screening, PyramidScreening])
def test_one_score_for_each_anchor(head, height, width):
    body = build()
    screening = head([24, 48, 96, 128], 2, 8)
    scores = screening(body.maps(seeded(2, 3, height, width)))
    assert scores.shape == (2, len(anchors((height, width), screening.strides, border='pad')))

@pytest.mark.parametrize('head', [Screening, PyramidScreening])
def test_scores_stand_where_their_anchors_do(head):
    "Something bright at one place moves the scores of anchors there, and of no far-away ones on the finest level."
    torch.manual_seed(0)
    screening = head([1, 1, 1, 1], 2, 4)
    if head is PyramidScreening:                      # the finest level alone: nothing from above
        for m in screening.lateral[1:]: torch.nn.init.zeros_(m.weight)
    maps = [torch.zeros(1, 1, 64//s, 64//s) for s in (4, 8, 16, 32)]
    lit = [m.clone() for m in maps]
    lit[1][..., 6, 1] = 1.                            # x = 12, y = 52 px
    moved = (screening(lit) - screening(maps))[0] != 0
    fine = anchors(64, screening.strides, border='pad')[:6*64][moved[:6*64]]
    centre = (fine[:, :2] + fine[:, 2:])/2
    assert len(fine) and (centre - torch.tensor([12., 52.])).abs().max() <= 8

@pytest.mark.parametrize('border', ['drop', 'pad'])
def test_regions_are_the_best_survivors_of_nms(border):
    model = build(border=border).eval()
    scores = seeded(3, len(anchors(64, model.screening.strides, border='pad')))
    boxes, best, valid = model.locate(scores, (64, 64), 3)
    every = anchors(64, (8, 16, 32), [64*k/28 for k in (3, 6, 12)], border='pad')
    keep = inside(every, 64) if border == 'drop' else torch.ones(len(every), dtype=torch.bool)
    for b in range(3):
        kept = nms(every[keep], scores[b, keep], .25, 3)
        assert_close(boxes[b], every[keep][kept]); assert_close(best[b], scores[b, keep][kept])
    assert valid.all() and (best[:, :-1] >= best[:, 1:]).all()
    assert (torch.stack([iou(x, x) for x in boxes]) - torch.eye(3) <= .25).all()
    if border == 'drop': assert inside(boxes, 64).all()

def test_too_few_survivors_are_masked():
    model = build(M=60, K=40, threshold=0.).train()
    pred = model(*inputs(model))
    valid = pred.extras['valid']
    assert valid[..., 0].all() and not valid.all()
    loss = model.loss(pred, torch.tensor([0, 3]))
    loss['total'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    local = pred.extras['regions'][~valid]
    assert_close(local, model.teacher.bias.expand_as(local))         # nothing was seen there

# ---- the system

@pytest.mark.parametrize('name', NAMES)
def test_eval_is_repeatable_and_frames_are_a_set(name):
    model = build(name).eval()
    with torch.no_grad(): a, b = model(*inputs(model)).logits, model(*inputs(model)).logits
    assert_close(a, b, rtol=0, atol=0)                               # no dropout left on
    if name == 'nts':
        with torch.no_grad(): assert_close(model(inputs(model)[0].flip(2)).logits, a)
    assert not any(m.training for m in model.modules())

def test_extras():
    model = build(classes=5)
    clip = inputs(model)[0]
    pred = model.train()(clip)
    shapes = dict(boxes=(2, 2, 3, 4), informativeness=(2, 2, 3), valid=(2, 2, 3), regions=(2, 2, 3, 5), whole=(2, 2, 5), frame_logits=(2, 2, 5))
    assert {k: tuple(v.shape) for k, v in pred.extras.items()} == shapes
    assert model.eval()(clip).extras['boxes'].shape == (2, 2, 2, 4)   # only the K that count
    assert_close(pred.extras['frame_logits'].mean(1), pred.logits)

def test_loss_is_the_chapters_loss():
    model = build(lam=.5, mu=2.).train()
    target = torch.tensor([1, 3])
    clip = seeded(2, 3, 1, 64, 64)                                    # one frame: the video's logits are the frame's
    pred = model(clip)
    e = {k: v[:, 0] for k, v in pred.extras.items()}
    wanted = joint_loss(e['informativeness'], e['regions'], e['whole'], pred.logits, target, .5, 2., valid=e['valid'])
    for key, value in model.loss(pred, target).items(): assert_close(value, wanted[key])

def test_who_learns_from_what():
    model, target = build().train(), torch.tensor([0, 3])
    loss = model.loss(model(*inputs(model)), target)
    learns = {}
    for term in ('ranking', 'scrutinizer', 'region'):
        model.zero_grad()
        loss[term].backward(retain_graph=True)
        learns[term] = {n.split('.')[0] + ('.fc' if '.fc.' in n else '') for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learns == {'ranking': {'screening'}, 'scrutinizer': {'body', 'scrutinizer'}, 'region': {'body', 'body.fc', 'teacher'}}

def test_ranking_moves_only_kept_anchors():
    model = build().train()
    clip = inputs(model)[0]
    scores = []
    model.screening.register_forward_hook(lambda m, i, o: (o.retain_grad(), scores.append(o))[1:] and None)
    pred = model(clip)
    model.loss(pred, torch.tensor([0, 3]))['ranking'].backward()
    moved = scores[0].grad != 0
    assert 0 < moved.sum() <= 2*2*3

@pytest.mark.parametrize('weights', [dict(ranking=0.), dict(lam=0.), dict(mu=0.)])
def test_terms_can_be_left_out(weights):
    model = build(**weights).train()
    loss = model.loss(model(*inputs(model)), torch.tensor([0, 3]))
    full = {'ranking': 1., 'lam': 1., 'mu': 1.} | weights
    assert_close(loss['total'], full['ranking']*loss['ranking'] + full['lam']*loss['scrutinizer'] + full['mu']*loss['region'])

def test_other_sizes_and_lengths_run():
    model = build().eval()
    with torch.no_grad(): assert model(seeded(1, 3, 3, 96, 80)).logits.shape == (1, 4)

@pytest.mark.parametrize('bad, match', [(dict(K=4, M=3), 'K ≤ M'), (dict(border='crop'), 'border'), (dict(join='aff'), 'nts-aff'), (dict(body='vgg'), 'body')])
def test_wrong_options_are_explained(bad, match):
    with pytest.raises(ValueError, match=match): build(**bad)

def test_overfits_one_batch():
    torch.manual_seed(0)
    model = build(classes=3, dropout=0.).train()
    clip, target = seeded(3, 3, 2, 64, 64), torch.arange(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        loss = model.loss(model(clip), target)
        optimizer.zero_grad(); loss['total'].backward(); optimizer.step()
    assert loss['scrutinizer'] < .1 and (model(clip).logits.argmax(1) == target).all()

def test_training_works_after_inference():
    from fgar.models.nts import _anchors
    _anchors.cache_clear()
    model = build()
    with torch.inference_mode(): model.eval()(*inputs(model))
    model.train()
    model.loss(model(*inputs(model)), torch.tensor([0, 3]))['total'].backward()
    assert model.screening.tidy1.weight.grad is not None

def test_frames_and_regions_have_their_own_averages():
    model = build().train()
    for norm in model.norms: norm.momentum = 1.                      # keep the last batch's statistics
    seen = []
    layer = model.body.layer3[0].bn1
    layer.register_forward_hook(lambda m, i, o: seen.append(i[0].detach()))
    model(*inputs(model))
    frames, regions = seen
    assert frames.shape[-1] == 4 and regions.shape[-1] == 2          # 64 px, and 32 px of region
    for x, mean, var in ((frames, layer.running_mean, layer.running_var), (regions, layer.region_mean, layer.region_var)):
        assert_close(mean, x.mean((0, 2, 3))); assert_close(var, x.var((0, 2, 3)))

def test_split_norms_is_batch_norm_otherwise():
    torch.manual_seed(0)
    body = TSN(3, body='small', dropout=0.)
    twin = copy.deepcopy(body)
    assert len(split_norms(body)) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in twin.modules()) and not split_norms(body)
    assert dict(body.named_parameters()).keys() == dict(twin.named_parameters()).keys() and twin.state_dict().keys() < body.state_dict().keys()
    x = seeded(2, 3, 2, 32, 32)
    assert_close(body.train()(x).logits, twin.train()(x).logits)
    for key, value in twin.state_dict().items():
        if 'running' in key: assert_close(body.state_dict()[key], value)
    assert not build(norm='group').norms

def test_a_trained_tsn_fills_both_averages():
    torch.manual_seed(0)
    tsn = TSN(4, body='small')
    for name, x in tsn.named_buffers():
        if 'running' in name: x.uniform_(.5, 2)
    model = build()
    missing, _ = model.load_state_dict(tsn.state_dict(), strict=False)
    assert not [k for k in missing if k.startswith('body.')] and not [k for k in tsn.state_dict() if 'region' in k]
    for layer in model.norms: assert_close((layer.region_mean, layer.region_var), (layer.running_mean, layer.running_var))
    own = model.state_dict() | {'body.bn1.region_mean': torch.full_like(model.body.bn1.region_mean, 7.)}
    model.load_state_dict(own)
    assert (model.body.bn1.region_mean == 7).all()                    # averages of their own stay their own

@pytest.mark.parametrize('name, body', [('nts', 'bn_inception'), ('nts-aff', 'bn_inception'), ('nts-fpn', 'resnet18')])
def test_other_bodies_learn(name, body):
    model = build(name, body=body, frames=1, crop=32).train()
    model.loss(model(*inputs(model, 2, 1)), torch.tensor([0, 3]))['total'].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert len(model.norms) == sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) > 10

def test_a_body_that_rounds_down_wants_whole_strides():
    with torch.device('meta'), pytest.raises(ValueError, match='multiples of 128'): fgar.create('nts', classes=3, frames=1, size=100, body='vgg16', border='pad').eval()(torch.empty(1, 3, 1, 100, 100))

# ---- streams and extensions

def test_flow_stream_sees_the_flow_as_pictures():
    model = build('nts-flow').eval()
    flow, = inputs(model)
    assert model.body.conv1.in_channels == 6
    seen = []
    model.body.conv1.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    with torch.no_grad(): model(flow)
    assert_close(seen[0].unflatten(0, (2, 2)), flow_images(flow, 3).transpose(1, 2))
    assert seen[1].shape == (2*2*2, 6, 32, 32)                        # regions are cut from the stack
    with pytest.raises(ValueError, match='stack'): model(flow[:, :, :4])

@pytest.mark.parametrize('second, kind', [('tsn', FlowTSN), ('nts', NTSNet)])
def test_two_streams(second, kind):
    model = build('nts-two-stream', second=second).eval()
    clip, flow = inputs(model)
    with torch.no_grad():
        pred = model(clip, flow)
        assert_close(pred.scores, .4*model.rgb(clip).scores + .6*model.flow(flow).scores)
    assert build('nts-two-stream', second=second, ranking=0., lam=.5, mu=.25).rgb.weights == (0., .5, .25)
    assert isinstance(model, FootballTwoStream) and isinstance(model.rgb, NTSNet) and isinstance(model.flow, kind) and model.stack == 3

@pytest.mark.parametrize('join', ['aff', 'iaff'])
def test_stage_fusion_lies_between_its_inputs(join):
    torch.manual_seed(0)
    fuse = StageFusion(6, 16, join, ratio=4).eval()
    maps = [None, None, seeded(2, 6, 5, 7), seeded(2, 16, 3, 4, seed=1)]
    out, other = fuse(maps), fuse.lateral(maps[2])
    assert out.shape == maps[3].shape
    assert (out <= torch.maximum(maps[3], other) + 1e-5).all() and (out >= torch.minimum(maps[3], other) - 1e-5).all()
    assert type(build('nts-aff', join=join).join.join).__name__.lower() == join

# ---- known numbers

def test_the_published_networks_size():
    with torch.device('meta'): model = fgar.create('nts', classes=200, size=448, border='pad')
    assert sum(p.numel() for p in model.parameters()) == 29_033_133
    body = sum(p.numel() for p in resnet_body('resnet50', 200).parameters())
    head = (2048*9 + 1)*128 + 2*(128*9 + 1)*128 + 129*(6 + 6 + 9)
    assert 29_033_133 == body + head + (2048 + 1)*200 + (5*2048 + 1)*200

def test_cost_counts_the_regions():
    (p, full), (_, few), (q, alone) = cost('nts', 26), cost('nts', 26, K=1, M=1), cost('tsn', 26)
    assert p > q and 1.9 < full/alone < 2.3                            # four crops of half the side are one more image
    assert few < full

def test_published_names_fill_the_model():
    with torch.device('meta'): model = fgar.create('nts', classes=7, size=448, border='pad')
    own = model.state_dict()
    theirs = {k: v for k, v in own.items() if '.region_' not in k}
    theirs = {k.replace('body.', 'pretrained_model.').replace('screening.', 'proposal_net.').replace('teacher.', 'partcls_net.').replace('scrutinizer.', 'concat_net.'): v for k, v in theirs.items()}
    assert {k.split('.')[0] for k in theirs} == {'pretrained_model', 'proposal_net', 'partcls_net', 'concat_net'}
    assert {'proposal_net.down1.weight', 'proposal_net.tidy3.bias', 'pretrained_model.layer4.2.bn3.running_var'} <= set(theirs)
    assert published_names({'net_state_dict': {'module.' + k: v for k, v in theirs.items()}}).keys() == own.keys()
    with pytest.raises(KeyError, match='state'): published_names({'conv1.weight': torch.zeros(1)})

# ---- the chapter

def test_folded_solutions_run():
    cells = json.loads((Path(__file__).parent.parent/'nbs/40_football_nts.ipynb').read_text())['cells']
    text = next(t for t in (''.join(c['source']) for c in cells) if '<summary>Solutions' in t)
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    assert len(blocks) == 3
    for block in blocks: exec(block, dict(torch=torch, F=F, create=fgar.create, anchors=anchors, inside=inside, ranking_loss=ranking_loss))


# ---- coverage

def test_covered():
    boxes = torch.tensor([[[0., 0, 10, 10], [20, 0, 30, 10]]]).expand(4, -1, -1)
    target = torch.tensor([[2., 2, 4, 4], [8, 0, 12, 10], [25, 5, 35, 10], [3, 3, 3, 9]])
    assert_close(covered(boxes, target), torch.tensor([1., .5, .5, float('nan')]), equal_nan=True)
    assert covered(boxes[:, None].expand(4, 5, 2, 4), target[:, None].expand(4, 5, 4)).shape == (4, 5)
    assert covered(torch.tensor([[5., 5, 4, 4]]), torch.tensor([0., 0, 9, 9])) == 0       # a box turned inside out

# ---- end to end

@pytest.mark.parametrize('name', NAMES)
def test_the_command_trains_it(name, tmp_path):
    from fgar.cli import main
    from fgar.train import load_checkpoint
    stack = 'stack 1 ' if name in ('nts-flow', 'nts-two-stream') else ''
    assert not main(f'train --model {name} --options body small M 2 K 1 {stack}border pad --frames 2 --size 48 --classes spin dunk --clips 4 --val-clips 2 --difficulty 0 --epochs 1 --warmup 0 --batch 2 '
                    f'--out {tmp_path}/run --quiet --no-tensorboard'.split())
    saved = load_checkpoint(tmp_path/'run/last.pt')
    assert saved.labels == ['spin', 'dunk'] and not saved.model.training
    with torch.no_grad(): assert saved.model(*inputs(saved.model, size=48)).logits.isfinite().all()


def test_frames_too_small_for_an_anchor_are_explained():
    with pytest.raises(ValueError, match=r'clip: expected frames that hold an anchor of 24 px, got \(16, 16\)'): fgar.create('nts', 5, body='small').eval()(torch.rand(1, 3, 2, 16, 16))
