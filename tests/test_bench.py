"Benchmarks: that they run and compare like with like. Nothing is timed in a test."
import importlib.util, sys

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fgar import cli
from fgar.bench import BENCHMARKS, bench_correlation, bench_step, compare, peak_memory


def test_compare_takes_turns():
    calls = []
    table = compare({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, rounds=3)
    assert calls == list('ab'*4) and list(table.what) == ['a', 'b'] and table.ratio[0] == 1


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
