"Evaluation, prediction and reports: cases that would clutter the chapter."
import json, shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

import fgar
from fgar.data.video import VideoError, probe, read_frames, write_video
from fgar.data.clips import clip_windows
from fgar.data.datasets import Manifest
from fgar.evaluate import EvaluateConfig, Evaluation, Window, evaluate, predict, score_videos, view_scores, window_times, write_overlay, write_report
from fgar.train import load_checkpoint, run_manifest

@pytest.fixture(scope='module')
def checkpoint(tiny_run): return load_checkpoint(tiny_run/'run/best.pt')

def test_evaluate_equals_clip_by_clip(tiny_run, checkpoint):
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tiny_run/'data/manifest.csv'), workers=0, batch=4, quiet=True))
    rows = pd.read_csv(tiny_run/'data/manifest.csv').query("split == 'test'")
    assert result.names == list(rows.path) and [result.labels[i] for i in result.target] == list(rows.label)
    from fgar.data.clips import segment_indices
    for path, scores in zip(rows.path, result.scores):
        frames = read_frames(tiny_run/'data'/path, segment_indices(16, 4), size=round(32*8/7))
        assert_close(view_scores(checkpoint.model, frames[None], 32)[0], scores)

@pytest.mark.parametrize('clips,crops', [(1, 3), (3, 1), (2, 3)])
def test_views_average(tiny_run, clips, crops):
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tiny_run/'data/manifest.csv'), clips=clips, crops=crops, workers=0, quiet=True))
    assert_close(result.scores.sum(1), torch.ones(6))
    assert len(result.target) == 6

@pytest.fixture(scope='module')
def long_videos(tmp_path_factory, checkpoint):
    "Three videos of 45, 5 and 30 frames, one stretch of a video, and a checkpoint of dense clips that span 8 frames."
    from dataclasses import replace
    folder = tmp_path_factory.mktemp('long')
    for name, count in dict(long=45, short=5, middle=30).items():
        write_video(folder/f'{name}.mp4', torch.randint(0, 255, (count, 48, 48, 3), generator=torch.Generator().manual_seed(count), dtype=torch.uint8), fps=10)
    (folder/'broken.mp4').write_bytes(b'no video')
    rows = pd.DataFrame([('long.mp4', '', ''), ('short.mp4', '', ''), ('middle.mp4', '', ''), ('broken.mp4', '', ''), ('long.mp4', '1', '3.1')], columns=['path', 'start', 'end'])
    return Manifest(rows.assign(label=checkpoint.labels[1]), folder, checkpoint.labels), checkpoint._replace(config=replace(checkpoint.config, sampling='dense', stride=2))

def test_all_segments_are_scored_and_averaged(long_videos):
    manifest, dense = long_videos
    scores, index, failed = score_videos(manifest, dense, clips=0, batch=3, workers=0, progress=False)
    assert index.tolist() == [0, 1, 2, 4] and len(failed) == 1 and 'broken.mp4' in failed[0][0]
    for row, found in zip(index.tolist(), scores):
        frames = read_frames(manifest.path(row), size=round(32*8/7))[slice(10, 31) if row == 4 else slice(None)]
        windows = clip_windows(len(frames), 4, 2, step=8)
        assert len(windows) == {0: 6, 1: 1, 2: 4, 4: 3}[row]                       # the last one ends with the video
        assert_close(view_scores(dense.model, frames[windows], 32).mean(0), found)

def test_all_segments_of_each_window_of_a_prediction(long_videos):
    manifest, dense = long_videos
    found = predict(manifest.path(0), dense, window=1.6, step=1.6, clips=0, top=0)
    frames = read_frames(manifest.path(0), size=round(32*8/7))
    assert [(round(w.start, 3), round(w.end, 3)) for w in found] == [(0, 1.6), (1.6, 3.2), (2.9, 4.5)]
    wanted = view_scores(dense.model, frames[:16][clip_windows(16, 4, 2, step=8)], 32).mean(0)
    assert_close(torch.tensor(found[0].scores), wanted.sort(descending=True).values)

def test_rendered_clips_are_one_each_whatever_was_asked(tiny_run):
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), 'court26', clips=0, count=2, batch=2, quiet=True))
    assert result.source == 'court26, test; 1 clip × 1 crop'

def test_segments_need_dense_clips(tiny_run):
    with pytest.raises(ValueError, match="clips: expected at least 1 with sampling='segments', got 0"):
        evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tiny_run/'data/manifest.csv'), clips=0, workers=0, quiet=True))

def test_a_bad_file_is_listed_and_the_rest_is_scored(tiny_run, tmp_path):
    shutil.copytree(tiny_run/'data', tmp_path/'data')
    victim = pd.read_csv(tmp_path/'data/manifest.csv').query("split == 'test'").path.iloc[2]
    (tmp_path/'data'/victim).write_bytes(b'not a video')
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'data/manifest.csv'), workers=0, quiet=True, out=str(tmp_path/'out')))
    assert [name for name, _ in result.failed] == [victim] and len(result.target) == 5 and result.summary['failed'] == 1
    assert victim in (tmp_path/'out/report.html').read_text()
    assert json.loads((tmp_path/'out/summary.json').read_text())['clips'] == 5
    assert len(pd.read_csv(tmp_path/'out/per_clip.csv')) == 5

def test_no_readable_file(tiny_run, tmp_path):
    (tmp_path/'a.mp4').write_bytes(b'')
    pd.DataFrame([dict(path='a.mp4', label='jump shot')]).to_csv(tmp_path/'m.csv', index=False)
    with pytest.raises((ValueError, RuntimeError), match='a.mp4'): evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'m.csv'), workers=0, quiet=True))

def test_unknown_label_and_split(tiny_run, tmp_path):
    manifest = pd.read_csv(tiny_run/'data/manifest.csv')
    manifest.assign(label='juggling').to_csv(tmp_path/'m.csv', index=False)
    with pytest.raises(ValueError, match='juggling'): evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'m.csv'), quiet=True))
    with pytest.raises(ValueError, match='holdout'): evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tiny_run/'data/manifest.csv'), split='holdout', quiet=True))

def test_a_manifest_with_fewer_classes_keeps_the_numbers(tiny_run, tmp_path):
    "Labels of the checkpoint count, not those that happen to be in the file."
    manifest = pd.read_csv(tiny_run/'data/manifest.csv').query("split == 'test' and label == 'low dribble'")
    manifest.assign(path=[str(tiny_run/'data'/p) for p in manifest.path]).to_csv(tmp_path/'m.csv', index=False)
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'m.csv'), workers=0, quiet=True))
    assert {result.labels[i] for i in result.target} == {'low dribble'} and result.scores.shape[1] == 2

def test_court26_in_memory(tiny_run, checkpoint):
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), 'court26', count=4, quiet=True))
    assert len(result.target) == 4 and result.groups == ['dribble' if name == 'low dribble' else 'shot' for name in result.labels]

@pytest.mark.parametrize('duration,window,step,expected', [
    (2., 2., 1., [(0., 2.)]), (2.9, 2., 1., [(0., 2.9)]), (3., 2., 1., [(0., 2.), (1., 3.)]), (3.5, 2., 1., [(0., 2.), (1., 3.), (1.5, 3.5)]), (6., 2., 2., [(0., 2.), (2., 4.), (4., 6.)]), (.5, 2., 1., [(0., .5)])])
def test_windows_cover_the_video(duration, window, step, expected): assert window_times(duration, window, step) == expected

@pytest.mark.parametrize('window,step', [(0, 1), (2, 0), (-1, 1), (float('nan'), 1)])
def test_windows_refuse(window, step):
    with pytest.raises(ValueError, match='window, step'): window_times(10., window, step)

def long_video(tiny_run, path, copies=5):
    rows = pd.read_csv(tiny_run/'data/manifest.csv')
    write_video(path, torch.cat([read_frames(tiny_run/'data'/p) for p in rows.path[:copies]]), fps=8)
    return path

def test_predict_long_video_window_by_window(tiny_run, checkpoint, tmp_path):
    path = long_video(tiny_run, tmp_path/'long.mp4')
    windows = predict(path, checkpoint, window=2., step=2., top=0)
    assert [(w.start, w.end) for w in windows] == [(2.*i, 2.*i + 2) for i in range(5)]
    for i, window in enumerate(windows):                  # the same as cutting the piece out by hand
        from fgar.data.clips import segment_indices
        scores = view_scores(checkpoint.model, read_frames(path, 16*i + segment_indices(16, 4), size=37)[None], 32)[0]
        assert_close(torch.tensor(window.scores), scores.sort(descending=True).values)
        assert window.labels[0] == checkpoint.labels[scores.argmax()]

def test_predict_takes_a_path_and_ranks(tiny_run):
    path = tiny_run/'data'/pd.read_csv(tiny_run/'data/manifest.csv').path[0]
    window, = fgar.predict(path, checkpoint=tiny_run/'run/best.pt')
    assert sorted(window.labels) == ['jump shot', 'low dribble'] and window.scores == sorted(window.scores, reverse=True) and sum(window.scores) == pytest.approx(1)

def test_overlay(tiny_run, checkpoint, tmp_path):
    path = long_video(tiny_run, tmp_path/'long.mp4', 3)
    predict(path, checkpoint, overlay=tmp_path/'drawn.mp4')
    before, after = probe(path), probe(tmp_path/'drawn.mp4')
    assert (after.frames, after.fps) == (before.frames, before.fps) and min(after.width, after.height) == 256
    plain, drawn = read_frames(path, size=256).float(), read_frames(tmp_path/'drawn.mp4').float()
    changed = (plain - drawn).abs().mean((0, 3))
    assert changed[:30].mean() > 5*changed[-100:].mean()        # the caption is at the top, the rest is as it was

@pytest.mark.parametrize('content', [None, b'', b'no video'])
def test_predict_bad_file(tiny_run, tmp_path, content):
    if content is not None: (tmp_path/'x.mp4').write_bytes(content)
    with pytest.raises(VideoError, match='x.mp4'): predict(tmp_path/'x.mp4', tiny_run/'run/best.pt', overlay=tmp_path/'o.mp4')
    assert not (tmp_path/'o.mp4').exists()

def test_report_is_self_contained_and_escapes(tmp_path):
    import matplotlib.pyplot as plt
    figure, ax = plt.subplots(); plt.close(figure)
    text = write_report(tmp_path/'r.html', 'a <b> & c', '# head <i>', 'text', figure, ax, pd.DataFrame({'x': [1/3]})).read_text()
    assert 'a &lt;b&gt; &amp; c' in text and '<h2>head &lt;i&gt;</h2>' in text and text.count('data:image/png;base64') == 2 and '0.333' in text and 'src="http' not in text

def test_a_window_is_as_long_as_the_training_clips(tiny_run, checkpoint, tmp_path):
    assert checkpoint.seconds == pytest.approx(2.)                      # 16 frames at 8 per second
    windows = predict(long_video(tiny_run, tmp_path/'long.mp4', 3), checkpoint)
    assert [(w.start, w.end) for w in windows] == [(i, i + 2.) for i in range(5)]


def test_predict_explains_impossible_numbers(tiny_run):
    path, checkpoint = next((tiny_run/'data'/'test').rglob('*.mp4')), load_checkpoint(tiny_run/'run/best.pt')
    with pytest.raises(ValueError, match='top: expected at least 0, got -1'): predict(path, checkpoint, top=-1)
    with pytest.raises(ValueError, match='window, step: expected lengths above 0'): predict(path, checkpoint, window=0.)
    with pytest.raises(ValueError, match='window, step: expected lengths above 0'): predict(path, checkpoint, step=0.)


def test_an_output_that_cannot_be_written_stops_before_the_work(tiny_run, tmp_path, monkeypatch):
    import fgar.evaluate as module
    monkeypatch.setattr(module, 'score_loader', lambda *a, **k: pytest.fail('scored first'))
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='cannot write here'): evaluate(EvaluateConfig(checkpoint=str(tiny_run/'run/best.pt'), out=str(tmp_path/'file'/'out'), workers=0, quiet=True))
    with pytest.raises(OSError, match='cannot write here'): predict(next((tiny_run/'data'/'test').rglob('*.mp4')), tiny_run/'run/best.pt', overlay=tmp_path/'file'/'o.mp4')

def test_without_splits_the_rows_that_training_kept_for_validation_are_scored(tiny_run, tmp_path):
    "Training deals them itself; a score over all rows would be one over clips that it learnt."
    for i, file in enumerate(sorted((tiny_run/'data').rglob('*.mp4'))):
        (tmp_path/'my clips'/file.parent.name).mkdir(parents=True, exist_ok=True); shutil.copy(file, tmp_path/'my clips'/file.parent.name/f'{i}.mp4')
    config = fgar.TrainConfig('small3d', str(tmp_path/'my clips'), str(tmp_path/'run'), frames=4, size=32, epochs=1, warmup=0., batch=4, workers=0, quiet=True, tensorboard=False)
    fgar.train(config)
    kept = run_manifest(config).split('val').rows.path.tolist()
    for asked in ('', 'val'):
        result = evaluate(EvaluateConfig(str(tmp_path/'run/best.pt'), split=asked, workers=0, quiet=True))
        assert result.names == kept and 'dealt as for training' in result.source and 0 < len(kept) < 9
    everything = evaluate(EvaluateConfig(str(tmp_path/'run/best.pt'), split='all', workers=0, quiet=True))
    assert len(everything.names) == 18
    shutil.copytree(tmp_path/'my clips', tmp_path/'other')                    # the same files elsewhere are a stranger's: all rows
    assert len(evaluate(EvaluateConfig(str(tmp_path/'run/best.pt'), str(tmp_path/'other'), workers=0, quiet=True)).names) == 18

def test_parts_of_one_file_are_told_apart(tiny_run, checkpoint, tmp_path):
    video = next((tiny_run/'data/test').rglob('*.mp4'))
    pd.DataFrame([dict(path=str(video), label=checkpoint.labels[0], start=a, end=a + .5) for a in (0, .5, 1.)]).to_csv(tmp_path/'parts.csv', index=False)
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'parts.csv'), workers=0, quiet=True))
    assert sorted(zip(result.per_clip.start, result.per_clip.end)) == [(0, .5), (.5, 1.), (1., 1.5)]
    best = result.per_clip.iloc[-1]
    assert_close(best.score, evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tmp_path/'parts.csv'), workers=0, quiet=True)).scores[int(best.start*2)].max().item())

def test_overlay_of_a_variable_rate_follows_the_clock(tmp_path):
    av = pytest.importorskip('av')
    from fractions import Fraction
    with av.open(str(tmp_path/'jumpy.mp4'), 'w') as output:                     # frame i at i² tenths of a second: half of the frames lie in the first quarter
        stream = output.add_stream('libx264', rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 64, 'yuv420p', Fraction(1, 10)
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(torch.full((64, 64, 3), 60, dtype=torch.uint8).numpy(), format='rgb24')
            frame.pts, frame.time_base = i*i, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    write_overlay(tmp_path/'jumpy.mp4', tmp_path/'drawn.mp4', [Window(0, 10, ['a'], [1.]), Window(10, 36, ['b'], [0.])])
    red, green, blue = read_frames(tmp_path/'drawn.mp4')[:, 4:8, 200:].float().mean((1, 2)).T
    assert (red - blue > 40).tolist() == [i*i/10 < 14 for i in range(20)]      # the bar of `a` is full and orange, that of `b` is empty; their centres are 5 and 23 s

def test_windows_that_cannot_be_read_are_left_out_and_said(tiny_run, checkpoint, tmp_path):
    data = bytearray(long_video(tiny_run, tmp_path/'whole.mp4').read_bytes())
    hole = data.index(b'mdat') + 8 + 2*(len(data)//5)                           # in the third of five windows
    data[hole:hole + len(data)//20] = bytes(len(data)//20)
    (tmp_path/'hole.mp4').write_bytes(data)
    whole = predict(tmp_path/'whole.mp4', checkpoint, window=2., step=2.)
    with pytest.warns(UserWarning, match='of 5 windows could not be read.*hole.mp4'): found = predict(tmp_path/'hole.mp4', checkpoint, window=2., step=2.)
    assert 1 < len(found) < 5 and found[0] == whole[0] and {w.start for w in found} < {w.start for w in whole}

def test_an_overlay_never_replaces_its_video(tiny_run, checkpoint, tmp_path, monkeypatch):
    import fgar.evaluate as module
    path = long_video(tiny_run, tmp_path/'film.mp4', 1); before = path.read_bytes(); monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='overlay: expected another file than the video'): write_overlay(path, 'film.mp4', [Window(0, 2, ['a'], [1.])])
    monkeypatch.setattr(module, 'score_loader', lambda *a, **k: pytest.fail('scored first'))
    with pytest.raises(ValueError, match='overlay: expected another file than the video'): predict(path, checkpoint, overlay='film.mp4')
    with pytest.raises(ValueError, match='overlay: expected a name that ends in'): predict(path, checkpoint, overlay=tmp_path/'drawn.txt')
    assert path.read_bytes() == before

def test_every_number_follows_from_the_tables_on_disk(tiny_run, tmp_path):
    sklearn = pytest.importorskip('sklearn.metrics')
    result = evaluate(EvaluateConfig(str(tiny_run/'run/best.pt'), str(tiny_run/'data/manifest.csv'), split='all', workers=0, quiet=True, out=str(tmp_path/'out')))
    scores, clips, said = pd.read_csv(tmp_path/'out/scores.csv'), pd.read_csv(tmp_path/'out/per_clip.csv'), json.loads((tmp_path/'out/summary.json').read_text())
    table = scores[result.labels]
    assert len(scores) == 18 and set(zip(scores.path, scores.label, table.idxmax(axis=1))) == set(zip(clips.path, clips.label, clips.predicted))
    assert said['top1'] == pytest.approx(sklearn.accuracy_score(clips.label, clips.predicted)) and said['f1'] == pytest.approx(sklearn.f1_score(clips.label, clips.predicted, average='macro'))
    assert said['mean_class'] == pytest.approx(sklearn.balanced_accuracy_score(clips.label, clips.predicted))
    assert said['map'] == pytest.approx(sum(sklearn.average_precision_score(scores.label == name, table[name]) for name in result.labels)/2)

def test_a_title_with_the_word_body_stays_a_title(tmp_path):
    text = write_report(tmp_path/'r.html', 'tsm on BODYCAM.csv', '# Clips', 'one BODY').read_text()
    assert '<h1>tsm on BODYCAM.csv</h1>' in text and text.count('<h2>Clips</h2>') == 1 and 'one BODY' in text

def test_labels_of_which_none_is_known_leave_nothing_to_skip(tiny_run, tmp_path):
    pd.DataFrame(dict(path=['a.mp4'], label=['tiebreak'])).to_csv(tmp_path/'m.csv', index=False)
    with pytest.raises(ValueError, match="'tiebreak' .1. in 1 of 1 rows. Mend the manifest$"): evaluate(EvaluateConfig(str(tiny_run/'run'), str(tmp_path/'m.csv'), unknown='skip', quiet=True))
