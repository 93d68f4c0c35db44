# Every target sets itself up: nothing but make and Python 3.11 or newer is needed before.
# Paths are relative on purpose: the checkout may lie in a directory with a space in its name.

PYTHON ?= python3
ARGS ?=
# Tests that run side by side; most of them wait. A file's tests stay together: they share a broker.
JOBS ?= 2

python := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo sample test check check-format check-lint check-mypy check-pyright format services services-stop bench chaos docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## Make or refresh .venv (every other target does this by itself)
	@scripts/setup '$(PYTHON)'

demo: setup ## Run the demo shop; ARGS=--once ends it by itself
	@$(python) -m tidings demo $(ARGS)

sample: setup ## Run the sample application of examples/rentals, two processes; ARGS=--once plays a short day and ends
	@PYTHONPATH=examples $(python) -m rentals $(ARGS)

# Tests start hundreds of Pythons, which would compile everything anew without their cache.
test: setup ## Run the tests, with private services where they can be had; ARGS go to pytest, JOBS=0 runs them in this process
	@env -u PYTHONDONTWRITEBYTECODE $(python) scripts/services run all -- $(python) -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: check-format check-lint check-mypy check-pyright ## Check format, lint and types; `make -k check` goes on after a failure

check-format: setup
	@$(python) -m ruff format --check --output-format concise .

check-lint: setup
	@$(python) -m ruff check .

check-mypy: setup
	@$(python) -m mypy

check-pyright: setup
	@$(python) -m pyright

format: setup ## Format the code and mend what lint can mend
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

services: setup ## Start private services, leave them running, print their URLs
	@$(python) scripts/services start

services-stop: ## Stop private services and throw their data away
	@if [ -x $(python) ]; then $(python) scripts/services stop; else scripts/services stop; fi

bench: setup ## Run the benchmarks (they need PostgreSQL); ARGS choose among them
	@$(python) scripts/services run -- $(python) -m benchmarks $(ARGS)

chaos: setup ## Break everything for ten minutes and balance the books; ARGS="--seconds 60 --seed 7" shortens and repeats
	@$(python) scripts/services run postgresql -- $(python) -m chaos --seconds 600 $(ARGS)

docs: setup ## Build the documentation into build/docs; ARGS=serve shows it and follows changes
	@$(python) -m zensical $(or $(ARGS),build --strict)

clean: services-stop ## Remove everything that was made here
	rm -rf .venv .services .hypothesis .pytest_cache .mypy_cache .ruff_cache .cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
