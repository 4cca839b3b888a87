STACK ?= sandbox
BASE ?= main
PYTHON ?= python3
RUN := .venv/bin/python
INSTALL = echo "  .venv: installing what $< pins" && \
	.venv/bin/pip install --disable-pip-version-check -r $< && touch $@ && \
	{ test -z "$$SUDO_UID" || chown -R "$$SUDO_UID:$$SUDO_GID" .venv; }

.PHONY: init up down status preview diff drift doctor recover backups restore demo demo-clean test test-all test-faults lint bench linux

ifeq ($(STACK),sandbox)
VENV := .venv/dev

up: linux $(VENV)
	@$(RUN) -m sandbox up

down: $(VENV)
	@$(RUN) -m sandbox down

status:
	@test -f .sandbox/run/kubeconfig || { echo "error: the sandbox is not running; start it with: make up" >&2; exit 1; }
	@.sandbox/bin/kube kubectl --kubeconfig=.sandbox/run/kubeconfig get nodes,pods,services,pv --all-namespaces

preview:
	@echo "error: make preview is for a server: make preview STACK=home; for the program alone: make diff" >&2; exit 1

init doctor recover backups restore drift:
	@echo "error: make $@ is for a server: make $@ STACK=home" >&2; exit 1
else
VENV := .venv/ready

preview: $(VENV)
	@test -f "Pulumi.$(STACK).yaml" || { echo "error: STACK: got '$(STACK)', want the name of a Pulumi.NAME.yaml; make init STACK=$(or $(STACK),home) writes one" >&2; exit 1; }
	@command -v pulumi >/dev/null || { echo "error: pulumi: not on PATH; it must be 3.250 or newer (docs/install.md)" >&2; exit 1; }
	@pulumi preview $(or $(FLAGS),--diff) --stack "$(STACK)"

# As `pulumi up`, whose live tree cuts off what pods wait for; plain lines show it.
up: FLAGS = --suppress-outputs
up: preview
	@printf "Update $(STACK)? [y/N] "; read answer; case "$$answer" in y|yes) ;; *) exit 1;; esac
	@pulumi up --yes --skip-preview --non-interactive --suppress-outputs --stack "$(STACK)"
	@echo "chat page: $$(pulumi stack output open_webui_urls --stack "$(STACK)" | tr -d '[]"' | tr , ' ')"
	@echo "password:  pulumi stack output --show-secrets open_webui_password --stack $(STACK)"
	@echo "next:      make doctor STACK=$(STACK)"

# Writes Pulumi.STACK.yaml from the cluster; FLAGS answer its questions (docs/install.md).
init: $(VENV)
	@$(RUN) -m ops init --stack "$(STACK)" $(if $(CONTEXT),--context "$(CONTEXT)") $(FLAGS)

doctor status: $(VENV)
	@$(RUN) -m ops $@ --stack "$(STACK)"

down:
	@echo "error: make down is for the sandbox; for a server: pulumi destroy --stack $(STACK)" >&2; exit 1

# Repairs the stack after an `up` that was killed (docs/runbook.md).
recover: $(VENV)
	@$(RUN) -m ops recover --stack "$(STACK)"

# Lists the backups of the chats, and restores one (docs/backups.md).
backups: $(VENV)
	@$(RUN) -m ops restore --stack "$(STACK)" --list

restore: $(VENV)
	@$(RUN) -m ops restore --stack "$(STACK)" $(if $(SNAPSHOT),--snapshot "$(SNAPSHOT)") $(if $(IMAGE),--image "$(IMAGE)")

# Exits with 7 for drift, 1 if something could not be read; make itself with 2 for both.
drift: $(VENV)
	@$(RUN) -m ops drift --stack "$(STACK)"
endif

# Previews this tree against the commit BASE, without the server's state, secrets and cluster.
diff: linux .venv/dev
	@$(RUN) -m ops diff --stack "$(STACK)" --base "$(BASE)"

# The stack on a real node, as root: sudo make demo (docs/develop.md).
demo: linux .venv/dev
	@$(RUN) -m sandbox --folder .sandbox/demo demo

demo-clean: .venv/dev
	@$(RUN) -m sandbox --folder .sandbox/demo demo-clean

lint: .venv/dev
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary

# Nothing is built for these.
test: lint
	@$(RUN) -m pytest -n 2 --tb=short --built no

# All others. Their programs are built first, because a compiler beside a test makes it time out.
test-all: test
	@$(RUN) -m sandbox build
	@$(RUN) -m pytest -n 2 --no-loadscope-reorder --tb=short --built only

# Slow tests of rare faults, most of them on the real node: as root.
test-faults: .venv/dev
	@$(RUN) -m pytest --tb=short --built faults

bench: .venv/dev
	@PYTHONPATH=. $(RUN) tests/bench.py

linux:
	@test "$$(uname)" = Linux || { echo "error: the sandbox needs Linux; on other systems, for a server: make up STACK=home" >&2; exit 1; }

# The packages of all commands for a server.
.venv/ready: requirements.txt | .venv/pyvenv.cfg
	@$(INSTALL)

# The packages of the sandbox and the tests.
.venv/dev: requirements-dev.txt requirements.txt | .venv/pyvenv.cfg
	@$(INSTALL)

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: $(PYTHON) is %d.%d; it must be 3.11 or newer" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv
