# Two commands matter: `make demo` trains the digits and explains them, `make test` checks everything. Both install what they need, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Hold what was last installed: the extra `dev` contains `dnc`; the peers of the benchmarks are for `make bench` alone.
DEMO := $(VENV)/.installed-dnc
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench

.PHONY: demo test docs bench clean

demo: $(DEMO)
	$(BIN)/otcluster dnc train digits --out runs/digits
	$(BIN)/otcluster dnc explain runs/digits --measure --out runs/digits/report

test: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

docs: $(DEV)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(BENCH)
	$(BIN)/python -m benchmarks.run --write

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("otcluster needs Python 3.11 or later, this is " + sys.version.split()[0] + ": run make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(DEMO) $(DEV)

$(DEMO): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dnc]'
	touch $(DEMO)

$(BENCH): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $(BENCH)

clean:
	rm -rf $(VENV) runs docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
