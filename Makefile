# Every target sets up what it needs by itself; `make help` lists them.
PYTHON ?= $(shell scripts/find-python)
BIN := .venv/bin
SETUP_STAMP := .venv/.setup-done
OUT ?= out/sweep-$(shell date -u +%Y%m%d-%H%M%S)
REPEAT ?= 20
# A cluster is sixteen Python processes, each of which would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup system-packages sweep test test-clusters test-others check matrix bench docs lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: system-packages $(SETUP_STAMP) ## virtual environment, Python packages by hash, Debian packages where missing

system-packages:
	@scripts/install-system-packages

$(SETUP_STAMP): requirements.lock pyproject.toml
	@echo "setup: installing the locked Python packages into .venv"
	@test -n "$(PYTHON)" || { echo "setup: no Python 3.11 or newer found; install python3 and python3-venv" >&2; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

sweep: setup ## build the default NAT laboratory, connect every ordered pair, print the matrix, keep the telemetry
	@echo "sweep: every ordered pair of the default laboratory, over real NATs; telemetry goes to $(OUT)"
	@$(BIN)/warpfleet sweep --out $(OUT)

test: setup check ## formatting, lint, types, layers, then every test
	@echo "test: unit and laboratory tests, beside those of clusters: either half waits for timers most of the time"
	@$(MAKE) --no-print-directory --jobs 2 --output-sync test-clusters test-others

test-clusters: setup
	@nice -n 10 $(BIN)/pytest -m ray # the other half has the laboratory's tests, which are about times

test-others: setup
	@$(BIN)/pytest -m "not ray"

check: setup ## ruff format, ruff, mypy strict, import-linter
	@echo "check: ruff format, ruff, mypy strict, import-linter"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

matrix: setup ## the whole NAT x NAT table on the kernel, on a good day and a bad one, REPEAT=20 times each pair
	@echo "matrix: every row of tests/nat_table.py, $(REPEAT) times, over real NATs; telemetry goes to $(OUT)"
	@$(BIN)/python tests/nat_matrix.py --repeat $(REPEAT) --out $(OUT)

bench: setup ## warpfleet and its rivals side by side, as ratios; run on an idle machine
	@echo "bench: warpfleet, aioice, warpgate and bare sockets in one laboratory; installs the rivals into .venv-bench"
	@$(BIN)/python -m bench.run

docs: setup ## the command line's reference, from the code
	@mkdir -p docs
	@$(BIN)/typer warpfleet.cli.main utils docs --name warpfleet --output docs/command-line.md

lock: ## resolve pyproject.toml into requirements.lock again (versions and hashes, for every supported Python)
	@uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --extra dev pyproject.toml --output-file requirements.lock

clean: ## take down laboratories and remove what the targets made
	@if [ -x $(BIN)/warpfleet ]; then $(BIN)/warpfleet lab down --all; fi
	@rm -rf .venv .venv-bench out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
