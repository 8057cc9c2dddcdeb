# make install | test | demo | bench | lint | docs | clean: everything a developer types, in one .venv.
# Does not know what the package does; the packages' exact tested versions stand in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install test demo bench lint docs clean

install: $(STAMP)

# torch comes first and by itself, so that nothing later can choose another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hone needs Python 3.11 or newer; write: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[torch,metrics,quant,hub,remote,track,media,serve,webchat,compressed,dev]"
	touch $(STAMP)

test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: install
	$(BIN)/python demo/run.py

# CASES picks some; the peers' environments are made by the first call, in ~/.cache/hone-bench.
bench: install
	OMP_NUM_THREADS=1 $(BIN)/python bench/run.py $(CASES)

docs: install
	$(BIN)/python docs/make_config.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_models.py
	$(BIN)/python docs/make_formats.py

clean:
	rm -rf demo/out build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
