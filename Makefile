# Everything that one does with Epoch, one command each. Needs Python 3.11+, a C compiler and make.

PYTHON ?= python3
BIN := .venv/bin
DEPS := .venv/.deps
BUILT := .venv/.built
DOCS := .venv/.docs
ARGS ?=
# Most tests wait for something most of the time. A file's tests stay together, in one process.
SIDE_BY_SIDE := -n 3 --dist loadfile -p no:benchmark
NO_TESTS := 5
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
CORE_TESTS = $(shell grep -rl --include='test_*.py' '^from epoch._fastio import' tests/unit)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run demo test test-slow conformance coverage lint docs bench bench-push bench-core profile gates sanitize minio-test clients package fresh clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="..." is handed on, as in: make test ARGS="-k digest -x"'

setup: $(BUILT) ## Make .venv with everything in it, and build the extension

run: $(BUILT) ## Run the registry (ARGS="--addr :5000"; EPOCH_* variables: docs/settings.md)
	$(BIN)/epoch serve $(ARGS)

demo: $(BUILT) ## Push, pull and measure a 1 GiB image with curl (ARGS="--mib 256")
	$(BIN)/python scripts/demo.py $(ARGS)

test: $(BUILT) ## Run the tests
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not alone' $(ARGS) || [ $$? -eq $(NO_TESTS) ]
	$(BIN)/python -m pytest -m 'alone and not slow' $(ARGS) || [ $$? -eq $(NO_TESTS) ]

test-slow: $(BUILT) ## Run the tests that take minutes and much disk
	$(BIN)/python -m pytest -m slow $(ARGS)

conformance: $(BUILT) ## Run our conformance tests, or the official program (OFFICIAL=/path/to/program)
ifdef OFFICIAL
	EPOCH_CONFORMANCE_PROGRAM='$(abspath $(OFFICIAL))' $(BIN)/python -m pytest tests/conformance/official.py $(ARGS)
else
	$(BIN)/python -m pytest tests/conformance $(ARGS)
endif

coverage: $(BUILT) ## Run the tests of units, stores and HTTP; fail if they reach less of Epoch than before
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not alone and not timed' --cov=epoch tests/unit tests/contract tests/protocol $(ARGS)

lint: $(BUILT) ## Check style, types and the Cython code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint src/epoch  # it starts pycodestyle by name

docs: $(DOCS) ## Build the documents as a site, in site/
	$(BIN)/mkdocs build --strict $(ARGS)

bench: $(BUILT) ## Measure every target of docs/performance.md (ARGS="--rows push --runs 3")
	$(BIN)/python bench/table.py $(ARGS)

bench-push: $(BUILT) ## Measure pushes of any kind (ARGS="--scenario sizes"; --help lists them)
	$(BIN)/python bench/push.py $(ARGS)

bench-core: $(BUILT) ## Measure the core paths, each alone
	$(BIN)/python -m pytest bench/core $(ARGS)

profile: $(BUILT) ## Show where the CPU of a push goes, with a flame graph (ARGS="--streams 8")
	$(BIN)/python bench/profile.py $(ARGS)

gates: $(BUILT) ## Hold the speed of every hot path (ARGS="--slower 10" shows that each gate would see it)
	$(BIN)/python -m pytest bench/gates -p no:randomly $(ARGS)

# The package by links, with an extension of its own beside them. The first error ends the run. Leaks
# are not looked for, since Python leaves memory at exit; its own allocator would hide errors.
sanitize: $(BUILT) ## Run the unit tests of the extension under the sanitizers of gcc (ARGS="-k views")
	rm -rf build/sanitize
	mkdir -p build/sanitize/epoch
	@ln -s $(filter-out %.so %/__pycache__,$(wildcard $(CURDIR)/src/epoch/*)) build/sanitize/epoch/
	CFLAGS='$(SANITIZERS) -g' LDFLAGS='$(SANITIZERS)' $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitize --build-temp build/sanitize/temp
	PYTHONPATH=build/sanitize $(BIN)/python -c 'import epoch; assert "sanitize" in epoch.__file__'
	LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		PYTHONMALLOC=malloc PYTHONPATH=build/sanitize $(BIN)/python -m pytest -p no:benchmark --capture=sys $(CORE_TESTS) $(ARGS)

minio-test: $(BUILT) ## Run the store's tests against a MinIO server
	$(BIN)/python tests/tools/minio.py $(ARGS)

clients: $(BUILT) ## Push and pull with Docker, podman, skopeo, crane, ... (gets them; some minutes, as root)
	$(BIN)/python -m tests.clients.programs
	$(BIN)/python -m pytest tests/clients/matrix.py $(ARGS)

package: ## Build the sdist and the wheel into dist/, and try the wheel where no compiler is
	PYTHON='$(PYTHON)' scripts/package.sh

fresh: ## Run make demo and make test on a machine with nothing but what the README names (root, debootstrap)
	scripts/fresh.sh $(ARGS)

clean: ## Remove all that was built here, .venv too
	rm -rf .venv build dist site .coverage src/*.egg-info src/epoch/_fastio.c src/epoch/*.so demo-data bench/bin \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# What pyproject.toml asks for. The build's own requirements come first and stay, so that the
# extension is rebuilt below without fetching anything.
$(DEPS): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Epoch needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > .venv/build-requires.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r .venv/build-requires.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt --editable '.[test,lint]'
	touch $@

$(BUILT): $(DEPS) setup.py src/epoch/_fastio.pyx $(wildcard src/epoch/native/*)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

$(DOCS): $(DEPS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt --editable '.[docs]'
	touch $@
