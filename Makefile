# powauth: `make demo` runs the main job, `make test` runs all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUIETLY := --quiet --disable-pip-version-check
PIP_INSTALL := $(BIN)/python -m pip install $(QUIETLY)
UV := $(BIN)/uv
BENCH_VENV := .venv-bench
DOCS_VENV := .venv-docs
SITE := .site
BENCH_EXTRAS := lmdb users async redis starlette fastapi litestar flask

# Python keeps what it has compiled, even if the machine says otherwise. Without that, each program that a test starts
# compiles its packages again.
unexport PYTHONDONTWRITEBYTECODE

# Twice as many as the cores of a small machine: a test waits for its engine half of the time.
WORKERS ?= 4
# The files of a test are in memory where the system has such a folder: a commit of SQLite or LMDB then waits for no disk.
IN_MEMORY := $(if $(wildcard /dev/shm),PYTEST_DEBUG_TEMPROOT=/dev/shm)
PYTEST := $(IN_MEMORY) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: test coverage gate demo lint types bench faults processes install-lines matrix docs lock clean

test: $(VENV)/.ready lint types
	scripts/system_packages.sh test
	$(PYTEST) $(ARGS)

# The suite once more, with its coverage measured, which doubles its time. Fails if a line or branch of the core is untested.
coverage: $(VENV)/.ready
	scripts/system_packages.sh test
	$(PYTEST) --cov --cov-report= $(ARGS)
	$(BIN)/python scripts/coverage_gate.py

# Counts the instructions of a request under valgrind, and fails if a request became dearer than is on record.
gate: $(VENV)/.ready
	scripts/system_packages.sh gate
	$(BIN)/python -m benchmarks.instructions --check

demo: $(VENV)/.ready
	$(BIN)/python -m demo

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

# The peers want older versions of what the tests use, so they have an environment of their own.
bench: $(BENCH_VENV)/.ready
	scripts/system_packages.sh bench
	$(BENCH_VENV)/bin/python -m benchmarks --write $(ARGS)

# Follows each page of the docs in an empty environment, with the newest and the oldest releases.
install-lines: $(VENV)/.ready
	$(BIN)/python -m scripts.install_lines $(ARGS)

# The suite on each interpreter, with the lowest and the newest releases; ARGS=--quick for a smaller part of it.
matrix: $(VENV)/.ready
	scripts/system_packages.sh test
	$(BIN)/python -m scripts.matrix $(ARGS)

# The pages of docs/ as HTML. A broken link, a broken anchor and any other warning fail it. It does not fetch external links.
docs: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto --doctree-dir $(SITE)/.doctrees \
	  --builder html docs $(SITE) $(ARGS)
	@echo "open $(SITE)/index.html"

faults: $(VENV)/.ready
	$(BIN)/python -m benchmarks.faults

# Each server on each engine; ARGS="--server uWSGI --engine Redis" for a part of the table.
processes: $(VENV)/.ready
	scripts/system_packages.sh test
	PYTHONPATH=tests $(BIN)/python -m harness.process_servers $(ARGS)

# The lock file is complete, so nothing is left to resolve: a release of tomorrow changes nothing here.
$(VENV)/.ready: requirements/dev.lock pyproject.toml
	scripts/system_packages.sh compile
	$(PYTHON) -m venv $(VENV)
	scripts/install_locked.sh $(BIN)/python requirements/dev.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip --disable-pip-version-check check
	touch $@

$(BENCH_VENV)/.ready: requirements/bench.lock pyproject.toml
	scripts/system_packages.sh build
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install $(QUIETLY) --no-deps --require-hashes -r requirements/bench.lock
	$(BENCH_VENV)/bin/python -m pip install $(QUIETLY) --no-deps --no-build-isolation --editable .
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check check
	touch $@

# The site needs other packages than the tests, and the tests are not to wait for them.
$(DOCS_VENV)/.ready: requirements/docs.lock pyproject.toml
	scripts/system_packages.sh build
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install $(QUIETLY) --no-deps --require-hashes -r requirements/docs.lock
	$(DOCS_VENV)/bin/python -m pip install $(QUIETLY) --no-deps --no-build-isolation --editable .
	$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check check
	touch $@

# Remakes the lock files. Those of the benchmark and of the site begin with the versions of the first.
lock:
	$(UV) pip compile pyproject.toml --all-extras --group dev --group servers --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements/dev.lock
	cp requirements/dev.lock requirements/bench.lock
	$(UV) pip compile pyproject.toml $(BENCH_EXTRAS:%=--extra %) --group bench --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements/bench.lock
	cp requirements/dev.lock requirements/docs.lock
	$(UV) pip compile pyproject.toml --all-extras --group docs --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements/docs.lock

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(DOCS_VENV) $(SITE) .matrix .coverage* .mypy_cache .ruff_cache .hypothesis
