# The verbs of this project; CI runs the same ones. `make demo` and `make test` do all their set-up
# on a fresh Debian or Ubuntu machine (root, git, make, Python >= 3.11).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
UV_VERSION := 0.13.9
CACHE := $(or $(TROIKA_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/troika)
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
RUN := $(UV) run --frozen --group dev
CLUSTER_CLI := PYTHONPATH=tests $(PYTHON) -m cluster
CLUSTER ?= embedded
PYTEST_ARGS ?=
CHAOS_ARGS ?=
BENCH_ARGS ?=

.PHONY: help demo test check lint gen images cluster-up cluster-down clean-cluster kubeconfig \
	prepare venv unit chaos-trainer bench-checkpoint bench-trainer

help: ## What can be done
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: venv ## Pretrain, fine-tune and watch a model on a real cluster
	@CLUSTER=$(CLUSTER) PYTHONPATH=tests $(RUN) python -m demo

test: prepare ## Every test, the real-cluster ones included
	@$(MAKE) check
	@$(RUN) pytest --numprocesses 2 --no-loadscope-reorder $(PYTEST_ARGS)

chaos-trainer: venv ## Kill a training run 30 times; its weights must be those of a calm one
	@PYTHONPATH=tests OMP_NUM_THREADS=1 $(RUN) python -m chaos $(CHAOS_ARGS)

bench-checkpoint: venv ## For how long a save holds up training, against synchronous ones
	@PYTHONPATH=tests $(RUN) python -m bench.checkpoint

bench-trainer: venv ## Our trainer against transformers' Trainer; BENCH_ARGS="--only clm" for one
	@PYTHONPATH=tests $(RUN) python -m bench.trainer $(BENCH_ARGS)

unit: venv ## The tests that need no cluster
	@$(RUN) pytest tests/unit tests/golden $(PYTEST_ARGS)

check: venv ## Lint, types, architecture; changes nothing
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports

lint: venv ## Let ruff mend what it can
	@$(RUN) ruff check --fix . ; $(RUN) ruff format .

gen: venv ## Write the generated files: CRDs, their copies in the chart, its README
	@$(RUN) python -m troika_api crds
	@$(RUN) python charts/generate.py

images: ## Build both images and load them into the embedded cluster
	@$(CLUSTER_CLI) load-image operator trainer

cluster-up: ## Start the embedded cluster, or reuse the one that runs
	@$(CLUSTER_CLI) up

cluster-down: clean-cluster

clean-cluster: ## Stop the cluster and leave nothing running or mounted; caches stay
	@$(CLUSTER_CLI) down

kubeconfig: ## Path of the embedded cluster's kubeconfig
	@$(CLUSTER_CLI) kubeconfig

venv: $(UV) ## The Python environment of all three distributions
	@$(UV) sync --frozen --group dev --quiet

# The cluster's programs compile while Python packages are downloaded.
prepare: $(UV)
	@$(MAKE) -j2 venv images

$(UV):
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION)
	@$(CACHE)/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
