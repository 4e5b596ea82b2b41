# Every target sets up .venv by itself: the versions in constraints.txt, from pip's configured index.
# The demo needs only what the project runs on; the checks add the development tools.

VENV      := .venv
BIN       := $(VENV)/bin
PACKAGES  := scaling sweeps experiments launch analysis
TEST_JOBS ?= 2
PIP       := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

# The first interpreter that is new enough; PYTHON=... overrides.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 ##/p' Makefile | awk -F ' *## *' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: $(VENV)/.ready  ## the whole chain on this machine: train a grid, fit, forecast, verify, report
	@$(BIN)/scaling quickstart

test: $(VENV)/.ready-dev  ## every test but the slow ones (TEST_JOBS processes)
	@$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

test-slow: $(VENV)/.ready-dev  ## the tests marked slow
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.ready-dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(PACKAGES)

bench: $(VENV)/.ready  ## measure step, peers, compiling, fits, data and start; results in benchmarks/results
	@$(BIN)/python -m benchmarks.run

# The stamp is written last, so that an install that failed or was cut off is done again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@rm -f $@
	@$(call install,.,what the project runs on)
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt
	@rm -f $@
	@$(call install,.[dev],the development tools and what the project runs on)
	@touch $(VENV)/.ready $@

define install
	if [ -z "$(PYTHON)" ]; then echo "error: no python3 of version 3.11 or newer on PATH; give PYTHON=..." >&2; exit 2; fi; \
	echo "installing $(2) into $(VENV) (once; a few minutes on a slow line)" >&2; \
	{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); } \
	&& $(PIP) install --constraint constraints.txt --editable '$(1)' \
	&& echo "installed" >&2
endef
