"Write README.md from nbs/index.ipynb: `python tools/readme.py` (nbdev's own step wants Quarto)."
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent

def readme()->str:
    "The index notebook as Markdown: no hidden cells, no code where only its output is wanted, links relative to the top level."
    nb = nbformat.read(ROOT/'nbs/index.ipynb', as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}                       # for the fences
    cells = []
    for cell in nb.cells:
        flags = re.findall(r'^#\|\s*(.+)', cell.source, re.M)
        if 'hide' in flags: continue
        if 'echo: false' in flags: cell = nbformat.v4.new_markdown_cell('\n\n'.join(o.data['text/markdown'] for o in cell.outputs))
        cell.source = re.sub(r'^#\|.*\n', '', cell.source, flags=re.M).strip()
        cells.append(cell)
    nb.cells = cells
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'(\]\(|(?:src|href)=")(?!https?:|#|mailto:|data:|\.\./|/)', r'\1nbs/', text)
    text = re.sub(r'(\]\(|(?:src|href)=")\.\./', r'\1', text)
    return '<!-- Made from nbs/index.ipynb by `make export`; edit that. -->\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
