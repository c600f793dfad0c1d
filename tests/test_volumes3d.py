"3D ResNets, their weights, inflation, and torchvision's video networks."
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import video

import fgar
from fgar.core import cost
from fgar.models.frames2d import resnet_body
from fgar.models.volumes3d import BODIES, Residual3D, ResNet3D, conv_asymmetric, inflate, load_volumes, resnet3d

TORCHVISION = ['r3d', 'mc3', 'r2plus1d', 's3d', 'mvit', 'swin3d']


def test_resnet50_is_the_published_size_and_shape():
    parameters, gmacs = cost('resnet3d50', classes=101)
    assert parameters == 46_405_925 and round(gmacs, 2) == 20.14
    with torch.device('meta'): model, x = resnet3d(50, 101), torch.empty(1, 3, 32, 112, 112)
    shapes = []
    x = model.stem(x)
    for i in range(1, 5): x = getattr(model, f'layer{i}')(x); shapes.append(tuple(x.shape[1:]))
    assert shapes == [(256, 16, 28, 28), (512, 8, 14, 14), (1024, 4, 7, 7), (2048, 2, 4, 4)]
    assert model.channels[1:] == [s[0] for s in shapes]


@pytest.mark.parametrize('depth', [10, 18, 34, 50, 101, 152, 200, 'small'])
def test_names_are_those_of_the_public_weights(depth):
    with torch.device('meta'): keys = set(resnet3d(depth, 7).state_dict())
    deep = isinstance(depth, int) and depth >= 50
    blocks = BODIES[f'resnet{depth}' if isinstance(depth, int) else depth]
    norm = lambda name: {f'{name}.{k}' for k in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')}
    expected = {'conv1.weight', 'fc.weight', 'fc.bias'} | norm('bn1')
    for stage, count in enumerate(blocks, 1):
        for b in range(count):
            block = f'layer{stage}.{b}'
            for i in range(1, 4 if deep else 3): expected |= {f'{block}.conv{i}.weight'} | norm(f'{block}.bn{i}')
            if b == 0 and (stage > 1 or deep or depth == 'small'): expected |= {f'{block}.downsample.0.weight'} | norm(f'{block}.downsample.1')
    assert keys == expected


@pytest.fixture(scope='module')
def public(tmp_path_factory):
    "A file as 3D-ResNets-PyTorch writes it, of an 18-layer network for 700 classes."
    path, model = tmp_path_factory.mktemp('public')/'r3d18_K_200ep.pth', resnet3d(18, 700)
    torch.save({'epoch': 200, 'arch': 'resnet-18', 'state_dict': {f'module.{k}': v for k, v in model.state_dict().items()}, 'optimizer': {}}, path)
    return path, model.state_dict()


def test_public_checkpoint_loads(public):
    path, state = public
    loaded = resnet3d(18, 700, weights=path).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[k], state[k]) for k in state)
    other = fgar.create('resnet3d18', classes=5, weights=str(path)).state_dict()
    assert all(torch.equal(other[k], state[k]) for k in state if not k.startswith('fc.')) and other['fc.weight'].shape == (5, 512)
    assert torch.equal(fgar.create('stmanet', classes=5, body='resnet18', weights=str(path)).body.layer4[0].conv1.weight, state['layer4.0.conv1.weight'])


def test_wrong_weights_say_what_differs(public, tmp_path):
    path, state = public
    damaged = {k: v for k, v in state.items() if not k.startswith('layer2.1')} | {'conv1.weight': torch.zeros(64, 3, 3, 3, 3)}
    torch.save(damaged, tmp_path/'damaged.pth')
    with pytest.raises(ValueError, match=r'missing \(layer2.1.conv1.weight, .*1 of another shape \(conv1.weight'): resnet3d(18, 5, weights=tmp_path/'damaged.pth')
    with pytest.raises(ValueError, match='of another shape'): resnet3d('small', 5, weights=path)
    with pytest.raises(FileNotFoundError, match='no file'): resnet3d(18, 5, weights=tmp_path/'none.pth')
    with pytest.raises(FileNotFoundError, match='IMAGENET1K_V1'): resnet3d(18, 5, weights='IMAGENET')
    (tmp_path/'text.pth').write_text('hello')
    with pytest.raises(ValueError, match='cannot be read'): resnet3d(10, 5, weights=tmp_path/'text.pth')


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_inflated_network_sees_a_picture_in_a_still_clip(name, tmp_path):
    torch.manual_seed(1)
    flat = resnet_body(name, 5).double().eval()
    for m in flat.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 1.5)
    torch.save(flat.state_dict(), tmp_path/'flat.pt')
    deep = ResNet3D(5, name, weights=tmp_path/'flat.pt').double().eval()
    picture = torch.randn(2, 3, 40, 56, dtype=torch.double)
    with torch.no_grad(): assert_close(deep(picture[:, :, None].expand(-1, -1, 9, -1, -1)).logits, flat(picture))


@pytest.mark.parametrize('how, length', [('centre', 1), ('centre', 3), ('centre', 7), ('mean', 3), ('mean', 7)])
def test_inflated_filter_is_exact_inside_and_centre_everywhere(how, length):
    w, x = torch.randn(4, 3, 3, 5, dtype=torch.double), torch.randn(2, 3, 6, 7, dtype=torch.double)
    y = F.conv3d(x[:, :, None].expand(-1, -1, 15, -1, -1), inflate(w, length, how), padding=(length//2, 1, 2))
    flat = F.conv2d(x, w, padding=(1, 2))[:, :, None].expand_as(y)
    inside = slice(None) if how == 'centre' else slice(length//2, 15 - length//2)
    assert_close(y[:, :, inside], flat[:, :, inside])
    if how == 'mean': assert not torch.allclose(y[:, :, 0], flat[:, :, 0])


def test_inflate_errors():
    with pytest.raises(ValueError, match='weight: expected'): inflate(torch.zeros(4, 3, 3, 3, 3), 3)
    with pytest.raises(ValueError, match='length'): inflate(torch.zeros(4, 3, 3, 3), 0)
    with pytest.raises(ValueError, match='how'): inflate(torch.zeros(4, 3, 3, 3), 3, 'median')


@pytest.mark.parametrize('stride', [1, 2, (1, 2, 2)])
@pytest.mark.parametrize('bottleneck', [False, True])
def test_a_block_is_its_equation(stride, bottleneck):
    block = Residual3D(8, 4, stride, bottleneck).double().eval()
    x = torch.randn(2, 8, 5, 7, 6, dtype=torch.double)
    if bottleneck:
        y = block.bn1(block.conv1(x)).relu()
        y = block.bn3(block.conv3(block.bn2(block.conv2(y)).relu()))
    else: y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert_close(block(x), (y + block.downsample(x)).relu())


@pytest.mark.parametrize('stride', [1, 2, (1, 2, 2)])
def test_asymmetric_layer_has_the_shape_of_the_full_one(stride):
    x = torch.randn(1, 6, 5, 7, 8)
    full, split = nn.Conv3d(6, 9, 3, stride, 1, bias=False), conv_asymmetric(6, 9, stride)
    assert full(x).shape == split(x).shape and sum(p.numel() for p in split.parameters()) == 3*6*9 + 2*3*9*9
    rank_one = torch.einsum('oi,x,y,z->oizyx', torch.eye(6), *torch.randn(3, 3))
    layer = conv_asymmetric(6, 6, stride)
    for part, vector, shape in zip(layer, (rank_one[0, 0, 1, 1]/rank_one[0, 0, 1, 1, 1], rank_one[0, 0, 1, :, 1], rank_one[0, 0, :, 1, 1]/rank_one[0, 0, 1, 1, 1]), ((1, 1, 3), (1, 3, 1), (3, 1, 1))):
        part.weight.data = torch.eye(6)[:, :, None, None, None]*vector.view(shape)
    assert_close(layer(x), F.conv3d(x, rank_one, stride=stride, padding=1), rtol=1e-3, atol=1e-3)


def test_residual_frames_see_differences_alone():
    model = fgar.create('rf3d', classes=5, body='small', frames=6, size=32).eval()
    clip = torch.randn(2, 3, 6, 32, 32)
    with torch.no_grad(): assert_close(model(clip + torch.randn(2, 3, 1, 32, 32)).logits, model(clip).logits, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match='at least 2 frames'): model(clip[:, :, :1])


@pytest.mark.parametrize('name', TORCHVISION)
def test_torchvision_networks_count_as_theirs(name):
    entry = fgar.spec(name)
    parameters, gmacs = cost(name, classes=400)
    with torch.device('meta'): theirs = getattr(video, entry.build.build)().eval()
    with FlopCounterMode(display=False) as counter: theirs(torch.empty(1, 3, entry.frames, entry.size, entry.size, device='meta'))
    assert parameters == sum(p.numel() for p in theirs.parameters()) and gmacs == counter.get_total_flops()/2e9


@pytest.mark.parametrize('name', ['r3d', 's3d'])
def test_torchvision_file_loads_without_its_classifier(name, tmp_path):
    net = fgar.create(name, classes=9).net
    torch.save(net.state_dict(), tmp_path/'w.pth')
    other = fgar.create(name, classes=4, weights=str(tmp_path/'w.pth')).net.state_dict()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.items() if not k.startswith(('fc', 'classifier')))
    with pytest.raises(FileNotFoundError, match='KINETICS400_V1'): fgar.create(name, classes=4, weights='KINETICS')


def test_clips_too_short_for_s3d_are_explained():
    net = fgar.create('s3d', classes=3).eval()
    with torch.no_grad(): assert net(torch.zeros(1, 3, 5, 32, 32)).logits.isfinite().all()
    for frames in (1, 4):
        with pytest.raises(ValueError, match=f'at least 5 frames for s3d.*got {frames}'): net(torch.zeros(1, 3, frames, 32, 32))


@pytest.mark.parametrize('body', [3, 'resnet51', 'tiny'])
def test_unknown_body(body):
    with pytest.raises(ValueError, match='body: expected one of'): ResNet3D(5, body)


@pytest.mark.parametrize('shape', [(1, 3, 1, 33, 47), (2, 3, 5, 40, 31)])
def test_any_size_goes_through(shape):
    assert resnet3d('small', 4).eval()(torch.zeros(shape)).logits.shape == (shape[0], 4)

def test_small3d_needs_a_stretch_of_time():
    with pytest.raises(ValueError, match='parts: expected at least 1, got 0'): fgar.create('small3d', 3, parts=0)

def test_no_field_is_no_flow():
    from fgar.models.two_stream import flow_images
    with pytest.raises(ValueError, match='stack: expected at least one flow field per moment, got 0'): flow_images(torch.zeros(1, 2, 4, 8, 8), 0)
