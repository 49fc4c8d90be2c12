# make book: everything from a bare machine to a built book. make test, reproduce, lab, clean.
PYTHON ?= python3
# Files that a machine without npm or apt-get takes by hand: make book MINI="--emoji FILE --photos FILE"
MINI ?=
# Drawings and meshes that are there already: make reproduce DOWNLOADED="--from FOLDER"
DOWNLOADED ?=
# Processes that share out the tests, each of one thread.
JOBS ?= 2
BIN := .venv/bin

.PHONY: book test reproduce lab clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch .venv/installed

.venv/extras: .venv/installed requirements-extras.lock
	$(BIN)/python -m pip install --quiet --requirement requirements-extras.lock
	touch .venv/extras

book: .venv/installed
	@$(BIN)/python data_scripts/mini.py $(MINI)
	@$(BIN)/asg book

test: book .venv/extras
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/python -m pytest -n $(JOBS)

reproduce: .venv/installed .venv/extras
	@$(BIN)/python data_scripts/mini.py $(MINI)
	@$(BIN)/python data_scripts/pacs.py $(DOWNLOADED)
	@$(BIN)/python data_scripts/cad.py $(DOWNLOADED)
	@$(BIN)/asg reproduce

lab: .venv/installed
	@$(BIN)/jupyter lab book/chapters

clean:
	rm -rf .venv book/_build data/cache runs
