# make demo: a server with an explained example.  make test: everything, as CI runs it.  Both need python3 >= 3.11, pip, make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := chromium postgresql redis-server $(if $(shell command -v npm),,nodejs npm)
FUZZ_SECONDS ?= 60

.PHONY: demo test test-kill fuzz bench-ingest bench-decode bench-query bench-pages bench-restart bench-accuracy lint format lock wheel packages clean

demo: $(VENV)/.runtime
	$(BIN)/spanwise demo

test: packages $(VENV)/.test lint
	$(BIN)/pytest

# FUZZ_SECONDS for each target; what breaks one is kept as .fuzz/TARGET-*.  Linux only.
fuzz: $(VENV)/.test
	$(BIN)/python -m pip install -q --group fuzz
	for target in protobuf json unpack files; do $(BIN)/python -m tests.fuzz $$target $(FUZZ_SECONDS) || exit 1; done

# A hundred kills instead of the ten that are part of `make test`: about six minutes.
test-kill: $(VENV)/.test
	SPANWISE_TEST_KILLS=100 $(BIN)/pytest -rP tests/chaos/test_kill.py

# Loads this machine for about two minutes.
bench-ingest: $(VENV)/.test
	$(BIN)/python -m tests.bench.ingest

# Decoding alone, protobuf and JSON: half a minute.
bench-decode: $(VENV)/.test
	$(BIN)/python -m tests.bench.decode

# Writes stores of 1, 10 and 30 million spans below the system's scratch folder (4 GB): about fifteen minutes.
bench-query: $(VENV)/.test
	$(BIN)/python -m tests.bench.query

# The overview every second over 10 million spans while 20,000 more come each second: about two minutes.
bench-pages: $(VENV)/.test
	$(BIN)/python -m tests.bench.viewing

# Fills 10 million spans, kills the server and starts it again, three times: about two minutes, 2 GiB of disk.
bench-restart: $(VENV)/.test
	$(BIN)/python -m tests.bench.restart

# How often the service at fault is named first; DATA=DIR with OTLP files and labels.jsonl: about three minutes.
bench-accuracy: $(VENV)/.test
	$(BIN)/python -m tests.bench.accuracy $(if $(DATA),--data $(DATA))

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(VENV)/.test
	$(BIN)/python -m build --wheel --no-isolation

# The versions of everything that the product, its tests and its lab run on.
lock:
	rm -rf .lock-venv
	$(MAKE) VENV=.lock-venv .lock-venv/bin/python
	.lock-venv/bin/python -m pip install -q --group test --group lab .
	.lock-venv/bin/python -m pip freeze --exclude spanwise > lock.txt
	rm -rf .lock-venv

$(VENV)/.runtime: $(BIN)/python lock.txt pyproject.toml
	$(BIN)/python -m pip install -q -c lock.txt -e .
	@touch $@

$(VENV)/.test: $(BIN)/python lock.txt pyproject.toml
	$(BIN)/python -m pip install -q -r lock.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

# Debian's python3 has no ensurepip unless python3-venv is installed; the pip outside then fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, this is $$($(PYTHON) --version); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; fi || \
		{ echo "cannot make $(VENV): apt-get install python3-venv (or python3-pip) helps on Debian" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -q --upgrade "pip>=25.1"

# The browser and the servers that tests start on free ports in scratch folders, and Node for JavaScript's exporters,
# which tests get by npm themselves; a Node from elsewhere is as good as Debian's.
packages:
	@missing=; for name in $(PACKAGES); do dpkg -s $$name >/dev/null 2>&1 || missing="$$missing $$name"; done; \
	test -z "$$missing" && exit 0; \
	root=; test "$$(id -u)" = 0 || root="sudo -n"; \
	if command -v apt-get >/dev/null && $$root true 2>/dev/null; then \
		$$root apt-get update -q && DEBIAN_FRONTEND=noninteractive $$root apt-get install -qy --no-install-recommends $$missing; \
	else echo "not installed:$$missing; tests that need them are skipped (with CI=true they fail)" >&2; fi

clean:
	rm -rf $(VENV) .lock-venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .import_linter_cache \
		tests/exporters_js/node_modules
