STACK ?= sandbox
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: up down status output test lint bench

ifeq ($(STACK),sandbox)
up: .venv/ready
	@$(RUN) -m sandbox up

down: .venv/ready
	@$(RUN) -m sandbox down

status: .venv/ready
	@$(RUN) -m sandbox status

output: .venv/ready
	@test -n "$(NAME)" || { echo "error: NAME: missing; it must be an output, as in NAME=grafana_password" >&2; exit 1; }
	@$(RUN) -m sandbox output $(NAME)
else
# A real house is changed by the CLI itself, which asks before it does.
up: .venv/ready
	@command -v pulumi >/dev/null || { echo "error: pulumi: not on PATH; it must be 3.250 or newer (docs/house.md)" >&2; exit 1; }
	@pulumi up --stack $(STACK)

down status output:
	@echo "error: make $@ is for the sandbox; for a house use pulumi destroy, stack or stack output --stack $(STACK)" >&2; exit 1
endif

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
