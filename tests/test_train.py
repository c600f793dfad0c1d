"The training loop: what must hold however a run starts, stops or goes wrong."
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import fgar
import fgar.train as T
from fgar.core import ActionModel, Prediction, register
from fgar.models import frames2d  # noqa: F401  (registers tsn and tsm before ours)
from fgar.train import MemoryLoader, TrainConfig, listed, load_checkpoint, lr_scale, read_checkpoint, smoothing, unreadable

torch.set_num_threads(1)      # sums in one order, so that runs can be compared bit for bit
ROOT = Path(__file__).parents[1]
LABELS = ['right', 'left', 'down', 'up']


def squares(n, seed=0, size=16, frames=4):
    "A bright square that moves; small and quick."
    g = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 4
    at = torch.randint(size, (n, 2, 1), generator=g).expand(-1, -1, frames).clone()
    at[torch.arange(n), label//2] += (1 - 2*(label % 2))[:, None]*2*torch.arange(frames)
    inside = (torch.arange(size) - at[..., None]) % size < 5
    picture = (inside[:, 0, :, None, :] & inside[:, 1, :, :, None])*200
    return (picture[..., None] + torch.randint(40, (n, frames, size, size, 3), generator=g)).byte(), label


def loaders(train=40, batch=8, cls=MemoryLoader, **options):
    return cls(*squares(train), LABELS, batch, train=True, **options), MemoryLoader(*squares(16, 1), LABELS, batch)


def config(out, **options):
    return TrainConfig(**{**dict(out=str(out), options=dict(body='small', dropout=.2), frames=4, size=16, epochs=2, batch=8, crop='square', device='cpu', tensorboard=False, quiet=True), **options})


def rows(history): return [{k: v for k, v in row.items() if k != 'clips_s'} for row in history]


def same(a, b):
    assert a.keys() == b.keys()
    for k in a: assert torch.equal(a[k], b[k]), k


def assert_same_update(a, b, c):
    "The weights moved by the same step, up to rounding (a wrong weight of a clip is an error of many per cent)."
    T.seed_everything(c.seed, 'model')
    start = T.build_model(c, LABELS).state_dict()
    flat = lambda state: torch.cat([(v - start[k]).flatten() for k, v in state.items()])
    assert flat(a).norm() > 1e-4
    assert (flat(a) - flat(b)).norm() < 5e-3*flat(a).norm()


FULL = dict(ema=.9, clip_norm=1., label_smoothing=.1, save_every=2, accumulate=2)     # everything that has a state


# ---- a run -----------------------------------------------------------------

@pytest.mark.parametrize('options', [{}, dict(optimizer='adamw', lr=1e-3), dict(schedule='step', milestones=(1,)), FULL, dict(precision='bf16', channels_last=True), dict(precision='fp16')],
                         ids=['sgd', 'adamw', 'step', 'everything', 'bf16', 'fp16'])
def test_run_leaves_what_it_says(tmp_path, options):
    run = fgar.train(config(tmp_path/'run', **options), loaders())
    assert {p.name for p in run.folder.iterdir()} == {'best.pt', 'last.pt', 'config.json', 'history.csv'}
    assert TrainConfig.read(run.folder/'config.json') == config(tmp_path/'run', **options)
    assert len(list(csv.DictReader(open(run.folder/'history.csv')))) == len(run.history) == 2
    best = load_checkpoint(run.folder/'best.pt')
    assert best.labels == LABELS and best.top1 == run.best == max(r['val_top1'] for r in run.history) and not best.model.training
    assert best.config == config(tmp_path/'run', **options)
    assert all(map(torch.isfinite, (torch.tensor(r['loss']) for r in run.history)))


def test_same_seed_same_run_other_seed_another(tmp_path):
    runs = [fgar.train(config(tmp_path/str(i), seed=s, epochs=1, warmup=0), loaders(seed=s)) for i, s in enumerate((3, 3, 4))]
    weights = [load_checkpoint(r.folder/'last.pt').model.state_dict() for r in runs]
    same(weights[0], weights[1])
    assert rows(runs[0].history) == rows(runs[1].history) != rows(runs[2].history)


def test_it_learns(tmp_path):
    data = MemoryLoader(*squares(64), LABELS, 16, train=True)
    run = fgar.train(config(tmp_path, model='tsm', epochs=12, lr=.05, crop='centre', flip=False, options=dict(body='small', dropout=0., fold=4), batch=16), (data, MemoryLoader(*squares(16, 1), LABELS, 16)))
    assert run.history[-1]['loss'] < .6*run.history[0]['loss']


def test_accumulated_steps_are_one_batch(tmp_path):
    "Two steps of 4 clips give the update of one step of 8, for a model without batch statistics."
    plain = dict(options=dict(body='small', dropout=0., norm='group'), crop='centre', flip=False, epochs=1, warmup=0)
    for name, batch, accumulate in (('one', 8, 1), ('two', 4, 2)):
        fgar.train(config(tmp_path/name, batch=batch, accumulate=accumulate, **plain), (MemoryLoader(*squares(8), LABELS, batch, train=True), loaders()[1]))
    a, b = (load_checkpoint(tmp_path/n/'last.pt').model.state_dict() for n in ('one', 'two'))
    assert_same_update(a, b, config(tmp_path, **plain))


def test_tensorboard_if_installed(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    run = fgar.train(config(tmp_path, tensorboard=True), loaders())
    events = EventAccumulator(str(tmp_path/'tensorboard')); events.Reload()
    assert [e.value for e in events.Scalars('val_top1')] == pytest.approx([r['val_top1'] for r in run.history])


def test_needs_torch_alone():
    code = "import sys; [sys.modules.__setitem__(m, None) for m in ('av', 'pandas', 'tyro', 'tqdm', 'matplotlib', 'tensorboard')]; import fgar; assert callable(fgar.train) and fgar.train.TrainConfig is fgar.TrainConfig; fgar.models()"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


# ---- stopping and continuing ------------------------------------------------

SCRIPT = '''
import os, signal, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import torch; torch.set_num_threads(1)
from test_train import *
class Deadly(MemoryLoader):
    def epoch(self, epoch, start=0):
        for step, batch in enumerate(super().epoch(epoch, start), start):
            if (epoch, step) == (1, 3): {deed}
            yield batch
fgar.train(config({out!r}, **{options!r}), loaders(cls=Deadly))
'''


def run_script(out, deed, options, **popen):
    code = SCRIPT.format(tests=str(ROOT/'tests'), root=str(ROOT), out=str(out), deed=deed, options=options)
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, **popen)


def test_killed_run_continues_bit_for_bit(tmp_path):
    whole = fgar.train(config(tmp_path/'whole', epochs=3, **FULL), loaders())
    dead = run_script(tmp_path/'killed', 'os.kill(os.getpid(), signal.SIGKILL)', dict(epochs=3, **FULL))
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    saved = T.read_checkpoint(tmp_path/'killed'/'last.pt')
    assert saved['epoch'] == 1 and saved['step'] > 0                                             # in mid-epoch
    resumed = fgar.train(config(tmp_path/'killed', epochs=3, **FULL), loaders())
    assert rows(resumed.history) == rows(whole.history)
    a, b = (T.read_checkpoint(r.folder/'last.pt') for r in (whole, resumed))
    same(a['model'], b['model']); same(a['ema'], b['ema'])
    for x, y in zip(a['optimizer']['state'].values(), b['optimizer']['state'].values()): assert torch.equal(x['momentum_buffer'], y['momentum_buffer'])
    assert (tmp_path/'whole'/'history.csv').read_text().count('\n') == (tmp_path/'killed'/'history.csv').read_text().count('\n')


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_ctrl_c_and_sigterm_save_and_continue(tmp_path, name):
    before = signal.getsignal(signal.Signals[name])
    stopped = run_script(tmp_path/'a', f'os.kill(os.getpid(), signal.{name})', dict(ema=.9))
    assert 'KeyboardInterrupt: stopped after step 3 of epoch 1' in stopped.stderr
    saved = T.read_checkpoint(tmp_path/'a'/'last.pt')
    assert (saved['epoch'], saved['step']) == (1, 4)
    with pytest.raises(ValueError, match='mid-epoch'): fgar.train(config(tmp_path/'a', ema=.9, batch=4, existing='resume'), loaders(batch=4))
    resumed, whole = (fgar.train(config(tmp_path/n, ema=.9), loaders()) for n in 'ab')
    assert rows(resumed.history) == rows(whole.history)
    assert signal.getsignal(signal.Signals[name]) is before                                      # given back


def test_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), T.ask_to_stop() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)                                                      # torchrun's answer to a Ctrl-C
        assert asked == [signal.SIGINT, signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGINT)


def test_finished_run_is_not_trained_again(tmp_path):
    first = fgar.train(config(tmp_path), loaders())
    again = fgar.train(config(tmp_path), loaders())
    assert again.history == first.history and again.best == first.best


def test_other_config_in_the_same_folder(tmp_path):
    fgar.train(config(tmp_path, epochs=1, warmup=0), loaders())
    before = (tmp_path/'last.pt').read_bytes()
    other = config(tmp_path, epochs=2, warmup=0, lr=.5)
    with pytest.raises(ValueError, match=r"out: .*epochs 1 there, 2 here; lr 0.02 there, 0.5 here.*existing='resume'.*existing='overwrite'"): fgar.train(other, loaders())
    assert (tmp_path/'last.pt').read_bytes() == before
    assert len(fgar.train(replace(other, existing='resume'), loaders()).history) == 2
    assert len(fgar.train(replace(other, existing='overwrite', epochs=1), loaders()).history) == 1


def test_resume_with_another_model_is_explained(tmp_path):
    fgar.train(config(tmp_path, epochs=1, warmup=0), loaders())
    with pytest.raises(ValueError, match='last.pt.*holds another model than TSN'): fgar.train(config(tmp_path, epochs=2, model='tsn', existing='resume', options=dict(body='resnet18')), loaders())


# ---- going wrong -------------------------------------------------------------

class Poison(MemoryLoader):
    "A loader whose model will see nan: the class below turns clip 7 into it."
    def epoch(self, epoch, start=0):
        for batch in super().epoch(epoch, start):
            batch['label'] = torch.where(batch['index'] == 7, 3, batch['label'])
            yield batch


class NanModel(ActionModel):
    "Its loss is nan when asked for label 3."
    def __init__(self, classes): super().__init__(); self.head = nn.Linear(3, classes)
    def forward(self, clip): return Prediction(self.head(clip.mean((2, 3, 4))))
    def loss(self, pred, target):
        total = super().loss(pred, target)['total']
        return {'total': total*float('nan') if (target == 3).any() else total}


@pytest.fixture
def nan_model():
    from fgar import core
    register('nan-model', paper='none', frames=4, size=16)(NanModel)
    yield 'nan-model'
    core._REGISTRY.pop('nan-model')


@pytest.mark.parametrize('log_every', [1, 4, 100])
def test_non_finite_loss_names_the_files_and_saves_nothing(tmp_path, nan_model, log_every):
    frames, _ = squares(40)
    data = Poison(frames, torch.zeros(40, dtype=torch.int64), LABELS, 8, train=True, name='shot')
    bad = next(i for i, b in enumerate(data.epoch(0)) if 7 in b['index'])
    with pytest.raises(FloatingPointError, match=rf'got nan at epoch 0, step {bad}, files .*\bshot 7\b.*Lower lr') as e:
        fgar.train(config(tmp_path, model=nan_model, options={}, log_every=log_every, save_every=1), (data, loaders()[1]))
    assert len([w for w in str(e.value).split('files ')[1].split('. ')[0].split(', ')]) == 8
    if bad: assert all(v.isfinite().all() for v in T.read_checkpoint(tmp_path/'last.pt')['model'].values())
    else: assert not (tmp_path/'last.pt').exists()


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    "The second checkpoint finds the disk full after some bytes."
    real, calls = torch.save, []
    def save(obj, file):
        calls.append(1)
        if len(calls) < 4: return real(obj, file)
        file.write(b'half'); raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(torch, 'save', save)
    with pytest.raises(OSError, match='disk full; nothing half-written') as e: fgar.train(config(tmp_path, save_every=1), loaders())
    assert e.value.errno == errno.ENOSPC and 'last.pt' in str(e.value)
    assert {p.name for p in tmp_path.iterdir()} <= {'best.pt', 'last.pt', 'config.json', 'history.csv'}
    monkeypatch.undo()
    assert len(fgar.train(config(tmp_path, save_every=1), loaders()).history) == 2               # and it continues


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_torch_save_reports_a_full_disk_as_oserror():
    with pytest.raises(OSError) as e, open('/dev/full', 'wb') as file: torch.save(torch.zeros(100000), file)
    assert e.value.errno == errno.ENOSPC


def test_the_folder_of_a_run_means_its_best_checkpoint(tmp_path):
    run = fgar.train(config(tmp_path/'run'), loaders())
    assert load_checkpoint(run.folder).epoch == load_checkpoint(run.folder/'best.pt').epoch
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match="got '.*empty.best.pt', which does not exist"): load_checkpoint(tmp_path/'empty')


def test_one_label_is_nothing_to_learn(tmp_path):
    "A folder one level too high is a single class, and every guess is right."
    from fgar.data.video import write_video
    for name in ('clips/run', 'clips/jump'):
        (tmp_path/'videos'/name).mkdir(parents=True)
        for i in range(4): write_video(tmp_path/'videos'/name/f'{i}.mp4', torch.zeros(4, 32, 32, 3, dtype=torch.uint8), fps=8)
    with pytest.raises(ValueError, match="data: expected at least two labels to tell apart, got 'clips'. Is .*videos' one folder too high"):
        fgar.train(fgar.TrainConfig('small3d', str(tmp_path/'videos'), str(tmp_path/'run'), frames=4, size=32, epochs=1, warmup=0., batch=2, workers=0, quiet=True))


def test_checkpoint_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint: expected a file.*best.pt"): load_checkpoint(tmp_path/'none.pt')
    (tmp_path/'text.pt').write_text('hello')
    with pytest.raises(ValueError, match='checkpoint: expected a file written by fgar.train.*complete'): load_checkpoint(tmp_path/'text.pt')
    torch.save({'a': torch.zeros(1)}, tmp_path/'weights.pt')
    with pytest.raises(ValueError, match='option `weights`'): load_checkpoint(tmp_path/'weights.pt')
    fgar.train(config(tmp_path/'run', epochs=1, warmup=0), loaders())
    whole = (tmp_path/'run'/'best.pt').read_bytes()
    (tmp_path/'cut.pt').write_bytes(whole[:len(whole)//2])
    with pytest.raises(ValueError, match='complete'): load_checkpoint(tmp_path/'cut.pt')
    saved = T.read_checkpoint(tmp_path/'run'/'best.pt')
    saved['model'].pop('body.fc.bias')
    torch.save(saved, tmp_path/'other.pt')
    with pytest.raises(ValueError, match='another model than TSM: body.fc.bias missing'): load_checkpoint(tmp_path/'other.pt')


class Evil:
    def __reduce__(self): return os.system, ('true',)


def test_checkpoint_runs_no_code(tmp_path):
    torch.save(dict(fgar=1, model=Evil(), config={}, labels=[]), tmp_path/'evil.pt')
    with pytest.raises(ValueError, match='cannot be read'): load_checkpoint(tmp_path/'evil.pt')


def test_init_from_a_run_with_other_classes(tmp_path):
    first = fgar.train(config(tmp_path/'a', epochs=1, warmup=0), loaders())
    two = [MemoryLoader(*(x[y < 2] if x.ndim > 1 else x[x < 2] for x, y in ((f, l), (l, l))), LABELS[:2], 8, train=t) for (f, l), t in ((squares(40), True), (squares(16, 1), False))]
    second = fgar.train(config(tmp_path/'b', epochs=1, warmup=0, lr=1e-9, momentum=0., init=str(first.folder/'last.pt'), flip=False), two)
    a, b = (load_checkpoint(r.folder/'last.pt').model for r in (first, second))
    assert_close(a.body.conv1.weight, b.body.conv1.weight, atol=1e-6, rtol=0)
    assert b.body.fc.weight.shape == (8, 128)
    with pytest.raises(ValueError, match='holds another model'): fgar.train(config(tmp_path/'c', model='tsn', options=dict(body='resnet18'), init=str(first.folder/'last.pt')), loaders())


class Failing(MemoryLoader):
    "Some files cannot be read; in step 1 none can."
    failures = [('clip 0', 'broken')]
    def epoch(self, epoch, start=0):
        for step, b in enumerate(super().epoch(epoch, start), start):
            keep = slice(0, 0 if step == 1 else 5)
            yield {**{k: b[k][keep] for k in ('frames', 'label', 'index')}, 'valid': None, 'failed': [(int(i), 'broken') for i in b['index'][keep.stop:]]}


def test_unreadable_files_are_counted_and_do_not_stop_the_run(tmp_path, capsys):
    run = fgar.train(config(tmp_path, quiet=False, epochs=1, warmup=0), loaders(cls=Failing))
    assert run.history[0]['failed'] == 4*3 + 8
    assert 'could not be read, in training and validation: 1\n  clip 0: broken' in capsys.readouterr().out


def test_unreadable_files_are_listed_once_each():
    assert listed([('a/x.mp4', '/data/a/x.mp4: torn'), ('b.mp4', 'no frame')]) == '  /data/a/x.mp4: torn\n  b.mp4: no frame'      # a reason that names the file says it alone
    assert listed([('x', 'bad')]*23, most=2) == '  x: bad\n  x: bad\n  … and 21 more'


# ---- configuration -------------------------------------------------------------

@pytest.mark.parametrize('wrong, match', [
    (dict(epochs=0), 'epochs: expected a number of at least 1, got 0'), (dict(lr=0.), 'lr: expected a number above 0'), (dict(lr='fast'), "lr: expected.*'fast'"), (dict(momentum=1.), 'momentum'),
    (dict(ema=1.), 'ema'), (dict(label_smoothing=-.1), 'label_smoothing'), (dict(warmup=30.), 'warmup: expected less than epochs=30'), (dict(schedule='step'), 'milestones'),
    (dict(optimizer='adam'), "Did you mean 'adamw'"), (dict(precision='half'), 'precision: expected one of'), (dict(existing='yes'), 'existing'), (dict(batch=True), 'batch')])
def test_wrong_values_are_refused_at_construction(wrong, match):
    with pytest.raises(ValueError, match=match): TrainConfig(**wrong)


def test_config_json_round_trip(tmp_path):
    c = TrainConfig(options=dict(body='small', fold=4, dropout=.5, freeze_bn=True), classes=('a', 'b'), flip_pairs=(('a', 'b'),), schedule='step', milestones=(3, 5.5))
    c.write(tmp_path/'c.json')
    assert TrainConfig.read(tmp_path/'c.json') == c
    values = json.loads((tmp_path/'c.json').read_text())
    with pytest.raises(KeyError, match="Did you mean 'epochs'"): TrainConfig.from_dict({**values, 'epoch': 3})


def test_command_line_is_generated(capsys):
    tyro = pytest.importorskip('tyro')
    c = tyro.cli(TrainConfig, args='--model tsn --options body small fold 4 --classes a b --frames 8 --flip-pairs a b c d --no-flip --clip-norm 1'.split())
    assert c == TrainConfig(model='tsn', options=dict(body='small', fold=4), classes=('a', 'b'), frames=8, flip_pairs=(('a', 'b'), ('c', 'd')), flip=False, clip_norm=1.)
    with pytest.raises(SystemExit): tyro.cli(TrainConfig, args=['--help'])
    assert 'learning rate after warm-up' in ' '.join(capsys.readouterr().out.split())


def test_flip_labels():
    pairs = config('x', flip_pairs=(('right', 'left'),))
    assert T.make_augment(pairs, LABELS)[0].flip_labels.tolist() == [1, 0, 2, 3]
    assert T.make_augment(config('x'), LABELS)[0].flip_labels.tolist() == [1, 0, 2, 3]           # found in the names
    assert T.make_augment(config('x', flip=False), LABELS)[0].flip_labels is None
    with pytest.raises(ValueError, match='mirror image'): T.make_augment(config('x'), LABELS[1:])
    with pytest.raises(ValueError, match="flip_pairs.*'left'"): T.make_augment(config('x', flip_pairs=(('right', 'lef'),)), LABELS)


def test_schedule_never_jumps_up_after_warmup_and_ends_low():
    for options in (dict(schedule='cosine'), dict(schedule='step', milestones=(3, 6))):
        values = [lr_scale(i/100, 10, 2, **options) for i in range(1000)]
        assert values[0] == 0 and max(values) == pytest.approx(1, abs=.01)
        assert all(a >= b for a, b in zip(values[200:], values[201:])) and values[-1] < .02


def test_smoothing_is_torchs_label_smoothing():
    logits, target = torch.randn(9, 5, dtype=torch.double, requires_grad=True), torch.randint(5, (9,))
    ours = nn.functional.cross_entropy(logits, target) + smoothing(logits.float(), target, .2)
    theirs = nn.functional.cross_entropy(logits, target, label_smoothing=.2)
    assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), atol=1e-6, rtol=0)


# ---- loaders ---------------------------------------------------------------------

@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('train', [True, False])
def test_memory_loader_shares_and_resumes(world, train):
    make = lambda rank: MemoryLoader(*squares(29), LABELS, 4, train=train, rank=rank, world=world)
    seen = [[b['index'] for b in make(r).epoch(2)] for r in range(world)]
    assert {len(s) for s in seen} == {len(make(0))}
    every = torch.cat([torch.cat(s) for s in seen])
    assert len(every.unique()) == len(every) == (29//(4*world)*4*world if train else 29)
    assert all(torch.equal(a, b['index']) for a, b in zip(seen[0][1:], make(0).epoch(2, start=1)))
    assert torch.equal(torch.cat(seen[0]), torch.cat([b['index'] for b in make(0).epoch(3)])) != train


def test_memory_loader_errors():
    frames, targets = squares(4)
    with pytest.raises(ValueError, match='uint8'): MemoryLoader(frames.float(), targets, LABELS)
    with pytest.raises(ValueError, match='targets: expected'): MemoryLoader(frames, targets[:3], LABELS)
    with pytest.raises(ValueError, match='batch: expected at most 2'): MemoryLoader(frames, targets, LABELS, 3, train=True, world=2)


# ---- two processes ------------------------------------------------------------------

TWO = '''
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_train import *
rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
class Uneven(MemoryLoader):
    "The second process cannot read some of its files, and none in step 1."
    def epoch(self, epoch, start=0):
        for step, b in enumerate(super().epoch(epoch, start), start):
            keep = slice(0, (0 if step == 1 else 3) if rank else None)
            yield {{**{{k: b[k][keep] for k in ('frames', 'label', 'index')}}, 'valid': None, 'failed': []}}
torch.distributed.init_process_group('gloo')
for name, cls in (('even', MemoryLoader), ('uneven', Uneven)):
    data = cls(*squares(24), LABELS, 4, train=True, rank=rank, world=world), MemoryLoader(*squares(15, 1), LABELS, 4, rank=rank, world=world)
    fgar.train(config({out!r} + '/two-' + name, batch=4, **{options!r}), data)
Uneven.failures = [(f'clip {{rank}}', 'torn')]
assert unreadable([Uneven(*squares(8), LABELS, 4)], world) == [('clip 0', 'torn'), ('clip 1', 'torn')]
torch.distributed.destroy_process_group()
'''
PLAIN = dict(options=dict(body='small', dropout=0., norm='group'), lr=1e-3, momentum=0., crop='centre', flip=False, epochs=1, warmup=0., clip_norm=1., ema=.5)


class Subset(MemoryLoader):
    "One process with the clips that the two above see together."
    def epoch(self, epoch, start=0):
        for step, b in enumerate(super().epoch(epoch, start), start):
            second = b['index'][1::2][:0 if step == 1 else 3]
            keep = torch.cat([b['index'][0::2], second])
            yield dict(frames=self.frames[keep], label=self.targets[keep], index=keep, valid=None, failed=[])


@pytest.mark.skipif(not torch.distributed.is_available(), reason='torch without distributed')
def test_two_processes_give_the_update_of_one(tmp_path):
    script = tmp_path/'two.py'
    script.write_text(TWO.format(tests=str(ROOT/'tests'), root=str(ROOT), out=str(tmp_path), options=PLAIN))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(script)], capture_output=True, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, cls in (('even', MemoryLoader), ('uneven', Subset)):
        one = fgar.train(config(tmp_path/f'one-{name}', batch=8, **PLAIN), (cls(*squares(24), LABELS, 8, train=True), MemoryLoader(*squares(15, 1), LABELS, 8)))
        a, b = (T.read_checkpoint(tmp_path/f'{n}-{name}'/'last.pt') for n in ('one', 'two'))
        for part in ('model', 'ema'): assert_same_update(a[part], b[part], config(tmp_path, **PLAIN))
        for key in ('loss', 'top1', 'val_loss', 'val_top1'): assert one.history[0][key] == pytest.approx(b['history'][0][key], rel=1e-3), (name, key)


# ---- data by name -----------------------------------------------------------------------

def test_court26_by_name(tmp_path):
    c = config(tmp_path, data='court26', classes=('crossover left to right', 'crossover right to left'), clips=8, val_clips=4, batch=4, size=32, epochs=1, warmup=0, difficulty=0.)
    run = fgar.train(c)
    assert load_checkpoint(run.folder/'last.pt').labels == list(c.classes) and len(run.history) == 1
    with pytest.raises(ValueError, match='mirror image'): fgar.train(replace(c, out=str(tmp_path/'b'), classes=c.classes[:1]))
    with pytest.raises(KeyError, match="Did you mean 'low dribble'"): fgar.train(replace(c, out=str(tmp_path/'b'), classes=('low dribbles',)))


@pytest.mark.parametrize('workers', [0, 2])
def test_folder_of_videos_with_a_broken_one(tmp_path, workers, capfd):
    av = pytest.importorskip('av')  # noqa: F841
    from fgar.data.video import write_video
    frames, label = squares(24, size=32, frames=6)
    for i, (clip, l) in enumerate(zip(frames, label.tolist())):
        (tmp_path/'data'/LABELS[l]).mkdir(parents=True, exist_ok=True)
        write_video(tmp_path/'data'/LABELS[l]/f'{i}.mp4', clip)
    for l in LABELS: (tmp_path/'data'/l/'broken.mp4').write_bytes(b'not a video')
    run = fgar.train(config(tmp_path/'run', data=str(tmp_path/'data'), batch=4, workers=workers, size=32, epochs=2, warmup=0, quiet=False, max_failed=.5))
    model, labels, *_ = load_checkpoint(run.folder/'best.pt')
    assert labels == sorted(LABELS) and len(run.history) == 2
    failed = sum(row['failed'] for row in run.history)
    assert failed >= 1 and 'broken.mp4: ' in capfd.readouterr().out
    with pytest.raises(RuntimeError, match=r'at most 5% .* to be unreadable[^$]*broken.mp4: ') as e:
        fgar.train(config(tmp_path/'strict', data=str(tmp_path/'data'), batch=4, workers=workers, size=32, epochs=2, warmup=0, max_failed=.05))
    assert all(line.count('broken.mp4') == 1 for line in str(e.value).splitlines()[1:])


def test_data_errors(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match='nowhere'): fgar.train(config(tmp_path, data=str(tmp_path/'nowhere.csv')))
    with pytest.raises(KeyError, match="Did you mean 'tsm'"): fgar.train(config(tmp_path, model='tsmm'))
    assert list(tmp_path.iterdir()) == []

def test_options_as_typed_and_as_json_has_them():
    assert TrainConfig(options=dict(residual='false', gate='True', space='none', widths=[8, 16])).options == dict(residual=False, gate=True, space='none', widths=(8, 16))
    model = T.build_model(TrainConfig(model='mhssa-rgb', options=dict(body='small', residual='false'), frames=2, size=48), ['a', 'b'])
    assert model.options['residual'] is False


@pytest.mark.parametrize('name', ['epochs', 'batch', 'workers', 'save_every'])
def test_half_of_a_count_is_refused(name):
    with pytest.raises(ValueError, match=f'{name}: expected a whole number, got 2.5'): TrainConfig(**{name: 2.5})


def test_a_config_that_is_no_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='config: expected a JSON file'): TrainConfig.read(tmp_path/'none.json')
    (tmp_path/'config.json').write_text('epochs = 3')
    with pytest.raises(ValueError, match="config: expected a JSON file that a run saved, and .*config.json"): TrainConfig.read(tmp_path/'config.json')


# ---- labels, versions, splits -----------------------------------------------------------

def test_a_run_is_not_continued_with_other_labels(tmp_path):
    "As many classes, one renamed: the weights fit and would mean something else."
    c = config(tmp_path, epochs=1, warmup=0)
    run = fgar.train(c, loaders())
    other = loaders()
    for loader in other: loader.labels = [*LABELS[:-1], 'diagonal']
    before = (run.folder/'last.pt').read_bytes()
    with pytest.raises(ValueError, match='data: expected the labels that the run .*began with .*diagonal'): fgar.train(replace(c, epochs=2, existing='resume'), other)
    assert (run.folder/'last.pt').read_bytes() == before

def test_a_checkpoint_of_another_version_is_named(tmp_path):
    run = fgar.train(config(tmp_path, epochs=1, warmup=0), loaders())
    saved = read_checkpoint(run.folder/'best.pt')
    saved['config']['later_field'] = 1
    torch.save(saved, tmp_path/'newer.pt')
    with pytest.raises(ValueError, match=r"checkpoint: .*newer\.pt' has others: later_field"): load_checkpoint(tmp_path/'newer.pt')
    del saved['config']['later_field'], saved['config']['max_failed']          # of an older one: what is missing has its default
    torch.save(saved, tmp_path/'older.pt')
    assert load_checkpoint(tmp_path/'older.pt').labels == LABELS

def test_a_manifest_without_the_validation_split_says_what_to_do(tmp_path):
    (tmp_path/'m.csv').write_text('path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,x,test\n')
    with pytest.raises(ValueError, match=r"val_split: expected one of the splits of .*train, test, got 'val'.*--val-split"): fgar.train(config(tmp_path/'run', data=str(tmp_path/'m.csv')))
    with pytest.raises(ValueError, match='train_split: .*--train-split'): fgar.train(config(tmp_path/'run', data=str(tmp_path/'m.csv'), train_split='learn', val_split='test'))

def test_resume_takes_the_new_decay_and_refuses_another_optimizer(tmp_path):
    c = config(tmp_path, epochs=1, warmup=0)
    fgar.train(c, loaders())
    fgar.train(replace(c, epochs=2, weight_decay=.123, momentum=.5, existing='resume'), loaders())
    assert [(g['weight_decay'], g['momentum']) for g in read_checkpoint(tmp_path/'last.pt')['optimizer']['param_groups']] == [(.123, .5), (0., .5)]
    with pytest.raises(ValueError, match='optimizer: expected sgd, whose moments .* got adamw'): fgar.train(replace(c, epochs=3, optimizer='adamw', existing='resume'), loaders())

def test_paths_and_single_values_are_taken(tmp_path):
    c = replace(config(tmp_path/'run', epochs=1, warmup=0), out=tmp_path/'run', data=tmp_path/'data', options=dict(body='small', weights=Path('none.pth')))
    assert (c.out, c.data, c.options['weights']) == (str(tmp_path/'run'), str(tmp_path/'data'), 'none.pth')
    assert (TrainConfig(classes='dunk').classes, TrainConfig(milestones=15.).milestones) == (('dunk',), (15.,))
    run = fgar.train(replace(c, options=dict(body='small')), loaders())
    assert load_checkpoint(run.folder/'best.pt').config == TrainConfig.read(run.folder/'config.json')

def test_an_out_that_cannot_be_written_stops_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(T, 'make_loaders', lambda *_: pytest.fail('data were read first'))
    (tmp_path/'file').write_text('no folder')
    with pytest.raises(OSError, match='cannot write here .*choose a folder'): fgar.train(config(tmp_path/'file'))

@pytest.mark.parametrize('model,options,match', [('small3d', dict(widths=8), r'widths of small3d to be tuple\[int, \.\.\.\], got 8'), ('tsn-flow', dict(stack='x'), "stack of tsn-flow to be int, got 'x'"),
                                                 ('tsm', dict(dropout='high'), "dropout of tsm to be float, got 'high'"), ('tsm', dict(fold=True), 'fold of tsm to be int | None, got True'),
                                                 ('tsm', dict(frames=3), 'options: .*--frames 3'), ('tsm', dict(bodi='small'), "Did you mean 'body'")])
def test_wrong_options_are_named_before_data_are_read(tmp_path, monkeypatch, model, options, match):
    monkeypatch.setattr(T, 'make_loaders', lambda *_: pytest.fail('data were read first'))
    with pytest.raises(ValueError, match=match): fgar.train(config(tmp_path, model=model, options=options))

def test_defaults_and_recipes_pass_as_options():
    import inspect
    from fgar.recipes import RECIPES
    for c in RECIPES.values(): T.check_options(c)
    for name in fgar.models():
        if fgar.spec(name).build.__module__.startswith('fgar.'):
            T.check_options(TrainConfig(model=name, options={k: p.default for k, p in inspect.signature(fgar.spec(name).build.__init__).parameters.items() if k not in ('self', 'classes', 'frames', 'size')}))

@pytest.mark.parametrize('options', [{}, FULL])
def test_a_process_that_dies_in_validation_has_lost_no_training(tmp_path, options):
    class Dies(MemoryLoader):
        def epoch(self, epoch, start=0): raise RuntimeError('no validation file could be read')
    class Notes(MemoryLoader):
        def epoch(self, epoch, start=0): starts.append((epoch, start)); return super().epoch(epoch, start)
    starts, c = [], config(tmp_path/'dies', **options)
    with pytest.raises(RuntimeError, match='no validation file'): fgar.train(c, (loaders()[0], Dies(*squares(16, 1), LABELS, 8)))
    resumed = fgar.train(c, (loaders(cls=Notes)[0], loaders()[1]))
    whole = fgar.train(replace(c, out=str(tmp_path/'whole')), loaders())
    assert starts == [(0, 5), (1, 0)]                                          # nothing of epoch 0 is trained again
    same(*(read_checkpoint(run.folder/'last.pt')['model'] for run in (resumed, whole)))
    assert rows(resumed.history) == rows(whole.history)

def test_a_compiled_run_is_the_same_run(tmp_path, monkeypatch):
    "Weights are saved under the model's own names, and every loss equals the uncompiled run's (aot_eager: no C++ compiler is needed)."
    compile = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda net: compile(net, backend='aot_eager'))
    runs = [fgar.train(config(tmp_path/str(flag), epochs=1, warmup=0., compile=flag), loaders()) for flag in (False, True)]
    plain, compiled = (T.read_checkpoint(run.folder/'best.pt')['model'] for run in runs)
    assert plain.keys() == compiled.keys()
    assert_close(plain, compiled)
    assert runs[0].history[0]['loss'] == pytest.approx(runs[1].history[0]['loss'], rel=1e-4)
