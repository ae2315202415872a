# make quickstart:  install, train every stage on the embedded data, print the table.
# make test:        install, run the tests that take a few seconds at most.
# make test-medium: run the others that a change must pass.
# make peers:       build .venv-peers: PyTorch, torchvision, timm, open_clip, scikit-image, to compare with.
# make test-peers:  run the tests that compare.
# make beam:        build .venv-beam: the package with Apache Beam, to make data sets on its runners.
# make test-beam:   run the tests that compare its files with those of the local runner.
# A stamp file remembers what was installed, so a second make installs nothing.

VENV  ?= .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
# The peers are no part of $(VENV): the project never imports them, and they must not move its versions.
PEERS       := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
BEAM        := .venv-beam
BEAM_STAMP  := $(BEAM)/.installed

# Unless PYTHON names another interpreter, $(VENV) keeps the one that it was built with. Its Python version chooses
# the constraints: JAX above 0.10.2 needs Python 3.12. Another version builds $(VENV) anew.
MINOR       := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
BUILT       := $(shell $(BIN)/python $(MINOR) 2>/dev/null)
PYTHON      ?= $(if $(BUILT),$(BIN)/python,python3)
WANTED      := $(shell $(PYTHON) $(MINOR) 2>/dev/null)
CONSTRAINTS := constraints/$(if $(filter 3.11,$(WANTED)),py311,py312).txt
ifneq ($(BUILT),$(WANTED))
.PHONY: $(STAMP)
endif

.PHONY: quickstart test test-medium test-slow test-peers test-beam lint format install peers beam clean

quickstart: $(STAMP)
	$(BIN)/python -m intern_jax run --config=configs/quickstart.py --workdir=runs/quickstart

# Modules are compiled once, whatever the environment says: a third of what it takes to collect the tests is theirs.
test test-medium: export PYTHONDONTWRITEBYTECODE =
test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-medium: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m 'medium and not slow'

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

test-peers: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python -m pytest -q -m peers

test-beam: $(BEAM_STAMP)
	$(BEAM)/bin/python -m pytest -q tests/curation/test_beam.py -m beam

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

peers: $(PEERS_STAMP)

beam: $(BEAM_STAMP)

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  || { echo 'error: $(PYTHON) does not run, or is older than 3.11; use: make PYTHON=python3.12 ...' >&2; exit 1; }
endef

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(CHECK_PYTHON)
	@{ [ '$(BUILT)' = '$(WANTED)' ] && $(BIN)/python -m pip --version >/dev/null 2>&1; } \
	  || { set -x; $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c $(CONSTRAINTS)
	@touch $(STAMP)

# Where pip's settings offer a CPU build of PyTorch (PIP_EXTRA_INDEX_URL) it is taken; else the registry's, which may
# bring CUDA libraries of several GB. Both compute the same on a CPU.
$(PEERS_STAMP): constraints/peers.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  torch torchvision timm open_clip_torch scikit-image -c constraints/peers.txt
	@touch $(PEERS_STAMP)

$(BEAM_STAMP): pyproject.toml constraints/beam.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv --clear $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[beam,icons]' pytest \
	  -c constraints/beam.txt
	@touch $(BEAM_STAMP)

clean:
	rm -rf $(VENV) $(PEERS) $(BEAM) .cache build dist .pytest_cache .ruff_cache .mypy_cache
