# Every command of the project, each in one place: CI runs these same targets. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release

# NODES is of `demo` and `bench`, MODEL of `demo`, for example: make demo NODES=5 MODEL=/path/to/model
NODES ?= 3
MODEL ?= minilm

##@ Use
.PHONY: demo
demo: release ## Start a shoal of three real nodes with a real model on this machine; Ctrl-C drains and ends it
	$(RELEASE)/shoal model fetch $(MODEL)
	exec $(RELEASE)/cluster-sim up --nodes $(NODES) --model $(MODEL)

.PHONY: release
release: prepare ## Build the node and cluster-sim, optimised
	$(CARGO) build --release --locked --package shoal --package cluster-sim

##@ Check
.PHONY: test
test: prepare ## Prepare what the tests need, then run every test
	minilm=$$(tests/prepare model) && SHOAL_TEST_MINILM_DIR=$$minilm $(CARGO) test --workspace --locked

.PHONY: check
check: fmt lint doc ## Run fmt, lint and doc, one after the other

.PHONY: fmt
fmt: ## Check the format of the code (mend it with `cargo fmt --all`)
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## Run clippy on everything, tests too, with warnings denied
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: doc
doc: ## Build the documentation, private items too, with warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

.PHONY: tidy
tidy: ## Run only the checks of the repository itself: arrows, levels, headers, paths, metrics
	$(CARGO) test --package cluster-tests --test tidy --locked

.PHONY: deny
deny: ## Check licences, banned crates and advisories (needs cargo-deny: `cargo install --locked cargo-deny`)
	$(CARGO) deny --locked check

##@ Measure
.PHONY: bench
bench: release ## Measure uneven load against even load on a local shoal with the stand-in engine
	$(RELEASE)/cluster-sim bench skew --nodes $(NODES)

.PHONY: drill
drill: release ## Every drill on a local shoal under load, short; fails when a request failed that should not have
	$(RELEASE)/cluster-sim drill all

##@ Help
.PHONY: prepare
prepare: ## Check the tools that a build needs, and install or name what is missing
	tests/prepare tools

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
