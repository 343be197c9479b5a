PYTHON ?= python3

.PHONY: help install test lint types docs bench clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: ## Install fedbox for development into the active environment
	$(PYTHON) -m pip install -e '.[test,dev]'

test: ## Run the tests (two at a time)
	$(PYTHON) -m pytest -n 2

lint: ## Check style and format
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

types: ## Check types (needs an install with editable_mode=strict)
	$(PYTHON) -m mypy -p fedbox

docs: ## Write the generated pages of docs/
	$(PYTHON) docs/generate.py

bench: ## Time rounds against a bare PyTorch loop, Flower and pfl
	$(PYTHON) benchmarks/engines.py --quick

clean: ## Remove what tools leave behind
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
