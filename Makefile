# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Knobs, each of which can be given on the command line: make race RACE_COUNT=5
GO         ?= go
# Results of tests that wait, poll and talk over sockets are not worth remembering: run them each time. They wait more than
# they compute, so more of them run at once than there are cores.
# Without tables for a debugger (-w), large programs link in two thirds of the time.
# With -short, what runs flytekit's own processes is left to make e2e.
TEST_FLAGS ?= -count=1 -short -parallel=16 -p=4 -ldflags=-w
# The SDK is a module of its own, which ./... leaves out. It is built as its users build it: without the main module.
SDK        := cd go/backendplugin && GOWORK=off
# So is the conformance suite.
SUITE      := cd go/conformance && GOWORK=off
# Most of what they do is wait. The tests of one file share servers, so they stay together.
PYTEST_FLAGS ?= -q -n 4 --dist loadfile -m "not slow"
E2E_FLAGS  ?= -count=1 -parallel=8 -p=2 -ldflags=-w
E2E_PKGS   ?= ./test/... ./cmd/flyte-backend-engine ./go/engine ./go/engine/cluster
RACE_COUNT ?= 2
RACE_PKGS  ?= ./go/client/... ./go/registry/... ./go/tasks/... ./go/backendtest/... ./go/examples/...
# Whole workflows under the race detector take minutes, so these run once.
RACE_ONCE  ?= ./go/engine/... ./cmd/internal/...
COVER_MIN  ?= 85
BENCH      ?= .
BENCH_FLAGS ?= -benchmem

# golangci-lint is built from source, at the version that tools/go.mod pins.
LINT_VERSION := $(shell sed -n 's|.*github.com/golangci/golangci-lint/v2 \(v[^ ]*\).*|\1|p' tools/go.mod)
LINT         := .cache/tools/$(LINT_VERSION)/golangci-lint

# ruff comes from Python's package index, at the version that tools/requirements-lint.txt pins.
RUFF_VERSION := $(shell sed -n 's|^ruff==||p' tools/requirements-lint.txt)
RUFF         := .cache/ruff-$(RUFF_VERSION)/bin/ruff

FIRST := printf '%s\n' 'Compiling; the first time takes a few minutes, later ones are cached.'

##@ Try it

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z-]*:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: bin/flyte-backend bin/flyte-backend-engine ## Build the command line and run its demo: real workflows on propeller's engine, their services in Go and Python killed while jobs run; bin/demo.html tells of it.
	@python=$$(tools/demo-python.sh); set -x; bin/flyte-backend demo --report bin/demo.html $${python:+--python "$$python"}

##@ Build

.PHONY: build
build: bin/flyte-backend bin/flyte-backend-engine bin/flytepropeller ## Build the command line (two programs) and bin/flytepropeller (propeller with the plugin compiled in).

# Go knows better than make what is out of date, so these always run; they are quick when nothing changed.
.PHONY: bin/flyte-backend bin/flyte-backend-engine bin/flytepropeller
bin/flyte-backend bin/flyte-backend-engine bin/flytepropeller:
	@$(FIRST)
	$(GO) build -o $@ ./cmd/$(@F)

.PHONY: clean
clean: ## Remove what make has built: bin, .cache, the TypeScript example and coverage profiles. Go's own caches stay.
	rm -rf bin .cache coverage.* examples/typescript/dist examples/typescript/node_modules

##@ Check

.PHONY: test
test: test-tools ## Run the tests of Go and Python (TEST_FLAGS, PYTEST_FLAGS), but for those of make e2e and make faults.
	@$(FIRST)
	@GO='$(GO)' tools/test.sh $(TEST_FLAGS)

.PHONY: test-python
test-python: ## Run the tests of python/ and of examples/python (PYTEST_FLAGS); its environment is made first, once.
	cd python && $$(../tools/python.sh)/bin/pytest $(PYTEST_FLAGS)

.PHONY: e2e
e2e: test-tools ## Run the tests that start whole programs: services under the conformance suite and beside flytekit's, workflows over them, flytekit itself.
	@$(FIRST)
	$(GO) test $(E2E_FLAGS) $(E2E_PKGS)
	cd python && $$(../tools/python.sh)/bin/pytest -q -n 2 --dist loadfile -m slow

.PHONY: test-tools
test-tools: ## Make or find what tests need besides Go: flytekit in a virtual environment, the TypeScript example, Chromium. Once; a minute.
	@tools/flytekit.sh >/dev/null
	@tools/connector.sh >/dev/null
	@examples/typescript/serve.sh build
	@tools/chromium.sh >/dev/null

.PHONY: race
race: test-tools ## Run the tests of concurrent packages under the race detector (RACE_PKGS RACE_COUNT times, RACE_ONCE once). Needs cgo.
	@$(FIRST)
	CGO_ENABLED=1 $(GO) test -race -parallel=16 -count=$(RACE_COUNT) -timeout 30m $(RACE_PKGS)
	CGO_ENABLED=1 $(GO) test -race -parallel=16 -count=1 -timeout 30m $(RACE_ONCE)
	$(SDK) CGO_ENABLED=1 $(GO) test -race -parallel=16 -count=$(RACE_COUNT) -timeout 30m ./...
	$(SUITE) CGO_ENABLED=1 $(GO) test -race -parallel=8 -count=1 -timeout 30m -skip '^TestEveryFaultIsTold$$' ./... # which runs the same code 200 times over

.PHONY: schemathesis
schemathesis: ## Test the SDK's REST server by api/openapi.yaml with requests that Schemathesis makes up (SEED; a minute and a half).
	GO='$(GO)' tools/schemathesis.sh

.PHONY: faults
faults: ## Run every case of the conformance suite against a service with each fault in turn (minutes; make test runs the cases that matter).
	@$(FIRST)
	$(SUITE) CONFORMANCE_ALL_CASES=1 $(GO) test -count=1 -parallel=8 -run '^TestEveryFaultIsTold$$' .

.PHONY: cover
cover: test-tools ## Statement coverage of ./go/..., of the SDK and of the conformance suite, by their own tests; fails below COVER_MIN percent.
	@$(FIRST)
	GO='$(GO)' tools/cover.sh $(COVER_MIN)

.PHONY: bench
bench: ## Run the benchmarks (BENCH selects them by name, BENCH_FLAGS).
	@$(FIRST)
	@packages=$$(grep -rl --include='*_test.go' '^func Benchmark' go cmd | xargs -r -n1 dirname | sort -u | sed 's|^|./|'); \
	if [[ -z $$packages ]]; then echo 'no package has benchmarks' >&2; exit 1; fi; \
	$(GO) test -run '^$$' -bench '$(BENCH)' $(BENCH_FLAGS) $$packages

.PHONY: bench-python
bench-python: ## Compare the Python package's service with FastAPI, Starlette, grpc.aio and flytekit's connector service (BENCH_PYTHON_FLAGS; 4 minutes).
	@$(FIRST)
	$(GO) run ./test/pythonbench -python "$$(tools/python.sh)" -connector "$$(tools/connector.sh)" $(BENCH_PYTHON_FLAGS)

.PHONY: lint
lint: $(LINT) $(RUFF) generate-check ## golangci-lint (.golangci.yml), ruff (ruff.toml), mypy (python/pyproject.toml), buf (buf.yaml), Redocly (api/redocly.yaml) and generate-check.
	tools/proto.sh lint
	tools/proto.sh breaking
	tools/redocly.sh
	$(LINT) config verify
	$(LINT) run ./... ./testdata/workflows
	$(SDK) ../../$(LINT) run ./...
	$(SUITE) ../../$(LINT) run ./...
	$(RUFF) check
	$(RUFF) format --check
	cd python && $$(../tools/python.sh)/bin/mypy src tests

.PHONY: format
format: $(LINT) $(RUFF) ## Format the code and order imports as lint wants them.
	$(LINT) fmt ./...
	$(SDK) ../../$(LINT) fmt ./...
	$(SUITE) ../../$(LINT) fmt ./...
	$(RUFF) check --fix --select I
	$(RUFF) format

##@ Generate

.PHONY: generate
generate: ## Write generated files anew (docs/configuration.md, the code of proto/).
	$(GO) generate ./...
	$(SDK) $(GO) generate ./...
	$(SUITE) $(GO) generate ./...

.PHONY: generate-check
generate-check: ## Check that generated files are current, on a copy: uncommitted changes are neither needed nor touched.
	GO='$(GO)' tools/generate-check.sh

.PHONY: comparison
comparison: ## Run workflows with this plugin and with Flyte's connector plugin, and write docs/comparison.md (a minute).
	@$(FIRST)
	$(GO) test -count=1 ./test/comparison -args -update

##@ Tools

.PHONY: tools
tools: $(LINT) $(RUFF) ## Build or install the tools for lint into .cache (once; minutes).

$(LINT): tools/go.mod tools/go.sum
	@echo 'Building golangci-lint $(LINT_VERSION) from source; this takes a few minutes, once.'
	cd tools && GOWORK=off $(GO) build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

$(RUFF): tools/requirements-lint.txt
	@echo 'Installing ruff $(RUFF_VERSION).'
	@rm -rf .cache/ruff-$(RUFF_VERSION)
	@python3 -m venv .cache/ruff-$(RUFF_VERSION)
	@.cache/ruff-$(RUFF_VERSION)/bin/pip install --quiet --disable-pip-version-check --requirement tools/requirements-lint.txt
	@touch $@
