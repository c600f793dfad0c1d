"Write README.md from nbs/index.ipynb: `python tools/readme.py` (nbdev's own step wants Quarto)."
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent

def readme()->str:
    "The index notebook as Markdown: hidden cells dropped, links relative to the top level."
    nb = nbformat.read(ROOT/'nbs/index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if not re.match(r'#\|\s*hide\b', c.source)]
    for cell in nb.cells:
        if cell.cell_type == 'code': cell.source = '\n'.join(l for l in cell.source.splitlines() if not l.startswith('#|')).strip()
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'(\]\(|(?:src|href)=")(?!https?:|#|mailto:|data:|\.\./|/)', r'\1nbs/', text)
    text = re.sub(r'(\]\(|(?:src|href)=")\.\./', r'\1', text)
    return '<!-- Made from nbs/index.ipynb by `make export`; edit that. -->\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

if __name__ == '__main__':
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    sys.exit(0)
