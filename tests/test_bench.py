"Benchmarks: that they run and compare like with like. Nothing is timed in a test."
import importlib.util, sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from fgar import bench, cli
from fgar.core import cost, create, example_inputs
from fgar.bench import BENCHMARKS, bench_correlation, bench_step, compare, peak_memory


def test_compare_takes_turns():
    calls = []
    table = compare({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, rounds=3)
    assert calls == list('ab'*4) and list(table.what) == ['a', 'b'] and table.ratio[0] == 1


def test_compare_gives_the_median_of_even_and_odd_rounds(monkeypatch):
    now = [0.]
    monkeypatch.setattr(bench, 'time', SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    def theirs(): now[0] += .009
    def ours(): now[0] += next(lengths)/1000
    for rounds, wanted in ((4, 4), (3, 3)):
        lengths = iter([100, 1, 5, 3, 11])                                                # the first call is the warm-up
        table = compare({'ours': ours, 'theirs': theirs}, rounds)
        assert [*table.ms, *table.ratio] == pytest.approx([wanted, 9, 1, 9/wanted])
        assert table.slowest[0] == pytest.approx(11 if rounds == 4 else 5)


@pytest.mark.parametrize('threads, device, wall, processor', [(1, 'cpu', False, True), (2, 'cpu', False, False), (1, 'cuda', False, False), (1, 'cpu', True, False)])
def test_time_of_the_processor_where_it_is_what_counts(threads, device, wall, processor, monkeypatch):
    "Another program that takes the CPU makes the clock on the wall run on, not that of the process."
    asked = []
    monkeypatch.setattr(bench, 'time', SimpleNamespace(perf_counter=lambda: asked.append('wall') or 0., process_time=lambda: asked.append('processor') or 0.))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads); monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    with pytest.raises(ZeroDivisionError): compare({'a': lambda: None}, 1, device, wall=wall)                    # nothing took any time
    assert set(asked) == {'processor' if processor else 'wall'}


@pytest.mark.parametrize('device, waits', [('cpu', []), ('cuda', ['cuda']*8), ('cuda:1', ['cuda:1']*8), (torch.device('cuda', 1), [torch.device('cuda', 1)]*8)])
def test_a_gpu_is_waited_for_before_and_after_each_call(device, waits, monkeypatch):
    heard = []
    monkeypatch.setattr(torch.cuda, 'synchronize', heard.append)
    compare({'a': lambda: None, 'b': lambda: None}, 2, device)
    assert heard == waits


def test_peak_is_what_is_held_at_one_time():
    held = torch.zeros(2**20)
    def f():
        first = torch.empty(2**18); del first             # 1 MiB, given back
        second = torch.empty(2**19)                       # 2 MiB
        return second + 1 + held[:2**19]                  # and 2 more, and again 2; `held` was there before
    assert peak_memory(f) == 6 and peak_memory(lambda: None) == 0
    assert list(compare({'a': f}, rounds=1, memory=True).MiB) == [6] and 'MiB' not in compare({'a': f}, rounds=1)


@pytest.mark.parametrize('name', BENCHMARKS)
def test_runs(name, capsys, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, 'step', lambda **options: bench_step(systems=('nts',), frames=4, size=32, **options))      # the default is for patient people
    assert cli.main(['bench', name, '--rounds', '1']) == 0
    out = capsys.readouterr().out
    assert name in out and 'ratio' in out and torch.__version__ in out


def test_unknown_is_explained(capsys):
    assert cli.main(['bench', 'nsm']) == 1
    assert "Did you mean 'nms'" in capsys.readouterr().err


def test_bad_options_are_explained(capsys):
    with pytest.raises(ValueError, match='rounds: expected at least 1, got 0'): compare({'a': lambda: None}, 0)
    for option in ('rounds', 'threads'):
        assert cli.main(['bench', 'nms', f'--{option}', '0']) == 1
        assert f'{option}: expected at least 1, got 0' in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert cli.main(['bench', 'nms', '--device', 'cuda']) == 1
        assert 'sees no CUDA GPU' in capsys.readouterr().err
    assert cli.main(['bench', 'nms', '--device', 'meta']) == 1
    assert 'expected cpu or cuda' in capsys.readouterr().err


@pytest.mark.parametrize('name, where', [('nms', 'Some Card'), ('decode', 'cpu')])
def test_the_head_says_where_it_ran(name, where, capsys, monkeypatch):
    monkeypatch.setattr(bench, 'pick_device', torch.device)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Some Card')
    monkeypatch.setitem(BENCHMARKS, name, lambda device, rounds: pd.DataFrame([dict(device=device)]))
    assert cli.main(['bench', name, '--device', 'cuda']) == 0
    assert capsys.readouterr().out.startswith(f'{name}, {where}, 1 thread')


@pytest.mark.parametrize('name', ['nts', 'fstfl'])
def test_step_counts_the_training_pass_whatever_computes_it(name, monkeypatch):
    "NTS-Net looks at more regions in training; a counter does not see the Triton kernel that FSTFL-Net runs on a GPU."
    where, count = [], bench._gmacs
    monkeypatch.setattr(bench, '_gmacs', lambda model, inputs: (where.append(inputs[0].device.type), count(model, inputs))[1])
    table = bench_step(rounds=1, systems=(name,), frames=4, size=32, batch=2)
    model = create(name, 26, frames=4, size=32, body=bench.STEP_BODIES[name])
    assert set(where) == {'meta'} and table.GMACs[0] == pytest.approx(count(model.train(), example_inputs(model, 2)), rel=.05)
    if name == 'nts': assert table.GMACs[0] > 1.1*2*cost(name, 26, frames=4, size=32, body='small')[1]


def test_step_partners_cost_alike():
    table = bench_step(rounds=1, systems=('gsf', 'stmanet'), frames=4, size=48)
    ours, theirs = table[::2].reset_index(), table[1::2].reset_index()
    assert list(ours.what) == ['gsf, resnet18 body', 'stmanet, resnet18 body'] and theirs.what.str.startswith('torchvision').all() and (theirs.ratio == 1).all()
    assert ((ours.GMACs/theirs.GMACs).between(.5, 2)).all()


def test_correlation_says_what_memory_it_needs():
    table = bench_correlation(rounds=1, shape=(1, 8, 24, 24), radius=7).set_index('what').MiB
    tensor = 3*225*4*24*24*4/2**20
    assert 3*table['fgar correlation_features'] < table['the whole tensor, then the layer'] and table['fgar correlation_features'] < tensor < table['the whole tensor, then the layer']
    assert table['unfold, then multiply and sum'] > 8*225*24*24*4/2**20 > 2*table['fgar, windows as banded products']
    assert len(table) - len(bench_correlation(rounds=1, shape=(1, 2, 6, 6), radius=1, width=0)) == 3


def test_what_does_not_fit_the_memory_is_nan_and_the_rest_is_timed():
    def large(): raise torch.OutOfMemoryError('no')
    table = compare({'ours': lambda: None, 'large': large, 'theirs': lambda: None}, 2, memory=True).set_index('what')
    assert table.loc['large'].isna().all() and table.loc[['ours', 'theirs']].notna().all(axis=None)


def test_flow_is_timed_per_pair_and_the_pairs_of_clips_are_those_of_the_offsets(monkeypatch):
    one, rows = bench.bench_flow(rounds=1, size=(24, 32)).set_index('what').index, []
    def compare(candidates, *rest, **options): rows.append(list(candidates)); return pd.DataFrame([dict(what=name, ms=6., fastest=6., slowest=6., ratio=1.) for name in candidates])
    monkeypatch.setattr(bench, 'compare', compare)
    table = bench.bench_flow(rounds=1, size=(24, 32), pairs=3).set_index('what')
    assert list(table.index) == list(one) and (table.ms[table.index.str.startswith('fgar')] == 2).all() and (table.ms[table.index.str.startswith('OpenCV')] == 6).all()
    assert (table.ratio == table.ms/2).all()
    seen, bmm = [], torch.Tensor.__matmul__
    monkeypatch.setattr(bench, 'compare', lambda candidates, *rest, **options: [f() for f in candidates.values()] and pd.DataFrame())
    monkeypatch.setattr(torch.Tensor, '__matmul__', lambda a, b: seen.append((tuple(a.shape), tuple(b.shape))) or bmm(a, b))
    bench_correlation(shape=(1, 2, 4, 5), radius=1, clips=(2, 3))
    assert ((2*(3 + 2 + 1), 20, 2), (2*(3 + 2 + 1), 2, 20)) in seen                # frames 0-2, 0-1 with 1-2, 0 with 2, of two clips


def test_correlation_has_a_row_for_the_sampler_where_it_is_installed():
    wanted = importlib.util.find_spec('spatial_correlation_sampler') is not None
    table = bench_correlation(rounds=1, shape=(1, 2, 6, 6), radius=1)
    assert ('spatial-correlation-sampler' in set(table.what)) == wanted


def test_correlation_runs_the_sampler_with_the_right_window(monkeypatch, tmp_path):
    "A stand-in with the sampler's interface."
    (tmp_path/'spatial_correlation_sampler.py').write_text("""
from fgar.ops.correlation import correlate
def spatial_correlation_sample(a, b, kernel_size=1, patch_size=1): seen.append((kernel_size, patch_size)); return correlate(a, b, patch_size//2, normalize=False)
seen = []
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'spatial_correlation_sampler', raising=False)
    table = bench_correlation(rounds=1, shape=(1, 2, 6, 6), radius=2)
    assert 'spatial-correlation-sampler' in set(table.what) and set(sys.modules['spatial_correlation_sampler'].seen) == {(1, 5)}
    del sys.modules['spatial_correlation_sampler']
