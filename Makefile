# The few commands a person types. Each brings what it needs first (tests/setup/setup.sh) and says so.
#
# Everything is built in one profile and for the whole workspace: RocksDB takes a quarter of an hour on two cores, and
# another profile or another choice of features would compile it again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# The recipes share one cargo target directory and its lock, so -j would gain nothing and mix their output.
.NOTPARALLEL:

SETUP := tests/setup/setup.sh
# What setup found (a libclang outside the usual places, the Python with torch) reaches the commands through this file.
# Without MAKEFLAGS, or cargo looks for the job server of a "make -j" that does not hand it down.
ENV := unset MAKEFLAGS MFLAGS; . "$${XDG_CACHE_HOME:-$$HOME/.cache}/ckpt/setup.env";
FLAGS := --release --workspace --locked
# As cargo understands it: relative to this directory.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CKPT := $(TARGET)/release/ckpt
# Where the wheel is installed for the tests and the demo.
SITE := $(TARGET)/site

.PHONY: help build wheel demo test torture bench fuzz lint clean

help: ## lists these commands
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

build: ## builds the optimised binary: target/release/ckpt (the first time takes a quarter of an hour)
	@$(SETUP) build
	@$(ENV) cargo build $(FLAGS)
	@echo "built $(CKPT)"

wheel: ## builds the Python wheel ckpt-store, with the command in it: target/wheels/
	@$(SETUP) python
	@$(ENV) cargo build $(FLAGS)
	@$(ENV) python/wheel.sh "$(TARGET)" "$(SITE)"

demo: ## a Lightning training saves into a store, is killed, goes on; shows what that saved (KEEP=1 keeps the files)
	@$(SETUP) python
	@$(ENV) cargo build $(FLAGS)
	@$(ENV) python/wheel.sh "$(TARGET)" "$(SITE)"
	@$(ENV) CKPT="$(CKPT)" CKPT_PYTHONPATH="$(SITE)" tests/demo/demo.sh

test: ## builds and runs every test, those of the Python package too, then the checks of lint where rustfmt and clippy are installed
	@$(SETUP) python
	@$(ENV) cargo build $(FLAGS)
	@$(ENV) cargo test $(FLAGS)
	@$(ENV) python/wheel.sh "$(TARGET)" "$(SITE)"
	@$(ENV) python/test.sh "$(SITE)"
	@$(ENV) if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check; \
		else echo "rustfmt is not installed: formatting was not checked"; fi
	@$(ENV) if cargo clippy --version >/dev/null 2>&1; then cargo clippy $(FLAGS) --all-targets -- -D warnings; \
		else echo "clippy is not installed: lints were not checked"; fi

torture: ## every call fails in turn, 1,000 kills at random, mounts (KILLS= STORM= ROUNDS= SEED= ONLY=calls,stops,kills,full,mounts; WRITE=1 updates docs/reliability.md)
	@$(SETUP) build
	@$(ENV) cargo build $(FLAGS)
	@"$(TARGET)/release/torture" --date "$$(date -u +%F)" $(if $(KILLS),--kills $(KILLS)) $(if $(STORM),--storm $(STORM)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) $(if $(WRITE),--write)

bench: ## measures against other tools, side by side (ONLY="NAME..." chooses; WRITE=1 updates docs/benchmarks.md)
	@$(SETUP) bench
	@$(ENV) cargo build $(FLAGS) --examples --bins
	@$(ENV) python/wheel.sh "$(TARGET)" "$(SITE)"
	@$(ENV) OMP_WAIT_POLICY=passive CKPT_PYTHONPATH="$(SITE)" "$$CKPT_TEST_PYTHON" -B tests/compare/bench.py --target "$(TARGET)/release" $(if $(WRITE),--write) $(ONLY)

fuzz: ## fuzzes every parser for a while (SECONDS=60 for each; ONLY="TARGET..." chooses); needs no RocksDB
	@$(SETUP) fuzz
	@$(ENV) fuzz/run.sh $(or $(SECONDS),60) $(ONLY)

lint: ## formatting and lints, as the tests demand them
	@$(SETUP) build
	@$(ENV) cargo fmt --all --check
	@$(ENV) cargo clippy $(FLAGS) --all-targets -- -D warnings

clean: ## removes what cargo built here (RocksDB too)
	cargo clean
