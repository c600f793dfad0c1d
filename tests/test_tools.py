"tools/execute.py: which cells run, what is kept, and where a GPU cell says it ran."
import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('execute', ROOT/'tools/execute.py')
tool = importlib.util.module_from_spec(spec); spec.loader.exec_module(tool)
code, output = nbformat.v4.new_code_cell, lambda text: nbformat.v4.new_output('stream', name='stdout', text=text)

def texts(path): return [''.join(o.get('text', '') for o in c.outputs) for c in nbformat.read(path, 4).cells]

@pytest.fixture
def notebook(tmp_path):
    cells = [code('x = 1; print(x)'), code('#| slow\nprint("slow", x)', outputs=[output('kept\n')]), code('#| gpu\nprint("gpu", x)'), code('#| eval: false\nprint(0)'), code('print(x + 1)')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}), tmp_path/'page.ipynb')
    return tmp_path/'page.ipynb'

def test_only_cells_asked_for_run_and_the_others_keep_their_output(notebook):
    assert tool.main(['--notebooks', str(notebook)]) == 0
    assert texts(notebook) == ['1\n', 'kept\n', '', '', '2\n']
    assert tool.main(['--flags', 'slow', 'gpu', '--notebooks', str(notebook)]) == 0
    found = texts(notebook)
    assert found[1] == 'slow 1\n' and found[3] == '' and found[2].startswith('gpu 1\n(') and ' · torch ' in found[2] and ' · commit ' in found[2]
    assert all(c.execution_count is None for c in nbformat.read(notebook, 4).cells)

def test_a_cell_that_fails_is_counted_and_what_ran_is_kept(notebook):
    nb = nbformat.read(notebook, 4); nb.cells[4].source = '1/0'; nbformat.write(nb, notebook)
    assert tool.main(['--notebooks', str(notebook)]) == 1
    assert texts(notebook)[0] == '1\n'

def test_where_it_ran_is_said_without_git_too(monkeypatch):
    monkeypatch.setattr(tool, 'STAMP', "print('a card')")
    assert tool.stamp().startswith('a card · ') and tool.stamp().split(' · commit ')[1] not in ('', 'None')
    def none(*args, **options):
        if args[0][0] == 'git': raise FileNotFoundError('git')
        return run(*args, **options)
    run = tool.subprocess.run
    monkeypatch.setattr(tool.subprocess, 'run', none); monkeypatch.setattr(tool.shutil, 'which', lambda name: None)
    assert tool.stamp().endswith(' · commit unknown')
