"""Run chapters in place and keep their outputs, long cells included where asked:

    python tools/execute.py --notebooks nbs/44_st_manet.ipynb               # what `make test` runs
    python tools/execute.py --flags slow --notebooks nbs/4*.ipynb nbs/61*   # hours on a CPU: the tables of the results chapters
    python tools/execute.py --flags gpu                                     # every chapter that has cells for a GPU
    python tools/execute.py --flags gpu slow --notebooks nbs/41*            # those of its GPU cells, too, that want a data set or days

A cell that carries a flag not asked for is skipped and keeps the output it had. Below each GPU cell stands where and when it ran."""
import argparse, os, re, shutil, subprocess, sys, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT, LONG = Path(__file__).resolve().parent.parent, ('gpu', 'slow', 'notest')
STAMP = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU', '· torch', torch.__version__)"

def flags(cell)->set:
    "The words of a cell's directives, captions apart: `#| gpu` gives {'gpu'}."
    return {word for line in re.findall(r'^#\|(?!\s*fig-)(.*)', cell.source, re.M) for word in line.replace(':', ' ').split()} if cell.cell_type == 'code' else set()

def wanted(cell, allowed:set)->bool:
    "Whether a cell is to be run."
    return cell.cell_type == 'code' and not flags(cell) & (set(LONG) - allowed) and not {'eval', 'false'} <= flags(cell)

def stamp()->str:
    "Card, torch, date and commit."
    shell = lambda *command: subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return f"{shell(sys.executable, '-c', STAMP)} · {time.strftime('%Y-%m-%d')} · commit {shutil.which('git') and shell('git', 'rev-parse', '--short', 'HEAD') or 'unknown'}"

def execute(path:Path, allowed:set)->float:
    "Run a notebook's cells and write it, also when one of them fails; seconds taken."
    nb, begun, where = nbformat.read(path, as_version=4), time.perf_counter(), stamp()
    client = NotebookClient(nb, timeout=None, kernel_name='python3', coalesce_streams=True, resources={'metadata': {'path': str(path.parent)}})
    try:
        with client.setup_kernel():
            for number, cell in enumerate(nb.cells):
                if not wanted(cell, allowed): continue
                client.execute_cell(cell, number)
                if 'gpu' in flags(cell): cell.outputs.append(nbformat.v4.new_output('stream', name='stdout', text=f'({where})\n'))
    finally:
        nbformat.write(nb, path)
        subprocess.run([sys.executable, '-c', 'from nbdev.clean import nbdev_clean; import sys; nbdev_clean(sys.argv[1])', str(path)], cwd=ROOT, check=True)
    return time.perf_counter() - begun

def main(argv=None)->int:
    "Execute the chapters named; number of those that failed."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--notebooks', nargs='*', default=[], type=Path, help='default: all that have cells with the flags asked for')
    parser.add_argument('--flags', nargs='*', default=[], choices=LONG, help='also run cells that carry these')
    args = parser.parse_args(argv)
    allowed, failed = set(args.flags), 0
    chosen = [p.resolve() for p in args.notebooks] or [p for p in sorted((ROOT/'nbs').glob('*.ipynb')) if any(flags(c) & allowed for c in nbformat.read(p, as_version=4).cells)]
    os.environ.setdefault('TRITON_INTERPRET', '0' if 'gpu' in allowed else '1')
    for path in chosen:
        try: print(f'{path.stem}: {execute(path, allowed):.0f} s', flush=True)
        except CellExecutionError as error: failed += 1; print(f'{path.stem}: failed, outputs up to there are kept\n{error}', flush=True)
    return failed

if __name__ == '__main__': sys.exit(main())
