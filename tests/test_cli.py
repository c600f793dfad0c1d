"The command as a person meets it: exit codes, messages without tracebacks, and what is left behind."
import json, os, re, signal, subprocess, sys, time
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

import fgar
from fgar import cli

def run(capsys, *args):
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    assert 'Traceback' not in err
    return code, out, err

def test_overview(capsys):
    code, out, _ = run(capsys, '--help')
    assert code == 0 and all(f'  {name} ' in out for name in cli.COMMANDS)
    assert run(capsys)[0] == 2
    from fgar import __version__
    assert run(capsys, '--version')[1].strip() == __version__

@pytest.mark.parametrize('command', cli.COMMANDS)
def test_every_option_of_every_command_is_explained(capsys, command):
    code, out, _ = run(capsys, command, '--help')
    assert code == 0 and f'usage: fgar {command}' in out
    config = cli.COMMANDS[command][0]
    if isinstance(config, str):
        module, name = config.split(':')
        config = getattr(__import__(module, fromlist=[name]), name)
    for field in fields(config):
        flag = '--' + field.name.replace('_', '-')
        text = out.split(f'{flag} ', 1)[1] if f'{flag} ' in out else out.split(f'{flag},', 1)[1] if f'{flag},' in out else out.split(field.name.upper(), 2)[2]
        text = re.sub(r'^ ?--no-[\w-]+', '', text).split(' --')[0]
        text = re.sub(r'\(default:[^)]*\)|\(required\)|\{[^}]*\}|\[[^a-z]*\]', '', re.sub(r'[│╭╮╰╯─\s]+', ' ', text))
        assert len(set(re.findall(r'[A-Za-z]{2,}', text)) - {'STR', 'INT', 'FLOAT', 'None'}) >= 2, f'{flag} has no help: {text}'

def test_unknown_command_and_flag(capsys):
    code, _, err = run(capsys, 'trian')
    assert code == 2 and "Did you mean 'train'" in err
    assert run(capsys, 'train', '--learning-rate', '1')[0] == 2
    assert run(capsys, 'train', '--epochs', 'many')[0] == 2
    code, _, err = run(capsys, 'train', '--epochs', '0')
    assert code == 2 and 'epochs: expected a number of at least 1, got 0' in err
    assert run(capsys, 'evaluate')[0] == 2                      # a required flag is missing

@pytest.mark.parametrize('args,message', [
    (['train', '--model', 'tsn2'], "Did you mean 'tsn'"), (['evaluate', '--checkpoint', 'nothing.pt'], 'nothing.pt'),
    (['predict', 'nothing.mp4', '--checkpoint', 'nothing.pt'], 'nothing'), (['check', 'nowhere'], 'nowhere'), (['train', '--data', 'nothing.csv', '--model', 'tsn'], 'nothing.csv')])
def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *args)
    assert code == 1 and message in err and len(err.strip().splitlines()) == 1

def test_models_table(capsys):
    code, out, _ = run(capsys, 'models', '--classes', 174)
    line, = [l for l in out.splitlines() if l.split()[0] == 'tsn']
    assert code == 0 and '23,864,558' in line and '32.70' in line

def test_write_train_evaluate_predict_check(capsys, tmp_path, monkeypatch):
    "The whole line through the command alone."
    monkeypatch.chdir(tmp_path)
    assert run(capsys, 'court26', 'data', '--train', 8, '--val', 4, '--test', 4, '--size', 40, '--difficulty', 0, '--classes', 'low dribble', 'jump shot')[0] == 0
    assert run(capsys, 'check', 'data/manifest.csv')[:2] == (0, '16 files, 0 bad\n')
    flags = ['--model', 'tsm', '--options', 'body', 'small', '--data', 'data/manifest.csv', '--frames', 4, '--size', 32, '--epochs', 1, '--warmup', 0, '--batch', 4, '--workers', 0, '--quiet']
    code, out, err = run(capsys, 'train', *flags, '--out', 'run')
    assert code == 0 and 'best top-1' in out, err
    code, out, err = run(capsys, 'evaluate', '--checkpoint', 'run/best.pt', '--workers', 0, '--out', 'test', '--quiet')
    assert code == 0 and 'top1' in out and Path('test/report.html').exists(), err
    video = pd.read_csv('data/manifest.csv').path[0]
    code, out, err = run(capsys, 'predict', f'data/{video}', '--checkpoint', 'run/best.pt', '--json')
    assert code == 0 and set(json.loads(out)[0]) == {'start', 'end', 'labels', 'scores'}, err
    code, out, err = run(capsys, 'train', '--config', 'run/config.json', '--epochs', 2, '--out', 'again')
    assert code == 0 and len(pd.read_csv('again/history.csv')) == 2, err

def test_check_finds_what_is_broken_and_writes_the_rest(capsys, tiny_run, tmp_path):
    manifest = pd.read_csv(tiny_run/'data/manifest.csv')
    manifest.assign(path=[str(tiny_run/'data'/p) for p in manifest.path]).to_csv(tmp_path/'m.csv', index=False)
    good = len(manifest)
    (tmp_path/'torn.mp4').write_bytes((tiny_run/'data'/manifest.path[0]).read_bytes()[:700])
    broken = dict(manifest.iloc[0], path='torn.mp4')
    pd.DataFrame([*pd.read_csv(tmp_path/'m.csv').to_dict('records'), broken]).to_csv(tmp_path/'m.csv', index=False)
    code, out, _ = run(capsys, 'check', tmp_path/'m.csv', '--out', tmp_path/'clean.csv')
    assert code == 1 and 'BAD  torn.mp4' in out and f'{good + 1} files, 1 bad' in out
    assert len(pd.read_csv(tmp_path/'clean.csv')) == good

def test_ctrl_c_leaves_a_resumable_checkpoint(tmp_path):
    "SIGINT in mid-epoch: exit code 130, and the same command continues to the end."
    import torch
    code = 'import sys; from fgar.cli import main; sys.exit(main())'
    command = [sys.executable, '-c', code, 'train', '--model', 'tsm', '--options', 'body', 'small', '--clips', '48', '--val-clips', '4', '--classes', 'low dribble', 'jump shot', '--frames', '4', '--size', '32',
               '--difficulty', '0', '--epochs', '40', '--warmup', '0', '--batch', '4', '--out', str(tmp_path/'run')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    history, deadline = tmp_path/'run/history.csv', time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in err and 'continues' in err, err
    saved = torch.load(tmp_path/'run/last.pt', weights_only=True)
    assert 0 < saved['epoch'] < 40


def test_as_a_module():
    "torchrun starts `-m fgar.cli`."
    done = subprocess.run([sys.executable, '-m', 'fgar.cli', '--version'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == fgar.__version__


def test_check_of_a_folder_writes_a_clean_manifest(capsys, tiny_run, tmp_path):
    import shutil
    from fgar.data.datasets import Manifest
    for label in ('low_dribble', 'jump_shot'): shutil.copytree(tiny_run/'data/test'/label, tmp_path/'clips'/label)
    (tmp_path/'clips/jump_shot/torn.mp4').write_bytes(b'no video')
    code, out, _ = run(capsys, 'check', tmp_path/'clips', '--out', tmp_path/'clean.csv')
    assert code == 1 and 'BAD  jump_shot/torn.mp4' in out
    clean = Manifest.read(tmp_path/'clean.csv', check_files=True)
    assert len(clean) == 6 and clean.labels == ['jump_shot', 'low_dribble']
    assert run(capsys, 'check', next((tmp_path/'clips/low_dribble').iterdir()), '--out', tmp_path/'x.csv')[0] == 1


def test_check_finds_out_at_once_that_it_cannot_write(capsys, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr('fgar.data.video.check_videos', lambda *a, **k: pytest.fail('decoded first'))
    (tmp_path/'notes.csv').write_text('what,when\n')
    for out, words in (('clean.txt', 'name of a CSV file'), ('notes.csv', 'is no manifest')):
        code, _, err = run(capsys, 'check', tiny_run/'data/manifest.csv', '--out', tmp_path/out)
        assert code == 1 and words in err
    assert (tmp_path/'notes.csv').read_text() == 'what,when\n'

def test_a_warning_is_one_line_without_code(capsys, tiny_run, tmp_path):
    row = dict(path=str(next((tiny_run/'data/test').rglob('*.mp4'))), label='low dribble')
    pd.DataFrame([row, row]).to_csv(tmp_path/'twice.csv', index=False)
    code = 'import sys; from fgar.cli import main; sys.exit(main())'
    done = subprocess.run([sys.executable, '-c', code, 'check', str(tmp_path/'twice.csv')], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0 and 'fgar check: manifest: 1 rows name a file and span' in done.stderr and 'UserWarning' not in done.stderr and 'return cls' not in done.stderr

def test_check_of_nothing_but_broken_files_says_so(capsys, tmp_path):
    (tmp_path/'torn.mp4').write_bytes(b'no video')
    (tmp_path/'m.csv').write_text('path,label\ntorn.mp4,a\ngone.mp4,b\n')
    code, out, err = run(capsys, 'check', tmp_path/'m.csv', '--out', tmp_path/'clean.csv')
    assert code == 1 and '2 files, 2 bad' in out and 'no file is readable: nothing is written' in out and 'mask' not in err and not (tmp_path/'clean.csv').exists()
