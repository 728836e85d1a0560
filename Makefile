# husk: every way to build, test and run it. `make help` lists the targets.

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A Go that is new enough, wherever scripts/setup.sh put it.
export PATH := $(shell scripts/setup.sh --go):$(PATH)
export CGO_ENABLED := 0
# Paths are left out of what is built, so that the build cache serves every checkout.
export GOFLAGS := -tags=no_grpc -buildvcs=false -trimpath

BIN     := bin
TESTBIN := $(BIN)/test
PREFIX  ?= /usr/local
DESTDIR ?=
IMAGE   ?= localhost/husk:latest
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

GO_BUILD   := go build -ldflags '$(LDFLAGS)'
GOARCHES   := amd64 arm64 ppc64le riscv64 s390x
PROGRAMS   := $(addprefix $(BIN)/,containerd-shim-husk-v2 husk husk-vmm husk-net)
ASSETS     := $(BIN)/husk-kernel $(BIN)/husk-initramfs

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
# The newest containerd; the oldest supported one is the distribution's package.
CONTAINERD  := github.com/containerd/containerd/v2
# Its releases do not build any more; this commit does.
RUNTIMETEST := github.com/opencontainers/runtime-tools/cmd/runtimetest@v0.9.1-0.20251114084447-edf4cb3d2116
# Packages whose unit tests find more to do where KVM and vhost-net are.
UNIT_KVM    := $(patsubst %,$(TESTBIN)/unit/%.test,kvm vcpu arch boot virtio/net)
# Architectures that there is a guest kernel of, and a test in QEMU.
FOREIGN     ?= arm64 s390x
FOREIGN_ASSETS = $(foreach a,$(FOREIGN),$(BIN)/$a/husk-kernel $(BIN)/$a/husk-initramfs)
FUZZTIME    ?= 30s
RUN         ?= .
# See scripts/e2e.sh. With CGROUP or DRIVER given, one cell of that matrix runs: by default in the test host alone.
ifneq ($(CGROUP)$(DRIVER),)
JOBS        ?= kvm-2
endif
CGROUP      ?= v2
DRIVER      ?= cgroupfs
JOBS        ?= kvm-2 qemu-2 files kvm-1 cri-2 crio foreign unit-qemu unit-kvm

##@ Everyday

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup-build build $(TESTBIN)/demo $(TESTBIN)/containerd $(TESTBIN)/image.tar ## Set up, build, and watch containers run in microVMs
	@$(TESTBIN)/demo

.PHONY: test
test: setup check unit unit-cross fuzz-seeds build cross e2e ## Everything: format, vet, lint, unit tests, fuzz seeds, all architectures, end-to-end tests
	@echo "make test: all passed"

.PHONY: build
build: $(PROGRAMS) $(ASSETS) ## Build all of husk into bin/, runnable in place

.PHONY: install
install: build ## Install under PREFIX (default /usr/local), below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/husk $(DESTDIR)$(PREFIX)/share/husk
	install -m 755 $(BIN)/containerd-shim-husk-v2 $(BIN)/husk $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(BIN)/husk-vmm $(BIN)/husk-net $(DESTDIR)$(PREFIX)/lib/husk/
	install -m 644 $(ASSETS) $(DESTDIR)$(PREFIX)/share/husk/

.PHONY: uninstall
uninstall: ## Remove what install put there
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/containerd-shim-husk-v2 bin/husk lib/husk/husk-vmm lib/husk/husk-net share/husk/husk-kernel share/husk/husk-initramfs)
	-rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/lib/husk $(DESTDIR)$(PREFIX)/share/husk

.PHONY: image
image: $(BIN)/husk-image.tar ## The image that installs husk on the nodes of a cluster (deploy/kubernetes), called IMAGE

.PHONY: setup
setup: ## Install the packages and the Go that building and testing need
	@scripts/setup.sh

.PHONY: setup-build
setup-build:
	@scripts/setup.sh --build

.PHONY: clean
clean: ## Remove bin/; caches outside of the checkout stay
	rm -rf $(BIN)

##@ Checks

.PHONY: check
check: ## gofmt, go vet, staticcheck, generated code is current
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	@scripts/proto.sh --check

.PHONY: unit
unit: ## Unit tests, with the race detector
	@# A program with the race detector waits for a second at its end, by default; the agent's tests start many.
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 go test -race $$(go list ./... | grep -v -e /test/e2e -e /test/cri -e /test/bench -e /test/foreign)
	go test ./vmm/jail # what the race detector's cgo keeps it from

.PHONY: unit-cross
unit-cross: ## Unit tests on s390x (big-endian) and arm64, emulated by qemu-user
	@scripts/cross.sh s390x arm64

.PHONY: fuzz-seeds
fuzz-seeds: ## Run each fuzz target over its seeds
	go test -run '^Fuzz' $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u | sed 's,^,./,')

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (default 30s)
	@git grep -l '^func Fuzz' -- '*_test.go' | while read -r f; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$$f"); do \
			echo "== $$target in $$f"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$(dirname "$$f")"; \
		done; \
	done

.PHONY: e2e
e2e: build $(TESTBIN)/host $(TESTBIN)/e2e.test $(TESTBIN)/cri.test $(TESTBIN)/crio.test $(TESTBIN)/runtimetest $(TESTBIN)/containerd $(TESTBIN)/image.tar $(TESTBIN)/pause.tar $(UNIT_KVM) $(if $(filter files,$(JOBS)),$(TESTBIN)/debian.tar $(TESTBIN)/posix) $(if $(filter qemu-2,$(JOBS)),$(BIN)/husk-image.tar) $(if $(filter foreign,$(JOBS)),$(FOREIGN_ASSETS)) ## End-to-end tests through containerd; RUN=regexp, CGROUP=v1|v1-nofreezer|hybrid|v2, DRIVER=cgroupfs|systemd, JOBS="…"
	@scripts/e2e.sh '$(RUN)' '$(CGROUP)' '$(DRIVER)' $(JOBS)

.PHONY: foreign
foreign: $(FOREIGN_ASSETS) ## Containers in machines of FOREIGN (default arm64 s390x), emulated by QEMU
	HUSK_TEST_FOREIGN='$(FOREIGN)' go test -count=1 -v ./test/foreign

.PHONY: bench
bench: setup build $(TESTBIN)/host $(TESTBIN)/bench $(TESTBIN)/reboot-initramfs $(TESTBIN)/containerd $(TESTBIN)/image.tar $(TESTBIN)/pause.tar ## Benchmarks against runc and QEMU, as ratios of one interleaved run
	@$(TESTBIN)/bench

##@ Development

.PHONY: proto
proto: ## Generate the Go code of proto/ again
	@scripts/proto.sh

.PHONY: host-shell
host-shell: build $(TESTBIN)/host $(TESTBIN)/containerd $(TESTBIN)/image.tar ## A shell in the KVM test host, with bin/ on its PATH
	@PATH="$(CURDIR)/$(BIN):$(CURDIR)/$(TESTBIN):$$PATH" $(TESTBIN)/host -cgroup $(CGROUP) -interactive -- bash -l

.PHONY: cross
cross: $(addprefix cross-,$(GOARCHES)) ## Build the programs for every architecture, each into bin/GOARCH/

.PHONY: $(addprefix cross-,$(GOARCHES))
$(addprefix cross-,$(GOARCHES)): cross-%:
	@mkdir -p $(BIN)/$*
	@GOARCH=$* $(GO_BUILD) -o $(BIN)/$*/ ./shim/cmd/containerd-shim-husk-v2 ./shim/cmd/husk ./vmm/cmd/husk-vmm ./shim/cmd/husk-net ./guest-agent/cmd/husk-agent

.PHONY: kernel
kernel: $(BIN)/husk-kernel ## Build the guest kernel alone

.PHONY: kernel-arm64 kernel-s390x
kernel-arm64: $(BIN)/arm64/husk-kernel ## Build the guest kernel of arm64, for QEMU
kernel-s390x: $(BIN)/s390x/husk-kernel ## Build the guest kernel of s390x, for QEMU

# Go knows best what is out of date; the rest is made once.
.PHONY: FORCE
FORCE:

$(BIN)/containerd-shim-husk-v2: FORCE
	@$(GO_BUILD) -o $@ ./shim/cmd/containerd-shim-husk-v2
$(BIN)/husk: FORCE
	@$(GO_BUILD) -o $@ ./shim/cmd/husk
$(BIN)/husk-vmm: FORCE
	@$(GO_BUILD) -o $@ ./vmm/cmd/husk-vmm
$(BIN)/husk-net: FORCE
	@$(GO_BUILD) -o $@ ./shim/cmd/husk-net
$(BIN)/husk-agent: FORCE
	@$(GO_BUILD) -o $@ ./guest-agent/cmd/husk-agent
$(BIN)/husk-initramfs: $(BIN)/husk-agent
	@go run ./guest-agent/cmd/mkinitramfs -init $< -o $@
$(BIN)/%/husk-initramfs: FORCE
	@mkdir -p $(@D)
	@GOARCH=$* $(GO_BUILD) -o $(@D)/husk-agent ./guest-agent/cmd/husk-agent
	@go run ./guest-agent/cmd/mkinitramfs -init $(@D)/husk-agent -o $@
$(BIN)/husk-image.tar: build
	@tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --transform 's,.*/,husk/,' --mode=755 -P -cf $@.layer $(PROGRAMS) $(ASSETS)
	@go run ./test/image -o $@ -layer $@.layer -name $(IMAGE) -command /husk/husk && rm $@.layer
$(BIN)/husk-kernel: kernel-configs/*
	@kernel-configs/build.sh $@ && touch $@
$(BIN)/%/husk-kernel: kernel-configs/*
	@kernel-configs/build.sh -a $* $@ && touch $@

$(TESTBIN)/host $(TESTBIN)/demo $(TESTBIN)/bench: FORCE
	@$(GO_BUILD) -o $@ ./test/$(@F)
$(TESTBIN)/e2e.test $(TESTBIN)/cri.test $(TESTBIN)/crio.test: $(TESTBIN)/%.test: FORCE
	@go test -c -o $@ ./test/$*
$(TESTBIN)/unit/%.test: FORCE
	@go test -c -o $@ ./vmm/$*
$(TESTBIN)/posix: FORCE
	@$(GO_BUILD) -o $@ ./test/$(@F)
$(TESTBIN)/image.tar: FORCE
	@go run ./test/image -o $@
# With its repository, $(TESTBIN)/debian.tar.packages.
$(TESTBIN)/debian.tar: scripts/debian.sh test/image/main.go
	@scripts/debian.sh $@ && touch $@
$(TESTBIN)/pause.tar: FORCE
	@go run ./test/image -pause -o $@
$(TESTBIN)/containerd: go.mod
	@mkdir -p $@
	@v=$$(go list -m -f '{{.Version}}' $(CONTAINERD)); echo "building containerd $$v" >&2; \
	GOBIN=$(CURDIR)/$@ GOFLAGS=-tags=no_btrfs,no_zfs go install -trimpath -ldflags '-s -w' $(addsuffix @$$v,$(addprefix $(CONTAINERD)/cmd/,containerd ctr containerd-shim-runc-v2)) && touch $@
$(TESTBIN)/runtimetest:
	@GOBIN=$(CURDIR)/$(TESTBIN) GOFLAGS= go install $(RUNTIMETEST)
$(TESTBIN)/reboot-initramfs: FORCE
	@$(GO_BUILD) -o $(TESTBIN)/reboot ./test/bench/reboot
	@go run ./guest-agent/cmd/mkinitramfs -init $(TESTBIN)/reboot -o $@
