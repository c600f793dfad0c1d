"Properties of fgar.data.clips that hold for every video length."
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fgar.core import generator
from fgar.data.clips import clip_windows, dense_indices, segment_indices

frames_, segments_, length_, stride_ = st.integers(1, 400), st.integers(1, 32), st.integers(1, 70), st.integers(1, 9)
short_, seed_ = st.sampled_from(['last', 'loop']), st.integers(0, 2**31)
every = settings(max_examples=150, deadline=None)

def inside(indices, frames): return indices.dtype == torch.int64 and 0 <= indices.min() and indices.max() < frames

def fit(numbers, frames, short): return [min(n, frames-1) if short == 'last' else n % frames for n in numbers]

@every
@given(frames_, segments_, length_, short_)
def test_segments_test_time_is_the_formula(frames, segments, length, short):
    tick = max(frames-length+1, 1)/segments
    wanted = [int(tick/2 + tick*i)+j for i in range(segments) for j in range(length)]
    assert segment_indices(frames, segments, length, short=short).tolist() == fit(wanted, frames, short)

@every
@given(frames_, segments_, length_, short_, seed_)
def test_segments_train(frames, segments, length, short, seed):
    draw = lambda: segment_indices(frames, segments, length, True, generator(seed), short)
    indices = draw()
    assert indices.shape == (segments*length,) and inside(indices, frames) and torch.equal(indices, draw())
    snippets = indices.view(segments, length)
    if frames >= length:
        assert (snippets.diff(dim=1) == 1).all() and (snippets[:, 0].diff() >= 0).all()
        tick, i = (frames-length+1)/segments, torch.arange(segments)
        assert (snippets[:, 0] >= (tick*i).floor()).all() and (snippets[:, 0] <= tick*(i+1)).all()
    else: assert snippets[0].tolist() == fit(range(length), frames, short)

@every
@given(frames_, length_, stride_, st.booleans(), short_, seed_)
def test_dense(frames, length, stride, train, short, seed):
    draw = lambda: dense_indices(frames, length, stride, train, generator(seed), short)
    indices, span = draw(), (length-1)*stride+1
    assert indices.shape == (length,) and inside(indices, frames) and torch.equal(indices, draw())
    if frames >= span:
        assert (indices.diff() == stride).all()
        if not train: assert indices[0] == (frames-span)//2
    else: assert indices.tolist() == fit(range(0, length*stride, stride), frames, short)

@every
@given(frames_, length_, stride_, st.integers(1, 12), short_)
def test_windows_by_number(frames, length, stride, clips, short):
    windows, span = clip_windows(frames, length, stride, clips=clips, short=short), (length-1)*stride+1
    assert windows.shape == (clips, length) and inside(windows, frames)
    if frames >= span:
        assert (windows.diff(dim=1) == stride).all() and (windows[:, 0].diff() >= 0).all()
        assert windows[:, 0].tolist() == ([i*(frames-span)//(clips-1) for i in range(clips)] if clips > 1 else [(frames-span)//2])
        if clips > 1: assert windows[0, 0] == 0 and windows[-1, -1] == frames-1

@every
@given(frames_, length_, stride_, st.one_of(st.none(), st.integers(1, 80)), short_)
def test_windows_by_step(frames, length, stride, step, short):
    windows, span = clip_windows(frames, length, stride, step=step, short=short), (length-1)*stride+1
    assert inside(windows, frames) and windows.shape[1] == length
    if frames < span: assert len(windows) == 1; return
    starts = windows[:, 0]
    assert starts[0] == 0 and starts[-1] == frames-span and (starts.diff() > 0).all() and (starts[:-1].diff() == (step or span)).all()
    assert len(starts) == 1 or 0 < starts[-1]-starts[-2] <= (step or span)
    if stride == 1 and (step or span) <= span: assert windows.unique().tolist() == list(range(frames))

@pytest.mark.parametrize('frames,segments,length', [(23, 8, 1), (7, 8, 1), (30, 4, 5), (64, 8, 1)])
def test_training_reaches_every_start_equally(frames, segments, length):
    draws, starts = 3000, frames-length+1
    counts = torch.zeros(starts)
    for i in range(draws): counts += torch.bincount(segment_indices(frames, segments, length, True, generator('equal', i))[::length], minlength=starts)
    expected = draws*segments/starts
    assert (counts/expected - 1).abs().max() < 5/expected**.5          # five standard deviations

def test_dense_training_reaches_both_ends():
    starts = {dense_indices(12, 8, train=True, generator=generator(i))[0].item() for i in range(200)}
    assert starts == {0, 1, 2, 3, 4}

def test_no_generator_uses_the_seeded_stream():
    torch.manual_seed(3); a = segment_indices(100, 8, train=True)
    torch.manual_seed(3); assert torch.equal(a, segment_indices(100, 8, train=True))

@pytest.mark.parametrize('call', [
    lambda: segment_indices(0, 8), lambda: segment_indices(-3, 8), lambda: segment_indices(10, 0), lambda: segment_indices(10, 8, 0), lambda: segment_indices(10., 8), lambda: segment_indices(True, 8),
    lambda: segment_indices(10, 8, short='pad'), lambda: dense_indices(0, 8), lambda: dense_indices(10, 8, 0), lambda: dense_indices(10, 0), lambda: dense_indices(10, 8, short=None),
    lambda: clip_windows(0, 8), lambda: clip_windows(10, 8, clips=0), lambda: clip_windows(10, 8, step=0), lambda: clip_windows(10, 8, clips=2, step=2), lambda: clip_windows(10, 8, stride=-1)])
def test_refused(call):
    with pytest.raises(ValueError, match='expected'): call()

def test_frames_are_whole_in_every_sampler():
    from fgar.data.clips import interval_indices
    for sample in (lambda n: segment_indices(n, 4), lambda n: dense_indices(n, 4), lambda n: interval_indices(n, 4), lambda n: clip_windows(n, 4)):
        with pytest.raises(ValueError, match='frames: expected a whole number of at least 1, got 30.5'): sample(30.5)
