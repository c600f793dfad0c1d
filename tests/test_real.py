"A stranger's folder: manifests as real sets have them, from check to report, in a place where nothing of the training is left."
import json, shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from fgar import cli
from fgar.core import create
from fgar.data.datasets import Manifest
from fgar.data.video import write_video
from fgar.evaluate import EvaluateConfig, choose_rows, evaluate
from fgar.recipes import NOTES, RECIPES, recipe, table
from fgar.train import TrainConfig, coarse_of, load_checkpoint, make_loaders, with_defaults

COARSE = {'lob': 'stroke', 'smash': 'stroke', 'serve': 'service'}

def write_set(folder, split_of=lambda i: 'train' if i < 4 else 'val', subjects=6, labels=tuple(COARSE)):
    "Clips of moving bars, one per subject and label, with the columns of a real manifest."
    (folder/'clips').mkdir(parents=True)
    rows = []
    for k, label in enumerate(labels):
        for i in range(subjects):
            frames = torch.zeros(20, 32, 32, 3, dtype=torch.uint8)
            for t in range(20): frames[t, (3*t + 4*i) % 28:][:4, :, k % 3] = 250 - 10*i
            path = f'clips/{label}_s{i}.mp4'
            write_video(folder/path, frames, fps=30)
            rows.append(dict(path=path, label=label, coarse=COARSE[label], subject=f's{i}', level='amateur', split=split_of(i), num_frames=20, fps=30, bytes=(folder/path).stat().st_size, source_file=f'raw/{label}/{i}.txt'))
    pd.DataFrame(rows).to_csv(folder/'manifest.csv', index=False)
    return folder/'manifest.csv'

def run(capsys, *args):
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert 'Traceback' not in err
    return code, out, err

@pytest.fixture(scope='module')
def strange(tmp_path_factory):
    "A checkpoint whose data, cache and folder are gone, and a test set that it never saw."
    place = tmp_path_factory.mktemp('real')
    write_set(place/'known')
    assert cli.main(['train', '--recipe', 'thetis', '--data', str(place/'known/manifest.csv'), '--out', str(place/'run'), '--cache', str(place/'cache'), '--cache-variants', '2', '--frames', '8', '--size', '28',
                     '--stride', '2', '--test-clips', '3', '--epochs', '2', '--warmup', '0', '--batch', '4', '--workers', '0', '--no-tensorboard', '--quiet', '--device', 'cpu']) == 0
    (place/'elsewhere').mkdir()
    shutil.move(place/'run/best.pt', place/'elsewhere/model.pt')
    for gone in ('known', 'cache', 'run'): shutil.rmtree(place/gone)
    write_set(place/'held/back', split_of=lambda i: 'test', subjects=2)
    return place

def test_a_strangers_folder_from_another_place(strange, capsys, monkeypatch):
    monkeypatch.chdir(strange/'elsewhere')
    code, out, err = run(capsys, 'evaluate', '--checkpoint', 'model.pt', '--data', '../held/back/manifest.csv', '--out', 'report', '--workers', '0', '--quiet')
    assert code == 0, err
    assert "6 of 6 rows, split 'test'; 3 clips × 1 crop" in out                       # the protocol of the training, kept in the checkpoint
    assert all(f'{k} ' in out for k in ('top1', 'mean_class', 'map', 'f1', 'coarse_top1')) and all(label in out for label in COARSE)
    summary, rows = json.loads(Path('report/summary.json').read_text()), pd.read_csv('report/per_clip.csv')
    assert summary['clips'] == 6 and summary['failed'] == 0 and summary['top1'] == pytest.approx((rows.label == rows.predicted).mean())
    matrix = pd.read_csv('report/confusion.csv', index_col='truth')
    assert matrix.sum(axis=1).to_dict() == {label: 2 for label in COARSE} and list(matrix.columns) == list(matrix.index) and sum(matrix.loc[k, k] for k in matrix) == (rows.label == rows.predicted).sum()
    assert (Path('report')/'report.html').stat().st_size > 1000 and not Path('report/failed.csv').exists()

def test_check_and_prepare_keep_the_columns(strange, tmp_path, capsys):
    assert run(capsys, 'check', strange/'held/back/manifest.csv', '--out', tmp_path/'clean.csv')[0] == 0
    assert run(capsys, 'prepare', tmp_path/'clean.csv', tmp_path/'small', '--size', '32', '--quiet')[0] == 0
    made = pd.read_csv(tmp_path/'small/manifest.csv')
    assert {'coarse', 'subject', 'level', 'num_frames', 'source_file'} <= set(made) and len(made) == 6
    result = evaluate(EvaluateConfig(str(strange/'elsewhere/model.pt'), str(tmp_path/'small/manifest.csv'), workers=0, quiet=True))
    assert len(result.target) == 6 and 'coarse_top1' in result.summary

def test_check_finds_a_person_on_both_sides(tmp_path, capsys):
    assert 'in more than one split' not in run(capsys, 'check', write_set(tmp_path/'a', subjects=3))[1]
    rows = pd.read_csv(tmp_path/'a/manifest.csv')
    rows.loc[0, 'split'] = 'test'
    rows.to_csv(tmp_path/'a/manifest.csv', index=False)
    assert '1 groups in more than one split' in run(capsys, 'check', tmp_path/'a/manifest.csv')[1]

def test_missing_files_and_absent_classes(strange, tmp_path, capsys):
    shutil.copytree(strange/'held/back', tmp_path/'set')
    rows = pd.read_csv(tmp_path/'set/manifest.csv').query("label != 'serve'")
    rows.to_csv(tmp_path/'set/manifest.csv', index=False)
    (tmp_path/'set'/rows.path.iloc[1]).unlink()
    code, out, err = run(capsys, 'evaluate', '--checkpoint', strange/'elsewhere/model.pt', '--data', tmp_path/'set/manifest.csv', '--out', tmp_path/'out', '--workers', '0', '--quiet')
    assert code == 0 and rows.path.iloc[1] in err and 'clips 3' in out and 'failed 1' in out and 'classes 2' in out
    assert list(pd.read_csv(tmp_path/'out/failed.csv').path) == [rows.path.iloc[1]]
    summary, per_clip = json.loads((tmp_path/'out/summary.json').read_text()), pd.read_csv(tmp_path/'out/per_clip.csv')
    right = per_clip.label == per_clip.predicted
    assert summary['mean_class'] == pytest.approx(right.groupby(per_clip.label).mean().mean())                  # over the two that are there

def test_coarse_classes_come_from_either_side(strange, tmp_path):
    "From the manifest if it has the column, from the checkpoint if not; a class that the test set lacks still has its own."
    manifest = pd.read_csv(strange/'held/back/manifest.csv')
    manifest['path'] = [str(strange/'held/back'/p) for p in manifest.path]
    manifest.drop(columns='coarse').to_csv(tmp_path/'m.csv', index=False)
    score = lambda: evaluate(EvaluateConfig(str(strange/'elsewhere/model.pt'), str(tmp_path/'m.csv'), workers=0, quiet=True))
    result = score()
    assert result.groups == [COARSE[name] for name in result.labels] and load_checkpoint(strange/'elsewhere/model.pt').coarse == COARSE
    folded = torch.stack([result.scores[:, [i for i, g in enumerate(result.groups) if g == group]].sum(1) for group in ('stroke', 'service')], 1).argmax(1)
    truth = torch.tensor([['stroke', 'service'].index(COARSE[result.labels[i]]) for i in result.target])
    assert result.summary['coarse_top1'] == pytest.approx((folded == truth).double().mean().item())
    manifest.assign(coarse='one').to_csv(tmp_path/'m.csv', index=False)
    assert score().summary['coarse_top1'] == 1.

@pytest.mark.parametrize('splits,asked,rows,words', [
    (['', ''], '', 2, 'no splits'), (['train', 'test'], '', 1, "'test'"), (['test', 'test'], '', 2, "'test'"), (['Testing', 'train'], '', 1, "'Testing'"), (['held', 'held'], '', 2, "'held'"),
    (['train', 'val'], '', 1, "'val'"), (['train', 'test'], 'train', 1, "'train'"), (['train', 'test'], 'all', 2, 'all splits'), (['', ''], 'test', 2, 'no splits')])
def test_which_rows_are_scored(splits, asked, rows, words):
    chosen, what, _ = choose_rows(Manifest(pd.DataFrame(dict(path=['a.mp4', 'b.mp4'], label='x', split=splits))), asked)
    assert len(chosen) == rows and words in what

def test_rows_that_cannot_be_chosen():
    manifest = Manifest(pd.DataFrame(dict(path=['a.mp4', 'b.mp4', 'c.mp4'], label=['x', 'y', 'x'], split=['a', 'b', 'b'])))
    with pytest.raises(ValueError, match='a, b'): choose_rows(manifest)
    with pytest.raises(ValueError, match="holdout"): choose_rows(manifest, 'holdout')
    with pytest.raises(ValueError, match=r"'y' \(1\) in 1 of 2 rows"): choose_rows(manifest, 'b', ['x'])
    chosen, what, count = choose_rows(manifest, 'b', ['w', 'x'], 'skip')
    assert list(chosen.rows.path) == ['c.mp4'] and count == 1 and "'y' (1)" in what and chosen.labels == ['w', 'x'] and chosen.targets.tolist() == [1]
    assert len(choose_rows(manifest, 'a', ['x'])[0]) == 1                                  # what other splits show does not matter
    with pytest.raises(ValueError, match='1 of 1'): choose_rows(manifest.select(manifest.rows.label == 'y'), 'b', ['x'], 'skip')

def test_strange_labels_are_counted(strange, tmp_path, capsys):
    manifest = pd.read_csv(strange/'held/back/manifest.csv')
    manifest['path'] = [str(strange/'held/back'/p) for p in manifest.path]
    manifest.loc[0, 'label'] = 'drop shot'
    manifest.to_csv(tmp_path/'m.csv', index=False)
    args = ['evaluate', '--checkpoint', strange/'elsewhere/model.pt', '--data', tmp_path/'m.csv', '--workers', '0', '--quiet']
    code, _, err = run(capsys, *args)
    assert code == 1 and 'drop shot' in err and 'lob, serve, smash' in err
    code, out, _ = run(capsys, *args, '--unknown', 'skip')
    assert code == 0 and 'unknown 1' in out and 'clips 5' in out

def test_flow_is_computed_where_its_folder_is_gone(tmp_path, capsys, monkeypatch):
    write_set(tmp_path/'known', subjects=5)
    assert run(capsys, 'flow', tmp_path/'known/manifest.csv', tmp_path/'flow', '--size', '32', '--method', 'lucas_kanade', '--workers', '0')[0] == 0
    assert run(capsys, 'train', '--model', 'tsn-two-stream', '--options', 'body', 'small', 'stack', '1', '--data', tmp_path/'known/manifest.csv', '--flow', tmp_path/'flow', '--out', tmp_path/'run', '--frames', '2', '--size', '28',
               '--epochs', '1', '--warmup', '0', '--batch', '4', '--workers', '0', '--no-tensorboard', '--quiet', '--device', 'cpu')[0] == 0
    shutil.rmtree(tmp_path/'flow')
    shutil.move(tmp_path/'known', tmp_path/'moved')
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, 'evaluate', '--checkpoint', 'run/best.pt', '--data', 'moved/manifest.csv', '--flow', 'lucas_kanade', '--workers', '0', '--quiet')
    assert code == 0 and "split 'val'" in out, err
    code, out, err = run(capsys, 'evaluate', '--checkpoint', 'run/best.pt', '--data', 'moved/manifest.csv', '--workers', '0', '--quiet')      # tvl1
    assert code == 0, err

# recipes

@pytest.mark.parametrize('name', RECIPES)
def test_recipes_build_their_model(name):
    config = recipe(name, quiet=True)
    assert config == with_defaults(config) or config.flow == 'auto' and config.frames and config.size
    options = {k: v for k, v in config.options.items() if k != 'weights'}
    with torch.device('meta'): model = create(config.model, 12, frames=config.frames, size=config.size, **options)
    assert sum(p.numel() for p in model.parameters()) > 1e4
    assert TrainConfig.from_dict(json.loads(json.dumps(config.__dict__))) == config and name in set(table().recipe) and NOTES[name]

def test_recipes_say_what_the_papers_say():
    sth, kinetics, ucf, st, first, second = (RECIPES[k] for k in ('fstfl-sthv1', 'fstfl-kinetics', 'fstfl-ucf101', 'stmanet', 'deepfusion', 'deepfusion-second'))
    assert (sth.epochs, sth.batch, sth.lr, sth.warmup, sth.schedule, sth.weight_decay, sth.options['dropout']) == (60, 32, .01, 10, 'cosine', 1e-4, .5)
    assert (sth.test_clips, sth.test_crops, kinetics.test_clips, kinetics.test_crops, ucf.test_clips, ucf.epochs, ucf.options['dropout']) == (1, 1, 10, 3, 2, 40, .8)
    assert (st.frames, st.stride, st.size, st.schedule, st.milestones, st.epochs, st.batch, st.lr) == (32, 2, 112, 'step', (15, 30, 45, 60, 75), 90, 32, .01)
    assert (first.lr, second.lr, first.init, second.init.endswith('last.pt'), first.frames, first.sampling) == (1e-5, 1e-6, None, True, 24, 'interval')
    assert (RECIPES['mhssa'].lr, RECIPES['mhssa'].batch, RECIPES['mhssa'].epochs, RECIPES['mhssa'].frames) == (.001, 128, 80, 24)

def test_flags_override_a_recipe(capsys):
    config = cli.parse('train', ['--lr', '.5', '--recipe=stmanet', '--data', 'x.csv', '--test-clips', '7'])
    assert config == replace(RECIPES['stmanet'], lr=.5, data='x.csv', test_clips=7)
    config = cli.parse('train', ['--recipe', 'thetis', '--options', 'parts', '2', 'dropout', '.3'])
    assert config.options == recipe('thetis').options | dict(parts=2, dropout=.3) and cli.parse('train', ['--recipe', 'thetis']) == recipe('thetis')
    code, out, _ = run(capsys, 'recipes')
    assert code == 0 and all(name in out for name in RECIPES)
    code, out, _ = run(capsys, 'recipes', 'stmanet')
    assert code == 0 and TrainConfig.from_dict(json.loads(out)) == RECIPES['stmanet']
    code, _, err = run(capsys, 'train', '--recipe', 'stmanett')
    assert code == 1 and "Did you mean 'stmanet'" in err
    assert 'got nothing' in run(capsys, 'train', '--recipe')[2] and 'got both' in run(capsys, 'train', '--recipe', 'nts', '--config', 'c.json')[2]

def test_a_coarse_column_must_be_one_value_per_label():
    rows = pd.DataFrame(dict(label=['a', 'a', 'b'], coarse=['x', 'x', '']))
    assert coarse_of(rows) == {'a': 'x'} and coarse_of(rows.assign(coarse=['x', 'y', 'z'])) == {} and coarse_of(rows[['label']]) == {}

def test_subjects_are_not_divided_where_there_is_no_split(tmp_path):
    manifest = write_set(tmp_path/'set', subjects=5)
    pd.read_csv(manifest).drop(columns='split').to_csv(manifest, index=False)
    train, val = make_loaders(with_defaults(TrainConfig(model='small3d', data=str(manifest), batch=2, workers=0)), torch.device('cpu'))
    people = [set(loader.dataset.manifest.rows.subject) for loader in (train, val)]
    assert people[0] and people[1] and not people[0] & people[1]

# real footage, where there is some

@pytest.mark.parametrize('name', ['thetis_skelet', 'skate_tricks'])
def test_real_validation_clips_as_a_strangers_test_set(real, strange, tmp_path, name):
    rows = pd.read_csv(real/name/'manifest.csv').query("split == 'val'").groupby('label').head(1).head(3)
    rows = rows.assign(path=[str(real/name/p) for p in rows.path], split='test', label=list(COARSE)[:len(rows)]).drop(columns='coarse', errors='ignore')
    rows.to_csv(tmp_path/'m.csv', index=False)
    result = evaluate(EvaluateConfig(str(strange/'elsewhere/model.pt'), str(tmp_path/'m.csv'), workers=0, quiet=True))
    assert len(result.target) == len(rows) and not result.failed
