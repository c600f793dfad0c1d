"""The site: the notebooks in nbs/ as pages in _docs/.

    python tools/docs.py             # needs Quarto (quarto.org)
    python tools/docs.py 12_nms      # these pages only, while writing them
    python tools/docs.py --pages     # stops before Quarto: what it would render lies in _proc/

A page shows what its notebook shows, exported code included (nbdev's own step would hide that), and ends with the reference: each exported function and class, arguments read from the source
with their comments. Nothing is executed: outputs are those of the notebooks."""
import argparse, ast, html, io, json, os, re, shutil, subprocess, sys, tokenize
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_raw_cell

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC, DOCS = ROOT/'nbs', ROOT/'_proc', ROOT/'_docs'

def settings()->dict:
    "settings.ini, with `git_url` filled in."
    config = ConfigParser(delimiters=['=']); config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])

# ---- the reference, from source ----

def comments(source:str)->dict[int, str]:
    "Line number to the comment at its end."
    return {t.start[0]: t.string.lstrip('# ').strip() for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}

def arguments(node:ast.FunctionDef)->list[tuple]:
    "A function's arguments: node, default, prefix."
    a = node.args
    plain = a.posonlyargs + a.args
    rows = list(zip(plain, [None]*(len(plain)-len(a.defaults)) + a.defaults, ['']*len(plain)))
    if a.vararg: rows.append((a.vararg, None, '*'))
    rows += list(zip(a.kwonlyargs, a.kw_defaults, ['']*len(a.kwonlyargs)))
    if a.kwarg: rows.append((a.kwarg, None, '**'))
    return [r for r in rows if r[0].arg not in ('self', 'cls')]

def rows_of(node, notes:dict)->list[tuple]:
    "(name, type, default, meaning) of what a function takes and returns, or of a class's fields."
    text, said = lambda n: ast.unparse(n) if n is not None else '', lambda n, end: notes.get(end.end_lineno, '')
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith('_')]
        if fields: return [(n.target.id, text(n.annotation), '' if n.value is None or text(n.value).startswith('field(default_factory=dict') else text(n.value), notes.get(n.end_lineno, '')) for n in fields]
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
        if node is None: return []
    given, head = arguments(node), node.body[0].lineno
    ends = [max(arg.end_lineno, default.end_lineno if default is not None else 0) for arg, default, _ in given]
    rows = [(prefix + arg.arg, text(arg.annotation), text(default), notes.get(end, '') if ends.count(end) == 1 and end < head else '') for (arg, default, prefix), end in zip(given, ends)]
    if node.returns is not None and text(node.returns) != 'None' and node.name != '__init__':
        end = node.returns.end_lineno
        rows = [(n, t, d, '' if e == end else m) for (n, t, d, m), e in zip(rows, ends)]
        rows.append(('returns', text(node.returns), '', notes.get(end, '')))
    return rows

def escape(text:str)->str:
    "Text that Markdown leaves as it is; what stands between backticks is code already."
    return ''.join(part if i % 2 else re.sub(r'([\\*_<>\[\]^~$@|\'"#{}])', r'\\\1', part) for i, part in enumerate(re.split(r'(`[^`]*`)', text)))

def table(rows:list[tuple])->str:
    "The argument table; columns that are empty in all rows are left out."
    keep = [i for i in range(4) if i in (0, 3) or any(r[i] for r in rows)]
    heads, widths = ['', 'type', 'default', 'meaning'], [16, 18, 14, 52]
    line = lambda cells: '| ' + ' | '.join(cells[i] for i in keep) + ' |'
    body = [('*returns*' if n == 'returns' and i == len(rows)-1 else f'`{n}`', f'`{t}`' if t else '', f'`{d}`' if d else '', escape(m)) for i, (n, t, d, m) in enumerate(rows)]
    return '\n'.join([line(heads), '|' + '|'.join(':' + '-'*widths[i] for i in keep) + '|', *map(line, body)])

def entry(node, notes:dict, anchor:str)->str:
    "One function or class: signature, docstring, table, and the methods that say something."
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None) if isinstance(node, ast.ClassDef) else node
    rows = rows_of(node, notes)
    shown = ', '.join(n + (f'={d}' if d and len(d) < 24 else '=…' if d else '') for n, _, d, _ in rows if n != 'returns')
    doc = ' '.join((ast.get_docstring(node) or '').split())
    parts = [f'### {node.name} {{#{anchor} .api}}', f'```python\n{node.name}({shown})\n```' if rows or init else '', escape(doc)]
    if any(r[1] or r[3] for r in rows): parts.append(table(rows))
    if isinstance(node, ast.ClassDef):
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_') and (ast.get_docstring(n) or any(r[3] for r in rows_of(n, notes)))]
        for n in methods:
            plain = ', '.join(a.arg for a, _, _ in arguments(n))
            is_property = any(getattr(d, 'id', '') == 'property' for d in n.decorator_list)
            inner = rows_of(n, notes)
            parts.append(f'`.{n.name}{"" if is_property else f"({plain})"}` {escape(" ".join((ast.get_docstring(n) or "").split()))}' + ('' if not inner else '\n\n' + table(inner)))
    return '\n\n'.join(p for p in parts if p)

def reference(nb, module:str, url:str)->str:
    "The section at the end of a chapter that exports something; '' where there is nothing to say."
    slugs = {i for c in nb.cells for o in c.get('outputs', []) for i in re.findall(r'id="([\w.-]+)"', o.get('data', {}).get('text/html', ''))}
    slugs |= {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-') for c in nb.cells[1:] if c.cell_type == 'markdown' for h in re.findall(r'^#+ (.+)$', c.source, re.M)}
    found = []
    for cell in nb.cells:
        if cell.cell_type != 'code' or 'export' not in flags(cell): continue
        notes = comments(cell.source)
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                anchor = node.name.lower()
                while anchor in slugs: anchor = f'api-{anchor}'         # a heading of that name, or `Spec` beside `spec`
                slugs.add(anchor)
                found.append(entry(node, notes, anchor))
    if not found: return ''
    path = f'fgar/{module.replace(".", "/")}.py'
    return '\n\n'.join([f'## Reference\n\nWhat this chapter exports, in [`fgar.{module}`]({url}/blob/main/{path}).', *found])

# ---- pages ----

def flags(cell)->set:
    "The names of a cell's directives, without their values: `#| export`, `#| echo: false` give {'export', 'echo'}."
    return {m for m in re.findall(r'^#\|\s*([\w-]+)', cell.source, re.M)} if cell.cell_type == 'code' else set()

def page(path:Path, url:str='', link=lambda text: text):
    "A notebook as Quarto is to see it."
    nb = nbformat.read(path, as_version=4)
    title, claim = re.search(r'# (.+)\n+> (.+)', nb.cells[0].source).groups()
    module = next((m[1] for c in nb.cells if (m := re.match(r'#\|\s*default_exp\s+(\S+)', c.source))), '')
    tail = reference(nb, module, url) if module else ''
    cells = []
    nb.cells[0].source = nb.cells[0].source.split('\n', 2)[2] if nb.cells[0].source.count('\n') > 1 else ''      # title and claim go to the page's head
    for cell in nb.cells:
        names = flags(cell)
        if names & {'hide', 'default_exp'}: continue
        if cell.cell_type == 'code':
            kept = [l for l in cell.source.split('\n') if not re.match(r'#\|\s*[\w-]+\s*$', l)]                  # `#| export` and the like mean nothing to Quarto, which would print them as garbage
            marks = [n for n in ('export', 'slow', 'gpu') if n in names]
            if marks: kept.insert(0, f'#| classes: [{", ".join(f"cell-{n}" for n in marks)}]')
            caption = next((l for l in kept if re.match(r'#\|\s*fig-cap:', l)), None)
            if caption and 'fig-alt' not in names: kept.insert(0, caption.replace('fig-cap', 'fig-alt'))         # for those who hear the page
            cell.source = '\n'.join(kept)
            words = caption.split(':', 1)[1].strip(' "') if caption else ''
            for output in cell.outputs:
                data = output.get('data', {})
                if output.output_type == 'stream': output.text = re.sub(r'\x1b\[[0-9;]*m', '', output.text)
                elif 'text/html' in data:                                                                    # as raw HTML inside Markdown: for `text/html` Quarto would load two scripts from a network
                    body = data['text/html'] + (f'\n<p class="figcaption">{html.escape(words)}</p>' if words and '<table' not in data['text/html'] else '')
                    output.data = {'text/markdown': f'````{{=html}}\n{body}\n````'}
        else: cell.source = re.sub(r'(?s)\A(\| video\.mp4.*?)(\n\n|\Z)', r'::: {.strip}\n\1\n:::\n\n', link(cell.source))
        if cell.source.strip(): cells.append(cell)
    if path.stem[0].isdigit():
        cells.insert(1, new_raw_cell(f'<p class="run">Run it yourself: <code>make lab</code> in a <a href="{url}">clone</a>, then <code>nbs/{path.name}</code> · '
                                     f'<a href="notebooks/{path.stem}.json" download="{path.name}">this notebook alone</a>, whose first cell fetches the rest</p>', metadata={'raw_mimetype': 'text/html'}))
        title = f'{path.stem.split("_")[0]} {title}'
    if tail: cells.append(new_markdown_cell(link(tail)))
    front = json.dumps({'title': title, 'description': claim}, ensure_ascii=False)                                # JSON is YAML
    nb.cells = [new_raw_cell(f'---\n{front}\n---'), *cells]
    return nb

def alone(path:Path, url:str):
    "The notebook for somebody who has nothing else, such as a rented machine with a browser."
    nb = nbformat.read(path, as_version=4)
    name = url.rsplit('/', 1)[-1]
    first = nbformat.v4.new_code_cell(f"# outside a clone: fetch the project and install it, with what its chapters compare with; in a clone, leave this cell out\n![ -d {name} ] || git clone -q --depth 1 {url}\n%pip install -q -e './{name}[dev]'\n%cd {name}/nbs")
    nb.cells.insert(0, first)
    return nb

def pages()->list[Path]:
    "Write _proc/: every notebook as a page, and the other files of nbs/ as they are."
    from nbdev.doclinks import NbdevLookup, _build_modidx
    from nbdev.quarto import refresh_quarto_yml
    refresh_quarto_yml(); _build_modidx()
    shutil.rmtree(PROC, ignore_errors=True)
    shutil.copytree(NBS, PROC, ignore=shutil.ignore_patterns('*.ipynb', '.*', '__pycache__'))
    url, lookup = settings()['git_url'], NbdevLookup()
    stems = {re.sub(r'^\d+[a-z]?_', '', p.stem): p.stem for p in NBS.glob('[0-9]*.ipynb')}                      # nbdev leaves the numbers out, and two pages would be datasets.html
    def link(text):
        text = re.sub(r'\[(`[^`]*`)\]\(/\w+\.html#_[^)]*\)', r'\1', lookup.linkify(text) or '')             # what is private has no entry
        text = re.sub(r'\[\[(`[^`]*`)\]\([^)]*\)\]\(', r'[\1](', text)                                            # what was a link already stays that link
        return re.sub(r'\]\(/(\w+)\.html#([^.)]+)[^)]*\)', lambda m: f']({stems[m[1]]}.ipynb#{m[2]})', text)
    done = []
    for path in sorted(NBS.glob('*.ipynb')):
        nbformat.write(page(path, url, link), PROC/path.name)
        done.append(PROC/path.name)
    return done

def render(names=()):
    "Quarto over _proc/, or over the pages named, and the notebooks beside the pages."
    if not shutil.which('quarto'): raise SystemExit('quarto: expected on the PATH, got nothing. Install it from https://quarto.org, or see the notebooks themselves with `make lab`')
    if not names: shutil.rmtree(DOCS, ignore_errors=True)
    for target in [[f'{name}.ipynb'] for name in names] or [[]]: subprocess.run(['quarto', 'render', *target, '--no-cache'], cwd=PROC, check=True)
    (DOCS/'notebooks').mkdir(exist_ok=True)
    url = settings()['git_url']
    for path in NBS.glob('*.ipynb'): nbformat.write(alone(path, url), DOCS/'notebooks'/path.name)
    for path in DOCS.glob('*.html'): path.write_text(re.sub(r'(notebooks/\w+)\.json"', r'\1.ipynb"', path.read_text(encoding='utf-8')), encoding='utf-8')   # Quarto takes an .ipynb for a page of its own
    (DOCS/'.nojekyll').touch()

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help='notebooks by name, without .ipynb; all of them by default')
    parser.add_argument('--pages', action='store_true', help='stop before Quarto')
    args = parser.parse_args()
    os.chdir(ROOT)
    print(f'{len(pages())} pages in {PROC.name}/', flush=True)
    if not args.pages: render(args.names)
