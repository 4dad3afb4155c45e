# Every target sets up what is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SHELL  := /bin/bash

export DO_NOT_TRACK = 1

.PHONY: help setup demo test check format bench bench-nodes bench-upgrade kill-test guard-test rung rung-image restore-proof test-long docs lock clean bench-bundle capacity-bench drill-proof saga-test tenant-load bench-tenant preflight-bench bench-orchestration docs-site browser-test image image-check team-chaos newcomer

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

# --no-deps: the lock file is the whole closure; hashes are checked; the index is whatever pip is set up with.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies (once)..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

setup: $(STAMP) ## Install dependencies and the lab's tools
	@$(BIN)/python -m stackwright.lab.tools

demo: setup ## Deploy the whole platform on the embedded lab, onboard two tenants, validate, plan again
	@$(BIN)/stackwright demo

test: setup ## Run the default test suite
	@$(BIN)/python -m pytest

check: $(STAMP) ## Format, lint, types and import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_imports.py

format: $(STAMP) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: bench-nodes bench-upgrade bench-bundle capacity-bench bench-tenant preflight-bench bench-orchestration ## Run the benchmarks; one JSON object a line, kept in build/bench

bench-nodes: setup ## Node preparation against 50 OpenSSH hosts, beside a bare floor, Ansible and pyinfra
	@mkdir -p build/bench
	@$(BIN)/python -m benchmarks.node_prep | tee build/bench/node_prep.json

bench-upgrade: setup ## Upgrade of 3 servers and 50 agents on the lab, against the critical path of the run itself
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.upgrade | tee build/bench/upgrade.json

capacity-bench: $(STAMP) ## A capacity report of 500 nodes and 20,000 pods, against fetching and parsing the same lists
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.capacity | tee build/bench/capacity.json

preflight-bench: setup ## The whole preflight of 50 hosts with 20 ms of network delay, against a bare read of the same hosts
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.preflight | tee build/bench/preflight.json

bench-bundle: $(STAMP) ## A snapshot of 1 GiB sealed and sent into a store, against a plain upload of it
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.bundle | tee build/bench/bundle.json

bench-tenant: setup ## One tenant from the signed request to ready, against a bare script of the same calls
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.tenant | tee build/bench/tenant.json

bench-orchestration: setup ## What Prefect costs in a deploy of 50, 200 and 500 nodes, beside the same without (NODES=n,n DB=name,name WHAT=added,first)
	@mkdir -p build/bench
	@set -o pipefail; $(BIN)/python -m benchmarks.orchestration --nodes "$${NODES:-50,200,500}" --db "$${DB:-sqlite,postgres}" --what "$${WHAT:-added}" | tee build/bench/orchestration.json

kill-test: setup ## Kill the deploy and the upgrade at 72 points, start again, compare the end states (POINTS=n or all)
	@$(BIN)/python -m tests.kill.run --points $(or $(POINTS),72)

saga-test: setup ## Kill a full tenant's saga and changes at 72 points, start again, compare the ends (POINTS=n or all)
	@$(BIN)/python -m tests.saga.run --points $(or $(POINTS),72)

guard-test: setup ## Upgrade while one fault strikes, at 40 points: two healthy voters always stay (POINTS=n)
	@$(BIN)/python -m tests.guard.run --points $(or $(POINTS),40)

rung: setup rung-image ## Run the tests on containers with systemd and real etcd, the long ones too
	@$(BIN)/python -m pytest --numprocesses=0 -m "slow or containers" tests/rung

restore-proof: setup rung-image ## Lose all servers of a cluster and bring it back from a bundle on new ones (OBJECTS=n)
	@$(BIN)/python -m tests.rung.restore_proof --objects $(or $(OBJECTS),200)

drill-proof: setup rung-image ## Drill 9 spoilt bundles and 20 good ones: each named, no false alarm (RESTORED=n whole ones)
	@$(BIN)/python -m tests.drill.run --restored $(or $(RESTORED),3)

tenant-load: setup ## Ask for 200 tenants in a minute while receiver and worker are killed twice each (TENANTS=n)
	@$(BIN)/python -m tests.load.run --tenants $(or $(TENANTS),200)

image: setup ## Build the image on BASE (by digest), or on a bootstrapped Debian where no registry can be reached
	@$(BIN)/python -m $(if $(BASE),deployments.image.build --base $(BASE),tests.image.base)

image-check: setup ## Build the image on a bootstrapped Debian and run it: sealed, without a network, against a lab
	@$(BIN)/python -m pytest --numprocesses=0 -m "slow or containers" tests/image

team-chaos: setup ## Deploy through the team size while its replicas, workers, Redis and PostgreSQL are killed (KILLS=n)
	@$(BIN)/python -m tests.team.run --kills $(or $(KILLS),20)

newcomer: setup rung-image ## Time a newcomer's way by the README: a clean clone, the demo, a first plan against own hosts
	@$(BIN)/python -m tests.newcomer.run

rung-image: $(STAMP) ## Build the image of the container rung, or say why it cannot be had
	@$(BIN)/python -m tests.rung.engine build || true

# Neither is a requirement of the project: the package brings its own driver, the browser is Debian's.
browser-test: setup ## Drive the Prefect UI in headless Chromium against the lab; pictures in build/browser
	@$(BIN)/python -c "import playwright" 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check "playwright>=1.49,<2" || true
	@test -x /usr/bin/chromium || { test $$(id -u) = 0 && apt-get install --yes --quiet chromium; } || true
	@$(BIN)/python -m pytest --numprocesses=0 -m browser tests/browser

test-long: setup ## Run the cases that the default suite only samples: every cut of every rotation
	@$(BIN)/python -m pytest -m slow --ignore=tests/rung

docs: setup ## Write the generated documents again
	@$(BIN)/stackwright docs

docs-site: $(STAMP) ## Build the documentation as a site of plain files, in build/site
	@$(BIN)/mkdocs build --strict --quiet

lock: $(STAMP) ## Pin the dependencies again, with hashes and without index addresses
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-strip-extras \
		--python-version 3.11 --extra lab --extra team --extra docker --extra tracing --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what was built
	@rm -rf build $(VENV)
