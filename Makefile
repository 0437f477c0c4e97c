# Everything runs in a virtual environment of the project's own; Python 3.11 with pip is all that is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MANIFEST := dbt_reports/target/manifest.json
DBT_SOURCES := $(shell find dbt_reports -type f \( -name '*.sql' -o -name '*.yml' \) -not -path '*/target/*' 2>/dev/null)

PACKAGES := $(shell grep -c '^[a-zA-Z]' requirements.txt)
LEADS ?= 100000
export DAGSTER_DISABLE_TELEMETRY := 1
# Where it is set, every process compiles our modules again, and hundreds of them are started.
unexport PYTHONDONTWRITEBYTECODE
export DBT_SEND_ANONYMOUS_USAGE_STATS := false

.PHONY: audit browser sbom fuzz openapi help setup dbt-manifest dbt-docs dbt-freshness demo up test test-quick test-unit chaos chaos-dagster chaos-demo chaos-hosts backlog flood legacy-mysql adoption check fix clean bench bench-send capacity bi bi-show cluster bench-small
help:  ## say what the targets do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

# uv takes a third of pip's time: it unpacks and compiles many packages at once. It knows pip's index and no other setting
# of pip (a proxy, a certificate), so where it fails, pip does the same work. $(1): the environment, $(2): what to install.
define install
{ index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2> /dev/null)}; \
  if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
  if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; \
  $(BIN)/python -m uv pip install $$quiet --python $(1)/bin/python --compile-bytecode $(2); } \
|| { echo "uv failed, so pip installs them; that takes some minutes"; \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2); }
endef

$(READY): requirements.txt pyproject.toml
	@echo "making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt uv
	@echo "installing $(PACKAGES) packages from PyPI into $(VENV); the first time it takes a minute or two"
	@$(call install,$(VENV),-r requirements.txt)
	@$(call install,$(VENV),--no-deps --editable .)
	@touch $(READY)

$(MANIFEST): $(READY) $(DBT_SOURCES)
	@echo "reading the dbt project"
	@$(BIN)/dbt parse --quiet --project-dir dbt_reports --profiles-dir dbt_reports

setup: $(READY) $(MANIFEST)  ## install everything into .venv
dbt-manifest: $(MANIFEST)  ## parse the dbt project, which Dagster reads at start

# Both read the warehouse of the settings: the embedded one while `make up` or a demo runs, else the one of
# EMAIL_PLATFORM_CLICKHOUSE_URL.
DBT_DOCS := dbt_reports/target/docs
dbt-docs: setup  ## the reports' models, columns, tests and lineage as a page of its own in dbt_reports/target/docs
	$(BIN)/email-platform dbt docs generate --static --target-path target/docs
	@echo "open $(DBT_DOCS)/static_index.html"

dbt-freshness: setup  ## how old what the warehouse holds is; fails where a source is overdue
	$(BIN)/email-platform dbt source freshness

demo: setup  ## four campaigns from the queue to the report tables, on real engines (LEADS=1000000 for more)
	$(BIN)/email-platform demo --leads $(LEADS) $(if $(KEEP),--keep-running)

up: setup  ## start every part and the Dagster UI; Ctrl-C stops them
	$(BIN)/email-platform up

# Each worker has an embedded stack of its own (about 1 GB); a module's tests stay together.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
test: setup  ## all tests, integration tests on the real embedded parts (WORKERS=2)
	$(PYTEST)

test-quick: setup  ## unit tests and the fast integration tests, in under three minutes
	$(PYTEST) -m "not slow"

test-unit: setup  ## the tests that need no engine
	$(BIN)/python -m pytest tests/unit

# The short form, without Dagster, is one of the tests. PICTURES=folder keeps what the browser shows.
browser: setup  ## a person's way through the console in Chromium, on the whole stack (PICTURES=folder)
	EMAIL_PLATFORM_BROWSER=full EMAIL_PLATFORM_BROWSER_PICTURES=$(PICTURES) $(BIN)/python -m pytest tests/integration/console/test_in_a_browser.py

# Superset's packages are none of ours, so it has an environment of its own. PICTURES=folder keeps what the browser shows.
VENV_BI := .venv-bi
READY_BI := $(VENV_BI)/.ready
$(READY_BI): deploy/superset/requirements.txt | $(READY)
	@echo "making $(VENV_BI) with Apache Superset; the first time it takes a minute or two"
	@$(PYTHON) -m venv $(VENV_BI)
	@$(call install,$(VENV_BI),-r deploy/superset/requirements.txt)
	@touch $(READY_BI)

bi: setup $(READY_BI)  ## the dashboards in Apache Superset: imported, each chart asked, drawn in Chromium (PICTURES=folder)
	EMAIL_PLATFORM_BI_PICTURES=$(PICTURES) $(BIN)/python -m pytest -m bi tests/bi

bi-show: setup $(READY_BI)  ## the dashboards in Apache Superset on the warehouse that runs here, until Ctrl-C
	$(BIN)/python -m tests.bi.show

SEED ?= 1
N ?= 25
chaos: setup  ## seeded schedules of deaths and faults on the real parts (SEED=1 N=200 REPORT=file.md)
	$(BIN)/python -m tests.chaos.run --seed $(SEED) --schedules $(N) $(if $(REPORT),--report $(REPORT))

chaos-dagster: N = 8
chaos-dagster: setup  ## deaths of Dagster's processes on a running stack, seeded (SEED=1 N=8 REPORT=file.md)
	$(BIN)/python -m tests.chaos.dagster_deaths --seed $(SEED) --schedules $(N) $(if $(REPORT),--report $(REPORT))

chaos-hosts: N = 20
chaos-hosts: setup  ## hosts of Celery's workers die, freeze, lose network and broker; needs root (SEED=1 N=20 REPORT=file.md)
	$(BIN)/python -m tests.chaos.host_deaths --seed $(SEED) --schedules $(N) $(if $(REPORT),--report $(REPORT))

MINUTES ?= 10
fuzz: setup  ## hostile inputs for everything that reads what others wrote; what fails is kept in the corpus (MINUTES=10)
	$(BIN)/python -m tests.fuzz.run --minutes $(MINUTES) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

EVENTS ?= 200000
flood: setup  ## a bounded flood of webhooks on loopback, with faults (EVENTS=200000 SEED=1)
	$(BIN)/python -m tests.flood.run --events $(EVENTS) --seed $(SEED)
SCALE ?= full
bench: setup  ## the old table in PostgreSQL against this platform, side by side (SCALE=small for 2 minutes)
	$(BIN)/python -m bench.old_table_or_platform --scale $(SCALE) $(if $(filter full,$(SCALE)),--docs docs)
BACKLOG ?= 10000
backlog: setup  ## how long a tick of each sensor takes: 10,000 queued, 10,000 silent, 100,000 past campaigns (BACKLOG=1000 for a tenth)
	$(BIN)/python -m bench.sensor_backlog --queued $(BACKLOG) --silent $(BACKLOG) --past $(BACKLOG)0
bench-small: setup  ## what a small campaign costs beyond its sending, with a plain and with our code server (about 10 minutes)
	$(BIN)/python -m bench.small_campaigns
bench-send: setup  ## what sending costs: beside a bare loop, the whole path, a peer (SCALE=small for 5 minutes)
	$(BIN)/python -m bench.send --scale $(SCALE) $(if $(filter full,$(SCALE)),--docs docs)
capacity: setup  ## what so many emails a day need, by a model fitted to what is measured here (SCALE=tiny for a try)
	$(BIN)/python -m bench.capacity --scale $(SCALE) $(if $(filter full,$(SCALE)),--docs docs --results docs/capacity.json)
ROWS ?= 5000000
legacy-mysql: setup  ## import so many old rows from a MariaDB and from PostgreSQL, and compare (ROWS=5000000)
	LEGACY_ROWS=$(ROWS) $(BIN)/python -m pytest -q -s --timeout=7200 tests/integration/runs/test_legacy_mysql.py -k so_many_rows
adoption: setup  ## follow docs/adopting.md line by line, with an old system in PostgreSQL and one in MariaDB (minutes)
	$(BIN)/python -m pytest -q -m adoption --timeout=3000 tests/integration/audience/test_way_over.py
# Where the warehouse is: two-shards, or a file with the settings of a cluster that runs (deploy/cluster/run_tests.sh).
EMAIL_PLATFORM_TEST_WAREHOUSE ?= two-shards
CLUSTER_TESTS ?= $(addprefix tests/integration/,$(addprefix adapters/clickhouse/,test_warehouse_loads.py test_event_loads.py \
  test_warehouse_dimensions.py test_warehouse_lookups.py test_key_index.py) $(addprefix dbt_project/,test_dbt_reports.py \
  test_legacy_reports.py) $(addprefix runs/,test_rebuild.py test_erase.py test_explain.py))
cluster: setup  ## the tests of the loader and of the reports on two shards (about ten minutes)
	EMAIL_PLATFORM_TEST_WAREHOUSE=$(EMAIL_PLATFORM_TEST_WAREHOUSE) $(BIN)/python -m pytest -q -m "not one_server" $(CLUSTER_TESTS)
chaos-demo: setup  ## kill -9 everything in the middle of a demo and start it again (LEADS=100000)
	$(BIN)/python -m tests.chaos.kill_everything --leads $(LEADS)

# Nothing is fetched: Material's fonts are off, Mermaid comes from a wheel (docs/.hooks/site.py). Its announcement is not for a log.
docs: setup  ## the documentation as a site in build/site; fails on a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

openapi: setup  ## write docs/openapi.json after a change of the HTTP API; a test compares it
	$(BIN)/python -m email_platform.api.openapi docs/openapi.json

# Each check is a target, so that two run at a time; the output of each stays together.
CHECKS := mypy secrets sqlfluff definitions lint-imports ruff-check ruff-format
.PHONY: $(CHECKS:%=check-%)
check: setup  ## lint, types, layers, secrets; changes nothing
	@$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync=target $(CHECKS:%=check-%)
check-ruff-format:
	$(BIN)/ruff format --check .
check-ruff-check:
	$(BIN)/ruff check .
check-sqlfluff:
	$(BIN)/sqlfluff lint --disable-progress-bar dbt_reports/models
check-secrets:
	$(BIN)/pre-commit run --all-files detect-secrets
	$(BIN)/pre-commit run --all-files detect-secrets-in-tests
check-mypy:
	$(BIN)/mypy
check-lint-imports:
	$(BIN)/lint-imports
check-definitions:
	$(BIN)/dagster definitions validate -m email_platform.definitions

# In an environment of its own: pip-audit's packages are none of ours. Strict: a package about which it cannot ask ends
# it, and that it could not ask is no finding. A mirror often has no advisories.
AUDIT := build/audit
audit:  ## known vulnerabilities of the pinned packages; skipped, with the reason, where the advisories cannot be reached
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@code=0; \
	$(AUDIT)/bin/pip-audit --strict --requirement requirements.txt --no-deps --disable-pip 2> $(AUDIT)/errors || code=$$?; \
	cat $(AUDIT)/errors >&2; \
	if [ $$code -ne 0 ] && grep -qE 'not found on|[Cc]onnection|resolve|timed out' $(AUDIT)/errors; then \
	  echo "skipped: the advisories of the pinned packages cannot be reached from here"; \
	else \
	  exit $$code; \
	fi

# As the image makes its own (deploy/Dockerfile), of this environment; the tool has one of its own.
SBOM := build/sbom
sbom: setup  ## a bill of materials of the installed packages, build/sbom.cdx.json (CycloneDX)
	@$(PYTHON) -m venv $(SBOM)
	@$(SBOM)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	$(SBOM)/bin/cyclonedx-py environment --output-format JSON --output-file build/sbom.cdx.json $(BIN)/python
	$(BIN)/python -m tests.sbom build/sbom.cdx.json

fix: setup  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment, the embedded parts' data and caches
	rm -rf $(VENV) $(VENV_BI) .state build dbt_reports/target dbt_reports/logs .pytest_cache .mypy_cache .ruff_cache
