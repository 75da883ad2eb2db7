# Run inside the environment that CONTRIBUTING.md sets up; `make test PYTHON=.venv/bin/python` names another one.
PYTHON ?= python
JOBS ?= 2

.PHONY: quality style test test-slow

quality:  ## Report what the linter and the formatter would change.
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

style:  ## Change it.
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:  ## The default tests: CPU, no network, minutes.
	$(PYTHON) -m pytest -n $(JOBS)

test-slow:  ## The tests marked slow.
	$(PYTHON) -m pytest -n $(JOBS) -m "slow and not gpu"
