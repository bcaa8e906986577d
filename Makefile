# `make demo` and `make test` are all a newcomer needs; each installs what it uses into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: demo test lint types build wheel check compat bench clean

demo: .venv/demo
	@$(BIN)/n1n-prefect demo

test: .venv/dev
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/pyright --pythonpath $(BIN)/python

build: .venv/dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	@ls dist

# An install of the wheel alone, without any extra, imports, registers its blocks and runs its command.
wheel: build
	rm -rf build/alone && $(PYTHON) -m venv build/alone
	build/alone/bin/python -m pip install -qq --disable-pip-version-check dist/*.whl
	cd build/alone && bin/python -c "import n1n_prefect; print('n1n_prefect', n1n_prefect.__version__)"
	cd build/alone && bin/n1n-prefect --help > /dev/null && bin/prefect version
	cd build/alone && PREFECT_HOME=$(CURDIR)/build/alone/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 \
		PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180 bin/prefect block register -m n1n_prefect

check: lint types test wheel

# All but the slow tests on every supported Python that is here, with Prefect 3.8 and 3.9.
TESTS ?= not slow
compat: .venv/dev
	$(BIN)/nox -- -m "$(TESTS)"

bench: .venv/dev
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf .venv .nox build dist demo-output benchmark-output

.venv/demo: pyproject.toml
	@echo "Installing into .venv (a minute or two) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) -e '.[demo]'
	@touch $@

.venv/dev: pyproject.toml
	@echo "Installing the development tools into .venv (a minute or two) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --upgrade pip
	@$(PIP) -e . --group dev
	@touch $@ .venv/demo
