# The map of habits. `make help` lists it.

PYTHON ?= python3
# An index or folder with torch's CPU wheels, for machines whose default index has only CUDA builds; empty by default.
TORCH_INDEX ?=

# Files of tests that run at once, each with daemons of its own; those of clusters often wait for their daemons.
AT_ONCE ?= 2
CLUSTERS_AT_ONCE ?= 3

# Disturbances of `make soak`, histories of `make simulate`, and what draws them, and the cases of `make drills`.
KILLS ?= 100
HISTORIES ?= 10^4
SEED ?= 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
PYTEST := $(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist loadfile
PEERS := build/peers
PACKAGES := slurmctld slurmd slurm-client munge

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv install apt demo test check lint docs docs-test drills soak simulate bench gpu-check

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed-demo ## Pre-train two small encoders on this machine and show what they learnt (about 3 minutes)
	@$(BIN)/python -m gmml_cluster.evaluate.demo demo

test: install apt check docs ## Everything: set-up, format, lint, types, contracts, unit tests, the site, the cluster tests
	@echo "== cluster tests (real daemons, real ranks)"
	@$(PYTEST) --numprocesses $(CLUSTERS_AT_ONCE) tests/cluster tests/faults

docs: $(VENV)/.installed-docs ## The site of the documentation, in build/docs; a broken link or reference is an error
	@echo "== the site"
	@$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs . build/docs
	@echo "build/docs/index.html"

docs-test: install docs ## Run every command and snippet that the pages show and that can run here (some 20 minutes)
	@echo "== blocks of the pages"
	@$(BIN)/python -m pytest tests/docs

drills: install ## An hour that no change waits for: every method in every engine and format, Ray, SLURM's notices
	@echo "== drills (real ranks)"
	@SEED="$(SEED)" $(BIN)/python -m pytest tests/drills

soak: install ## KILLS random disturbances of a small run, after which nothing may be lost; SEED draws them
	@$(BIN)/python -m benchmarks.soak --kills $(KILLS) --seed $(SEED)

simulate: install ## Explore HISTORIES=10^4 histories of a run from SEED on; HISTORIES=1 prints one line by line
	@$(BIN)/python -m tests.simulation --histories "$(HISTORIES)" --seed "$(SEED)"

bench: install $(PEERS)/.installed ## Measure this machine against limits and peers, some 25 minutes; writes a page of the docs
	@$(BIN)/python -m benchmarks.bench

gpu-check: install ## On a machine with GPUs: what only they can show, in half an hour; writes gpu-check.json
	@$(BIN)/python -m benchmarks.gpu_check

check: lint ## Format, lint, types, contracts, unit tests: some five minutes on two cores
	@echo "== unit, contract and golden tests"
	@$(PYTEST) tests/unit tests/contract tests/golden

lint: install ## Format, lint, types and import contracts alone; .pre-commit-config.yaml has the same
	@echo "== ruff, mypy, import contracts, shellcheck, hadolint"
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/shellcheck .ci/run gmml_cluster/launch/slurm/teardown.sh
	@$(BIN)/hadolint docker/Dockerfile

install: $(VENV)/.installed-dev ## Virtual environment with everything that tests need

venv: $(VENV)/bin/python ## Virtual environment alone

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12"; exit 2; }
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "make: $(PYTHON) has no venv module; install it (Debian: apt install python3-venv)"; exit 2; }

# Torch comes first and alone: deepspeed asks for any torch and would take a CUDA build. `==V+cpu` is the CPU build
# where the index has one under that name; otherwise what the index calls V is taken.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@echo "== torch $(TORCH)"
	@if command -v nvidia-smi >/dev/null; then $(PIP) install "torch==$(TORCH)"; \
	else $(PIP) install $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(PIP) install $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") "torch==$(TORCH)"; fi
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt native/gmml_native.c native/pyproject.toml $(VENV)/.torch
	@echo "== packages of gmml-cluster[$*]"
	@DS_BUILD_OPS=0 $(PIP) install --constraint constraints.txt --editable ".[$*]"
	@$(PIP) install ./native >/dev/null 2>&1 \
		|| echo "gmml-native cannot be built here (no C compiler?); crops are resized by OpenCV alone, which takes longer"
	@touch $@

# The peers of the benchmarks, with the same version of torch, which has to be of the same build as torchvision.
$(PEERS)/.installed: constraints.txt
	@echo "== peers of the benchmarks, in $(PEERS)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") accelerate lightly timm torch transformers
	@touch $@

apt: ## SLURM and munge for the cluster tests, where this user may install packages
	@if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null \
		&& command -v munged >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root="sudo -n"; else root=no; fi; \
	if [ "$$root" = no ] || ! command -v apt-get >/dev/null; then \
		echo "SLURM is missing ($(PACKAGES)) and cannot be installed here; the tests that need it are skipped"; exit 0; fi; \
	echo "== $(PACKAGES) through apt"; log=$$(mktemp); \
	{ $$root apt-get update -q && $$root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends $(PACKAGES); } >"$$log" 2>&1 || { tail -5 "$$log"; \
		echo "SLURM could not be installed ($(PACKAGES)); the tests that need it are skipped"; }; \
	rm -f "$$log"
