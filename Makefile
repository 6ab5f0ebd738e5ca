# All that people and CI call. `make help` lists the targets; each does its own set-up into .venv.

PYTHON ?=
TORCH_INDEX ?=
WORKSPACE ?= workspace/demo
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
LOCK_ARGS ?=

BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu check format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=/path/to/python3.12    the interpreter of .venv: 3.11, 3.12 or 3.13"
	@echo "             TORCH_INDEX=URL               a package index with another build of torch;"
	@echo "                                           without a GPU, setup takes the build without CUDA"
	@echo "             WORKSPACE=DIR                 where make demo keeps its artifacts"
	@echo "             PYTEST_ARGS='-k storage -x'   further arguments of pytest"
	@echo "             TEST_PROCESSES=2              processes of make test; 0: none but pytest's own"
	@echo "             LOCK_ARGS=--upgrade           further arguments of uv pip compile in make lock"

setup: ## Python environment in .venv, with locked versions
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash requirements/setup.sh

demo: setup ## The whole pipeline on the generated sample: explanations, metrics, a report
	@$(BIN)/xrec run configs/sample.yaml "workspace=$(WORKSPACE)"
	@echo "report: $(WORKSPACE)/evaluation/report.html"

# Two processes, because most of the time a test of Ray uses one core. Each has a Ray of its own.
test: setup ## The tests, without the slow ones and those for a GPU
	@$(PYTEST) -m "not slow and not gpu" -n $(TEST_PROCESSES) --no-loadscope-reorder

test-slow: setup ## The slow tests: minutes each
	@$(PYTEST) -m "slow and not gpu"

test-gpu: setup ## The tests for a machine with an NVIDIA GPU; some need two GPUs
	@$(PYTEST) -m gpu tests/gpu

check: setup ## Format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Format, and mend what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# One list for all extras. It is the same for Python 3.11, 3.12 and 3.13.
lock: ## Bring requirements/lock.txt up to date with pyproject.toml; needs uv
	@command -v uv >/dev/null || { echo "error: make lock needs uv: pip install uv" >&2; exit 1; }
	@uv pip compile --quiet --python-version 3.11 --python-platform linux --all-extras \
	  --no-annotate --custom-compile-command "make lock" $(LOCK_ARGS) \
	  --output-file requirements/lock.txt pyproject.toml

clean: ## Delete .venv, caches and the demo's workspace
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info build
	@rm -rf workspace/demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
