# kvgym: `make run` does the main job, `make test` passes the tests; both fetch what they need.

GO      ?= go
VERSION := $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
KVGYM   := build/kvgym

# Real traces, for the tests that use them and for `make run`; without them those tests report a skip.
KVGYM_TRACES ?= $(abspath $(wildcard ../shared/traces))
export KVGYM_TRACES

# Prints every skipped test at the end, which go test alone hides.
GOTESTSUM := $(GO) run gotest.tools/gotestsum@v1.13.0 --format pkgname --hide-summary output

.PHONY: help build run test test-go test-race test-arm64 lint meta fuzz bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build build/kvgym
	@command -v $(GO) >/dev/null || { echo "make: go: not found: kvgym needs Go 1.26 or newer"; exit 1; }
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(KVGYM) ./cmd/kvgym

RUN_DIR      := out/run
RUN_TRACE     = $(firstword $(wildcard $(KVGYM_TRACES)/*.jsonl $(KVGYM_TRACES)/*.csv) $(RUN_DIR)/traffic.jsonl)
RUN_POLICIES := noop,random,lru,largest-first,value-aware,compress-first,compress-int8,compress-all,greedy

SERVING_POLICIES := $(RUN_POLICIES),swap-idle,tiered

run: build ## roll out synthetic traffic and a trace with the baselines, in both profiles; replaces out/run
	@rm -rf $(RUN_DIR) && mkdir -p $(RUN_DIR)
	@[ -n "$(KVGYM_TRACES)" ] || $(KVGYM) trace synth --requests 20000 --out $(RUN_DIR)/traffic.jsonl --quiet >/dev/null
	@echo "== synthetic traffic, all difficulties"
	@$(KVGYM) rollout --episodes 4096 --policy $(RUN_POLICIES) --difficulty all --envs 4096 --out $(RUN_DIR)/synthetic
	@echo; echo "== the same with a search over forks, the reference for what can be gained (fewer episodes: it is slow)"
	@$(KVGYM) rollout --episodes 256 --policy search --difficulty all --out $(RUN_DIR)/search
	@echo; echo "== traffic of $(notdir $(RUN_TRACE))"
	@$(KVGYM) rollout --episodes 2048 --policy $(RUN_POLICIES) --difficulty all --trace $(RUN_TRACE) --out $(RUN_DIR)/trace
	@echo; echo "== the serving profile: every operation at its real price"
	@$(KVGYM) rollout --profile serving --episodes 2048 --policy $(SERVING_POLICIES) --difficulty all --out $(RUN_DIR)/serving

test: lint test-go test-race test-arm64 ## everything that runs for a change, under 15 minutes on 2 cores

lint: ## gofmt and vet
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	$(GO) vet ./...

test-go: ## all tests, with 210,000 histories against the oracle
	$(GOTESTSUM) -- -timeout 20m ./...

test-race: ## the short tests under the race detector (needs a C compiler)
	$(GOTESTSUM) -- -race -short -timeout 20m ./vecenv ./rollout ./policy ./scenario ./trace

# Packages whose numbers must not depend on the machine.
EXACT := ./kv ./internal/... ./reward ./trace ./scenario ./report ./vecenv

test-arm64: ## the short tests of everything that must give the same bits, on arm64 under emulation
	@command -v qemu-aarch64-static >/dev/null || [ "$$(id -u)" != 0 ] || \
		(apt-get install -y -q qemu-user-static || (apt-get update -q && apt-get install -y -q qemu-user-static)) >/dev/null 2>&1 || true
	@if command -v qemu-aarch64-static >/dev/null; then \
		$(GOTESTSUM) --raw-command -- env GOARCH=arm64 CGO_ENABLED=0 $(GO) test -json -short -exec qemu-aarch64-static $(EXACT); \
	else echo "SKIP test-arm64: qemu-aarch64-static is missing: apt-get install qemu-user-static"; fi

meta: ## two million histories against the oracle and the metamorphic matrix, with a fresh seed
	KVGYM_HISTORIES=1050000 KVGYM_SEED=$${KVGYM_SEED:-$$(date +%s)} $(GO) test -v -count=1 -timeout 60m -run 'TestOracle|TestMetamorphic' ./vecenv

FUZZ_TIME ?= 30s
fuzz: ## every fuzz target for FUZZ_TIME (30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 1s $$pkg; \
		done; done

BENCH_COUNT ?= 7
bench: ## all benchmarks, BENCH_COUNT (7) times; let nothing else run
	$(GO) test -run '^$$' -bench . -count $(BENCH_COUNT) ./vecenv ./rollout

clean: ## remove what the other targets made
	rm -rf build out
