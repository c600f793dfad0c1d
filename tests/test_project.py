"The project as a whole: notebooks, README, site files and the installed package agree with each other."
import ast, importlib.util, json, re, shlex, shutil, subprocess, sys, venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
CHAPTERS = [p for p in NOTEBOOKS if p.stem[0].isdigit()]

def cells(path, kind=None): return [c for c in json.loads(path.read_text())['cells'] if kind in (None, c['cell_type'])]
def source(cell): return ''.join(cell['source'])

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_clean(path):
    text = path.read_text()
    assert not re.search(r'(?<![\w.])/(?:root|home|tmp|work|opt|Users)/', text), 'a path of some machine'
    for cell in cells(path, 'code'):
        for output in cell['outputs']:
            assert output['output_type'] != 'error', source(cell)
            assert output.get('name') != 'stderr', source(cell)
            assert 'application/vnd.jupyter.widget-view+json' not in output.get('data', {}), 'a widget means nothing without a kernel'
        assert cell['execution_count'] is None, 'run nbdev_clean'
    assert path.stat().st_size < 1_500_000, 'figures too large'

@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_chapter_opens_with_title_claim_and_strip(path):
    first, second = cells(path)[:2]
    assert re.match(r'# .+\n+> .+', source(first))
    assert 'video.mp4' in source(second) and '**' in source(second), 'the line of data, with this chapter\'s station in bold'

@pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
def test_chapter_says_how_long_it_runs(path):
    "A measured time, and no placeholder left anywhere."
    assert re.search(r'\*\*Runs in\*\*[^·]*\d', source(cells(path)[1])), 'no run time in the header'
    for cell in cells(path, 'markdown'): assert not re.search(r'\b(?:TIME|RUNTIME|MEMORY|VERDICTS?|TOOK|TODO|FIXME)\b', source(cell)), 'a placeholder'

def anchors(path):
    "What a link can jump to: headings, and the entries of the reference."
    heads = {re.sub(r'[^\w\-. ]', '', h.lower()).strip().replace(' ', '-') for c in cells(path, 'markdown') for h in re.findall(r'^#+ (.+)$', source(c), re.M)}
    exported = [source(c) for c in cells(path, 'code') if re.search(r'^#\|\s*export\b', source(c), re.M)]
    return heads | {name.lower() for code in exported for name in re.findall(r'^(?:def|class) (\w+)', code, re.M)}

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_chapters_resolve(path):
    for cell in cells(path, 'markdown'):
        for target in re.findall(r'\]\(([^)#\s]+)', source(cell)) + re.findall(r'src="([^"]+)"', source(cell)):
            if not re.match(r'https?:|mailto:|data:', target): assert (path.parent/target).exists(), target
        for page, anchor in re.findall(r'\]\(([\w.]*)#([^)\s]+)\)', source(cell)): assert anchor in anchors(path.parent/page if page else path), f'{page}#{anchor}'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_pictures_have_captions_and_texts(path):
    "A caption below each figure, a text for those who hear the page with each picture."
    for cell in cells(path, 'code'):
        drawn = [o for o in cell['outputs'] if 'image/png' in o.get('data', {})]
        assert not drawn or re.search(r'^#\|\s*fig-cap:\s*\S', source(cell), re.M), source(cell)[:200]
    for image in re.findall(r'<img\b[^>]*>', '\n'.join([*(source(c) for c in cells(path, 'markdown')), *(''.join(o['data']['text/html']) for c in cells(path, 'code') for o in c['outputs'] if 'text/html' in o.get('data', {}))])):
        assert re.search(r'alt=(["\']).+?\1', image), image[:200]

def test_commands_on_the_pages_are_understood():
    "Every whole `fgar …` line of every page, read by the command itself; nothing is run."
    from fgar import cli
    seen = 0
    for path in NOTEBOOKS:
        for block in re.findall(r'```\w*\n(.*?)```', '\n'.join(source(c) for c in cells(path, 'markdown')), re.S):
            for line in re.findall(r'^(?:torchrun .*-m fgar\.cli|fgar) +(\w.*)$', block.replace('\\\n', ' '), re.M):
                name, *rest = shlex.split(line, comments=True)
                assert name in cli.COMMANDS, line
                if rest and '…' not in line and not re.search(r'\b[A-Z]{3,}\b', line.split('#')[0]): cli.parse(name, rest); seen += 1
    assert seen >= 20

def test_a_notebook_alone_installs_what_it_imports():
    "The first cell of the notebooks beside the site; what is compared with only where it is installed is looked for first, and so is no requirement."
    alone = tool('docs').alone(CHAPTERS[0], 'https://example.org/fgar').cells[0].source
    assert "%pip install -q -e './fgar[dev]'" in alone and '%cd fgar/nbs' in alone
    settings = tool('docs').settings()
    brought = {'torch': ['triton'], 'matplotlib': ['PIL'], 'jupyterlab': ['IPython', 'matplotlib_inline'], 'scikit-learn': ['sklearn'], 'opencv-python-headless': ['cv2']}       # what a requirement brings or is called
    named = [re.match(r'[\w-]+', r)[0] for r in shlex.split(settings['requirements'] + ' ' + settings['dev_requirements'])]
    there = {*sys.stdlib_module_names, 'fgar', *(m for n in named for m in brought.get(n, [n.replace('-', '_')])), *named}
    for path in NOTEBOOKS:
        for cell in cells(path, 'code'):
            code = source(cell)
            if re.search(r'^#\|\s*(?:slow|gpu)\b', code, re.M): continue
            for module in re.findall(r'^\s*(?:import|from) (\w+)', code, re.M):
                assert module in there or f"find_spec('{module}')" in code, f'{path.stem}: {module}'

def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT/f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_page_shows_the_exported_code_and_ends_with_its_reference(path):
    docs = tool('docs')
    page = docs.page(path, 'https://example.org/fgar')
    text = '\n'.join(c.source for c in page.cells)
    assert not re.search(r'^#\|\s*(?:export|hide|slow|gpu|notest|default_exp\b.*)\s*$', text, re.M), 'directives of nbdev, which Quarto would print'
    assert not any('text/html' in o.get('data', {}) for c in page.cells for o in c.get('outputs', [])), 'for which Quarto would load scripts from a network'
    exported = [source(c) for c in cells(path, 'code') if re.search(r'^#\|\s*export\b', source(c), re.M)]
    for code in exported:
        assert re.sub(r'^#\|.*\n', '', code, flags=re.M).strip() in text
        for node in ast.parse(code).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'): assert f'### {node.name} {{#' in page.cells[-1].source
    anchors = re.findall(r'^### .* \{#(\S+) \.api\}$', page.cells[-1].source, re.M)
    assert len(anchors) == len(set(anchors))
    if path in CHAPTERS: assert f'notebooks/{path.stem}.json' in text, 'how to run it'

def test_reference_reads_arguments_and_comments():
    code = '''
def f(
    x:Tensor,            # (N, K) with a | and a *
    k:int|None=None,     # how many
    *rest:str,
    scale:float=.5       # of x
)->Tensor:               # (N,)
    "What f does."
    return x
'''
    docs = tool('docs'); node, = ast.parse(code).body
    assert docs.rows_of(node, docs.comments(code)) == [('x', 'Tensor', '', '(N, K) with a | and a *'), ('k', 'int | None', 'None', 'how many'), ('*rest', 'str', '', ''), ('scale', 'float', '0.5', 'of x'), ('returns', 'Tensor', '', '(N,)')]
    entry = docs.entry(node, docs.comments(code), 'f')
    assert 'f(x, k=None, *rest, scale=0.5)' in entry and r'(N, K) with a \| and a \*' in entry and '*returns*' in entry
    one, = ast.parse(line := 'def g(a:int, b:int=2)->int: return a + b      # the sum').body
    assert [r[3] for r in docs.rows_of(one, docs.comments(line))][:2] == ['', '']

@pytest.mark.skipif(not shutil.which('quarto'), reason='Quarto is not installed: quarto.org')
def test_quarto_renders_a_page():
    subprocess.run([sys.executable, ROOT/'tools/docs.py', 'notation'], check=True, cwd=ROOT, capture_output=True)
    html = (ROOT/'_docs/notation.html').read_text()
    assert '<math' in html and 'cdn.' not in html and 'googleapis' not in html

def test_sidebar_lists_every_notebook_once():
    def files(node):
        if isinstance(node, str): return [node]
        if isinstance(node, dict): return files(node.get('contents', []))
        return [f for n in node for f in files(n)]
    listed = files(yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['sidebar']['contents'])
    assert sorted(listed) == [p.name for p in NOTEBOOKS]

def test_readme_is_the_index():
    assert (ROOT/'README.md').read_text() == tool('readme').readme(), 'run make export'

def test_exported_code_imports_no_development_tools():
    for path in (ROOT/'fgar').rglob('*.py'):
        if path.name != '_modidx.py': assert not re.search(r'^\s*(?:from|import) (?:nbdev|fastcore|execnb|IPython|pytest|sklearn|cv2|torchmetrics)\b', path.read_text(), re.M), path

def run(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout

def test_import_fgar_is_light():
    assert run("import sys, fgar; print(sorted({'torch', 'av', 'pandas', 'matplotlib', 'tyro', 'ipywidgets'} & set(sys.modules)))").strip() == '[]'

def test_training_needs_torch_torchvision_and_einops_alone():
    "GPU machines may have no more (DESIGN, Conventions): the import of anything else is blocked here."
    run("""
import sys, importlib, pkgutil
for name in ('av', 'pandas', 'matplotlib', 'seaborn', 'tyro', 'ipywidgets', 'tqdm', 'tensorboard', 'sklearn', 'cv2'): sys.modules[name] = None
import fgar
for package in ('ops', 'losses', 'models'):
    if not importlib.util.find_spec(f'fgar.{package}'): continue
    for module in pkgutil.iter_modules(importlib.import_module(f'fgar.{package}').__path__): importlib.import_module(f'fgar.{package}.{module.name}')
import fgar.synthetic, fgar.train
assert fgar.models()
""")

def test_wheel_in_a_clean_environment(tmp_path):
    "Build the wheel, install it with nothing but its own requirements, import every module."
    def pip(python, *args): subprocess.run([python, '-m', 'pip', '-q', '--disable-pip-version-check', *args], check=True, cwd=ROOT)
    subprocess.run([sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', tmp_path, 'build', '-b', tmp_path/'build', 'bdist_wheel', '-d', tmp_path], check=True, cwd=ROOT, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    venv.create(tmp_path/'clean', with_pip=True)
    python = tmp_path/'clean/bin/python'
    pip(python, 'install', '--only-binary=:all:', wheel)        # nothing may need a compiler
    code = """
import importlib, pkgutil, fgar
names = [m.name for m in pkgutil.walk_packages(fgar.__path__, 'fgar.') if m.name != 'fgar._modidx']
for name in names: importlib.import_module(name)
print(len(names), fgar.__file__)
"""
    out = subprocess.run([python, '-I', '-c', code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
    assert int(out[0]) >= 10 and str(tmp_path) in out[1]
    version = subprocess.run([tmp_path/'clean/bin/fgar', '--help'], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert 'train' in version and 'predict' in version
