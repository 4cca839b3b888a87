STACK ?= sandbox
BASE ?= main
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: init up down status output preview diff drift doctor recover backups restore demo demo-clean test test-all test-faults lint bench

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

preview:
	@echo "error: make preview is for a house: make preview STACK=home; for the program alone: make diff" >&2; exit 1

init:
	@echo "error: make init is for a house: make init STACK=home" >&2; exit 1

doctor:
	@echo "error: make doctor is for a house: make doctor STACK=home" >&2; exit 1
else
# A real house is changed by the CLI itself, which asks before it does.
preview: FLAGS = --diff
up preview: .venv/ready
	@command -v pulumi >/dev/null || { echo "error: pulumi: not on PATH; it must be 3.250 or newer (docs/house.md)" >&2; exit 1; }
	@pulumi $@ $(FLAGS) --stack $(STACK)

# Writes Pulumi.STACK.yaml by what the cluster says; FLAGS answer its questions (docs/house.md).
init: .venv/ready
	@$(RUN) -m ops init --stack $(STACK) $(if $(CONTEXT),--context $(CONTEXT)) $(FLAGS)

doctor status: .venv/ready
	@$(RUN) -m ops $@ --stack $(STACK)

down: INSTEAD = destroy
output: INSTEAD = stack output $(NAME)
down output:
	@echo "error: make $@ is for the sandbox; for a house: pulumi $(strip $(INSTEAD)) --stack $(STACK)" >&2; exit 1
endif

# What an `up` that was killed has left in the way of the next one (docs/runbook.md).
recover: .venv/ready
	@$(RUN) -m ops recover --stack $(STACK)

# Of the chats: what backups there are, and putting one back (docs/backups.md).
backups: .venv/ready
	@$(RUN) -m ops restore --stack $(STACK) --list

restore: .venv/ready
	@$(RUN) -m ops restore --stack $(STACK) $(if $(SNAPSHOT),--snapshot $(SNAPSHOT)) $(if $(IMAGE),--image $(IMAGE))

# What this tree changes of BASE, by the engine, without the server's state, secrets or cluster.
diff: .venv/ready
	@$(RUN) -m ops diff --stack $(STACK) --base "$(BASE)"

# Exit code 7 of it is drift, 1 that something could not be read; make itself ends with 2 for both.
drift: .venv/ready
	@$(RUN) -m ops drift --stack $(STACK)

# A real node, which root makes: sudo make demo (docs/sandbox.md).
demo: .venv/ready
	@$(RUN) -m sandbox --folder .sandbox/demo demo

demo-clean: .venv/ready
	@$(RUN) -m sandbox --folder .sandbox/demo demo-clean

lint: .venv/ready
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary

# Nothing is built for these.
test: lint
	@$(RUN) -m pytest -n 2 --tb=short --built no

# All others. What they need is built first: a compiler beside them makes every wait too short.
test-all: test
	@$(RUN) -m sandbox build
	@$(RUN) -m pytest -n 2 --no-loadscope-reorder --tb=short --built only

# The rest of those on the real node, as root.
test-faults: .venv/ready
	@$(RUN) -m pytest --tb=short --built faults

bench: .venv/ready
	@PYTHONPATH=. $(RUN) tests/bench.py
	@test "$(BENCH_KILLS)" != 1 || PYTHONPATH=. $(RUN) tests/bench_kills.py

.venv/ready: requirements.txt requirements-dev.txt
	@echo "  .venv: installing what requirements-dev.txt pins"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is %d.%d; it must be 3.11 or newer" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@
	@test -z "$$SUDO_UID" || chown -R "$$SUDO_UID:$$SUDO_GID" .venv
