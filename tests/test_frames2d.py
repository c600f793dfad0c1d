"Temporal shift, consensus, bodies and their weights."
import copy

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as tv

import fgar
from fgar.models.frames2d import GateShiftFuse, SegmentConsensus, TemporalShift, cross_modality_init, frame_body, head_name, load_body, partial_bn, pooled, resnet_body, stage_widths, stages, temporal_shift
from fgar.models.frames2d import BODIES


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3), t=st.integers(1, 6), c=st.integers(1, 19), fold=st.integers(2, 9), h=st.integers(1, 3))
def test_shift_moves_each_channel_as_stated(n, t, c, fold, h):
    x = torch.randn(n, t, c, h, h+1)
    y = temporal_shift(x.flatten(0, 1), t, fold).unflatten(0, (n, t))
    part = c//fold
    for i in range(t):
        ahead = x[:, i+1, :part] if i+1 < t else torch.zeros_like(x[:, 0, :part])
        back = x[:, i-1, part:2*part] if i > 0 else torch.zeros_like(x[:, 0, part:2*part])
        assert torch.equal(y[:, i], torch.cat([ahead, back, x[:, i, 2*part:]], 1))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.uint8])
def test_shift_keeps_dtype_and_input(dtype):
    x = (torch.rand(8, 16, 2, 3)*9).to(dtype)
    before = x.clone()
    assert TemporalShift(4)(x).dtype == dtype and torch.equal(x, before)


def test_shift_takes_channels_last():
    x = torch.randn(8, 16, 5, 3)
    assert_close(temporal_shift(x.to(memory_format=torch.channels_last), 4), temporal_shift(x, 4))


def test_shift_gradient():
    x = torch.randn(6, 9, 2, 1, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 3, 4), x)


@pytest.mark.parametrize('shape, frames, fold, named', [((2, 8, 4, 3, 3), 4, 8, 'x'), ((6, 8, 3, 3), 4, 8, 'frames'), ((6, 8, 3, 3), 0, 8, 'frames'), ((6, 8, 3, 3), 3, 1, 'fold')])
def test_shift_errors(shape, frames, fold, named):
    with pytest.raises(ValueError, match=f'^{named}: expected'): temporal_shift(torch.zeros(shape), frames, fold)


def test_consensus_errors():
    with pytest.raises(ValueError, match="Did you mean 'mean'"): SegmentConsensus('men')
    with pytest.raises(ValueError, match='scores: expected'): SegmentConsensus()(torch.zeros(8, 5))


@pytest.mark.parametrize('name', ['tsn', 'tsm'])
def test_resnet50_parameters_and_gmacs(name):
    with torch.device('meta'): model, clip = fgar.create(name, classes=174), torch.empty(1, 3, 8, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == 23_864_558
    with FlopCounterMode(display=False) as counter: model.eval()(clip)
    assert round(counter.get_total_flops()/2e9, 2) == 32.70


@pytest.mark.parametrize('body, parameters, macs', [('resnet50', 25_557_032, 4_089_184_256), ('resnet18', 11_689_512, 1_814_073_344), ('vgg16', 138_357_544, 15_470_264_320), ('bn_inception', 11_295_240, 2.033e9)])
def test_published_size_of_each_body(body, parameters, macs):
    with torch.device('meta'): net, x = frame_body(body, 1000).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter: out = net(x)
    found = counter.get_total_flops()//2
    assert out.shape == (1, 1000) and sum(p.numel() for p in net.parameters()) == parameters
    assert found == macs if isinstance(macs, int) else round(found/1e9, 3) == macs/1e9


@pytest.mark.parametrize('body', BODIES)
def test_stages_make_what_the_body_makes(body):
    "The four parts, the vector and the classifier are the whole network; strides are 4, 8, 16, 32."
    with torch.device('meta'):
        net, x = frame_body(body, 5, in_channels=6).eval(), torch.empty(2, 6, 96, 128)
        for stage, width, stride in zip(stages(net), stage_widths(net), (4, 8, 16, 32)):
            x = stage(x)
            assert x.shape == (2, width, 96//stride, 128//stride)
        assert net.get_submodule(head_name(net))(pooled(net, x)).shape == (2, 5)


@pytest.mark.parametrize('body', ['resnet18', 'bn_inception'])
def test_stages_equal_forward(body):
    torch.manual_seed(0)
    net, x = frame_body(body, 5).eval(), torch.randn(2, 3, 64, 64)
    y = x
    with torch.no_grad():
        for stage in stages(net): y = stage(y)
        assert_close(net.get_submodule(head_name(net))(pooled(net, y)), net(x))


@pytest.mark.parametrize('body', ['vgg16', 'bn_inception'])
@pytest.mark.parametrize('name', ['tsn', 'tsn-flow', 'tsn-two-stream', 'cnn', 'two-stream', 'lrcn', 'cnn-gru', 'bilinear', 'bilinear-flow', 'nts', 'nts-aff', 'nts-fpn', 'nts-two-stream'])
def test_systems_take_every_body(name, body):
    with torch.device('meta'):
        model = fgar.create(name, classes=26, frames=2, body=body, **({'freeze_bn': True} if name in ('tsn', 'tsn-flow', 'lrcn') else {})).train()
    assert model.eval()(*fgar.core.example_inputs(model, 2, device='meta')).logits.shape == (2, 26)
    if model.spec.build.__name__ in ('TSN', 'LRCN'):
        norms = [m for m in model.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert sum(m.training for m in norms) == min(1, len(norms))


def test_temporal_modules_want_residual_blocks():
    for name in ('tsm', 'gsf'):
        with pytest.raises(ValueError, match='body of residual blocks.*resnet50'): fgar.create(name, classes=3, body='vgg16')
    with pytest.raises(ValueError, match="norm: expected 'batch'.*resnet18"): frame_body('bn_inception', 3, norm='group')


def same_form(net, path, change=lambda k: k, **shapes):
    "A file with the names and shapes of a network's weights and next to no contents."
    state = {change(k): torch.full((), .01*(i + 1)).expand(v.shape) for i, (k, v) in enumerate(net.state_dict().items())}
    torch.save(state | {k: torch.full((), .5).expand(v) for k, v in shapes.items()}, path)
    return {k: v.flatten()[0].item() for k, v in state.items()}


def test_vgg_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.init, 'kaiming_normal_', lambda w, **_: w)                  # 138 million draws that a file overwrites
    with torch.device('meta'): theirs = tv.vgg16()
    values = same_form(theirs, tmp_path/'vgg.pth')
    model = fgar.create('tsn-flow', classes=26, body='vgg16', stack=5, weights=tmp_path/'vgg.pth')
    state = model.body.state_dict()
    assert state.keys() == theirs.state_dict().keys() and model.head.out_features == 26
    assert all(v.eq(values[k]).all() for k, v in state.items() if not k.startswith('classifier.6.'))
    assert state['features.0.weight'].shape == (64, 10, 3, 3)                                # cross-modality: the mean of equal filters
    same_form(theirs, tmp_path/'other.pth', lambda k: k.replace('features.28', 'features.29'))
    with pytest.raises(ValueError, match=r"other.pth' does not fit.*2 missing \(features.28.weight, features.28.bias\); 2 unexpected \(features.29.weight"), torch.device('meta'): fgar.create('tsn', classes=26, body='vgg16', weights=tmp_path/'other.pth')
    with pytest.raises(FileNotFoundError, match='one of IMAGENET1K_V1'): frame_body('vgg16', 2, weights='IMAGENET1K_V9')


def test_bn_inception_weights_through_tsn(tmp_path):
    with torch.device('meta'): theirs = frame_body('bn_inception', 1000)
    values = same_form(theirs, tmp_path/'bn.pth', lambda k: 'module.base_model.' + k)
    model = fgar.create('tsn', classes=26, body='bn_inception', weights=tmp_path/'bn.pth', freeze_bn=True)
    assert all(v.float().allclose(torch.tensor(values['module.base_model.' + k])) for k, v in model.body.state_dict().items() if not k.startswith(('conv1_7x7_s2.', 'last_linear.')) and v.is_floating_point())
    torch.save(tv.resnet18().state_dict(), tmp_path/'resnet.pth')
    with pytest.raises(ValueError, match='missing .conv1_7x7_s2.weight.*unexpected .conv1.weight'): fgar.create('tsn', classes=26, body='bn_inception', weights=tmp_path/'resnet.pth')
    with pytest.raises(FileNotFoundError, match='IMAGENET1K_V1'): fgar.create('tsn', classes=26, body='bn_inception', weights='IMAGENET1K_V1')


def test_weights_learnt_on_flow_fit_a_flow_stream(tmp_path):
    torch.manual_seed(0)
    source = frame_body('small', 7, in_channels=6)
    torch.save(source.state_dict(), tmp_path/'flow.pth')
    body = frame_body('small', 26, in_channels=6, weights=tmp_path/'flow.pth')
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in body.state_dict().items() if not k.startswith('fc.'))
    with pytest.raises(ValueError, match='conv1.weight .16, 6, 5, 5. for .16, 3, 5, 5.'): frame_body('small', 26, weights=tmp_path/'flow.pth')


@pytest.mark.parametrize('body', ['resnet18', 'resnet50', 'vgg16'])
def test_torchvision_names(body):
    with torch.device('meta'): ours, theirs = frame_body(body, 1000).state_dict(), getattr(tv, body)().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.fixture(scope='module')
def resnet18(tmp_path_factory):
    "A torchvision network with statistics that matter, and its file."
    torch.manual_seed(0)
    net = tv.resnet18(num_classes=7)
    with torch.no_grad(): net(torch.randn(4, 3, 32, 32))
    path = tmp_path_factory.mktemp('weights')/'resnet18.pth'
    torch.save(net.state_dict(), path)
    return net.eval(), path


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'state_dict': {f'module.base_model.{k}'.replace('conv1.weight', 'conv1.net.weight') if 'layer' in k else f'module.base_model.{k}': v for k, v in s.items()}}],
                         ids=['torchvision', 'published TSM'])
def test_weights_load(resnet18, tmp_path, wrap):
    net, path = resnet18
    torch.save(wrap(net.state_dict()), tmp_path/'w.pth')
    clip = torch.randn(2, 3, 3, 32, 32)
    model = fgar.create('tsn', classes=7, body='resnet18', weights=tmp_path/'w.pth').eval()
    assert_close(model(clip).extras['frame_logits'].flatten(0, 1), net(rearrange(clip, 'n c t h w -> (n t) c h w')))
    tsm = fgar.create('tsm', classes=7, body='resnet18', frames=3, weights=str(tmp_path/'w.pth'))
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in tsm.body.state_dict().items())


def test_weights_for_other_classes_keep_the_new_classifier(resnet18):
    body = resnet_body('resnet18', 5, weights=resnet18[1])
    assert body.fc.weight.shape == (5, 512) and torch.equal(body.conv1.weight, resnet18[0].conv1.weight)


def test_weights_for_flow_are_averaged(resnet18):
    body = resnet_body('resnet18', 5, in_channels=10, weights=resnet18[1])
    assert_close(body.conv1.weight.detach(), cross_modality_init(resnet18[0].conv1.weight.detach(), 10))
    assert body.conv1.weight.requires_grad


def test_weights_errors(resnet18, tmp_path):
    with pytest.raises(ValueError, match=r'missing \(.*conv3.weight.*another network'): resnet_body('resnet50', 5, weights=resnet18[1])
    with pytest.raises(FileNotFoundError, match='IMAGENET1K_V1'): resnet_body('resnet18', 5, weights='IMAGENET')
    with pytest.raises(FileNotFoundError, match='state-dict file'): resnet_body('small', 5, weights='nowhere.pth')
    (tmp_path/'cut.pth').write_bytes(resnet18[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match='cut short'): resnet_body('resnet18', 5, weights=tmp_path/'cut.pth')
    with pytest.raises(ValueError, match='1 unexpected'): load_body(resnet_body('small', 5), {**resnet_body('small', 5).state_dict(), 'x': torch.zeros(1)})


def test_order_blind_and_not():
    clip = torch.randn(2, 3, 4, 32, 32)
    shuffled = clip[:, :, [2, 0, 3, 1]]
    for name, blind in (('tsn', True), ('tsm', False)):
        torch.manual_seed(0)
        model = fgar.create(name, classes=3, frames=4, size=32, body='small').eval()
        assert torch.allclose(model(clip).logits, model(shuffled).logits, atol=1e-5) == blind


def test_tsm_with_one_frame_sees_no_neighbours():
    "Nothing but zeros comes in from outside the clip, so the shifted channels cannot carry anything."
    torch.manual_seed(0)
    model = fgar.create('tsm', classes=3, frames=1, size=32, body='small').eval()
    shifted = [block.conv1 for layer in (model.body.layer1, model.body.layer4) for block in layer]
    clip = torch.randn(1, 3, 1, 32, 32)
    before = model(clip).logits
    with torch.no_grad():
        for conv in shifted: conv.weight[:, :2*(conv.in_channels//8)] += 1
    assert_close(model(clip).logits, before)


@pytest.mark.parametrize('frames, parts, wanted', [(8, 4, [0, 0, 1, 1, 2, 2, 3, 3]), (5, 3, [0, 0, 1, 1, 2]), (4, 1, [0]*4), (1, None, [0]), (3, None, [0, 1, 2])])
def test_each_part_of_the_clip_has_its_classifier(frames, parts, wanted):
    model = fgar.create('tsm', classes=3, frames=frames, size=32, body='small', parts=parts).eval()
    assert model.part.tolist() == wanted
    clip = torch.randn(2, 3, frames, 32, 32)
    features = model.body.avgpool(model.maps(rearrange(clip, 'n c t h w -> (n t) c h w'))).flatten(1).unflatten(0, (2, frames))
    heads = model.body.fc.weight.unflatten(0, (-1, 3)), model.body.fc.bias.unflatten(0, (-1, 3))
    scores = torch.stack([features[:, t] @ heads[0][p].T + heads[1][p] for t, p in enumerate(wanted)], 1)
    assert_close(model(clip).logits, scores.mean(1))
    assert_close(model(clip).extras['frame_logits'], scores)


def test_parts_are_checked():
    with pytest.raises(ValueError, match='parts: expected 1 to frames=4, got 5'): fgar.create('tsm', classes=3, frames=4, body='small', parts=5)


def test_tsm_refuses_another_length():
    with pytest.raises(ValueError, match='expected T=4.*got 8.*frames=8'): fgar.create('tsm', classes=3, frames=4, size=32, body='small')(torch.zeros(1, 3, 8, 32, 32))


def test_copies_do_not_share_the_shift():
    model = fgar.create('tsm', classes=3, frames=4, size=32, body='small').eval()
    twin = copy.deepcopy(model)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(twin(clip).logits, model(clip).logits)
    twin.body.layer1[0].conv1.shift.fold = 2
    assert not torch.allclose(twin(clip).logits, model(clip).logits)


def test_partial_bn_survives_train():
    model = fgar.create('tsn', classes=3, size=32, body='small', freeze_bn=True).train()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert layers[0].training and not any(m.training for m in layers[1:])
    assert layers[0].weight.requires_grad and not any(m.weight.requires_grad for m in layers[1:])
    assert partial_bn(model) is model


def test_flow_channels():
    model = fgar.create('tsn', classes=3, size=32, body='small', in_channels=10)
    assert model(torch.randn(1, 10, 2, 32, 32)).logits.shape == (1, 3)
    with pytest.raises(ValueError, match='expected .*10'): model(torch.randn(1, 3, 2, 32, 32))


@pytest.fixture(params=[(4, 1, 25), (24, 5, 50), (48, 3, 100), (67, 2, 30)], ids=str)
def gate(request):
    channels, frames, ratio = request.param
    torch.manual_seed(0)
    module = GateShiftFuse(channels, frames, ratio).double()
    for p in module.parameters(): torch.nn.init.normal_(p, std=.3)
    x = torch.randn(2*frames, channels, 3, 4, dtype=torch.double, requires_grad=True)
    module(x); module.eval()                                   # statistics that matter
    return module, x


def test_gate_equals_its_3d_convolution(gate):
    module, x = gate
    own = module.bn(x[:, :module.channels]).relu()
    wanted = module.conv3D(rearrange(own, '(n t) c h w -> n c t h w', n=2))
    assert_close(module.gate(own), rearrange(wanted, 'n g t h w -> n t g h w'))


def test_gate_leaves_other_channels_alone_and_reaches_one_frame(gate):
    module, x = gate
    y = module(x)
    assert y.shape == x.shape and torch.equal(y[:, module.channels:], x[:, module.channels:])
    frames = module.frames
    if frames >= 5:
        grad, = torch.autograd.grad(y[2, :module.channels].square().sum(), x)
        seen = grad.abs().amax((1, 2, 3)) > 0
        assert seen.tolist() == [True]*5 + [False]*5            # the gate sees a frame each way, and y of a neighbour has such a gate; never the other video


@pytest.mark.parametrize('channels, ratio, named', [(64, 0, 'ratio'), (64, 101, 'ratio'), (3, 25, 'channels')])
def test_gate_errors(channels, ratio, named):
    with pytest.raises(ValueError, match=f'^{named}: expected'): GateShiftFuse(channels, 8, ratio)


def test_gate_refuses_other_lengths():
    with pytest.raises(ValueError, match='frames: expected a divisor of the 6 maps'): GateShiftFuse(8, 4)(torch.zeros(6, 8, 2, 2))


def test_gsf_parameters_gmacs_and_keys():
    with torch.device('meta'): model, plain = fgar.create('gsf', classes=174), tv.resnet50(num_classes=174)
    assert sum(p.numel() for p in model.parameters()) == 23_974_702
    assert round(fgar.core.cost('gsf', 174)[1], 2) == 33.00
    keys, added = model.body.state_dict(), {'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var', 'bn.num_batches_tracked', 'conv3D.weight', 'conv3D.bias',
                                            'channel_conv1.weight', 'channel_conv1.bias', 'channel_conv2.weight', 'channel_conv2.bias'}
    assert {k: v.shape for k, v in keys.items() if '.gsf.' not in k} == {k: v.shape for k, v in plain.state_dict().items()}
    assert {k.split('.gsf.')[1] for k in keys if '.gsf.' in k} == added and len([k for k in keys if '.gsf.' in k]) == 16*len(added)
    assert keys['layer1.0.gsf.conv3D.weight'].shape == (2, 32, 3, 3, 3)


def test_gsf_takes_picture_weights_and_published_ones(resnet18):
    net, path = resnet18
    model = fgar.create('gsf', classes=7, body='resnet18', frames=4, weights=path)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in model.body.state_dict().items() if '.gsf.' not in k)
    twin = fgar.create('gsf', classes=7, body='resnet18', frames=4)
    load_body(twin.body, model.body.state_dict())
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(twin.eval()(clip).logits, model.eval()(clip).logits)
    load_body(twin.body, net.state_dict(), optional=('.gsf.',))
    with pytest.raises(ValueError, match='missing .*gsf'): load_body(twin.body, net.state_dict())


def test_copies_do_not_share_the_gate():
    model = fgar.create('gsf', classes=3, frames=4, size=32, body='small').eval()
    twin = copy.deepcopy(model)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert_close(twin(clip).logits, model(clip).logits)
    with torch.no_grad(): twin.body.layer1[0].gsf.conv3D.weight.mul_(50)
    assert not torch.allclose(twin(clip).logits, model(clip).logits)


def test_partial_bn_holds_for_any_network_and_its_copies(tmp_path):
    norms = lambda net: [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.manual_seed(0)
    net = partial_bn(torch.nn.Sequential(*[layer for c in (3, 4, 5) for layer in (torch.nn.Conv2d(c, c + 1, 3), torch.nn.BatchNorm2d(c + 1))]))
    torch.save(net, tmp_path/'net.pt')
    for twin in (net, copy.deepcopy(net), torch.load(tmp_path/'net.pt', weights_only=False)):
        first, *others = norms(twin.eval().train())
        assert first.training and not any(m.training or m.weight.requires_grad for m in others)
        twin(torch.randn(2, 3, 9, 9))
        assert first.running_mean.any() and not any(m.running_mean.any() for m in others)
    assert others[0] is not norms(net)[1]


@pytest.mark.parametrize('name', ['tsn', 'gsf'])
def test_norms_are_frozen_from_the_beginning(name):
    first, *others = [m for m in fgar.create(name, classes=3, frames=2, size=32, body='small', freeze_bn=True).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert first.training and not any(m.training for m in others)


def test_gate_needs_a_frame():
    with pytest.raises(ValueError, match='frames: expected at least 1, got 0'): GateShiftFuse(16, 0)
