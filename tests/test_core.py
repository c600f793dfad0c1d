"Cases of fgar.core that would clutter its chapter."
import errno, os, subprocess, sys

import pytest
import torch

import fgar
from fgar import core

@pytest.mark.parametrize('shape,pattern,sizes', [
    ((2, 3, 8, 4, 5), 'N 3 T H W', {}), ((2, 3, 8, 4, 5), 'N C T H W', dict(T=8)), ((4, 5), '... H W', {}), ((1, 2, 3, 4, 5), '... H W', dict(W=5)), ((0,), 'N', {})])
def test_shape_accepted(shape, pattern, sizes):
    named = core.check_shape('x', torch.zeros(shape), pattern, **sizes)
    for axis, size in sizes.items(): assert named[axis] == size

@pytest.mark.parametrize('shape,pattern,sizes', [
    ((2, 3, 8, 4), 'N 3 T H W', {}), ((2, 4, 8, 4, 5), 'N 3 T H W', {}), ((2, 3, 8, 4, 5), 'N C T H W', dict(T=9)), ((5,), '... H W', {}), ((3, 4, 5), '... H W', dict(W=4))])
def test_shape_refused(shape, pattern, sizes):
    with pytest.raises(ValueError, match=r'^x: expected \(.*got \('): core.check_shape('x', torch.zeros(shape), pattern, **sizes)

def test_shape_of_something_else():
    with pytest.raises(ValueError, match='got list'): core.check_shape('x', [1, 2], 'N')

@pytest.mark.parametrize('shape,remedy', [((2, 8, 16, 16, 3), 'n t h w c -> n c t h w'), ((2, 8, 3, 16, 16), 'n t c h w -> n c t h w'), ((3, 8, 16, 16), r'clip\[None\]')])
def test_clip_remedies(shape, remedy):
    with pytest.raises(ValueError, match=remedy): core.check_clip(torch.rand(shape))

def test_remedies_work():
    from einops import rearrange
    core.check_clip(rearrange(torch.rand(2, 8, 16, 16, 3), 'n t h w c -> n c t h w'))

def test_choice_is_both_error_types():
    for kind in (KeyError, ValueError):
        with pytest.raises(kind, match="Did you mean 'adamw'"): core.check_choice('optimizer', 'adamW', ['sgd', 'adamw'])

def test_seeds_differ_by_every_key_and_do_not_collide():
    seeds = {core.derive_seed(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(20)}
    assert len(seeds) == 20**3
    assert core.derive_seed(1, 23) != core.derive_seed(12, 3) != core.derive_seed('12', 3)
    assert all(0 <= s < 2**63 for s in seeds)

def test_seed_is_the_same_in_another_process():
    code = 'from fgar.core import derive_seed; print(derive_seed(3, "crop", 7))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env={**os.environ, 'PYTHONHASHSEED': '5'}).stdout
    assert int(out) == core.derive_seed(3, 'crop', 7)

def test_seed_everything_covers_dropout():
    x = torch.ones(100)
    draws = []
    for _ in range(2):
        core.seed_everything(0, 'step', 1)
        draws.append(torch.nn.functional.dropout(x, .5))
    assert torch.equal(*draws)

def test_atomic_write_disk_full(tmp_path):
    path = tmp_path/'sub'/'file.bin'
    with pytest.raises(OSError, match='disk full') as e:
        with core.atomic_write(path) as temporary:
            temporary.write_bytes(b'half')
            raise OSError(errno.ENOSPC, 'No space left on device')
    assert e.value.errno == errno.ENOSPC and str(path) in str(e.value)
    assert list(path.parent.iterdir()) == []

def test_atomic_write_keeps_the_umask(tmp_path):
    with core.atomic_write(tmp_path/'a.txt') as temporary: temporary.write_text('x')
    (tmp_path/'b.txt').write_text('x')
    assert (tmp_path/'a.txt').stat().st_mode == (tmp_path/'b.txt').stat().st_mode

def test_atomic_write_where_a_folder_cannot_be_made(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='cannot write here'):
        with core.atomic_write(tmp_path/'file'/'inside.txt'): pass

@pytest.mark.parametrize('target,match', [
    (torch.tensor([0, 1], dtype=torch.int32), 'int64'), (torch.tensor([0]), 'N=2'), (torch.tensor([0, 3]), 'from 0 to 2, got 0 to 3'), (torch.tensor([-1, 0]), 'got -1')])
def test_bad_targets(target, match):
    with pytest.raises(ValueError, match=match): core.check_target(target, torch.zeros(2, 3))

def test_registry_refuses_a_taken_name():
    @core.register('test-only-name', paper='none')
    class First(core.ActionModel):
        def __init__(self, classes): super().__init__()
    try:
        with pytest.raises(ValueError, match='taken by'):
            @core.register('test-only-name', paper='none')
            class Second(core.ActionModel): pass
        assert 'test-only-name' in fgar.models()
        model = fgar.create('test-only-name', classes=2)
        assert model.options == dict(classes=2, frames=8, size=224) and model.spec.paper == 'none'
    finally: core._REGISTRY.pop('test-only-name')

@pytest.mark.parametrize('classes', [0, -1, 2.5, '3'])
def test_create_refuses_classes(classes):
    with pytest.raises(ValueError, match='classes: expected'): fgar.create('tsn', classes=classes)

def test_unknown_attribute():
    with pytest.raises(AttributeError, match='no attribute'): fgar.nothing_of_this_name

def test_device_that_is_not_there():
    if torch.cuda.is_available(): pytest.skip('this machine has a GPU')
    with pytest.raises(ValueError, match='no CUDA GPU'): core.pick_device('cuda')

def test_double_stays_double():
    logits = torch.randn(3, 4, dtype=torch.double)
    assert core.Prediction(logits).scores.dtype == torch.double and core.Prediction(logits.bfloat16()).scores.dtype == torch.float32
    assert core.ActionModel().loss(core.Prediction(logits), torch.tensor([0, 1, 2]))['total'].dtype == torch.double

def test_predictions_compare_as_objects():
    pred = core.Prediction(torch.zeros(2, 2))
    assert pred == pred and pred != core.Prediction(torch.zeros(2, 2)) and len({pred}) == 1

@pytest.mark.parametrize('options,match', [(dict(frames=0), 'frames: expected an int of at least 1, got 0'), (dict(size=-1), 'size: expected an int'), (dict(frames='8'), "got '8'")])
def test_impossible_lengths_and_sizes(options, match):
    with pytest.raises(ValueError, match=match): fgar.create('tsn', classes=2, body='small', **options)

def test_numpy_is_explained_or_taken():
    numpy = pytest.importorskip('numpy')
    model = fgar.create('tsn', classes=numpy.int64(2), body='small', frames=2, size=32)
    assert type(model.options['classes']) is int
    with pytest.raises(ValueError, match=r'clip: expected a torch.Tensor, got numpy.ndarray'): model(numpy.zeros((1, 3, 2, 32, 32), 'float32'))
    with pytest.raises(ValueError, match='target: expected a tensor'): model.loss(core.Prediction(torch.zeros(1, 2)), [0])

def test_devices_that_torch_has_not_heard_of():
    with pytest.raises(ValueError, match="device: expected 'auto'.*got 'foo'"): core.pick_device('foo')

def test_writing_is_tried_before_the_work(tmp_path):
    core.check_writable(tmp_path/'new'/'report.html')
    assert list(tmp_path.rglob('*')) == [tmp_path/'new']
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='cannot write here'): core.check_writable(tmp_path/'file'/'report.html')

def test_cuda_under_torchrun_is_the_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setenv('LOCAL_RANK', '3')
    assert [str(core.pick_device(name)) for name in ('auto', 'cuda', 'cuda:1', 'cpu')] == ['cuda:3', 'cuda:3', 'cuda:1', 'cpu']

def test_a_key_is_its_value_whoever_holds_it():
    numpy = pytest.importorskip('numpy')
    assert core.derive_seed(0, numpy.int64(3), numpy.str_('order')) == core.derive_seed(0, torch.tensor(3), 'order') == core.derive_seed(0, 3, 'order') != core.derive_seed(0, 3.)

def test_atomic_write_leaves_the_umask_of_the_process_alone(tmp_path, monkeypatch):
    "Videos are prepared in threads: two that set and restore it in turn would leave it at 0."
    monkeypatch.setattr(os, 'umask', lambda mask: pytest.fail('it belongs to all threads'))
    with core.atomic_write(tmp_path/'a.txt') as temporary: temporary.write_text('x')
