# Every target prepares what it needs by itself: a virtual environment in .venv, made with any Python from 3.11 on.
#   make test ARGS="-k restore"      passes arguments to pytest
#   make test PYTHON=/usr/bin/python3.13   chooses the Python of a new .venv

ARGS =
WORKERS = auto
PYTHON =
VENV = .venv/bin
# mypy refuses a folder without Python files
OTHERS = $(foreach folder,tests demo benchmarks scripts,$(if $(shell find $(folder) -name '*.py' 2>/dev/null),$(folder)))

export ZODB_VAULT_PYTHON = $(PYTHON)

.NOTPARALLEL:
.PHONY: help demo test lint docs bench clean

help:
	@echo 'make demo    back up, prove and restore a small running site, step by step'
	@echo 'make test    run the tests'
	@echo 'make lint    check style, types and layers'
	@echo 'make docs    build the documentation into docs/_build/html'
	@echo 'make bench   measure against the tools that are used instead'
	@echo 'make clean   remove everything that these targets made'

demo:
	@sh scripts/bootstrap.sh
	$(VENV)/python demo/demo.py $(ARGS)

test:
	@sh scripts/debian-packages.sh test
	@sh scripts/bootstrap.sh test
	$(VENV)/python -m pytest -n $(WORKERS) $(ARGS)

lint:
	@sh scripts/bootstrap.sh test lint
	@status=0; for check in '-m ruff check .' '-m ruff format --check .' '-m mypy --strict src' '-m mypy $(OTHERS)' \
		'$(VENV)/lint-imports' 'scripts/check_imports.py'; do \
		echo "$(VENV)/python $$check"; $(VENV)/python $$check || status=1; done; exit $$status

docs:
	@sh scripts/bootstrap.sh docs
	$(VENV)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

bench:
	@sh scripts/debian-packages.sh bench
	@sh scripts/bootstrap.sh bench
	$(VENV)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf .venv build dist src/zodb_vault.egg-info docs/_build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests demo benchmarks scripts docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
