"fgar.show: what is returned, what is drawn, and what the HTML holds."
import base64, io, re
from html.parser import HTMLParser

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from fgar import show as S
from fgar.core import generator

T, H, W = 7, 20, 30
FRAMES = torch.randint(0, 256, (T, H, W, 3), dtype=torch.uint8, generator=generator('show'))
BOXES = torch.tensor([[2., 3, 20, 15], [10, 1, 29, 9]]).expand(T, 2, 4)
MATRIX = torch.randint(0, 9, (5, 5), generator=generator('show')) + 30*torch.eye(5).long()
HISTORY = dict(epoch=[1, 2, 3], train_loss=[3., 2, 1], val_loss=[3., 2.5, 2], val_top1=[.1, .2, .3])

VIEWERS = {
    'strip': lambda ax: S.strip(FRAMES, ax=ax), 'quiver': lambda ax: S.quiver(FRAMES[0], torch.ones(2, H, W), ax=ax), 'displacement': lambda ax: S.displacement(torch.rand(5, 5), ax=ax),
    'confusion_matrix': lambda ax: S.confusion_matrix(MATRIX, list('abcde'), list('xxyyx'), ax=ax), 'bars': lambda ax: S.bars(torch.rand(5), ax=ax),
    'scores_over_time': lambda ax: S.scores_over_time(torch.arange(9), torch.rand(9, 5), truth=[(1, 2, 3)], ax=ax),
}

@pytest.fixture(autouse=True)
def closed():
    plt.close('all')
    yield
    plt.close('all')

@pytest.mark.parametrize('name', VIEWERS)
def test_viewers_return_axes_with_labels_and_open_one_figure_at_most(name):
    ax = VIEWERS[name](None)
    assert isinstance(ax, matplotlib.axes.Axes) and plt.get_fignums() == [ax.figure.number]
    assert ax.get_xlabel() and (ax.get_ylabel() or name in ('strip', 'bars'))
    ax.figure.savefig(io.BytesIO())                                         # draws without an error or a warning
    plt.close('all')
    own = matplotlib.figure.Figure().add_subplot()
    assert VIEWERS[name](own) is own and plt.get_fignums() == []            # into the axes given, nothing opened

@pytest.mark.parametrize('name', VIEWERS)
def test_style_does_not_leak(name):
    before = dict(matplotlib.rcParams)
    VIEWERS[name](None)
    assert dict(matplotlib.rcParams) == before

def test_palette_is_readable_on_white_and_on_dark():
    def luminance(c): return np.dot([.2126, .7152, .0722], [v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4 for v in matplotlib.colors.to_rgb(c)])
    for c in S.COLORS[:3]:                                                  # contrast of graphics of at least 3:1 (WCAG 1.4.11) for the first ones
        assert 1.05/(luminance(c) + .05) >= 3 and (luminance(c) + .05)/(luminance('#222222') + .05) >= 3
    assert len(set(S.COLORS)) == len(S.COLORS)

def test_to_frames():
    clip = ((FRAMES/255. - torch.tensor(S.MEAN))/torch.tensor(S.STD)).movedim(-1, -4)
    assert torch.equal(S.to_frames(clip), FRAMES) and torch.equal(S.to_frames(clip[None].requires_grad_())[0], FRAMES)
    assert torch.equal(S.to_frames(FRAMES.numpy()), FRAMES)
    assert torch.equal(S.to_frames(torch.full((3, 1, 2, 2), 99.)), torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))

def test_strip_shows_the_frames_asked_for():
    ax = S.strip(FRAMES, times=torch.arange(T)/10, count=4)
    assert [t.get_text() for t in ax.get_xticklabels()] == ['0.00', '0.20', '0.40', '0.60'] and ax.get_xlabel() == 'time (s)'
    sheet = torch.as_tensor(ax.images[0].get_array())
    assert torch.equal(sheet[:H, :W], FRAMES[0]) and torch.equal(sheet[:, -W:], FRAMES[6])
    ax = S.strip(torch.stack([FRAMES, FRAMES.flip(0)]), labels=['on', 'back'], count=99)
    assert torch.equal(torch.as_tensor(ax.images[0].get_array())[-H:, :W], FRAMES[6]) and [t.get_text() for t in ax.get_yticklabels()] == ['on', 'back']

def test_draw_boxes_paints_the_outline_and_nothing_else():
    drawn = S.draw_boxes(FRAMES, torch.tensor([[2., 3, 20, 15]]).expand(T, 4), width=1, colors=['#ff0000'])
    outline = torch.zeros(H, W, dtype=torch.bool)
    outline[3:15, 2:20] = True; outline[4:14, 3:19] = False
    assert (drawn[:, outline] == torch.tensor([255, 0, 0])).all() and torch.equal(drawn[:, ~outline], FRAMES[:, ~outline])
    assert torch.equal(S.draw_boxes(FRAMES, BOXES*torch.nan), FRAMES)
    assert torch.equal(S.draw_boxes(FRAMES, BOXES[:, :0]), FRAMES)
    first_on_top = S.draw_boxes(FRAMES, BOXES[:, [0, 0]], colors=['red', 'blue'])
    assert torch.equal(first_on_top, S.draw_boxes(FRAMES, BOXES[:, :1], colors=['red']))

def test_heat():
    maps = torch.zeros(T, H, W); maps[2, 5, 7] = 3
    out = S.heat(FRAMES, maps)
    assert torch.equal(out[[0, 1, 3, 4, 5, 6]], FRAMES[[0, 1, 3, 4, 5, 6]]) and (out[2] != FRAMES[2]).any(-1).sum() == 1
    assert torch.equal(S.heat(FRAMES, torch.full((T, 2, 3), 4.)), FRAMES)   # a constant map says nothing
    assert torch.equal(S.heat(FRAMES, maps, strength=0), FRAMES) and S.heat(FRAMES, torch.rand(T, 2, 3)).shape == FRAMES.shape

class Tags(HTMLParser):
    def __init__(self, text): super().__init__(); self.tags = []; self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def get(self, tag): return next(a for t,a in self.tags if t == tag)

def check_self_contained(player):
    assert not re.search(r'https?:|//[a-z]|@import|<script|<link|<iframe', re.sub(r'base64,[A-Za-z0-9+/=]+', '', player.html))
    for tag, attrs in Tags(player._repr_html_()).tags:
        for key in ('src', 'srcset', 'href', 'poster'): assert attrs.get(key, 'data:').startswith('data:')
    assert plt.get_fignums() == []

def test_scrubber_holds_every_frame():
    player = S.play(FRAMES, fps=5, alt='noise', quality=100)
    check_self_contained(player)
    tags = Tags(player.html); figure, image = tags.get('figure'), tags.get('img')
    data = base64.b64decode(image['src'].split(',')[1])
    sheet = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert('RGB')))
    columns, rows = int(figure['data-columns']), int(figure['data-rows'])
    assert sheet.shape == (rows*H, columns*W, 3) and columns*rows >= T and player.size == len(data)
    for i in range(T):
        cell = sheet[i//columns*H:, i % columns*W:][:H, :W].float()
        distances = (cell - FRAMES.float()).abs().mean((1, 2, 3))
        assert distances.argmin() == i
    assert image['alt'] == 'noise' and tags.get('button')['aria-label'] == 'Play' and tags.get('input')['max'] == str(T-1)
    assert '1.20 s' in figure['data-labels'] and f'{T} frames' in repr(player)

def test_scrubber_escapes_what_the_user_writes():
    player = S.play(FRAMES, alt='"><b>', labels=['</output><script>alert(1)</script>"\'']*T)
    tags = Tags(player.html)
    assert not {'b', 'script'} & {t for t,_ in tags.tags} and tags.get('figure')['aria-label'] == '"><b>'
    assert 'alert' in tags.get('figure')['data-labels']

def test_scrubber_is_the_same_every_time(): assert S.play(FRAMES).html == S.play(FRAMES).html

def test_gif_holds_every_frame_and_a_still_for_reduced_motion():
    player = S.play(FRAMES, fps=10, kind='gif')
    check_self_contained(player)
    image = Image.open(io.BytesIO(base64.b64decode(Tags(player.html).get('img')['src'].split(',')[1])))
    assert image.n_frames == T and image.info['duration'] == 100 and image.size == (W, H)
    assert 'reduced-motion' in Tags(player.html).get('source')['media']

def test_mp4_plays():
    pytest.importorskip('av', reason='PyAV is not installed')
    player = S.play(FRAMES.repeat(1, 4, 4, 1)[:, 1:, 1:], kind='mp4')
    check_self_contained(player)
    tag = Tags(player.html).get('video')
    assert 'controls' in tag and 'autoplay' not in tag and base64.b64decode(tag['src'].split(',')[1])[4:8] == b'ftyp'

def test_a_normalised_clip_plays(): assert S.play(torch.zeros(3, T, H, W)).frames == T

def test_curves():
    axes = S.curves(HISTORY)
    assert [ax.get_ylabel() for ax in axes] == ['loss', 'top1'] and all(ax.get_xlabel() == 'epoch' for ax in axes) and len(plt.get_fignums()) == 1
    assert [len(ax.lines) for ax in axes] == [2, 1]
    assert_close(torch.tensor(axes[1].lines[0].get_ydata()), torch.tensor([.1, .2, .3]).double())
    own = matplotlib.figure.Figure().subplots()
    assert S.curves(pd.DataFrame(HISTORY), ['top1'], own)[0] is own
    without = {k: v for k,v in HISTORY.items() if k != 'epoch'}
    assert S.curves(without)[0].lines[0].get_xdata().tolist() == [0, 1, 2]
    bare = S.curves([dict(epoch=e, loss=1/e, val_loss=2/e, failed=0) for e in (1, 2)])
    assert len(bare) == 1 and [l.get_ydata().tolist() for l in bare[0].lines] == [[1, .5], [2, 1]]
    sparse = S.curves(dict(epoch=[1, 2, 3], train_loss=[3., 2, 1], val_loss=[None, 2, None]))
    assert len(sparse[0].lines[1].get_xdata()) == 1

def test_curves_of_seeds_have_a_band():
    ax = S.curves(pd.concat([pd.DataFrame(HISTORY), pd.DataFrame(HISTORY)*1.1]).assign(epoch=[1, 2, 3]*2), ['loss'])[0]
    assert len(ax.collections) == 2 and ax.lines[0].get_ydata() == pytest.approx([3.15, 2.1, 1.05])

def test_confusion_matrix_sorts_by_group_and_counts():
    ax = S.confusion_matrix(MATRIX, list('abcde'), list('xyxyx'))
    assert [t.get_text() for t in ax.get_yticklabels()] == [t.get_text() for t in ax.get_xticklabels()] == list('acebd')
    order = [0, 2, 4, 1, 3]
    shown = torch.as_tensor(np.asarray(ax.collections[0].get_array())).reshape(5, 5)
    assert_close(shown, (100*MATRIX/MATRIX.sum(1, keepdim=True).double())[order][:, order])
    notes = [t.get_text() for t in ax.texts if 'clips' in t.get_text()]
    x = [0, 2, 4]
    assert notes[0] == f'x\n{MATRIX[x].sum()} clips\n{MATRIX[x][:, x].sum()/MATRIX[x].sum():.0%} stay' and notes[1].startswith('y')

def test_confusion_matrix_of_26_classes_and_of_a_class_without_clips():
    matrix = torch.eye(26).long(); matrix[3] = 0
    ax = S.confusion_matrix(matrix, groups=[0]*8 + [1]*9 + [2]*9)
    assert np.ma.getmaskarray(ax.collections[0].get_array()).reshape(26, 26)[3].all()
    assert sum(t.get_text() == '100' for t in ax.texts) == 25
    width, height = ax.figure.get_size_inches()*90
    assert width <= 800 and height <= 700

def test_bars_name_undefined_classes():
    ax = S.bars(torch.tensor([.2, torch.nan, .8]), list('abc'), list('ggh'))
    assert [t.get_text() for t in ax.get_yticklabels()] == list('cab') and any('undefined' in t.get_text() for t in ax.texts)
    assert 'mean 0.50' in [t.get_text() for t in ax.get_legend().get_texts()]

def test_scores_over_time_always_draws_the_true_classes():
    scores = torch.zeros(9, 5); scores[:, 4] = 1
    ax = S.scores_over_time(torch.arange(9), scores, list('abcde'), truth=[(1, 2, 'b')], top=1)
    assert [l.get_label() for l in ax.lines] == ['b', 'e'] and len(ax.patches) == 1

def test_displacement_marks_the_best():
    cost = torch.zeros(7, 7); cost[1, 5] = 1
    ax = S.displacement(cost)
    assert ax.get_title() == 'best at (2, -2)' and (ax.lines[1].get_xdata()[0], ax.lines[1].get_ydata()[0]) == (2, -2)

def test_quiver_points_where_the_flow_goes():
    flow = torch.zeros(2, H, W); flow[0] = 3; flow[1, 10:] = -2
    arrows = S.quiver(FRAMES[0], flow, step=5).collections[0]
    assert set(arrows.U) == {3} and set(arrows.V) == {0, -2}
    assert len(S.quiver(FRAMES[0], 0*flow).collections[0].U) == 0

@pytest.mark.parametrize('call,says', [
    (lambda: S.strip(FRAMES.movedim(-1, 1)), 'frames'), (lambda: S.strip(FRAMES/255.), 'clip'), (lambda: S.strip(FRAMES.long()), 'uint8'), (lambda: S.strip(FRAMES, times=[1.]), 'times'),
    (lambda: S.strip(FRAMES, labels=['a', 'b']), 'labels'), (lambda: S.strip(FRAMES[:0]), 'frames'), (lambda: S.strip(FRAMES[None, None]), 'rows'),
    (lambda: S.draw_boxes(FRAMES, BOXES[:3]), 'boxes'), (lambda: S.draw_boxes(FRAMES, BOXES[0, 0]), 'boxes'), (lambda: S.draw_boxes(FRAMES[None], BOXES), 'frames'),
    (lambda: S.heat(FRAMES, torch.rand(3, 2, 2)), 'maps'), (lambda: S.heat(FRAMES, torch.rand(T, 1, 2, 2)), 'maps'), (lambda: S.heat(FRAMES, torch.full((T, 2, 2), torch.nan)), 'finite'), (lambda: S.strip(FRAMES, count=0), 'count'), (lambda: S.play(FRAMES[None]), 'frames'), (lambda: S.play(FRAMES[:0]), 'frames'),
    (lambda: S.play(FRAMES, fps=0), 'fps'), (lambda: S.play(FRAMES, kind='webm'), 'kind'), (lambda: S.play(FRAMES, labels=['a']), 'labels'),
    (lambda: S.play(torch.zeros(2, 16400, 2, 3, dtype=torch.uint8)), 'do not fit'), (lambda: S.quiver(FRAMES[0], torch.zeros(2, 5, 5)), 'flow'), (lambda: S.displacement(torch.zeros(4, 4)), 'odd'),
    (lambda: S.displacement(torch.zeros(3, 5)), 'cost'), (lambda: S.curves({'loss': [1.]}), 'history'), (lambda: S.curves(HISTORY, ['top5']), 'measures'), (lambda: S.curves(HISTORY, axes=plt.subplots()[1]), 'axes'),
    (lambda: S.confusion_matrix(torch.zeros(2, 3)), 'matrix'), (lambda: S.confusion_matrix(MATRIX, ['a']), 'labels'), (lambda: S.confusion_matrix(MATRIX, groups=['a']), 'groups'),
    (lambda: S.bars(torch.zeros(2, 2)), 'values'), (lambda: S.bars(torch.zeros(2), ['a']), 'labels'), (lambda: S.scores_over_time([0.], torch.zeros(2, 3)), 'times'),
    (lambda: S.scores_over_time([0., 1], torch.zeros(2, 3), ['a', 'b', 'c'], truth=[(0, 1, 'd')]), 'truth'),
])
def test_errors_name_the_argument(call, says):
    with pytest.raises(ValueError, match=says): call()
