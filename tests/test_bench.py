"Benchmarks: that they run and compare like with like. Nothing is timed in a test."
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from fgar import cli
from fgar.bench import BENCHMARKS, bench_nms, bench_step, compare


def test_compare_takes_turns():
    calls = []
    table = compare({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, rounds=3)
    assert calls == list('ab'*4) and list(table.what) == ['a', 'b'] and table.ratio[0] == 1


@pytest.mark.parametrize('name', BENCHMARKS)
def test_runs(name, capsys):
    assert cli.main(['bench', name, '--rounds', '1']) == 0
    out = capsys.readouterr().out
    assert name in out and 'ratio' in out and torch.__version__ in out


def test_unknown_is_explained(capsys):
    assert cli.main(['bench', 'nsm']) == 1
    assert "Did you mean 'nms'" in capsys.readouterr().err
