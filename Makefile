# The one entry point: `make` alone lists the targets. What needs more than a line is a script in conf/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

# Where the outputs lie is a promise, whatever the caller has set.
export CARGO_TARGET_DIR := $(CURDIR)/target
export CLIPPY_CONF_DIR := $(CURDIR)/conf

# In CI the lock file is law and a test that cannot run is a failure.
LOCKED := $(if $(CI),--locked)
ifdef CI
export TESTS_MUST := 1
endif

CARGO := conf/cargo.sh
TIME ?= 60
KEEP ?=
MESH ?=
BACKEND ?=
VERSION := $(shell sed -n '/^\[workspace.package\]/,/^$$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
IMAGE ?= localhost/shunt:$(VERSION)
PLANS ?= 5000
SEED ?= 1
ONLY ?=
KERNEL ?=
CGROUP ?= unified hybrid
JOBS ?=
QUICK ?=

# What `make test-cluster` needs of the caller
NEXT_IMAGE ?= $(IMAGE)-next
POD_IMAGE ?=
VALUES ?=

.PHONY: help deps build kernel image manifests demo demos test lint fmt bench bench-quick fuzz parity ci clean
.PHONY: test-envoy test-containerd node-tools test-node test-images test-cluster test-kernel

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

deps: ## install what is missing on this machine, pinned; says what it did
	@conf/deps.sh build image demo test lint fuzz

kernel:
	@conf/deps.sh --quiet build
	@conf/kernel.sh

build: kernel ## the kernel object, then target/release/{shunt,shuntctl,shunt-installer}
	@conf/build.sh $(LOCKED)

image: build ## target/image and target/image.tar: the installer's image as an OCI layout (IMAGE=localhost/shunt:0.1.0)
	@conf/deps.sh --quiet image
	@conf/image.py --name $(IMAGE) --version $(VERSION)

manifests: ## conf/kustomize anew, from conf/chart
	@conf/deps.sh --quiet ship
	@conf/manifests.py

demo: build ## a pod meshed by a real ADD, with a real Envoy, on one screen (MESH=linkerd, BACKEND=iptables, KEEP=1)
	@conf/deps.sh --quiet demo
	@$(CARGO) build --quiet $(LOCKED) -p shunt-tests --bin demo
	@target/debug/demo $(if $(MESH),--mesh $(MESH)) $(if $(BACKEND),--backend $(BACKEND)) $(if $(KEEP),--keep)

demos: build ## the demo for every mesh on both backends, a line each
	@conf/deps.sh --quiet demo
	@$(CARGO) build --quiet $(LOCKED) -p shunt-tests --bin demo
	@conf/demos.sh

test: build ## every test, as root; ends with how many passed and failed
	@conf/deps.sh --quiet test
	@conf/test.sh $(LOCKED)

test-envoy: build ## a real Envoy in the path, alone: every protocol each way, restarts under traffic, the meshes' validators; a table at the end
	@conf/deps.sh --quiet test
	@rm -f target/envoy.txt; $(CARGO) test $(LOCKED) -p shunt-tests --test envoy || failed=1; \
	cat target/envoy.txt; exit $${failed:-0}

test-containerd: build ## containerd 2 and 1.6 by their CRI, on machines in namespaces; a table at the end (ONLY='words of a line')
	@conf/deps.sh --quiet containerd
	@conf/probe.sh $(LOCKED)
	@$(CARGO) build --quiet $(LOCKED) -p shunt-tests --bin probe
	@$(CARGO) test --quiet $(LOCKED) -p shunt-tests --test containerd -- $(ONLY)

lint: ## formatting, clippy for both sides, lints on in every package
	@conf/deps.sh --quiet build lint
	@conf/lint.sh $(LOCKED)

fmt: ## format the source
	@$(CARGO) fmt --all -- --config-path conf

bench: build ## what interception costs, with Shunt, with iptables, with Istio's tool and with nothing (RUNS=200, ONLY="path process")
	@conf/deps.sh --quiet bench
	@ONLY="$(ONLY)" conf/bench.sh $(LOCKED)

bench-quick: build ## the same in two minutes: the main rows, a few rounds
	@conf/deps.sh --quiet bench
	@BENCH_QUICK=1 ONLY="$(ONLY)" conf/bench.sh $(LOCKED)

fuzz: kernel ## each fuzz target for TIME=60 seconds
	@conf/deps.sh --quiet fuzz
	@conf/fuzz.sh $(TIME)

parity: build ## PLANS=5000 random plans, every backend beside the decision; SEED=1 says which
	@conf/deps.sh --quiet test
	@PLANS=$(PLANS) SEED=$(SEED) $(CARGO) test $(LOCKED) -p shunt-tests --test parity -- --nocapture

node-tools: image
	@conf/deps.sh --quiet node
	@conf/probe.sh $(LOCKED)

test-node: node-tools ## the chart on a Kubernetes node of its own: pods, reboots, upgrades, uninstall (ONLY="reboot", KEEP=1)
	@env -u KUBECONFIG KEEP=$(KEEP) $(CARGO) test --quiet $(LOCKED) -p shunt-tests --test node -- $(ONLY)

test-images: node-tools ## target/test-images: what has to be pushed for `make test-cluster`, besides target/image.tar
	@$(CARGO) test --quiet $(LOCKED) -p shunt-tests --test node -- --images

test-cluster: ## the same scenarios as far as they need no node (KUBECONFIG=, IMAGE=, NEXT_IMAGE=, POD_IMAGE=, VALUES="platform=gke")
	@conf/deps.sh --quiet node
	@KUBECONFIG="$(KUBECONFIG)" IMAGE=$(IMAGE) NEXT_IMAGE=$(NEXT_IMAGE) POD_IMAGE=$(POD_IMAGE) VALUES="$(VALUES)" \
		$(CARGO) test --quiet $(LOCKED) -p shunt-tests --test node -- $(ONLY)

test-kernel: build ## the suites on Debian's kernels in qemu (KERNEL=6.1, CGROUP="unified hybrid", JOBS="kernel cases", QUICK=1)
	@KERNEL="$(KERNEL)" conf/deps.sh --quiet kernels demo
	@KERNEL="$(KERNEL)" conf/kernels.sh $(if $(QUICK),--quick) --cgroups "$(CGROUP)" --jobs "$(JOBS)"

ci: ## lint, build, test, the demo and all demos, each with its time
	@conf/ci.sh lint build test demo demos

clean: ## remove what was built; the tools in the user's cache stay
	@rm -rf target
