# Two commands are enough: `make demo` and `make test`. Both make their own environment in .venv first.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test export results gpu docs lab clean

demo: .venv/installed          ## train, evaluate and predict on court26; writes demo/report.html
	$(BIN)/fgar demo --out demo

test: .venv/developer          ## every notebook as a test, then pytest
	$(BIN)/nbdev_export
	@git diff --stat --exit-code -- fgar || { echo 'fgar/ differs from the notebooks: run `make export` and commit'; exit 1; }
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/nbdev_test --n_workers 2 --do_print --timing   # a worker runs several notebooks: Triton must know before the first
	$(BIN)/python -m pytest -q tests

export: .venv/developer        ## notebooks -> fgar/, cleaned, and README.md from the index
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tools/readme.py

results: .venv/developer       ## train anew what the results pages show, and print the claims (many hours on a CPU)
	$(BIN)/python tools/execute.py --flags slow --notebooks $$(ls nbs/3*.ipynb nbs/4*.ipynb nbs/6*.ipynb)

gpu: .venv/developer           ## every cell marked for a GPU, outputs kept; not those marked slow too, which want data sets, a CUDA compiler or days
	$(BIN)/python tools/execute.py --flags gpu

docs: .venv/developer          ## the site, in _docs/ (needs Quarto: quarto.org)
	$(BIN)/python tools/docs.py

lab: .venv/developer           ## the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

clean:
	rm -rf .venv build dist *.egg-info _docs _proc demo

.venv/installed: settings.ini setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fgar needs Python 3.10 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/developer: .venv/installed
	$(BIN)/python -m pip install -q -e '.[dev]'
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 >/dev/null
	@touch $@
