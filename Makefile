# Everything here needs Python 3.11 and make, nothing else: no Docker, no Java.
#
#   make demo      ten questions through Kafka, Postgres and vLLM on this machine, shown as they happen
#   make test      lint and every tier of tests
#   make help      the rest

PYTHON ?= python3.11

# Another build of torch for the serve environment, for example the small one for CPUs:
#   make env-serve TORCH_SPEC='torch==2.13.0+cpu' TORCH_INDEX=<address of an index that has it>
TORCH_SPEC ?=
TORCH_INDEX ?=

# Arguments of single targets.
ITEM ?=
KILLS ?= 50
SEED ?= 1
QUESTIONS ?=

BOOTSTRAP := .venv-bootstrap
UV := $(abspath $(BOOTSTRAP)/bin/uv)
BIN := .venv/bin
CORE := .venv/.stamp
SERVE := .venv-serve/.stamp
TRAIN := .venv-train/.stamp
LOCK := $(UV) pip compile --quiet --upgrade --no-emit-index-url --generate-hashes --python-version 3.11 \
	--custom-compile-command 'make lock'
LINUX := --python-platform x86_64-manylinux_2_28

export UV TORCH_SPEC TORCH_INDEX

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test unit contract simulation integration ratios engines bench lint format evidence chaos docs env \
	env-serve env-train lock clean distclean

help: ## show this list
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r target text; \
	do printf '  make %-40s %s\n' "$$target" "$$text"; done

demo: $(CORE) $(SERVE) ## ten questions, shown as they happen (QUESTIONS=file for others)
	$(BIN)/mia demo $(if $(QUESTIONS),'$(QUESTIONS)')

test: lint unit contract simulation integration ratios engines ## lint and every tier of tests

unit: $(CORE) ## the tier without services
	$(BIN)/python -m pytest tests/unit

contract simulation: $(CORE) ## one tier, in two processes
	$(BIN)/python -m pytest tests/$@ --numprocesses 2

integration: $(CORE) ## the tier with real Kafka and Postgres; it mostly waits, so three at a time
	$(BIN)/python -m pytest tests/integration --numprocesses 3 --dist loadfile

engines: $(CORE) $(SERVE) $(TRAIN) ## the tier with real vLLM and real verl
	$(BIN)/python -m pytest tests/engines

ratios: $(CORE) ## one step's time against a floor of the same run
	$(BIN)/python -m ops.bench --short

bench: $(CORE) ## measure steps per second and latency, and compare with the baselines
	$(BIN)/python -m ops.bench

lint: $(CORE) ## style, types, import rules, spelling, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m ops.generate --check

format: $(CORE) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evidence: $(CORE) ## run one piece of evidence: ITEM=core-2
	@test -n '$(ITEM)' || { echo 'name the item: make evidence ITEM=core-2' >&2; exit 2; }
	$(BIN)/python -m ops.evidence $(ITEM)

chaos: $(CORE) ## random kills of workers, Kafka and Postgres: KILLS=50 SEED=1
	$(BIN)/python -m ops.chaos --kills $(KILLS) --seed $(SEED)

docs: $(CORE) ## write the generated files again: schemas, diagrams
	$(BIN)/python -m ops.generate

env: $(CORE) ## the core environment, .venv

env-serve: $(CORE) ## the environment of vLLM and its model weights, .venv-serve (6 GB)
	$(BIN)/python -m ops.environments serve --folder .venv-serve

env-train: $(CORE) ## the environment of verl, .venv-train (5 GB, most of it shared with .venv-serve)
	$(BIN)/python -m ops.environments train --folder .venv-train

$(UV): requirements/bootstrap.txt
	@command -v '$(PYTHON)' >/dev/null || { echo '$(PYTHON) was not found: install Python 3.11, or name it with' \
		'make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo '$(PYTHON) is not Python 3.11:' \
		'name one with make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot create environments:' \
		'install its venv package (Debian: python3.11-venv)' >&2; exit 1; }
	'$(PYTHON)' -m venv $(BOOTSTRAP)
	$(BOOTSTRAP)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(CORE): $(UV) requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(UV) venv --quiet --python '$(PYTHON)' .venv
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(SERVE): requirements/torch.txt requirements/serve.txt | $(CORE)
	$(BIN)/python -m ops.environments serve --folder .venv-serve

$(TRAIN): requirements/torch.txt requirements/train.txt | $(CORE)
	$(BIN)/python -m ops.environments train --folder .venv-train

lock: $(UV) ## resolve every environment again; the files name no index
	$(LOCK) --universal requirements/bootstrap.in -o requirements/bootstrap.txt
	$(LOCK) --universal pyproject.toml -o requirements/core.txt
	$(LOCK) --universal pyproject.toml --extra dev -c requirements/core.txt -o requirements/dev.txt
	$(LOCK) $(LINUX) requirements/serve.in --overrides requirements/serve-overrides.txt -o requirements/serve.txt
	$(LOCK) $(LINUX) requirements/train.in --overrides requirements/train-overrides.txt -o requirements/train.txt
	$(LOCK) $(LINUX) requirements/torch.in -c requirements/serve.txt -o requirements/torch.txt

clean: ## remove caches and builds
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the environments too (stop the stack first: mia down)
	rm -rf .venv .venv-serve .venv-train $(BOOTSTRAP)
