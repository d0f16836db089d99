# Everything that is done with a clone. Needed on the machine: Python 3.11 or newer, a C compiler, make.
#
#   make demo      build, then run the two shipped models on held-out data
#   make test      build, then run the tests
#   make bench     time it beside six other engines and the machine's limits (ARGS=--quick for a first look)
#   make slow      test the C core alone, with sanitizers and for NEON under emulation
#   make interop   compare random models live with Keras and PyTorch (installs both; slow)
#   make services  run the server, its real clients, Ray and the examples built on them (installs them; slow)
#   make lint      style and types, Python, Cython and C
#   make format    rewrite Python and C in that style
#   make wheel     put a wheel into dist/
#   make build     build only
#   make clean     remove what was built
#   make distclean remove the virtual environments too
#
# Each makes the virtual environment that it needs once and reuses it: .venv for all but bench and interop, whose
# frameworks are large and live in .venv-interop, and services, with .venv-services. The files .venv*/.done-* say what has been done; a second run does
# nothing again. ARGS is passed on to the program that the target runs: make test ARGS="-k stream".

PYTHON ?= $(shell for python in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ARGS ?=

VENV := .venv
INTEROP := .venv-interop
SERVICES := .venv-services
# Warnings of pip are about its own surroundings; an error is still shown.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check

SOURCES := setup.py pyproject.toml $(wildcard lstm_engine/*.pyx lstm_engine/*.pxd lstm_engine/*.pxi) \
	$(shell find include src -name '*.[ch]' -o -name '*.inc' -o -name '*.def')
C_FILES = $(shell find include src bench tests -name '*.[ch]' -o -name '*.inc' | sort)
CYTHON_FILES = $(wildcard lstm_engine/*.pyx lstm_engine/*.pxd lstm_engine/*.pxi)

.PHONY: demo test bench slow interop services lint format wheel build clean distclean
.DELETE_ON_ERROR:
.SECONDARY:
# Two targets at a time would build the same files twice.
.NOTPARALLEL:

demo: build
	@$(VENV)/bin/python -m lstm_engine demo $(ARGS)

test: build $(VENV)/.done-test
	@$(VENV)/bin/python -m pytest -q $(ARGS)

bench: $(INTEROP)/.done-build $(INTEROP)/.done-peers
	@$(INTEROP)/bin/python -m bench.run $(ARGS)

slow: build $(VENV)/.done-test
	@$(VENV)/bin/python -m pytest -q -m slow $(ARGS)

interop: $(INTEROP)/.done-build $(INTEROP)/.done-interop
	@$(INTEROP)/bin/python -m pytest -q -m interop $(ARGS)

services: $(SERVICES)/.done-build $(SERVICES)/.done-services
	@$(SERVICES)/bin/python -m pytest -q -m services $(ARGS)

# Every linter runs, whatever the one before it found.
lint: build $(VENV)/.done-lint
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; status=0; \
	ruff check --quiet . || status=1; \
	ruff format --quiet --check . || { ruff format --check . | tail -n 20; status=1; }; \
	cython-lint $(CYTHON_FILES) || status=1; \
	clang-format --dry-run -Werror $(C_FILES) || status=1; \
	mypy --no-error-summary || status=1; \
	exit $$status

format: $(VENV)/.done-made $(VENV)/.done-lint
	@$(VENV)/bin/ruff check --quiet --fix . || true
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/clang-format -i $(C_FILES)

build: $(VENV)/.done-build

# The directories that setuptools leaves behind would carry deleted modules into the wheel.
wheel: $(VENV)/.done-made
	@rm -rf build/lib* build/bdist* dist
	@$(VENV)/bin/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls -l dist/*.whl | awk '{ print $$NF ": " $$5 " bytes" }'

clean:
	@rm -rf build dist *.egg-info lstm_engine/*.so .pytest_cache .hypothesis .benchmarks .mypy_cache .ruff_cache
	@rm -f $(patsubst %.pyx,%.c,$(wildcard lstm_engine/*.pyx)) $(VENV)/.done-build $(INTEROP)/.done-build $(SERVICES)/.done-build
	@find lstm_engine tests bench examples tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV) $(INTEROP) $(SERVICES)

# --- the virtual environments ---

%/.done-made:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $* (once)"
	@$(PYTHON) -m venv $* || { \
		echo "make: $(PYTHON) cannot make virtual environments; some systems have that in a package python3-venv" >&2; exit 1; }
	@$*/bin/python $(PIP_INSTALL) --upgrade 'pip>=25.1'
	@touch $@

%/.done-build: %/.done-made $(SOURCES)
	@echo "Building lstm_engine for $*"
	@$*/bin/python $(PIP_INSTALL) --editable .
	@touch $@

%/.done-test: %/.done-made pyproject.toml
	@$*/bin/python $(PIP_INSTALL) --group test
	@touch $@

%/.done-lint: %/.done-made pyproject.toml
	@$*/bin/python $(PIP_INSTALL) --group lint
	@touch $@

%/.done-peers: %/.done-made pyproject.toml
	@echo "Installing the frameworks that the benchmark compares with into $* (once)"
	@$*/bin/python $(PIP_INSTALL) --group peers
	@$*/bin/python $(PIP_INSTALL) --group more-peers || \
		echo "Not all of them can be installed here; the benchmark names those that it does without" >&2
	@touch $@

%/.done-interop: %/.done-made pyproject.toml
	@echo "Installing the frameworks that the interoperability tests compare with into $* (once)"
	@$*/bin/python $(PIP_INSTALL) --group interop
	@touch $@

%/.done-services: %/.done-made pyproject.toml
	@echo "Installing what services are made with into $* (once)"
	@$*/bin/python $(PIP_INSTALL) --group services
	@touch $@
