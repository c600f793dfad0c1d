"What every registered system promises. A new system is tested here by being registered."
import copy, inspect

import pytest
import torch
from torch.testing import assert_close

import fgar

CLASSES, CLIPS, FRAMES, SIZE = 5, 2, 8, 64
# Options that make a system small enough to run here, beyond body='small', which each one gets that has a `body`.
SMALL = {name: dict(frames=4, size=32) for name in ('r3d', 'mc3', 'r2plus1d', 'swin3d')} | {'mvit': dict(frames=4)}
TARGET = torch.tensor([0, CLASSES-1])


def build(name):
    torch.manual_seed(0)
    entry = fgar.spec(name)
    small = {'body': 'small'} if 'body' in inspect.signature(entry.build.__init__).parameters else {}
    options = {'frames': min(FRAMES, entry.frames), 'size': min(SIZE, entry.size), **small, **SMALL.get(name, {})}
    return fgar.create(name, classes=CLASSES, **options)


def inputs(model):
    return list(fgar.core.example_inputs(model, CLIPS))


@pytest.mark.parametrize('name', fgar.models())
def test_prediction(name):
    model = build(name).eval()
    with torch.no_grad(): pred = model(*inputs(model))
    assert isinstance(pred, fgar.Prediction) and pred.logits.shape == (CLIPS, CLASSES) and pred.logits.isfinite().all()
    assert_close(pred.scores.sum(1), torch.ones(CLIPS))


@pytest.mark.parametrize('name', fgar.models())
def test_every_parameter_learns(name):
    model = build(name).train()
    loss = model.loss(model(*inputs(model)), TARGET)
    assert all(v.ndim == 0 for v in loss.values())
    loss['total'].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('name', fgar.models())
def test_clips_of_a_batch_do_not_meet_in_eval(name):
    model = build(name).eval()
    clips = inputs(model)
    with torch.no_grad(): together, alone = model(*clips).logits, model(*(c[1:] for c in clips)).logits
    assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', fgar.models())
def test_state_dict_and_options_rebuild_the_model(name):
    model = build(name).eval()
    options = dict(model.options)
    twin = fgar.create(name, classes=options.pop('classes'), **options).eval()
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    with torch.no_grad(): assert_close(twin(*inputs(model)).logits, model(*inputs(model)).logits, rtol=0, atol=0)


@pytest.mark.parametrize('name', fgar.models())
def test_wrong_layout_is_explained(name):
    model = build(name).eval()
    clips = [c.movedim(1, -1) for c in inputs(model)]
    with pytest.raises(ValueError, match='expected'): model(*clips)


@pytest.mark.parametrize('name', fgar.models())
def test_labels_out_of_range_are_explained(name):
    model = build(name).eval()
    with torch.no_grad(), pytest.raises(ValueError, match='number of classes'): model.loss(model(*inputs(model)), TARGET+1)


@pytest.mark.parametrize('name', fgar.models())
def test_registry_entry_says_where_it_comes_from(name):
    entry = fgar.spec(name)
    assert entry.paper and entry.inputs and set(entry.inputs) <= set(fgar.core.STREAMS) and entry.build.__doc__


@pytest.mark.parametrize('name', fgar.models())
def test_saved_whole_and_fed_nothing(name, tmp_path):
    model = build(name).eval()
    torch.save(model, tmp_path/'model.pt')
    twin = torch.load(tmp_path/'model.pt', weights_only=False)
    assert type(twin) is type(model) and twin.options == model.options
    if name == 'mvit': return                                # torchvision's, which cannot tell the shape of no clips
    with torch.no_grad(): assert twin(*(c[:0] for c in inputs(model))).logits.shape == (0, CLASSES)


@pytest.mark.parametrize('name', ['bilinear', 'cnn', 'tsn-two-stream', 'nts-two-stream'])
def test_double_precision(name):
    model = build(name).eval()
    with torch.no_grad(): single, double = model(*inputs(model)).logits, model.double()(*(c.double() for c in inputs(model))).logits
    assert double.dtype == torch.double
    assert_close(double.float(), single, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize('name', [name for name in fgar.models() if fgar.spec(name).inputs == ('rgb', 'flow')])
def test_streams_of_other_lengths_are_explained(name):
    model = build(name).eval()
    clip, flow = inputs(model)
    with pytest.raises(ValueError, match='flow: expected'): model(clip, flow[:, :, model.stack:])
    with pytest.raises(ValueError, match='flow: expected'): model(clip, flow[:1])
