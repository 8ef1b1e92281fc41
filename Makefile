# One virtual environment per Python, made from the lock: .venv for `make`'s own Python,
# .venv-3.X for the others that `make test-all` finds.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
LOCKED := dev bench fuzz conformance package
LOCK := requirements/dev.txt
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
# Two for each of two cores: a test waits for processes more than it computes.
PYTEST_WORKERS ?= 4
PYTEST_ARGS ?=
BENCH_ARGS ?=

# Each process that runs tests would rewrite and compile all of them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## show the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: setup
setup: $(STAMP) ## make the virtual environment from the lock

# A changed lock makes the environment anew, so that nothing stays that is not locked.
$(VENV)/.locked: $(LOCK)
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: set PYTHON to a Python >= 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), Socketkeep needs >= 3.11: set PYTHON" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -r $(LOCK)
	touch $@

# The compiled core stands beside its sources, a file for each Python, and so does the guard; what a
# user is only warned of is an error here.
NATIVE := $(wildcard src/socketkeep/_native/*.[ch] src/socketkeep/_guard/*.[ch])

$(STAMP): $(VENV)/.locked pyproject.toml hatch_build.py $(NATIVE)
	CFLAGS=-Werror SOCKETKEEP_NATIVE=1 \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.PHONY: demo
demo: setup ## change and kill a server under 250 connections, and count what was lost
	$(BIN)/socketkeep demo

.PHONY: man
man: setup ## make the man pages and the completions of bash, zsh and fish, in build/share
	$(BIN)/python scripts/shell_files.py build

.PHONY: recording
recording: setup ## record the demo, as the README shows it
	$(BIN)/python scripts/record_demo.py

.PHONY: picture
picture: setup packages ## take the picture of the live page during a reload
	$(BIN)/python -m scripts.picture_live_view

.PHONY: test
test: setup packages check pytest pytest-pure ## all that CI runs, on one Python

.PHONY: test-all
test-all: test ## the same, and the tests on those of 3.11, 3.12 and 3.13 that are here
	@bash tests/each-python $(PYTHON)

.PHONY: packages
packages: ## install the Debian packages that the tests need, where missing
	@bash tests/install-debian-packages

.PHONY: check
check: setup ## all but the tests, side by side: lint, analyze, types, docs
	@$(MAKE) --no-print-directory --jobs=$$(nproc) --output-sync=target lint analyze types docs

.PHONY: lint
lint: setup ## ruff: lint and format; spelling and style; the sync verbs are what is made of the async ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python scripts/prose.py --check
	$(BIN)/python scripts/sync_verbs.py --check

# By gcc, whose analyzer it is; once is enough, on the headers of one Python.
.PHONY: analyze
analyze: setup ## gcc's analyzer, on the compiled core
	include=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	printf '%s\n' $(filter %.c,$(NATIVE)) | xargs -P "$$(nproc)" -I{} \
		gcc -std=gnu11 -O2 -Wall -Wextra -Werror -fanalyzer -fPIC -I"$$include" -c {} -o /dev/null

.PHONY: types
types: setup ## mypy
	$(BIN)/mypy

.PHONY: docs
docs: setup ## build the documentation, warnings being errors
	$(BIN)/python -m sphinx -W -n -q --keep-going -b html docs docs/_build/html

.PHONY: linkcheck
linkcheck: setup ## ask for each link of the documentation that leads elsewhere (needs a network)
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

.PHONY: pytest
pytest: setup ## the tests alone; PYTEST_ARGS: some of them, and no coverage
	@bash tests/run $(BIN)/python $(if $(PYTEST_ARGS),,--coverage) -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

.PHONY: model
model: setup packages ## the model of who owns a connection: that it holds, that the check can fail, real runs against it
	@$(BIN)/python -m pytest -q -n 0 tests/model $(PYTEST_ARGS)

# What the compiled core has a twin for.  PURE_TESTS: others, such as tests/peer, which CI adds.
PURE_TESTS ?= tests/library tests/stream tests/worker tests/edge/test_relay.py

.PHONY: pytest-pure
pytest-pure: setup ## the tests of connections and workers, without the compiled core
	@SOCKETKEEP_PURE=1 bash tests/run $(BIN)/python -n $(PYTEST_WORKERS) $(PURE_TESTS)

# Programs, clients and test suites of others, in an environment of their own.
.PHONY: conformance
conformance: ## what others wrote, run against the server while it reloads and is killed
	@bash tests/install-debian-packages conformance
	@$(MAKE) --no-print-directory setup VENV=.venv-conformance LOCK=requirements/conformance.txt
	@bash tests/run .venv-conformance/bin/python -n 2 tests/conformance $(PYTEST_ARGS)

# With a report in build/soak; SOAK_ARGS="--seed 7" does the same again.
SOAK_SECONDS ?= 3600
SOAK_ARGS ?=

.PHONY: soak
soak: setup ## servers under all that happens to them in a year, for SOAK_SECONDS: nothing is lost, nothing rises
	@$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS) $(SOAK_ARGS)

# One more than there are cores: each collects all of the tests, and some of these wait.  Neighbours
# run in one process.  Fewer random examples than in `make test`: see tests/conftest.py.
UNIT_WORKERS ?= 3

.PHONY: test-unit
test-unit: setup ## the tests that start no process: for the inner loop, in less than a minute
	@FUZZ_SECONDS=1 $(BIN)/python -m pytest -q -m unit -n $(UNIT_WORKERS) --dist worksteal \
		--hypothesis-profile inner-loop $(PYTEST_ARGS)

# The compiled core with gcc's sanitizers, in a directory of its own, and the tests that come near it.
# What the interpreter itself leaves at its end is no leak of ours; tests/native looks for those.
SANITIZED := build/sanitized
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g
SANITIZE_ARGS ?= $(addprefix tests/native/test_,traces.py leaks.py claim.py rows.py sync_verbs.py serving.py flow.py) tests/stream \
	tests/inspect/test_descriptors.py $(addprefix tests/wire/test_,passing.py inlets.py parcels.py) $(addprefix tests/worker/test_,fork.py casting.py) \
	$(addprefix tests/edge/test_,relay.py process.py) $(addprefix tests/guard/test_,program.py sidecar.py) \
	$(addprefix tests/library/test_,buffer.py framing.py crash_order.py)

.PHONY: test-sanitize
test-sanitize: setup ## the tests of the compiled core, under gcc's sanitizers
	rm -rf $(SANITIZED)
	CFLAGS='$(SANITIZE)' SOCKETKEEP_NATIVE=1 $(BIN)/python -m pip install --quiet --no-deps \
		--no-build-isolation --target $(SANITIZED) .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
		PYTHONPATH=$(CURDIR)/$(SANITIZED) $(BIN)/python -m pytest $(SANITIZE_ARGS) $(PYTEST_ARGS)

# The scripts that both cores are to take alike, drawn by a fuzzer that sees the branches in C.  Which
# bytes have found a new one, the corpus keeps.  clang alone has the instrumentation.
FUZZED := build/fuzzed
FUZZ_SECONDS ?= 60
FUZZ_KEPT := tests/data/fuzz-corpus.zip
FUZZ_CORPUS := build/fuzz-corpus
FUZZER = LD_PRELOAD="$$(.venv-fuzz/bin/python -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$(FUZZED):. \
	.venv-fuzz/bin/python -m tests.native.fuzz -verbosity=0 -artifact_prefix=build/

.PHONY: fuzz
fuzz: $(FUZZ_CORPUS) ## both cores on what a fuzzer makes up, for FUZZ_SECONDS
	@bash tests/install-debian-packages fuzz
	@$(MAKE) --no-print-directory .venv-fuzz/.locked VENV=.venv-fuzz LOCK=requirements/fuzz.txt
	rm -rf $(FUZZED)
	CC=clang LDSHARED='clang -shared' CFLAGS='-fsanitize=address,fuzzer-no-link -O1 -g' \
		SOCKETKEEP_NATIVE=1 .venv-fuzz/bin/python -m pip install --quiet --no-deps \
		--no-build-isolation --target $(FUZZED) .
	$(FUZZER) -max_total_time=$(FUZZ_SECONDS) -max_len=256 -len_control=0 -print_final_stats=1 $(FUZZ_CORPUS)

$(FUZZ_CORPUS): $(FUZZ_KEPT)
	$(PYTHON) -m zipfile -e $< $@
	touch $@

.PHONY: fuzz-keep
fuzz-keep: ## keep what `make fuzz` has found
	rm $(FUZZ_KEPT)
	$(PYTHON) -m zipfile -c $(FUZZ_KEPT) $(FUZZ_CORPUS)/*

CFLAGS := -O2 -Wall -Wextra -Werror -std=gnu11 -D_GNU_SOURCE
BUILT := benchmarks/build
PEERS_IN_C := $(patsubst benchmarks/peers/%.c,$(BUILT)/%,$(wildcard benchmarks/peers/*.c))

.PHONY: bench-programs
bench-programs: $(BUILT)/load $(PEERS_IN_C) $(BUILT)/7aa148d $(BUILT)/site.pem ## compile the load generator and the peers in C

# Linked under another name, so that whoever builds or runs the same at the time is not disturbed.
$(BUILT)/load: $(wildcard benchmarks/load/*.c) benchmarks/load/load.h Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(filter %.c,$^) -lssl -lcrypto -o $@.$$$$ && mv $@.$$$$ $@

$(BUILT)/echo_%: benchmarks/peers/echo_%.c benchmarks/peers/echo.h Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $< -o $@.$$$$ && mv $@.$$$$ $@

# The certificate of those that speak TLS, with its key behind it.
$(BUILT)/site.pem:
	@mkdir -p $(@D)
	@openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
		-subj /CN=localhost -addext subjectAltName=DNS:localhost \
		-keyout $@.key.$$$$ -out $@.$$$$ 2>/dev/null && \
		cat $@.key.$$$$ >> $@.$$$$ && rm $@.key.$$$$ && mv $@.$$$$ $@

# Socketkeep as it was, beside which it is measured.  Whoever does the same at the time may be first.
$(BUILT)/7aa148d: tests/data/socketkeep-0.1.0-py3-none-any.whl
	@mkdir -p $(@D)
	$(PYTHON) -m zipfile -e $< $@.$$$$ && { mv -T $@.$$$$ $@ 2>/dev/null || rm -r $@.$$$$; }

# The peers have an environment of their own: the tests are to see none of them.
.PHONY: bench
bench: ## measure Socketkeep and its peers (BENCH_ARGS="--quick", "--only a,b", ...)
	@bash tests/install-debian-packages bench
	@$(MAKE) --no-print-directory setup VENV=.venv-bench LOCK=requirements/bench.txt
	.venv-bench/bin/python -m benchmarks $(BENCH_ARGS)

# Its environment knows nothing of this checkout, nor do the tests load what the others run under.
.PHONY: package
package: ## build what a release has into dist/, and try it where nothing else is installed
	@bash tests/install-debian-packages package
	@$(MAKE) --no-print-directory .venv-package/.locked VENV=.venv-package LOCK=requirements/package.txt
	.venv-package/bin/python scripts/release.py dist
	.venv-package/bin/python -m pytest -q --confcutdir tests/package tests/package $(PYTEST_ARGS)

.PHONY: surface
surface: setup ## record what is public of this version; look at what has changed
	$(BIN)/python -m tests.surface

.PHONY: lock
lock: $(LOCKED:%=lock-%) ## resolve the dependencies anew (needs uv)

.PHONY: $(LOCKED:%=lock-%)
$(LOCKED:%=lock-%): lock-%:
	uv pip compile --universal --fork-strategy fewest --python-version 3.11 --upgrade --no-header \
		--no-emit-index-url --no-annotate --extra $* --quiet pyproject.toml -o requirements/$*.txt

.PHONY: format
format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove what the targets above made
	rm -rf .venv .venv-3.* .venv-bench .venv-conformance .venv-fuzz .venv-package benchmarks/build build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis .test-record
