# kvgym: `make run` does the main job, `make test` passes the tests; both fetch what they need.

GO      ?= go
VERSION := $(shell git describe --always --dirty --tags 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
KVGYM   := build/kvgym

# Everything is compiled with the profile of the hot paths that lies beside the commands (make pgo), and the same way for commands and tests: one
# dependency takes the compiler half a minute.
export GOFLAGS := $(GOFLAGS) -trimpath -pgo=$(CURDIR)/cmd/kvgym/default.pgo

# Real traces, for the tests that use them and for `make run`; without them those tests report a skip.
KVGYM_TRACES ?= $(abspath $(wildcard ../shared/traces))
export KVGYM_TRACES

# Prints every skipped test at the end, which go test alone hides.
GOTESTSUM := $(GO) run gotest.tools/gotestsum@v1.13.0 --format pkgname --hide-summary output

.PHONY: help build run test test-go test-levels test-race test-arm64 lint meta fuzz bench bench-rivals bench-venv test-rivals bench-cmp pgo gen gen-check clean python test-python test-python-gymnasium test-rllib test-puffer test-verifiers test-verifiers-v0 test-verifiers-v1 test-prime soak uv train-venv train test-train
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build build/kvgym
	@command -v $(GO) >/dev/null || { echo "make: go: not found: kvgym needs Go 1.26 or newer"; exit 1; }
	$(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o $(KVGYM) ./cmd/kvgym

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

test: lint gen-check test-go test-levels test-race test-arm64 test-python ## everything that runs for a change, under 15 minutes on 2 cores

RUFF := ruff@0.17.6
MYPY  = --python $(PYTHON) --with 'numpy>=2' --with 'gymnasium>=1.4,<2' mypy@2.4.1

lint: uv ## gofmt and vet, ruff and mypy
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags purego ./...
	$(UV) tool run -q $(RUFF) check -q --cache-dir build/ruff --config python/pyproject.toml $$(git ls-files '*.py')
	$(UV) tool run -q $(MYPY) --cache-dir build/mypy --config-file python/pyproject.toml python/kvgym

test-go: ## all tests, with 210,000 histories against the oracle
	$(GOTESTSUM) -- -timeout 20m ./...

test-race: ## the short tests under the race detector (needs a C compiler)
	$(GOTESTSUM) -- -race -short -timeout 20m ./vecenv ./rollout ./policy ./scenario ./trace ./toolenv/... ./eval ./export/...

# Packages whose numbers must not depend on the machine.
EXACT := ./kv ./internal/... ./kernels ./reward ./trace ./scenario ./report ./vecenv ./policy/onnx ./toolenv

# test-go runs at the best level of the machine; this runs the others that it has, and says which it has not. Without -count=1 one level's
# results would be taken for another's: the go command does not see that a package reads a variable as it starts.
test-levels: build ## the short tests at every lower SIMD level, and without assembly
	@have=$$($(KVGYM) version --json | tr -d ' \n' | sed 's/.*"simd_levels":\[\([^]]*\)\].*/\1/'); \
	for level in generic avx2 avx512; do case $$have in \
		*$$level'"') echo "test-levels: $$level: the best of this machine, which test-go runs at";; \
		*$$level*) echo "== $$level"; KVGYM_SIMD=$$level $(GOTESTSUM) -- -count=1 -short $(EXACT) ./rollout || exit 1;; \
		*) echo "SKIP test-levels: $$level: this machine does not have it";; \
	esac; done
	@echo "== purego"; $(GOTESTSUM) -- -short -tags purego $(EXACT)

test-arm64: ## the short tests of everything that must give the same bits, on arm64 under emulation
	@command -v qemu-aarch64-static >/dev/null || [ "$$(id -u)" != 0 ] || \
		(apt-get install -y -q qemu-user-static || (apt-get update -q && apt-get install -y -q qemu-user-static)) >/dev/null 2>&1 || true
	@if command -v qemu-aarch64-static >/dev/null; then \
		$(GOTESTSUM) --raw-command -- env GOARCH=arm64 CGO_ENABLED=0 GOFLAGS='$(GOFLAGS) -pgo=off' $(GO) test -json -short -exec qemu-aarch64-static $(EXACT); \
	else echo "SKIP test-arm64: qemu-aarch64-static is missing: apt-get install qemu-user-static"; fi

# The Python package. uv is taken from PyPI where the machine has none; each set of packages that cannot live with the others has an environment
# of its own. Python 3.11 is the least that the package allows.
PYTHON := 3.11
UV      = $(firstword $(shell command -v uv 2>/dev/null) .venv-uv/bin/uv)
WHEEL   = $(abspath $(shell ls build/wheel/*.whl))
comma  := ,

uv:
	@command -v uv >/dev/null || [ -x .venv-uv/bin/uv ] || { python3 -m venv .venv-uv && .venv-uv/bin/pip install -q uv; } || \
		{ echo "make uv: python3: not found, or PyPI is out of reach: the Python package needs one of uv and Python $(PYTHON)"; exit 1; }

python: uv ## build the wheel of the Python package, with the library in it, into build/wheel
	@rm -rf build/wheel
	$(UV) build -q --wheel -o build/wheel python

# $(call venv,FOLDER,PACKAGES) makes the environment, unless it is there, and installs the packages.
define venv
	@[ -x $(1)/bin/python ] || $(UV) venv -q --python $(PYTHON) $(1)
	$(UV) pip install -q -p $(1) $(2)
endef
PYTEST := pytest 'pytest-timeout>=2.3'

test-python: python build ## the tests of the Python package with Gymnasium, PyTorch, TorchRL and Stable-Baselines3 (.venv)
	$(call venv,.venv,--reinstall-package kvgym '$(WHEEL)[torchrl$(comma)sb3]' --group python/pyproject.toml:test)
	.venv/bin/pytest -q python/tests

GYMNASIUMS := 1.1.1 1.2.2 1.4.0
test-python-gymnasium: $(GYMNASIUMS:%=test-gymnasium-%) ## the tests without training libraries on each of several versions of Gymnasium
test-gymnasium-%: python build
	$(call venv,.venv-gymnasium-$*,--reinstall-package kvgym '$(WHEEL)' gymnasium==$* $(PYTEST))
	.venv-gymnasium-$*/bin/pytest -q python/tests

test-rllib: python build ## the tests of the RLlib adapter, in an environment of its own: RLlib wants an older Gymnasium (.venv-rllib)
	$(call venv,.venv-rllib,--reinstall-package kvgym '$(WHEEL)[ray]' gymnasium==1.2.2 $(PYTEST))
	.venv-rllib/bin/pytest -q python/tests/test_rllib.py python/tests/test_docs.py

# PufferLib 3.0.0 declares versions that nobody can install together, and its installer wants torch and games. Its Python part needs none of that:
# build/shim stands in for what the installer imports.
SHIM := $(CURDIR)/build/shim
test-puffer: python build ## the tests of the PufferLib adapter, in an environment of its own (.venv-puffer)
	$(call venv,.venv-puffer,--reinstall-package kvgym '$(WHEEL)' setuptools wheel psutil gym $(PYTEST))
	@mkdir -p $(SHIM)/torch/utils && touch $(SHIM)/torch/__init__.py $(SHIM)/torch/utils/__init__.py
	@printf 'import builtins\nbuiltins.c_extension_paths = []\n' >$(SHIM)/sitecustomize.py
	@printf '%s\n' 'from setuptools import Extension as CppExtension' 'from setuptools.command.build_ext import build_ext as BuildExtension' \
		'CUDAExtension, CUDA_HOME = CppExtension, None' >$(SHIM)/torch/utils/cpp_extension.py
	@[ -d .venv-puffer/lib/python$(PYTHON)/site-packages/pufferlib ] || \
		NO_OCEAN=1 NO_TRAIN=1 PYTHONPATH=$(SHIM) $(UV) pip install -q -p .venv-puffer --no-cache --no-build-isolation --no-deps pufferlib==3.0.0
	.venv-puffer/bin/pytest -q python/tests/test_puffer.py python/tests/test_docs.py

# The environment for verifiers, in an environment of its own for each of the two interfaces that verifiers has had.
ENVIRONMENTS := python/environments
test-verifiers: test-verifiers-v0 test-verifiers-v1 ## the tests of the environment for verifiers, with 0.3 and with 0.4

# $(call verifiers,FOLDER,VERSION) installs both packages and runs the tests.
define verifiers
	$(call venv,$(1),--no-sources --reinstall-package kvgym --reinstall-package kv-cache-eviction '$(WHEEL)' ./$(ENVIRONMENTS)/kv_cache_eviction verifiers==$(2) $(PYTEST))
	$(1)/bin/pytest -q $(ENVIRONMENTS)/tests
endef

test-verifiers-v0: python build ## the tests of the environment with the last verifiers below 0.4
	$(call verifiers,.venv-verifiers-v0,0.3.1)

test-verifiers-v1: python build ## the tests of the environment with verifiers 0.4
	$(call verifiers,.venv-verifiers-v1,0.4.0)

# As users do it: prime installs the environment, which builds kvgym. 0.7.7 is the last prime that evaluates locally.
PRIMES := 0.7.7 0.18.0
test-prime: $(PRIMES:%=test-prime-%) ## prime installs and evaluates the environment
test-prime-%: uv build
	$(call venv,.venv-prime-$*,prime==$* $(PYTEST))
	@mkdir -p build/prime
	UV_CACHE_DIR=$$($(UV) cache dir) HOME=$(CURDIR)/build/prime VIRTUAL_ENV=$(CURDIR)/.venv-prime-$* PATH="$(CURDIR)/.venv-prime-$*/bin:$(dir $(abspath $(UV))):$$PATH" \
		prime env install kv-cache-eviction -p $(ENVIRONMENTS)
	.venv-prime-$*/bin/pytest -q $(ENVIRONMENTS)/tests/test_prime.py

SOAK ?= 1h
soak: python build ## step by every path of the Python package for SOAK (1h, or 90s, 3m), and fail if memory grows; Linux (.venv-soak)
	$(call venv,.venv-soak,--reinstall-package kvgym '$(WHEEL)')
	.venv-soak/bin/python python/tests/soak.py $(SOAK)

meta: ## two million histories against the oracle and the metamorphic matrix, with a fresh seed
	KVGYM_HISTORIES=1050000 KVGYM_SEED=$${KVGYM_SEED:-$$(date +%s)} $(GO) test -v -count=1 -timeout 60m -run 'TestOracle|TestMetamorphic' ./vecenv

FUZZ_TIME ?= 30s
fuzz: ## every fuzz target for FUZZ_TIME (30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 1s $$pkg; \
		done; done

# Packages with hot paths, and which of their benchmarks run how long and how often.
BENCH_PACKAGES := ./kernels ./vecenv ./rollout
BENCH          ?= .
BENCH_TIME     ?= 0.4s
BENCH_COUNT    ?= 7
BENCHSTAT      := $(GO) run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

bench: build ## all benchmarks, BENCH_COUNT (7) times, then kvgym bench; let nothing else run
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCH_TIME) -count $(BENCH_COUNT) $(BENCH_PACKAGES)
	$(KVGYM) bench

bench-rivals: build ## kvgym bench against other implementations: C (gcc) and Python (make bench-venv)
	$(KVGYM) bench --rivals

BENCH_VENV := .venv-bench
BENCH_REQS := bench/rivals/python/requirements.txt
bench-venv: uv ## install what the Python rivals need
	$(call venv,$(BENCH_VENV),-r $(BENCH_REQS))

test-rivals: bench-venv ## the tests of the Python rivals, which make test skips where bench-venv has not been run
	$(GOTESTSUM) -- -count=1 -run 'Python|CartPole' ./bench/rivals

# Both sides are compiled first and then run in turn, so that what disturbs the machine disturbs both. A package that one side lacks is left out there.
bench-cmp: ## benchmarks of the git reference REF against this tree, in turn BENCH_COUNT (7) times
	@[ -n '$(REF)' ] || { echo "make bench-cmp: REF: none given: allowed a git reference, as in make bench-cmp REF=HEAD~1"; exit 2; }
	@git rev-parse --verify --quiet '$(REF)^{commit}' >/dev/null || { echo "make bench-cmp: REF: $(REF): allowed a git reference"; exit 2; }
	@set -e; new=$(CURDIR); dir=$$new/build/bench-cmp; old=$$dir/tree; \
	rm -rf $$dir; mkdir -p $$dir; \
	trap 'git worktree remove --force $$old' EXIT; trap 'exit 130' INT TERM; \
	git worktree add --force --quiet --detach $$old '$(REF)'; \
	for pkg in $(BENCH_PACKAGES); do \
		[ ! -d $$old/$$pkg ] || (cd $$old && $(GO) test -c -o $$dir/old-$${pkg##*/}.test $$pkg); \
		$(GO) test -c -o $$dir/new-$${pkg##*/}.test $$pkg; \
	done; \
	n=0; while [ $$n -lt $(BENCH_COUNT) ]; do n=$$((n+1)); \
		for pkg in $(BENCH_PACKAGES); do for side in old new; do \
			root=$$new; [ $$side = new ] || root=$$old; bin=$$dir/$$side-$${pkg##*/}.test; \
			[ -x $$bin ] || continue; echo "round $$n of $(BENCH_COUNT): $$pkg $$side"; \
			(cd $$root/$$pkg && $$bin -test.run '^$$' -test.bench '$(BENCH)' -test.benchtime $(BENCH_TIME)) >>$$dir/$$side.txt; \
		done; done; \
	done; \
	$(BENCHSTAT) '$(REF)'=$$dir/old.txt this-tree=$$dir/new.txt

# All levels and both profiles of rules, so that none is compiled as cold code. It runs where its path, which the profile keeps, says nothing.
PGO_DIR := /tmp/kvgym-pgo
pgo: ## profile the hot paths anew for the compiler; let nothing else run
	@rm -rf $(PGO_DIR) && mkdir -p $(PGO_DIR)
	$(GO) test -c -o $(PGO_DIR)/vecenv.test ./vecenv
	@set -e; for level in generic avx2 avx512; do \
		KVGYM_SIMD=$$level $(PGO_DIR)/vecenv.test -test.run '^$$' -test.bench 'Step/envs=1024/workers=1|Profiles/envs=1024|Reset' -test.benchtime 2s \
			-test.cpuprofile $(PGO_DIR)/$$level.prof >$(PGO_DIR)/$$level.txt || { echo "SKIP pgo: $$level: this machine does not have it"; rm -f $(PGO_DIR)/$$level.prof; }; \
	done
	$(GO) tool pprof -proto -output=cmd/kvgym/default.pgo $(PGO_DIR)/*.prof
	@rm -rf $(PGO_DIR)

TRAIN_VENV := .venv-train
TRAIN_OUT  := out/train
TRAIN_ARGS ?= --warm-rounds 40 --env-steps 500000 --eval-episodes 1024 --search-episodes 64
train-venv: python ## install what examples/ppo.py needs (PyTorch)
	$(call venv,$(TRAIN_VENV),--reinstall-package kvgym '$(WHEEL)' -r examples/requirements.txt)

train: build train-venv ## train a small policy for the serving profile in a few minutes and let it play; into out/train
	$(TRAIN_VENV)/bin/python examples/ppo.py --profile serving --out $(TRAIN_OUT) $(TRAIN_ARGS)
	@rm -rf $(TRAIN_OUT)/played
	$(KVGYM) rollout --profile serving --episodes 256 --policy tiered,onnx:$(TRAIN_OUT)/policy.onnx --out $(TRAIN_OUT)/played

test-train: train-venv ## the tests of examples/ppo.py
	$(TRAIN_VENV)/bin/pytest -q examples

# The generator compiles against kernels without assembly, so that it runs whatever state the assembly is in. $(call generate,FOLDER) writes
# into an absolute folder; the first line of a file names neither it nor the command.
GEN_LEVELS := avx512 avx2
GEN_FILES   = $(foreach l,$(GEN_LEVELS),$(l)_amd64.s $(l)_amd64.go)
define generate
	@rm -rf $(1) && mkdir -p $(1)
	@set -e; for l in $(GEN_LEVELS); do \
		(cd kernels/gen && GOFLAGS='$(GOFLAGS) -tags=purego' $(GO) run . -level $$l -out $(1)/$${l}_amd64.s.new -stubs $(1)/$${l}_amd64.go.new -pkg kernels); \
		for f in $${l}_amd64.s $${l}_amd64.go; do sed '1s|.*|// Code generated by kernels/gen (make gen). DO NOT EDIT.|' $(1)/$$f.new >$(1)/$$f; done; \
	done
endef

gen: ## write the assembly of package kernels anew
	$(call generate,$(CURDIR)/build/_gen)
	@cd build/_gen && mv $(GEN_FILES) ../../kernels

gen-check: ## the assembly of package kernels is what its generator writes; changes nothing
	$(call generate,$(CURDIR)/build/_gen-check)
	@for f in $(GEN_FILES); do \
		diff -u --label kernels/$$f --label generated kernels/$$f build/_gen-check/$$f || { echo "make gen-check: kernels/$$f: not what kernels/gen writes: make gen"; exit 1; }; \
	done

clean: ## remove what the other targets made
	rm -rf build out
