"The explorer: what panels show is what the systems computed; the app driven without a browser."
import base64, json, re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import fgar
from fgar import explore as e
from fgar.data.augment import Augment, Draw
from fgar.data.clips import segment_indices
from fgar.data.datasets import Manifest
from fgar.data.streams import model_inputs
from fgar.data.video import write_video
from fgar.explain import grad_cam
from fgar.ops.attention import attend
from fgar.ops.boxes import removed_by
from fgar.synthetic import CLASSES

FIVE = {'nts': {'regions'}, 'mhssa': {'places', 'heads'}, 'deepfusion': set(), 'fstfl': set(), 'stmanet': {'stages'}}
SMALL = dict(frames=4, size=32)


@pytest.fixture(scope='module')
def clip(): return e.court26_clip('jump shot', 1, size=32, frames=16)


@pytest.fixture(scope='module')
def found(clip): return {name: e.analyse(e.open_system(name, **SMALL), clip) for name in FIVE}


class Tags(HTMLParser):
    "Whether what opens also closes."
    def __init__(self, text):
        super().__init__(); self.open, self.seen = [], []
        self.feed(text); assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ('img', 'input'): self.open.append(tag)
    def handle_startendtag(self, tag, attrs): self.seen.append((tag, dict(attrs)))
    def handle_endtag(self, tag): assert self.open.pop() == tag

    def count(self, tag): return sum(t == tag for t, _ in self.seen)


@pytest.mark.parametrize('name', FIVE)
def test_every_panel(name, clip, found):
    before, a = plt.get_fignums(), found[name]
    pages = [e.panels(a, t) for t in range(4)]
    assert set(pages[0]) == {'frame', 'flow', 'cam', 'correlation', 'scores'} | FIVE[name]
    for page in pages:
        for text in page.values():
            assert Tags(text).count('figure') == 1 and 'nan' not in re.sub('base64,[^"]*', '', text)
    assert pages[0]['frame'] != pages[1]['frame'] and pages[0]['scores'] != pages[1]['scores']
    again = e.analyse(e.open_system(name, **SMALL), e.court26_clip('jump shot', 1, size=32, frames=16))
    assert [e.panels(again, t) for t in range(4)] == pages                           # a new model, a new clip: the same text
    assert plt.get_fignums() == before
    assert Tags(e.twin(a)).count('input') == 1 and e.twin(a).count('fgar-board') == 4


@pytest.mark.parametrize('name', FIVE)
def test_the_model_sees_what_evaluation_shows_it(name, clip, found):
    a, model = found[name], found[name].system.model
    L = model.stack if 'flow' in model.spec.inputs else 0
    frames = clip.frames[segment_indices(16, 4, L + 1)][None]
    inputs = model_inputs(dict(frames=frames), model.spec.inputs, Augment(32, train=False), Draw(torch.tensor([[0., 0, 32, 32]]), torch.tensor([False])), max(model.stack, 1)) if L else (Augment(32, train=False)(frames)[0],)
    with torch.no_grad(): pred = model(*inputs)
    assert_close(a.scores, pred.scores[0], atol=1e-4, rtol=1e-3)
    assert_close(a.scores.sum(), torch.tensor(1.))
    assert a.along.shape == (len(a.windows), 26) and a.windows[0, 0] == 0 and a.windows[-1, 1] == 2
    hooks = lambda model: sum(len(m._forward_hooks) for m in model.modules())
    assert not model.training and hooks(model) == hooks(e.open_system(name, **SMALL).model) and not getattr(model, 'keep_maps', False)


@pytest.mark.parametrize('name', FIVE)
def test_every_layer_offered_can_be_explained(name, found):
    a = found[name]
    assert a.layers and a.layer in a.layers
    for layer, x in a.layers.items():
        assert x.ndim == 4 and x.isfinite().all()
        maps = e.cam(a, layer, 'spin')
        assert maps.shape == a.frames.shape[:3] and maps.min() >= 0
        assert_close(maps, grad_cam(a.system.model, layer, a.inputs, CLASSES.index('spin'), scale='none', run=0)[0])
    assert e.cam(a) is e.cam(a, a.layer, a.scores.argmax().item())                  # computed once


def test_layers_are_what_passed_through(found):
    a, model = found['fstfl'], found['fstfl'].system.model
    with torch.no_grad(): x = model.body.layer1(model.body.maxpool(model.body.relu(model.body.bn1(model.body.conv1(a.inputs[0][0].transpose(0, 1))))))
    assert_close(a.layers['body.layer1'].transpose(0, 1), x)
    assert a.compares == 'body.layer1' == a.layer and found['nts'].compares is None
    assert not [n for n in found['nts'].layers if n.startswith('screening')]          # the logits do not depend on them
    assert all(min(x.shape[-2:]) > 1 for x in a.layers.values())


def test_panels_show_the_tensors(found, clip):
    heads, stages, nts = found['mhssa'].heads, found['stmanet'].stages, found['nts']
    for v in heads[1, 2]: assert f'>{v:.2f}</text>' in e.see_heads(found['mhssa'], 2)
    assert heads.shape == (2, 4, 4) and found['mhssa'].places.shape[:2] == (4, 26)
    model = found['stmanet'].system.model
    model.keep_maps = True
    with torch.no_grad(): extras = model(*found['stmanet'].inputs).extras
    model.keep_maps = False
    assert_close(stages[0][1], extras['time_maps'][0][0])
    assert_close(stages[1][0], extras['space_maps'][1][0].mean((0, 1))*extras['space_maps'][1][0][0, 0].numel())
    assert_close(stages[1][0].mean(), torch.tensor(1.))
    drawn = [attrs for tag, attrs in Tags(e.see_regions(nts, 1)).seen if tag == 'rect']
    assert len(drawn) == nts.regions[0].shape[1]
    assert sorted(float(d['x']) for d in drawn) == pytest.approx(sorted(round(v, 1) for v in nts.regions[0][1, :, 0].tolist()))
    assert f'{nts.times[1]:.2f} s' in e.see_frame(nts, 1) and nts.times.tolist() == (segment_indices(16, 4)/8).tolist()
    assert 'jump shot' in e.see_scores(nts, 0) and '(true)' in e.see_scores(nts, 0)
    assert e.see_scores(e.analyse(nts.system, e.Source('x', clip.frames, 8.)), 0).count('(true)') == 0


def test_boxes_follow_the_crop():
    frames = torch.zeros(4, 60, 100, 3, dtype=torch.uint8)
    frames[:, 10:20, 30:50] = 255
    seen = e.Pixels(e.Source('wide', frames, 4.), 30)
    x1, y1, x2, y2 = seen.boxes(torch.tensor([30., 10, 50, 20])).tolist()
    assert (x1, y1, x2, y2) == (5, 5, 15, 10) and seen.rgb[0, 0, 6:9, 6:14].min() > .99 and seen.rgb[0, 0, 12:].max() == 0
    assert seen.flow(torch.tensor([0, 1]), torch.tensor([1, 2])).abs().max() < 1e-3 and len(seen.fields) == 2


def test_matches():
    x = torch.randn(6, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.cosine_similarity(x[:, 1, 2, 3, None, None, None], x, dim=0)
    found = e.matches(x, 1, 2, 3)
    assert_close(found, wanted); assert found.argmax().item() == 1*35 + 2*7 + 3
    near = e.matches(x, 1, 2, 3, 1)
    assert_close(near[:, 1:4, 2:5], wanted[:, 1:4, 2:5]); assert near.count_nonzero() == 3*9
    moved = x[:, :1].repeat(1, 2, 1, 1); moved[:, 1] = moved[:, 0].roll((1, 2), (1, 2))
    assert divmod(e.matches(moved, 0, 2, 3)[1].argmax().item(), 7) == (3, 5)


def test_correlation_of_a_shrinking_volume(found):
    a = found['stmanet']
    layer = next(n for n, x in a.layers.items() if x.shape[1] < len(a.frames))
    for t in range(4): assert Tags(e.see_correlation(a, t, (0, 0), layer)).count('rect') >= 1


def test_app_without_a_browser(tmp_path, clip, monkeypatch):
    calls = []
    analyse = e.analyse
    monkeypatch.setattr(e, 'analyse', lambda *args: calls.append(args) or analyse(*args))
    before = plt.get_fignums()
    app = e.Explorer('fstfl', 'jump shot', **SMALL)
    ok = lambda: 'wrong' not in app.status.value
    visible = lambda: {n for n, w in app.shown.items() if w.layout.display != 'none'}
    assert ok() and visible() == {'frame', 'flow', 'cam', 'correlation', 'scores'} and 'untrained' in app.status.value and len(calls) == 1
    frame = app.shown['frame'].value
    app.time.value = 3
    assert app.shown['frame'].value != frame == e.see_frame(app.analysis, 0) and len(calls) == 1
    cam = app.shown['cam'].value
    app.layer.value = 'body.layer3'; assert app.shown['cam'].value != cam
    app.label.value = 'spin'; assert 'spin' in app.shown['cam'].value and 'body.layer3' in app.shown['cam'].value
    for name, more in FIVE.items():
        app.system.value = name
        assert ok() and visible() == {'frame', 'flow', 'cam', 'correlation', 'scores'} | more, app.status.value
        assert app.label.value == 'spin' and app.time.value == 3
        for t in range(4): app.time.value = t
        app.time.value = 3
    assert len(calls) == 5
    app.system.value = 'fstfl'; assert len(calls) == 5                              # remembered
    app.place.value = '1, 2, 5'
    assert ok() and app.time.value == 1 and app.shown['correlation'].value == e.see_correlation(app.analysis, 1, (2, 5), app.layer.value)
    app.place.value = '1, 99, 5'; assert 'expected below' in app.status.value
    app.place.value = 'here'; assert 'three whole numbers' in app.status.value
    frame = app.shown['frame'].value
    app.time.value = 2; assert ok() and app.shown['frame'].value != frame            # a slip in one box must not stop the slider
    app.place.value = '1, 2'; assert 'three whole numbers' in app.status.value
    app.place.value = ''; assert ok() and app.time.value == 2
    app.layer.value = 'body.layer2'; assert ok() and app.place.value == ''
    app.clip.value = 'spin'; app.number.value = 2
    assert ok() and app.analysis.source.name == 'spin 2'
    app.stretch.value = app.stretch.options[3][1]
    assert ok() and app.analysis.times[0] >= app.stretch.value[0] and app.analysis.times[-1] < app.stretch.value[1]
    span = app.stretch.value
    app.system.value = 'stmanet'; assert ok() and app.stretch.value == span and app.analysis.times[0] >= span[0]     # another system looks at the same stretch
    app.number.value = 3; assert ok() and app.stretch.value == '' and app.analysis.times[-1] > span[1]                  # another clip is seen whole
    first = app.shown['stages'].value
    app.stage.value = 2; assert app.shown['stages'].value != first
    app.against.value = 'stmanet'; assert app.shown['stages'].value.count('fgar-row') == 2
    shown = app.shown['frame'].value
    app.file.value = 'nowhere.mp4'; assert 'wrong' in app.status.value and 'no such file' in app.status.value and app.shown['frame'].value == shown
    write_video(tmp_path/'a.mp4', clip.frames.repeat_interleave(2, 1).repeat_interleave(2, 2), 8)
    app.file.value = str(tmp_path/'a.mp4'); assert ok() and app.analysis.source.name == 'a.mp4'
    write_video(tmp_path/'b.mp4', clip.frames[:1].repeat_interleave(2, 1).repeat_interleave(2, 2), 8)
    app.file.value = str(tmp_path/'b.mp4'); assert 'at least 2 frames' in app.status.value
    app.file.value = ''; app.run.value = 'no/such.pt'; assert 'does not exist' in app.status.value
    app.run.value = ''; assert ok()
    assert plt.get_fignums() == before and len(app.seconds['redraw']) > 30


def test_app_that_begins_with_a_bad_file(tmp_path):
    (tmp_path/'page.mp4').write_text('<html>')
    app = e.Explorer('fstfl', 'mine', clips={'mine': str(tmp_path/'page.mp4')}, **SMALL)
    assert 'not a video' in app.status.value
    app.place.value = '1, 2, 3'; app.time.value = 1; app.layer.value = ''
    assert 'not a video' in app.status.value
    app.clip.value = 'spin'; assert 'wrong' not in app.status.value and app.analysis.source.label == 'spin'


def test_a_model_elsewhere_is_refused():
    with torch.device('meta'): model = fgar.create('tsm', classes=26, body='small', **SMALL)
    with pytest.raises(ValueError, match='system: expected a model on the CPU.*got one on meta'): e.open_system(model)


def test_app_with_a_run_and_a_manifest(tiny_run):
    manifest, best = Manifest.read(tiny_run/'data/manifest.csv'), tiny_run/'run/best.pt'
    app = fgar.explore('mine', trained={'mine': best}, clips=manifest, clip=f'0: {manifest.rows.label.iloc[0]}, {manifest.rows.path.iloc[0]}')
    assert isinstance(app, e.Explorer) and 'wrong' not in app.status.value and 'untrained' not in app.status.value
    assert app.analysis.source.label in app.analysis.system.labels == ['jump shot', 'low dribble'] or app.analysis.system.labels == ['low dribble', 'jump shot']
    assert f'true: {manifest.rows.label.iloc[0]}' in app.status.value
    app.run.value = str(tiny_run/'run/last.pt')
    assert 'wrong' not in app.status.value and app.analysis.system.name.startswith('tsm')
    app.clip.value = 'low dribble'; assert 'wrong' not in app.status.value and app.analysis.source.boxes is not None
    row = e.row_clip(manifest, 3, size=32)
    assert row.label == manifest.rows.label.iloc[3] and row.frames.shape == (16, 32, 32, 3)


def test_short_stretches(clip):
    system = e.open_system('fstfl', **SMALL)
    a = e.analyse(system, clip, (0., .25))                                          # 2 frames for 4 moments
    assert a.repeats and not e.analyse(system, clip).repeats and e.board(a, 3)
    with pytest.raises(ValueError, match=r'at least 2 frames for fstfl.*got 1'): e.analyse(system, clip, (0., .125))
    with pytest.raises(ValueError, match=r'at least 6 frames for mhssa.*got 4'): e.analyse(e.open_system('mhssa', **SMALL), clip, (1., 1.5))
    still = e.analyse(system, e.Source('short', clip.frames[:3], 8.))
    assert len(still.along) >= 1 and e.board(still, 0)
    long = e.analyse(e.System(system.name, system.model, system.labels, True, .5), clip)
    assert_close(long.windows[:, 1] - long.windows[:, 0], torch.full((len(long.windows),), .5))


def test_video_clip_is_thinned(tmp_path, clip):
    write_video(tmp_path/'long.mp4', torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 32, 48, 3)*4, 30)
    source = e.video_clip(tmp_path/'long.mp4', .5, 1.5, size=32, most=10)
    assert source.frames.shape == (10, 32, 48, 3) and source.fps == 10 and source.duration == 1
    assert (source.frames.float().mean((1, 2, 3)) - 4*torch.arange(15, 45, 3)).abs().max() < 4


def test_a_stretch_without_a_frame(tmp_path):
    write_video(tmp_path/'slow.mp4', torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 2)                # a frame every half second
    with pytest.raises(ValueError, match='start, end: expected a stretch in which a frame is shown, got 0.6 to 0.9'): e.video_clip(tmp_path/'slow.mp4', .6, .9)
    with pytest.raises(ValueError, match='most: expected at least 1'): e.video_clip(tmp_path/'slow.mp4', most=0)


@pytest.mark.parametrize('act, message', [
    (lambda: e.open_system('fstlf'), 'fstfl'), (lambda: e.open_system('mvit'), 'system: expected one of'), (lambda: e.open_system('run/none.pt'), 'does not exist'),
    (lambda: e.court26_clip('slam'), 'clip: expected one of'), (lambda: e.court26_clip('spin', -1), 'number: expected'), (lambda: e.Explorer('none'), 'system: expected one of'),
    (lambda: e.Explorer(clip='none'), 'clip: expected one of'), (lambda: e.Explorer(against='none'), 'against: expected one of'),
    (lambda: e.scrub([]), 'at least 1'), (lambda: e.scrub({'a': ['x'], 'b': ['x', 'y']}), 'one length'), (lambda: e.scrub(['a'], ['b', 'c']), 'labels: expected 1'), (lambda: e.scrub(['a'], start=1), 'start: expected 0 to 0'),
    (lambda: e.matches(torch.randn(2, 3, 4, 4), 3, 0, 0), 'expected below'), (lambda: e.matches(torch.randn(3, 4, 4), 0, 0, 0), 'features'), (lambda: e.nms(torch.rand(3, 4), torch.rand(2)), 'scores'),
    (lambda: e.attention(torch.zeros(3, 4, 4, 3).byte(), torch.rand(2, 4, 4)), 'T=3'), (lambda: e.correlation(torch.zeros(3, 4, 6, 3).byte(), torch.rand(2, 3, 2, 2)), 'square')])
def test_errors(act, message):
    with pytest.raises((ValueError, KeyError, OSError), match=message): act()


def test_errors_of_panels(found):
    a = found['stmanet']
    for act, message in ((lambda: e.see_frame(a, 4), 't: expected'), (lambda: e.see_cam(a, 0, 'layer9'), 'layer: expected one of'), (lambda: e.see_cam(a, 0, None, 'slam'), 'label: expected one of'),
                         (lambda: e.see_stages(a, 0, 6), 'stage: expected 2 to 5')):
        with pytest.raises((ValueError, KeyError), match=message): act()


@pytest.mark.parametrize('name', ['tsn', 'small3d', 'composite-lstm', 'soft-attention-lstm', 'rf3d', 'mhssa-flow', 'nts-two-stream', 'c3d', 'asym3d', 'bilinear'])
def test_other_systems(name, clip):
    a = e.analyse(e.open_system(name, frames=8, size=64), clip)
    assert e.board(a, 7) and e.cam(a).shape[1:] == (64, 64)
    assert (a.places is not None) == (name == 'soft-attention-lstm') and (a.heads is not None) == (name == 'mhssa-flow') and (a.regions is not None) == (name == 'nts-two-stream')


def test_small_explorers():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(8, 2, generator=g)*20
    boxes, scores = torch.cat([corner, corner + 10 + 10*torch.rand(8, 2, generator=g)], 1), torch.rand(8, generator=g)
    page = e.nms(boxes, scores, steps=6)
    labels = json.loads(Tags(page).seen[0][1]['data-labels'])
    for text, threshold in zip(labels, torch.linspace(0, 1, 6).tolist()):
        kept = (removed_by(boxes, scores, threshold) == torch.arange(8)).sum().item()
        assert text == f'threshold {threshold:.2f}: {kept} of 8 kept'
    assert page == e.nms(boxes, scores, steps=6)
    states = Tags(e.sampling((4, 20), count=8)).seen
    assert sum(t == 'svg' for t, _ in states) == 2
    w = {kind: attend(torch.randn(2, 5, 4, generator=g), torch.randn(2, 5, 4, generator=g), torch.randn(2, 5, 4, generator=g), kind)[1] for kind in ('softmax', 'sigmoid')}
    page = e.attention(torch.zeros(5, 8, 8, 3).byte(), w, names=['a', 'b'])
    assert Tags(page).count('option') == 2 and f'{w["sigmoid"][1, 3, 2]:.2f}' in page
    model = fgar.create('stmanet', classes=3, frames=8, size=32, body='small').train()
    model.body.layer1.eval()
    page = e.stages({'one': model, 'two': model}, torch.randn(3, 8, 32, 32, generator=g))
    assert page.count('fgar-row') == 8 and model.training and not model.body.layer1.training and not model.keep_maps
    with pytest.raises(ValueError, match='lacks one'): e.stages({'x': fgar.create('stmanet', classes=3, frames=8, size=32, body='small', tda=False)}, torch.randn(3, 8, 32, 32))


def test_the_page_of_correlation_holds_the_features():
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    page = e.correlation(torch.zeros(3, 16, 16, 3).byte(), x, 2, (1, 2, 3))
    kept = torch.from_numpy(np.frombuffer(base64.b64decode(re.search(r'atob\("([^"]*)"\)', page)[1]), 'int8').copy()).view(6, 3, 4, 4).float()/127
    assert_close(torch.einsum('c,cthw->thw', kept[:, 1, 2, 3], kept), e.matches(x, 1, 2, 3), atol=.02, rtol=0)
    assert '[6, 3, 4, 4, 16, 2]' in page and '=[1, 2, 3];' in page and not {'ID"', 'DATA"', 'SIZES', 'START'} & set(re.findall(r'ID"|DATA"|SIZES|START', page))
    assert page == e.correlation(torch.zeros(3, 16, 16, 3).byte(), x[None], 2, (1, 2, 3))

