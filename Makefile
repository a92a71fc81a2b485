# Pullpiri in three commands: make run, make test, make bench. Each installs only what is missing.
SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help build run test bench image conformance soak fuzz crds fmt

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the release binary, target/release/pullpiri
	@. hack/tools.sh && build_product

run: ## play a published vehicle scenario on two nodes, live, until Ctrl-C
	@hack/run.sh

test: ## every check and every test that this machine can run
	@hack/test.sh

bench: ## measure what docs/promises.md promises; writes target/bench.json
	@hack/bench.sh

image: ## the image of all roles as an OCI archive, target/image/pullpiri.oci.tar
	@hack/image.sh

conformance: ## Kubernetes' own specs against the API server; writes docs/conformance.md
	@cargo build --quiet --package pullpiri
	@e2e/conformance/run.sh
	@[ ! -e target/conformance/run.json ] || python3 e2e/conformance/report.py docs target/conformance/run.json

soak: ## the crash and power-cut suites, long
	@hack/soak.sh

fuzz: ## the property tests with 100 times the cases
	@PROPTEST_CASES=$${PROPTEST_CASES:-25600} cargo test --workspace --lib --tests --exclude pullpiri-e2e

crds: ## regenerate crds/yaml from the types
	@cargo xtask crdgen

fmt: ## format everything
	@cargo fmt --all

.PHONY: e2e-k8s
e2e-k8s: ## the chart on a real Kubernetes, from helm install to nothing left
	@hack/e2e-k8s.sh
