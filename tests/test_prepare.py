"Preparing and caching: times kept, nothing half done, nothing lost, nothing stale."
import json
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import fgar
from fgar.data.datasets import Loader, Manifest, VideoDataset
from fgar.data.prepare import CachedClips, PrepareConfig, cache_clips, prepare, prepare_file, prepared_name, run_prepare
from fgar.data.video import frame_numbers, frame_times, packet_table, probe, read_frames, write_video
from fgar.train import TrainConfig


def counting(n, height=96, width=160):
    "Frames that show their own number as grey."
    return (torch.arange(n)*(240/n)).byte()[:, None, None, None].expand(-1, height, width, 3).contiguous()


def test_every_frame_keeps_its_number_and_time(tmp_path):
    write_video(tmp_path/'a.mp4', counting(60), fps=30, gop=60)
    assert prepare_file(tmp_path/'a.mp4', tmp_path/'b.mp4', size=48, gop=6) == 60
    old, new = probe(tmp_path/'a.mp4'), probe(tmp_path/'b.mp4')
    assert (new.frames, new.fps, new.height, new.width) == (60, old.fps, 48, 80)
    assert_close(read_frames(tmp_path/'b.mp4', size=4)[:, 2, 2, 0].float(), counting(60)[:, 0, 0, 0].float(), rtol=0, atol=3)
    assert_close(frame_times(tmp_path/'b.mp4'), frame_times(tmp_path/'a.mp4'), rtol=0, atol=1e-4)
    key = packet_table(tmp_path/'b.mp4')['key']
    assert key.sum() >= 10 > packet_table(tmp_path/'a.mp4')['key'].sum()


def test_variable_rate_keeps_what_is_shown_when(tmp_path):
    av = pytest.importorskip('av')
    times = [0, 1, 2, 3, 8, 9, 10, 11, 20, 21, 22, 30]                            # tenths of a second
    with av.open(str(tmp_path/'v.mkv'), 'w') as out:
        stream = out.add_stream('libx264', rate=10, options={'bf': '0', 'crf': '5'})
        stream.height, stream.width, stream.pix_fmt = 64, 64, 'yuv420p'
        for t in times:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8*t, np.uint8), format='rgb24')
            frame.pts = t
            frame.time_base = Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    info = probe(tmp_path/'v.mkv')
    assert info.variable and info.frames == 12
    prepare_file(tmp_path/'v.mkv', tmp_path/'c.mp4', size=32)
    copy, old = probe(tmp_path/'c.mp4'), frame_times(tmp_path/'v.mkv')
    assert not copy.variable and abs(copy.duration - info.duration) < .11 and copy.frames >= info.frames
    for i, (t, frame) in enumerate(zip(frame_times(tmp_path/'c.mp4'), read_frames(tmp_path/'c.mp4', size=4))):
        expected = 8*times[int(np.searchsorted(old, t + 1e-3, 'right')) - 1]
        assert abs(frame.float().mean() - expected) < 6, i


def test_small_and_odd_sizes(tmp_path):
    write_video(tmp_path/'a.mkv', counting(5, 31, 45), pix_fmt='yuv444p')
    prepare_file(tmp_path/'a.mkv', tmp_path/'b.mp4', size=256)
    info = probe(tmp_path/'b.mp4')
    assert (info.height, info.width) in [(30, 44), (32, 46), (32, 44), (30, 46)]                # even, never enlarged beyond rounding


@pytest.mark.parametrize('name,expected', [('a/b.mp4', 'a/b.mp4'), ('a/b.avi', 'a/b.avi.mp4'), ('../x/b.webm', 'x/b.webm.mp4'), ('/data/b.mp4', 'data/b.mp4'), ('a\\b.mp4', 'a/b.mp4')])
def test_names_stay_inside(name, expected): assert prepared_name(name) == expected


def test_resume_change_and_broken(tmp_path, capsys):
    raw = tmp_path/'raw'
    for label in ('x', 'y'):
        (raw/label).mkdir(parents=True)
        for i in range(2): write_video(raw/label/f'{i}.mp4', counting(8, 48, 48))
    (raw/'x/bad.mp4').write_bytes(b'no video')
    table = pd.DataFrame(dict(path=['x/0.mp4', 'x/0.mp4', 'x/1.mp4', 'y/0.mp4', 'y/1.mp4', 'x/bad.mp4'], label=list('xxxyyx'), start=[0, .16, '', '', '', ''], end=[.16, .3, '', '', '', ''], split='train', group=list('aabcde')))
    m = Manifest(table, raw)
    first = prepare(m, tmp_path/'out', size=32, progress=False)
    assert (first.made, first.kept, [n for n, _ in first.broken]) == (4, 0, ['x/bad.mp4'])
    new = Manifest.read(tmp_path/'out/manifest.csv', check_files=True)
    assert list(new.rows.label) == list('xxxyy') and list(new.rows.group) == list('aabcd') and new.rows.end.iloc[1] == .3
    assert frame_numbers(new.path(1), .16, .3).tolist() == frame_numbers(m.path(1), .16, .3).tolist()
    with open(tmp_path/'out/prepared.log', 'a') as log: log.write('["y/0.m')                    # as a killed run leaves it
    assert prepare(m, tmp_path/'out', size=32, progress=False).kept == 4
    write_video(raw/'y/0.mp4', counting(9, 48, 48))                                             # changed
    again = prepare(m, tmp_path/'out', size=32, progress=False)
    assert (again.made, again.kept) == (1, 3) and probe(tmp_path/'out/y/0.mp4').frames == 9
    assert prepare(m, tmp_path/'out', size=24, progress=False).made == 4                        # another size
    assert run_prepare(PrepareConfig(str(raw), str(tmp_path/'two'), size=24, quiet=True)) == 0
    out = capsys.readouterr().out
    assert 'BAD  x/bad.mp4' in out and 'next: fgar train' in out
    with pytest.raises(ValueError, match='overwritten'): prepare(m, raw)
    with pytest.raises(ValueError, match='none of 1'): prepare(m.select(m.rows.path == 'x/bad.mp4'), tmp_path/'none', progress=False)


def test_cache_is_the_dataset(tmp_path, tiny_run):
    m = Manifest.read(tiny_run/'data/manifest.csv')
    (tmp_path/'data').mkdir()
    for train, variants in ((False, 1), (True, 3)):
        data = VideoDataset(m, 4, size=24, train=train, seed=5)
        cached = cache_clips(data, tmp_path/str(train), variants, progress=False)
        assert len(cached) == len(data) and cached.labels == data.labels and torch.equal(cached.targets, data.targets)
        for i in range(3):
            clip = cached[i, 7, 0]['frames']
            assert any(torch.equal(clip, data[i, v, 0]['frames']) for v in range(variants))
        batches = [list(Loader(cached, 4, train=train, workers=w).epoch(1)) for w in (0, 2)]
        assert all(torch.equal(a['frames'], b['frames']) for a, b in zip(*batches))
    stamp = (tmp_path/'True/clips.npy').stat().st_mtime_ns
    cache_clips(VideoDataset(m, 4, size=24, train=True, seed=5), tmp_path/'True', 3, progress=False)
    assert (tmp_path/'True/clips.npy').stat().st_mtime_ns == stamp                              # used as it is
    cache_clips(VideoDataset(m, 4, size=24, train=True, seed=6), tmp_path/'True', 3, progress=False)
    assert (tmp_path/'True/clips.npy').stat().st_mtime_ns != stamp                              # another seed, another cache


def test_cache_of_unlike_sizes_and_broken_files(tmp_path):
    for name, (h, w) in {'a/0.mp4': (48, 64), 'a/1.mp4': (64, 48), 'b/2.mp4': (48, 48)}.items():
        (tmp_path/name).parent.mkdir(exist_ok=True, parents=True); write_video(tmp_path/name, counting(6, h, w))
    (tmp_path/'b/bad.mp4').write_bytes(b'nothing')
    data = VideoDataset(Manifest.from_folder(tmp_path), 2, size=24)
    cached = cache_clips(data, tmp_path/'cache', progress=False)
    for i in range(3): assert torch.equal(cached[i]['frames'], data[i]['frames'])
    assert 'error' in cached[3] and cached[3]['index'] == 3
    with pytest.raises(FileNotFoundError, match='cache_clips makes it'): CachedClips(tmp_path)
    with pytest.raises(ValueError, match='clips=1, stack=0'): cache_clips(VideoDataset(data.manifest, 2, stack=1), tmp_path/'c')


def test_training_from_a_cache_is_training_from_files(tmp_path, tiny_run):
    small = dict(model='tsn', options={'body': 'small', 'dropout': 0.}, data=str(tiny_run/'data/manifest.csv'), frames=4, size=24, epochs=1, warmup=0., batch=4, workers=0, quiet=True, tensorboard=False, crop='centre', flip=False)
    a = fgar.train(TrainConfig(out=str(tmp_path/'a'), **small))
    b = fgar.train(TrainConfig(out=str(tmp_path/'b'), cache=str(tmp_path/'cache'), **small))
    assert json.loads((tmp_path/'cache/train/cache.json').read_text())['frames'] == 4
    assert a.history[0]['val_loss'] == pytest.approx(b.history[0]['val_loss'], rel=1e-5)       # variant 0 is what epoch 0 reads


def test_a_torn_cache_is_noticed_and_made_again(tmp_path, tiny_run):
    data = VideoDataset(Manifest.read(tiny_run/'data/manifest.csv'), 4, size=24)
    cached = cache_clips(data, tmp_path, progress=False)
    assert cached.seconds() == data.seconds() > 0                                               # how long a window of a long video is
    body = (tmp_path/'clips.npy').read_bytes()
    del cached
    (tmp_path/'clips.npy').write_bytes(body[:len(body)//2])
    with pytest.raises(ValueError, match='cache_clips makes them again'): CachedClips(tmp_path)
    assert torch.equal(cache_clips(data, tmp_path, progress=False)[2]['frames'], data[2]['frames']) and (tmp_path/'clips.npy').read_bytes() == body
    (tmp_path/'clips.npy').unlink()
    assert torch.equal(cache_clips(data, tmp_path, progress=False)[0]['frames'], data[0]['frames'])


def test_an_original_is_never_replaced(tmp_path):
    (tmp_path/'lists').mkdir(); (tmp_path/'videos').mkdir()
    write_video(tmp_path/'videos/a.mp4', counting(4, 32, 32))
    before = (tmp_path/'videos/a.mp4').read_bytes()
    m = Manifest(pd.DataFrame([dict(path='../videos/a.mp4', label='x')]), tmp_path/'lists')
    with pytest.raises(ValueError, match='no original lies'): prepare(m, tmp_path, progress=False)
    assert (tmp_path/'videos/a.mp4').read_bytes() == before
    assert prepare(m, tmp_path/'new', progress=False).made == 1


def test_ctrl_c_stops_soon_and_the_next_call_continues(tmp_path, monkeypatch):
    import fgar.data.prepare as module
    for i in range(12): write_video(tmp_path/f'raw/x/{i:02d}.mp4', counting(4, 32, 32))
    m, real, calls = Manifest.from_folder(tmp_path/'raw'), prepare_file, []
    def counted(*args): calls.append(args); return real(*args)
    class Interrupted:
        def __init__(self, results, **options): self.results = results
        def __iter__(self): yield next(self.results); raise KeyboardInterrupt
    monkeypatch.setattr(module, 'prepare_file', counted); monkeypatch.setattr(module, 'tqdm', Interrupted)
    with pytest.raises(KeyboardInterrupt): prepare(m, tmp_path/'out', workers=1)
    assert 1 <= len(calls) < 12 and not (tmp_path/'out/manifest.csv').exists() and not list((tmp_path/'out').rglob('.*'))
    monkeypatch.undo()
    again = prepare(m, tmp_path/'out', progress=False)
    assert again.kept == len(calls) and again.made == 12 - len(calls)


def test_real_files_keep_their_frames_and_times(tmp_path, real):
    "Odd containers, rotation, edit lists, 10 bit: number of frames and times as the decoder has them."
    files = [real/'formats'/e['path'] for e in json.loads((real/'formats/manifest.json').read_text()) if e['pyav_frames'] <= 150 and e['w']*e['h'] <= 400_000]
    assert len(files) > 5
    for source in files:
        old = probe(source)
        prepare_file(source, tmp_path/'copy.mp4', size=64)
        new = probe(tmp_path/'copy.mp4')
        assert abs(new.duration - old.duration) < 1.5/old.fps, source
        if old.variable: continue
        assert new.frames == old.frames, source
        assert_close(frame_times(tmp_path/'copy.mp4'), frame_times(source), rtol=0, atol=2e-3), source


def test_a_cache_that_does_not_fit_is_refused_before_it_is_begun(tmp_path, tiny_run, monkeypatch):
    import shutil
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match='GB free for 18 rows'): cache_clips(VideoDataset(Manifest.read(tiny_run/'data/manifest.csv'), 4, size=24), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_cache_made_under_another_rule_or_label_order_is_made_again(tmp_path):
    for name in ('a/0.mp4', 'b/1.mp4'): (tmp_path/'v'/name).parent.mkdir(parents=True); write_video(tmp_path/'v'/name, counting(3, 32, 32))
    for labels in (['a', 'b'], ['b', 'a']):
        for short in ('last', 'loop'):
            data = VideoDataset(Manifest.from_folder(tmp_path/'v', labels), 6, 'dense', size=32, short=short)
            cached = cache_clips(data, tmp_path/'cache', progress=False)
            assert cached.labels == labels and torch.equal(cached.targets, data.targets) and torch.equal(cached[0]['frames'], data[0]['frames'])


def test_copies_do_not_become_a_class_of_their_source(tmp_path):
    for label in 'ab':
        (tmp_path/'clips'/label).mkdir(parents=True)
        write_video(tmp_path/'clips'/label/'0.mp4', counting(4), fps=10)
    with pytest.raises(ValueError, match='out: expected a folder outside of .*one more class'): run_prepare(PrepareConfig(str(tmp_path/'clips'), str(tmp_path/'clips/small'), size=48, quiet=True))
    assert sorted(p.name for p in (tmp_path/'clips').iterdir()) == ['a', 'b']
