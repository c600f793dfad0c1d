"BN-Inception: names, shapes, loading, partial batch norm."
import re

import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from fgar.models.inception2d import BLOCKS, BNInception, SmallBody, bn_inception, from_caffe, picture_body, read_weights


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return BNInception(7).eval()


def test_size_of_the_published_network():
    with torch.device('meta'): state = BNInception(1000).state_dict()
    floats = {k: v for k, v in state.items() if 'running' not in k and 'tracked' not in k}
    assert sum(v.numel() for v in floats.values()) == 11_295_240
    assert sum(k.endswith('.weight') and v.ndim == 4 for k, v in floats.items()) == 69
    assert all(k.replace('.weight', '.bias') in floats for k, v in floats.items() if v.ndim == 4)


@pytest.mark.parametrize('key, shape', [
    ('conv1_7x7_s2.weight', (64, 3, 7, 7)), ('conv1_7x7_s2_bn.running_mean', (64,)), ('conv2_3x3_reduce.bias', (64,)), ('conv2_3x3.weight', (192, 64, 3, 3)),
    ('inception_3a_1x1.weight', (64, 192, 1, 1)), ('inception_3a_pool_proj.weight', (32, 192, 1, 1)), ('inception_3c_3x3.weight', (160, 128, 3, 3)), ('inception_3c_double_3x3_2.weight', (96, 96, 3, 3)),
    ('inception_4a_double_3x3_1.weight', (128, 96, 3, 3)), ('inception_4e_double_3x3_2_bn.weight', (256,)), ('inception_5a_1x1.weight', (352, 1056, 1, 1)),
    ('inception_5b_pool_proj_bn.bias', (128,)), ('last_linear.weight', (7, 1024))])
def test_names_of_the_public_file(net, key, shape): assert tuple(net.state_dict()[key].shape) == shape


def test_blocks_that_halve_have_two_convolved_branches(net):
    for name in ('3c', '4e'): assert not any(k.startswith((f'inception_{name}_1x1', f'inception_{name}_pool')) for k in net.state_dict())


@pytest.mark.parametrize('size, side', [(224, 7), (64, 2), (65, 2), (96, 3), (130, 4)])
def test_maps(net, size, side):
    with torch.device('meta'): small = BNInception(2).eval()
    assert small.maps(torch.empty(2, 3, size, size, device='meta')).shape == (2, 1024, side, side)


def test_a_block_branch_by_branch(net):
    "Against modules built here from the words of the paper and the facts of the file."
    torch.manual_seed(1)
    def unit(name, x, stride=1, pad=0):
        conv, norm = getattr(net, name), getattr(net, name + '_bn')
        out = F.conv2d(x, conv.weight, conv.bias, stride, pad)
        return ((out - norm.running_mean[:, None, None])/(norm.running_var + 1e-5)[:, None, None].sqrt()*norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    for name, pool in (('3a', nn.AvgPool2d(3, 1, 1, count_include_pad=True)), ('5b', nn.MaxPool2d(3, 1, 1)), ('3c', nn.MaxPool2d(3, 2, ceil_mode=True))):
        p, stride = f'inception_{name}_', 2 if name == '3c' else 1
        x = torch.randn(2, {'3a': 192, '5b': 1024, '3c': 320}[name], 6, 8)
        branches = [] if name == '3c' else [unit(p + '1x1', x)]
        branches += [unit(p + '3x3', unit(p + '3x3_reduce', x), stride, 1), unit(p + 'double_3x3_2', unit(p + 'double_3x3_1', unit(p + 'double_3x3_reduce', x), 1, 1), stride, 1)]
        branches.append(pool(x) if name == '3c' else unit(p + 'pool_proj', pool(x)))
        with torch.no_grad(): assert_close(net.block(name, x), torch.cat(branches, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('wrap', ['plain', 'tsn', 'fc'])
def test_weights_load_from_the_files_that_are_about(tmp_path, net, wrap):
    state = {k: v for k, v in net.state_dict().items() if 'tracked' not in k}
    if wrap == 'tsn': state = {'state_dict': {'module.base_model.' + k.replace('last_linear', 'new_fc'): v for k, v in state.items()}}
    if wrap == 'fc': state = {k.replace('last_linear', 'fc'): v[None] if '_bn.' in k else v for k, v in state.items()}
    torch.save(state, tmp_path/'w.pth')
    same, other = bn_inception(7, weights=tmp_path/'w.pth', caffe=False), bn_inception(3, weights=tmp_path/'w.pth', caffe=False)
    for k, v in net.state_dict().items():
        assert_close(same.state_dict()[k], v)
        if 'last_linear' not in k: assert_close(other.state_dict()[k], v)
    assert set(read_weights(tmp_path/'w.pth')) == {k for k in net.state_dict() if 'tracked' not in k}


def test_wrong_files_are_explained(tmp_path, net):
    with pytest.raises(FileNotFoundError, match='bn_inception'): bn_inception(3, weights=tmp_path/'none.pth')
    (tmp_path/'text.pth').write_text('not weights')
    with pytest.raises(ValueError, match='cut short'): bn_inception(3, weights=tmp_path/'text.pth')
    state = net.state_dict(); state['inception_4a_odd.weight'] = state.pop('inception_4a_1x1.weight'); state['conv2_3x3.weight'] = torch.zeros(192, 32, 3, 3)
    torch.save(state, tmp_path/'w.pth')
    with pytest.raises(ValueError) as e: bn_inception(3, weights=tmp_path/'w.pth')
    for part in ('inception_4a_1x1.weight', 'inception_4a_odd.weight', 'conv2_3x3.weight (192, 32, 3, 3) for (192, 64, 3, 3)'): assert part in str(e.value)
    torch.save({'resnet.weight': torch.zeros(3)}, tmp_path/'w.pth')
    with pytest.raises(ValueError, match='another network'): bn_inception(3, weights=tmp_path/'w.pth')


def test_colours(net):
    state = from_caffe(net.state_dict())
    picture = torch.rand(1, 3, 40, 40)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((.485, .456, .406), (.229, .224, .225)))
    caffe = (255*picture - torch.tensor([128., 117, 104])[:, None, None])[:, [2, 1, 0]]
    inside = (..., slice(3, -3), slice(3, -3))
    expected = F.conv2d(caffe, net.conv1_7x7_s2.weight, net.conv1_7x7_s2.bias)
    assert_close(F.conv2d((picture - mean)/std, state['conv1_7x7_s2.weight'], state['conv1_7x7_s2.bias']), expected, atol=2e-2, rtol=1e-4)
    assert set(state) == set(net.state_dict())


def test_cross_modality(tmp_path, net):
    torch.save(net.state_dict(), tmp_path/'w.pth')
    rgb, flow = bn_inception(2, weights=tmp_path/'w.pth'), bn_inception(2, 10, weights=tmp_path/'w.pth')
    assert flow.conv1_7x7_s2.weight.shape == (64, 10, 7, 7)
    for c in range(10): assert_close(flow.conv1_7x7_s2.weight[:, c], rgb.conv1_7x7_s2.weight.mean(1))
    assert_close(flow.conv1_7x7_s2.bias, rgb.conv1_7x7_s2.bias)
    assert flow.maps(torch.randn(2, 10, 64, 64)).isfinite().all()


@pytest.mark.parametrize('freeze', [True, False])
def test_partial_batch_norm_survives_train(freeze):
    body = BNInception(2, freeze_bn=freeze)
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    for _ in range(2):
        assert norms[0] is body.conv1_7x7_s2_bn and norms[0].training and norms[0].weight.requires_grad
        assert all(m.training != freeze and m.weight.requires_grad != freeze for m in norms[1:])
        body.eval(); assert not any(m.training for m in norms)
        body.train()


def test_bodies_by_name(tmp_path):
    small, full = picture_body('small', 4), picture_body('bn_inception', 4)
    assert isinstance(small, SmallBody) and small.maps(torch.zeros(1, 4, 56, 56)).shape == (1, small.channels, 7, 7)
    assert full.maps(torch.zeros(1, 4, 64, 64)).shape == (1, 1024, 2, 2) and not hasattr(full, 'last_linear')
    assert all(p.requires_grad for p in full.parameters())                       # nothing is frozen without weights
    torch.save(BNInception(5).state_dict(), tmp_path/'w.pth')
    assert sum(p.requires_grad for n, p in picture_body('bn_inception', weights=tmp_path/'w.pth').named_parameters() if '_bn.' in n) == 2
    other = picture_body('resnet18', 4, freeze_bn=True).train()
    assert other.maps(torch.zeros(1, 4, 64, 64)).shape == (1, other.channels, 2, 2) == (1, 512, 2, 2) and not [k for k in other.state_dict() if '.fc.' in k]
    assert sum(m.training for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)) == 1
    with pytest.raises(ValueError, match='Did you mean'): picture_body('bn-inception')
    with pytest.raises(ValueError, match='small'): picture_body('small', weights='x.pth')


def test_wrong_pictures_are_explained(net):
    for x, words in ((torch.zeros(3, 64, 64), '(N, C=3, H, W)'), (torch.zeros(1, 3, 64, 16), 'at least 32 px'), (torch.zeros(1, 3, 8, 64, 64), 'rearrange')):
        with pytest.raises(ValueError, match=re.escape(words)): net(x)


@pytest.mark.parametrize('size', [(32, 32), (48, 65), (96, 112), (111, 160), (224, 256)])
def test_any_size(size):
    "Blocks that halve a map of odd side keep their branches alike."
    from fgar.models.inception2d import bn_inception
    with torch.no_grad(): maps = bn_inception(3).eval().maps(torch.randn(1, 3, *size))
    assert maps.shape[1] == 1024 and maps.isfinite().all()
