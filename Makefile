# Needs Python 3.11 or newer, pip and make. `make demo` trains a real model offline; `make test` checks everything.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

ifneq ($(words $(VENV)),1)
$(error VENV is '$(VENV)': make takes one path without spaces there, such as .venv)
endif

# A script that pip made names its folder in its first line, where a kernel takes no space and not every length, and which is wrong
# once the folder is moved. Given to Python by name it starts all the same.
SCRIPT := $(BIN)/python $(BIN)

# What leads from the environment to this folder, as a relative path: Python before 3.13 reads it in the locale's encoding, and does
# not start at all where that lacks a letter of the folder's name. A folder that was moved or copied is then still its own.
LEAD = $(BIN)/python -S -c "from os.path import relpath; from pathlib import Path; \
	[path.write_text(relpath('.', path.parent)) for path in Path('$(VENV)').glob('lib/python*/site-packages/*lorakit*.pth')]"

# Files and their names are UTF-8, also where the locale says otherwise.
export PYTHONUTF8 = 1

.PHONY: demo test lint bench clean help

help:
	@echo "make demo    install, then train the demo recipe offline (3 to 5 minutes)"
	@echo "make test    install, lint, check types and run the tests (ARGS='-k name' goes to pytest)"
	@echo "             ARGS=\"-m ''\" runs the slow tests, too; ARGS='-m slow' runs them alone"
	@echo "make bench   time training steps beside PEFT's (2 to 4 minutes)"
	@echo "make lint    ruff, mypy and the import rules alone"
	@echo "make clean   remove the virtual environment and what tools left behind"

demo: $(VENV)/.installed
	$(SCRIPT)/lorakit train demo --offline

# One thread per worker: two workers that each take all cores slow each other down.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python scripts/bench/steps.py --out build/bench --rounds 12 $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(SCRIPT)/lint-imports

# A stamp is newer than pyproject.toml while its installation is good: a second call installs nothing.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[bundled]'
	@$(LEAD)
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[bundled,test]'
	@$(LEAD)
	@touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("lorakit needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -f $(BIN)/python; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
