# Ringside. `make demo` and `make test` set up everything they need; nothing else has to be installed first.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
# On Linux, PyTorch's default wheel carries CUDA (several GB). For the small CPU-only one:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Tests run in parallel, one process per core; `make test WORKERS=0` runs them one after another.
WORKERS  ?= logical
PARALLEL := -n $(WORKERS) --maxprocesses 4 --dist loadscope --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test test-all test-demo lint format bench test-statistical test-crash test-faults soak test-fuzz audit report clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Ringside needs Python 3.11 or later; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) install -c constraints.txt torch --extra-index-url $(TORCH_INDEX); fi
	@echo "Installing Ringside and its libraries (a few minutes the first time) …"
	$(PIP) install -q --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## the whole loop, embedded: shop, console and API on this machine
	$(BIN)/ringside demo

test: $(VENV)/.installed  ## every test that ends within six minutes on two cores
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(VENV)/.installed  ## the tests that `make test` leaves out, but those of test-crash and soak
	$(BIN)/python -m pytest -m "slow and not alone" $(PARALLEL)
	$(BIN)/python -m pytest -m "slow and alone"

test-demo: $(VENV)/.installed  ## the story of the demo, played without a person, and each of its checks (four minutes)
	$(BIN)/python -m pytest -m slow tests/e2e

lint: $(VENV)/.installed  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-statistical: $(VENV)/.installed  ## the acceptance numbers of the statistics, seeded (slow)
	$(BIN)/python -m pytest -m slow tests/statistical

test-crash: $(VENV)/.installed  ## 234 kills, 36 zombies, an emptied Redis and a dead broker under load on a real Kafka
	$(BIN)/python -m tests.crash

test-fuzz: $(VENV)/.installed  ## 120,000 spoiled requests and 10,000 broken connections, seeded (minutes)
	$(BIN)/python -m pytest -s -m slow tests/security

test-faults: $(VENV)/.installed  ## Redis and broker refuse, hang, crawl; overload; kills and reloads: prints tables
	$(BIN)/python -m pytest -s tests/faults

soak: $(VENV)/.installed  ## ten minutes of load: memory, files, threads and tasks may not grow
	$(BIN)/python tests/faults/soak.py

audit: $(VENV)/.installed  ## known vulnerabilities of the pinned libraries; without a network: ADVISORIES=folder
	ADVISORIES="$(ADVISORIES)" infra/audit.sh $(BIN)/python

bench: $(VENV)/.installed  ## measure against the baselines kept in the repository
	$(BIN)/python -m tests.benchmarks

report: $(VENV)/.installed  ## offline metrics of every model on the data imported last
	$(BIN)/ringside models report

clean:  ## forget what was installed and made
	rm -rf $(VENV) var bench-results
