# Every everyday command; `make` alone lists them. Set CARGO_TARGET_DIR to build elsewhere, and
# CARGO_FLAGS=--locked to refuse any change of the lock file, as CI does.

SHELL := /bin/sh
# Where rustup puts cargo, for shells that have not read its environment file yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release
BINARIES := moe2 moe2-coordinator moe2-agent moe2-worker
ARGS ?=

# Crates that decide: quick to build, tested with debug assertions on.
PURE := moe2-model moe2-cost moe2-solve moe2-gate moe2-wire moe2-engine moe2-metrics moe2-sim moe2-tidy
# Crates that touch the world: tested in release, so that the native engine is built only once.
# The solver is tested again there: with HiGHS, which the experiments bring, and at full speed.
IO := moe2-net moe2-models moe2-embed moe2-coordinator moe2-agent moe2-fake-nvml moe2-worker moe2 moe2-experiments moe2-solve
E2E := moe2-e2e

# cargo-nextest when it is there, the built-in runner when not.
HAS_NEXTEST = $(shell command -v cargo-nextest 2>/dev/null)
TEST = $(CARGO) $(if $(HAS_NEXTEST),nextest run --no-tests=pass,test) $(CARGO_FLAGS)
ONE_BY_ONE = $(if $(HAS_NEXTEST),,-- --test-threads=1)
BUILD = $(CARGO) build $(CARGO_FLAGS) --release $(BINARIES:%=-p %)

.DEFAULT_GOAL := help
.PHONY: help setup demo build test lint docs bench deny clean

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## Install missing build tools, or say how
	@deploy/setup.sh

demo: ## Build, start a coordinator and three agents, answer questions; ARGS=--once stops after them
	@deploy/setup.sh
	@$(BUILD)
	@exec $(BIN)/moe2 up $(ARGS)

build: ## Build the four programs in release
	@deploy/setup.sh
	$(BUILD)

test: ## Run every test, the end-to-end ones with real models included
	@deploy/setup.sh --test
	$(TEST) $(PURE:%=-p %)
	$(CARGO) test --doc -q $(CARGO_FLAGS) $(PURE:%=-p %)
	$(BUILD)
	$(BIN)/moe2 models pull --all
	$(TEST) --release $(IO:%=-p %)
	$(TEST) --release -p moe2-embed --features minilm
	$(CARGO) test --doc -q --release $(CARGO_FLAGS) -p moe2-net -p moe2-models
	$(TEST) --release -p $(E2E) $(ONE_BY_ONE)

lint: ## Check formatting and lints, warnings denied
	$(CARGO) fmt --all --check
	@deploy/setup.sh
	$(CARGO) clippy $(CARGO_FLAGS) --release --workspace --all-targets -- -D warnings

docs: ## Build the API documentation, warnings denied
	@deploy/setup.sh
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc $(CARGO_FLAGS) --release --workspace --no-deps

bench: ## Run the benchmarks; ARGS selects some by name
	@deploy/setup.sh
	$(CARGO) bench $(CARGO_FLAGS) --workspace --benches -- $(ARGS)

deny: ## Check licences, advisories and sources of the dependencies
	@command -v cargo-deny >/dev/null || \
	    { echo 'moe2: cargo-deny is missing; run: cargo install cargo-deny --locked' >&2; exit 1; }
	$(CARGO) deny check

clean: ## Remove build output; models stay in the cache
	$(CARGO) clean
