"Flow files: what is written comes back, at any size; damage, staleness and bad videos are said; extraction resumes."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from fgar.core import generator
from fgar.data.flow_files import (FlowConfig, FlowError, FlowNotFound, extract_flow, flow_info, flow_path, flow_stack, read_flow, resize_levels, run_flow,
                                  video_flow, write_flow)
from fgar.data.video import FrameError, VideoError, read_frames, write_video
from fgar.ops.flow import clip_flow, dequantise, quantise


def fields(seed=0, n=7, h=11, w=15, scale=5.):
    return scale*torch.randn(n, 2, h, w, generator=generator('fields', seed))


def slide(frames=6, h=48, w=64, step=2):
    "A texture that moves to the right by `step` px a frame."
    g = generator('slide', h, w)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, h//4 + 1, (w + frames*step)//4 + 1, generator=g), scale_factor=4, mode='bicubic').clamp(0, 1)[0]
    return torch.stack([(255*x[:, :h, (frames-t)*step:(frames-t)*step + w]).byte().permute(1, 2, 0) for t in range(frames)])


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    for name, n, h, w in [('pass/a.mp4', 6, 48, 64), ('pass/b.avi', 4, 50, 40), ('shot/a.mp4', 9, 64, 48)]: write_video(folder/name, slide(n, h, w))
    return folder


@pytest.fixture
def flow_file(tmp_path):
    write_flow(tmp_path/'a.flow', [fields()], (11, 15))
    return tmp_path/'a.flow'


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 13), st.integers(1, 13), st.sampled_from([1., 5., 20., 64.]), st.integers(1, 4))
def test_what_is_written_comes_back(tmp_path_factory, seed, n, h, w, limit, piece):
    path, flow = tmp_path_factory.mktemp('f')/'x.flow', fields(seed, n, h, w)
    info = write_flow(path, flow.split(piece), (h, w), limit=limit)
    assert (info.fields, info.height, info.width, info.limit) == (n, h, w, limit) and info == flow_info(path)
    levels = read_flow(path, limit=limit)
    assert levels.dtype == torch.uint8 and torch.equal(levels, quantise(flow, limit).permute(0, 2, 3, 1))
    some = torch.randint(0, n, (5,), generator=generator(seed))
    assert torch.equal(read_flow(path, some, limit=limit), levels[some]) and torch.equal(read_flow(path, some.tolist(), limit=limit), levels[some])
    kept = flow.clamp(-limit, limit)
    assert (dequantise(levels, limit).permute(0, 3, 1, 2) - kept).abs().max() <= limit/254*1.001
    assert info.error == pytest.approx((dequantise(quantise(flow, limit), limit) - flow).abs().mean().item(), rel=1e-4)
    assert info.cut == pytest.approx((flow.abs() > limit).float().mean().item(), abs=1e-6)


def test_pieces_do_not_matter(tmp_path):
    for i, piece in enumerate((1, 3, 7)): write_flow(tmp_path/f'{i}.flow', fields().split(piece), (11, 15))
    assert len({(tmp_path/f'{i}.flow').read_bytes() for i in range(3)}) == 1


def test_no_indices_give_no_fields(flow_file):
    assert read_flow(flow_file, []).shape == (0, 11, 15, 2) and read_flow(flow_file, [], size=30).shape[:2] == (0, 30)


# sizes and units

@pytest.mark.parametrize('size,expected', [(None, (40, 60)), (20, (20, 30)), ((20, 60), (20, 60)), (80, (80, 120))])
@pytest.mark.parametrize('stored', [(40, 60), (10, 15)])
def test_lengths_follow_the_size(tmp_path, stored, size, expected):
    "A camera that moves by (6, -4) px of the video does so at every size."
    move = torch.tensor([6*stored[1]/60, -4*stored[0]/40]).view(1, 2, 1, 1).expand(3, 2, *stored)
    write_flow(tmp_path/'x.flow', [move], (40, 60))
    flow = dequantise(read_flow(tmp_path/'x.flow', size=size))
    assert flow.shape == (3, *expected, 2)
    step = 20/127*max(1, expected[1]/stored[1])
    assert_close(flow, torch.tensor([6*expected[1]/60, -4*expected[0]/40]).expand_as(flow), atol=step, rtol=0)


def test_size_means_what_it_means_for_frames(videos, tmp_path):
    extract_flow(videos/'shot/a.mp4', tmp_path/'x.flow', 'lucas_kanade', size=32)
    for size in (None, 24, (30, 50)): assert read_flow(tmp_path/'x.flow', [0], size).shape[1:3] == read_frames(videos/'shot/a.mp4', [0], size=size).shape[1:3]


def test_resize_is_exact_where_nothing_changes():
    levels = quantise(fields())
    assert resize_levels(levels, (11, 15)) is levels
    assert_close(dequantise(resize_levels(levels, (11, 15), 20, 40), 40), dequantise(levels), atol=40/254*1.01, rtol=0)


# stacks

def test_stacks_are_neighbours_and_stop_at_the_end(flow_file):
    every = read_flow(flow_file)
    stack = flow_stack(flow_file, [0, 3, 5], 3)
    assert torch.equal(stack, every[[0, 1, 2, 3, 4, 5, 5, 6, 6]])
    assert torch.equal(flow_stack(flow_file, torch.tensor([7])), every[6:])                       # the last frame has no next
    assert flow_stack(flow_file, [0, 1], 2, size=22, frames=8).shape == (4, 22, 30, 2)


@pytest.mark.parametrize('frames', [7, 9])
def test_flow_of_another_length_than_the_clip(flow_file, frames):
    with pytest.raises(FlowError, match=f'expected {frames - 1} fields for {frames} frames, got 7'): flow_stack(flow_file, [0], frames=frames)


# extraction

def test_extracted_flow_is_the_flow_of_the_frames(videos, tmp_path):
    info = extract_flow(videos/'pass/a.mp4', tmp_path/'x.flow', batch=2)
    frames = read_frames(videos/'pass/a.mp4')
    assert (info.fields, info.height, info.width, info.method) == (5, 48, 64, 'tvl1') and info.video_bytes == (videos/'pass/a.mp4').stat().st_size
    assert_close(dequantise(read_flow(tmp_path/'x.flow')).permute(3, 0, 1, 2)[None], clip_flow(frames), atol=20/254 + 1e-3, rtol=0)
    assert abs(dequantise(read_flow(tmp_path/'x.flow'))[:, 8:-8, 8:-8, 0].mean() - 2) < .1


@pytest.mark.parametrize('batch', [1, 2, 3, 100])
def test_batches_do_not_matter(videos, batch):
    flow = torch.cat(list(video_flow(videos/'pass/a.mp4', 'lucas_kanade', batch=batch)))
    assert flow.shape == (5, 2, 48, 64)
    assert_close(flow, clip_flow(read_frames(videos/'pass/a.mp4'), 'lucas_kanade')[0].transpose(0, 1), atol=1e-3, rtol=0)


def run(source, out, **options): return run_flow(FlowConfig(str(source), str(out), **{'method': 'lucas_kanade', 'workers': 0, **options}), progress=False)


def test_a_folder(videos, tmp_path, capsys):
    assert run(videos, tmp_path/'flow') == 0
    assert '3 videos: 3 extracted, 0 there already, 0 bad' in capsys.readouterr().out
    assert flow_info(flow_path(tmp_path/'flow', 'pass/b.avi'), frames=4).video_height == 50
    before = {p: p.stat().st_mtime_ns for p in (tmp_path/'flow').rglob('*.flow')}
    assert run(videos, tmp_path/'flow') == 0
    assert '0 extracted, 3 there already' in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path/'flow').rglob('*') if p.is_file()}


def test_processes_give_the_same_files(videos, tmp_path):
    assert run(videos, tmp_path/'one') == run(videos, tmp_path/'two', workers=2) == 0
    for p in (tmp_path/'one').rglob('*.flow'): assert p.read_bytes() == (tmp_path/'two'/p.relative_to(tmp_path/'one')).read_bytes()


@pytest.mark.parametrize('change', [dict(method='horn_schunck'), dict(size=32), dict(limit=10.), dict(overwrite=True), 'torn', 'another video'])
def test_what_does_not_fit_is_made_again(videos, tmp_path, capsys, change):
    video = tmp_path/'v'/'a.mp4'; write_video(video, slide(4))
    run(tmp_path/'v', tmp_path/'flow'); capsys.readouterr()
    path = flow_path(tmp_path/'flow', 'a.mp4')
    if change == 'torn': path.write_bytes(path.read_bytes()[:-5])
    if change == 'another video': write_video(video, slide(5))
    assert run(tmp_path/'v', tmp_path/'flow', **(change if isinstance(change, dict) else {})) == 0
    assert '1 extracted, 0 there already' in capsys.readouterr().out and flow_info(path).fields == (4 if change == 'another video' else 3)


@pytest.mark.parametrize('workers', [0, 1])
def test_bad_videos_are_listed_and_stop_nothing(tmp_path, capsys, workers):
    write_video(tmp_path/'v'/'good.mp4', slide(4)); write_video(tmp_path/'v'/'single.mp4', slide(1))
    good = (tmp_path/'v'/'good.mp4').read_bytes()
    (tmp_path/'v'/'torn.mp4').write_bytes(good[:len(good)//2]); (tmp_path/'v'/'empty.mp4').touch(); (tmp_path/'v'/'text.mp4').write_text('no video')
    assert run(tmp_path/'v', tmp_path/'flow', workers=workers) == 1
    out = capsys.readouterr().out
    assert '1 extracted, 0 there already, 4 bad' in out and 'BAD  single.mp4' in out and 'at least 2 frames, got 1' in out and 'BAD  torn.mp4' in out
    assert [p.name for p in (tmp_path/'flow').rglob('*')] == ['good.mp4.flow']                     # nothing half-written


def test_a_manifest_and_a_single_file(videos, tmp_path, capsys):
    (tmp_path/'m').mkdir(); (tmp_path/'m'/'list.csv').write_text(f'path,label\n{(videos/"pass/a.mp4").as_posix()},pass\n{os.path.relpath(videos/"shot/a.mp4", tmp_path/"m")},shot\nnone.mp4,shot\n')
    assert run(tmp_path/'m'/'list.csv', tmp_path/'flow') == 1 and '2 extracted, 0 there already, 1 bad' in capsys.readouterr().out
    assert flow_info(flow_path(tmp_path/'flow', (videos/'pass/a.mp4').as_posix())).fields == 5
    assert run(videos/'pass/a.mp4', tmp_path/'flow') == 0 and flow_info(tmp_path/'flow'/'a.mp4.flow').fields == 5


@pytest.mark.skipif(os.name != 'posix', reason='sends a signal')
def test_interrupted_and_continued(tmp_path):
    "Ctrl-C leaves whole files only; the next run does the rest."
    for i in range(30): write_video(tmp_path/'v'/f'{i:02}.mp4', slide(20, 96, 128))
    code = f"from fgar.data.flow_files import *\nif __name__ == '__main__': run_flow(FlowConfig({str(tmp_path/'v')!r}, {str(tmp_path/'flow')!r}, workers=1))"
    (tmp_path/'go.py').write_text(code)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen([sys.executable, tmp_path/'go.py'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    limit = time.monotonic() + 60
    while not list((tmp_path/'flow').rglob('*.mp4.flow')) and time.monotonic() < limit and process.poll() is None: time.sleep(.05)
    os.killpg(process.pid, signal.SIGINT)                          # as a terminal does: to the whole group
    assert process.wait(30) != 0
    done = [p for p in (tmp_path/'flow').rglob('*') if p.is_file()]
    assert 0 < len(done) < 30
    for p in done: assert p.suffix == '.flow' and not p.name.startswith('.') and len(read_flow(p)) == 19


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('kind', ['files', 'compressed'])
def test_data_sets_read_flow_of_the_moments_of_their_frames(tmp_path, kind, train):
    from fgar.data.compressed import motion_stack
    from fgar.data.datasets import Manifest, VideoDataset
    for name in 'ab': write_video(tmp_path/'v'/name/f'{name}.mp4', slide(12))
    run(tmp_path/'v', tmp_path/'flow')
    data = VideoDataset(Manifest.from_folder(tmp_path/'v'), frames=3, size=32, stack=2, train=train, flow='compressed' if kind == 'compressed' else tmp_path/'flow')
    item, path = data[1], tmp_path/'v'/'b'/'b.mp4'
    assert item['flow'].dtype == torch.uint8 and item['flow'].shape == (6, *item['frames'].shape[1:3], 2)
    every = motion_stack(path, range(11), size=32) if kind == 'compressed' else read_flow(flow_path(tmp_path/'flow', 'b/b.mp4'), size=32)
    frames = read_frames(path, size=32)
    for t in range(3):
        at = next(i for i in range(12) if torch.equal(frames[i], item['frames'][t]))               # the middle of the moment, whose first frame is one before
        assert torch.equal(item['flow'][2*t], every[at-1]) and torch.equal(item['flow'][2*t+1], every[min(at, 10)])


# names

@pytest.mark.parametrize('name,expected', [('a.mp4', 'a.mp4.flow'), ('pass/a.mp4', 'pass/a.mp4.flow'), ('./pass/a.mp4', 'pass/a.mp4.flow'), ('pass\\a.mp4', 'pass/a.mp4.flow'), ('/data/a.mp4', 'data/a.mp4.flow'),
                                           ('../../v/a.mp4', 'v/a.mp4.flow'), ('D:\\v\\a b.avi', 'D/v/a b.avi.flow'), ('ünï/ä.mp4', 'ünï/ä.mp4.flow'), ('pass/a', 'pass/a.flow')])
def test_flow_path(name, expected): assert flow_path('root', name) == Path('root')/expected


def test_two_videos_of_one_name_are_refused(videos, tmp_path):
    (tmp_path/'x').mkdir(); (tmp_path/'x'/'list.csv').write_text('path,label\n../a.mp4,p\na.mp4,p\n')
    with pytest.raises(ValueError, match='two videos would share a flow file'): run(tmp_path/'x'/'list.csv', tmp_path/'flow')


# errors

def broken(path, how):
    data = bytearray(path.read_bytes())
    if how == 'empty': data = b''
    if how == 'torn': data = data[:-9]
    if how == 'text': data = b'hello'
    if how == 'no table': data[-60:-16] = b'x'*44
    if how == 'length': data[-16:-8] = (10**12).to_bytes(8, 'little')
    path.write_bytes(data)


@pytest.mark.parametrize('how', ['empty', 'torn', 'text', 'no table', 'length'])
def test_broken_files_are_said(flow_file, how):
    broken(flow_file, how)
    with pytest.raises(FlowError, match='a.flow: .*Delete it and extract it again'): read_flow(flow_file)


def test_a_flipped_bit_is_found(flow_file):
    data = bytearray(flow_file.read_bytes()); data[60] ^= 4; flow_file.write_bytes(data)
    with pytest.raises(FlowError, match='damaged'): read_flow(flow_file)


def test_a_missing_file(tmp_path):
    for kind in (FlowNotFound, FileNotFoundError, VideoError):
        with pytest.raises(kind, match='no such flow file. Extract it first'): read_flow(tmp_path/'none.flow')


def test_a_file_that_changes_is_read_anew(flow_file):
    assert flow_info(flow_file).fields == 7
    write_flow(flow_file, [fields(1, 3)], (11, 15))
    assert len(read_flow(flow_file)) == 3


BAD = {
    'index': (lambda p: read_flow(p, [7]), FrameError, 'from 0 to 6, got .7.'),
    'negative': (lambda p: read_flow(p, [-1]), FrameError, 'from 0 to 6'),
    'a table of indices': (lambda p: read_flow(p, torch.zeros(2, 2, dtype=torch.int64)), FrameError, 'indices: expected numbers'),
    'size': (lambda p: read_flow(p, [0], size=0), ValueError, 'size: expected'),
    'stack': (lambda p: flow_stack(p, [0], 0), ValueError, 'at least 1 field'),
    'starts': (lambda p: flow_stack(p, [-2]), FrameError, 'from 0, got'),
    'nothing': (lambda p: write_flow(p, [], (5, 5)), ValueError, 'at least one field'),
    'nan': (lambda p: write_flow(p, [fields()*torch.nan], (11, 15)), ValueError, 'finite flow'),
    'infinity': (lambda p: write_flow(p, [fields()*torch.inf], (11, 15)), ValueError, 'finite flow'),
    'layout': (lambda p: write_flow(p, [fields().permute(0, 2, 3, 1)], (11, 15)), ValueError, r'chunks: expected \(N, 2, H, W\)'),
    'sizes': (lambda p: write_flow(p, [fields(), fields(h=12)], (11, 15)), ValueError, 'H=11'),
    'limit': (lambda p: write_flow(p, [fields()], (11, 15), limit=0), ValueError, 'above 0'),
    'method': (lambda p: FlowConfig('a', 'b', method='tvl2'), ValueError, "Did you mean 'tvl1'"),
    'workers': (lambda p: FlowConfig('a', 'b', workers=-1), ValueError, 'workers: expected 0 or more'),
    'config size': (lambda p: FlowConfig('a', 'b', size=0), ValueError, 'size: expected at least 1'),
    'config limit': (lambda p: FlowConfig('a', 'b', limit=-1.), ValueError, 'limit: expected px above 0'),
    'source': (lambda p: run_flow(FlowConfig(str(p) + 'x', str(p.parent))), FileNotFoundError, 'which is not there'),
    'empty folder': (lambda p: run_flow(FlowConfig(str(p.parent), str(p.parent))), ValueError, 'found none with an ending'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_says_what_to_do(flow_file, case):
    call, kind, message = BAD[case]
    before = flow_file.read_bytes()
    with pytest.raises(kind, match=message): call(flow_file)
    assert flow_file.read_bytes() == before and len(list(flow_file.parent.iterdir())) == 1
