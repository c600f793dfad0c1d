"LSTM baselines: the matrix of cases."
import re

import pytest, torch
from torch.testing import assert_close
from torchvision import models as tv

import fgar

def test_composite_remembers_and_foretells():
    model = fgar.create('composite-lstm', classes=3, body='small', frames=6, size=32).train()
    pred = model(torch.randn(2, 3, 6, 32, 32))
    parts = model.loss(pred, torch.tensor([0, 2]))
    S = pred.extras['past'].shape[1]
    assert S + pred.extras['future'].shape[1] == 6 and S == 4
    assert_close(parts['past'], (pred.extras['past'] - pred.extras['features'][:, :S].flip(1)).square().mean())
    assert_close(parts['total'], parts['class'] + parts['past'] + parts['future'])
    body = next(model.body.parameters())
    assert torch.autograd.grad(parts['past'], body, retain_graph=True, allow_unused=True)[0].abs().max() > 0       # through the memory, not through what is to be written
    with pytest.raises(ValueError, match='at least 2'): model(torch.randn(2, 3, 1, 32, 32))

def test_composite_classifier_reads_all_frames_in_one_go():
    model = fgar.create('composite-lstm', classes=3, body='small', frames=6, size=32).eval()
    with torch.no_grad():
        pred = model(torch.randn(2, 3, 6, 32, 32))
        assert_close(model.fc(model.encoder(pred.extras['features'])[0]), pred.extras['frame_logits'])

def test_attention_is_a_distribution_and_looks_only_back():
    model = fgar.create('soft-attention-lstm', classes=3, body='small', frames=4, size=32).eval()
    clip = torch.randn(2, 3, 4, 32, 32, requires_grad=True)
    pred = model(clip)
    weights = pred.extras['attention']
    assert weights.shape == (2, 4, 4, 4) and (weights >= 0).all()
    assert_close(weights.sum((2, 3)), torch.ones(2, 4))
    parts = model.loss(pred, torch.tensor([0, 2]))
    assert_close(parts['attention'], (1 - weights.sum(1)).square().sum((1, 2)).mean())
    gradient = torch.autograd.grad(pred.extras['frame_logits'][0, -1].sum(), clip)[0]
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0

def test_attention_is_decided_before_the_frame_is_seen():
    model = fgar.create('soft-attention-lstm', classes=3, body='small', frames=3, size=32, layers=2).eval()
    maps, other = (torch.randn(2, 3, 64, 4, 4) for _ in range(2))
    other[:, :2] = maps[:, :2]
    other[:, 2] = maps[:, 2].flatten(2).roll(3, -1).view(2, 64, 4, 4)      # the last frame differs, its mean does not
    with torch.no_grad(): a, b = model.read(maps), model.read(other)
    assert_close(a.extras['attention'], b.extras['attention'])
    assert (a.extras['frame_logits'][:, 2] - b.extras['frame_logits'][:, 2]).abs().max() > 1e-5

def test_attention_reads_where_it_looks():
    model = fgar.create('soft-attention-lstm', classes=3, body='small', frames=2, size=32, layers=1).eval()
    model.look.weight.data.zero_(); model.look.bias.data.zero_(); model.look.bias.data[11] = 1000.
    maps = torch.randn(1, 2, 64, 4, 4, requires_grad=True)
    for start in model.start: start.weight.data.zero_()                    # the mean of the clip does not count
    gradient = torch.autograd.grad(model.read(maps).logits.sum(), maps)[0].abs().sum((0, 1, 2)).flatten()
    assert gradient[11] > 0 and gradient.sum() == gradient[11]

def test_full_size_bodies_have_their_public_names():
    with torch.device('meta'): vgg, google = fgar.create('composite-lstm', classes=3), fgar.create('soft-attention-lstm', classes=3)
    assert {k for k in vgg.body.state_dict()} <= {k for k in tv.vgg16(weights=None).state_dict()} and 'classifier.0.weight' in vgg.body.state_dict()
    with torch.device('meta'): names = set(tv.googlenet(weights=None, aux_logits=False, init_weights=False).state_dict())
    assert set(google.body.state_dict()) == {k for k in names if not k.startswith('fc.')}

@pytest.mark.parametrize('size, side', [(33, 1), (64, 2), (100, 3), (224, 7), (230, 7), (256, 8)])
def test_attention_has_a_weight_for_each_place_of_googlenet(size, side):
    with torch.device('meta'):
        model = fgar.create('soft-attention-lstm', classes=3, frames=1, size=size).eval()
        assert model(torch.empty(1, 3, 1, size, size)).extras['attention'].shape == (1, 1, side, side)

def test_weights_of_the_bodies(tmp_path):
    full = tv.googlenet(weights=None, aux_logits=False, init_weights=False)
    torch.save(full.state_dict(), tmp_path/'google.pt')
    model = fgar.create('soft-attention-lstm', classes=3, frames=1, size=32, weights=tmp_path/'google.pt')
    assert torch.equal(model.body.inception5b.branch1.conv.weight, full.inception5b.branch1.conv.weight)
    torch.save({'conv1.conv.weight': torch.zeros(1)}, tmp_path/'part.pt')
    with pytest.raises(ValueError, match='missing'): fgar.create('soft-attention-lstm', classes=3, size=32, weights=tmp_path/'part.pt')

@pytest.mark.parametrize('call, words', [
    (lambda: fgar.create('composite-lstm', classes=3, body='small', weights='x.pt'), "body='vgg16'"), (lambda: fgar.create('soft-attention-lstm', classes=3, body='small', weights='x.pt'), "body='googlenet'"),
    (lambda: fgar.create('soft-attention-lstm', classes=3, body='small', size=32)(torch.zeros(1, 3, 2, 48, 48)), 'H=32'), (lambda: fgar.create('composite-lstm', classes=3, body='smal'), "Did you mean 'small'"),
    (lambda: fgar.create('composite-lstm', classes=3, body='small').read(torch.zeros(1, 3, 7)), 'D=256')])
def test_what_is_wrong_is_said(call, words):
    with pytest.raises(ValueError, match=re.escape(words)): call()
