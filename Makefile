STACK ?= sandbox
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: up down status output test lint bench

# The real house is changed by the CLI itself, with its own question before it does.
ifeq ($(STACK),sandbox)
up: .venv/ready
	@$(RUN) -m sandbox up
else
up: .venv/ready
	@pulumi up --stack $(STACK)
endif

down: .venv/ready
	@$(RUN) -m sandbox down

status: .venv/ready
	@$(RUN) -m sandbox status

output: .venv/ready
	@$(RUN) -m sandbox output $(NAME)

lint: .venv/ready
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary

test: lint
	@$(RUN) -m pytest

bench: .venv/ready
	@PYTHONPATH=. $(RUN) tests/bench.py

.venv/ready: requirements.txt requirements-dev.txt
	@echo "  .venv: installing what requirements-dev.txt pins"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is %d.%d; it must be 3.11 or newer" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
