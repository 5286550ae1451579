# make without a word says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A go that is new enough, wherever it is; see .ci/find-go.
GO := $(shell .ci/find-go 2>/dev/null)
ifneq ($(GO),)
export PATH := $(dir $(GO)):$(PATH)
endif

# Static, the same bytes wherever it is built, no C.
export CGO_ENABLED := 0
BUILD := go build
# Go 1.26 keeps its collector's marks in the last page of each span. A start would
# touch, and a waiting launcher keep, some thirty pages for a collector that runs never
# or once; the one before can still be had.
ifneq ($(filter go1.26 go1.26.%,$(shell go env GOVERSION 2>/dev/null)),)
export GOEXPERIMENT ?= nogreenteagc
endif
# The programs begin in internal/entry; what only measures them begins as usual.
ENTRY = -E launch/internal/entry.begin
FLAGS = -trimpath -buildvcs=false -ldflags='-s -w $(ENTRY)$(if $(RELEASE), -X launch/internal/cli.Release=$(RELEASE))'

PREFIX ?= /usr/local
FUZZTIME ?= 30s
ROUNDS ?= 40
BASE ?= HEAD

# Where things are built, and where the finished programs go.
OUT ?= .cache
BIN ?= bin

.PHONY: help go build install deb run test unit deps bench bench-images bench-base compare faults hostile peers ocisuite engines bundles checkpoint host images fuzz cross clean

help: ## what there is
	@echo "make WORD, where WORD is one of:"
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 12

go:
	@.ci/find-go >/dev/null

# The linker's own output starts 0.2 ms or more slower than a copy of it, so
# bin/ holds copies.
build: go ## bin/launch, static
	@mkdir -p $(BIN) $(OUT)/build
	@$(BUILD) $(FLAGS) -o $(OUT)/build/ ./cmd/...
	@install -m 0755 $(OUT)/build/* $(BIN)/

install: build ## PREFIX=/usr/local, DESTDIR=
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 0755 $(BIN)/* $(DESTDIR)$(PREFIX)/bin/
	ln -sf launch $(DESTDIR)$(PREFIX)/bin/exec-in-host-mount-namespace
	@for page in man/*.[1-8]; do \
		[ ! -e "$$page" ] || install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man$${page##*.} "$$page"; \
	done
	@unit() { \
		install -d "$$(dirname "$$2")" && sed 's|/usr/local/bin/|$(PREFIX)/bin/|' "$$1" >"$$2" && chmod 0644 "$$2"; \
	}; \
	for u in units/*.service; do unit "$$u" $(DESTDIR)$(PREFIX)/lib/systemd/system/$${u##*/}; done; \
	for u in units/user/*.service; do unit "$$u" $(DESTDIR)$(PREFIX)/lib/systemd/user/$${u##*/}; done; \
	for u in units/*.d/*.conf; do unit "$$u" $(DESTDIR)$(PREFIX)/share/launch/$${u#units/}; done
	install -D -m 0644 units/launch.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/launch.conf
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/launch/examples examples/*
	install -m 0644 README.md CHANGELOG.md DESIGN.md LICENSE $(DESTDIR)$(PREFIX)/share/doc/launch/
	install -D -m 0644 completions/launch $(DESTDIR)$(PREFIX)/share/bash-completion/completions/launch
	install -D -m 0644 completions/_launch $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_launch
	install -D -m 0644 completions/launch.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/launch.fish

# The version is that of the last commit: there is no other yet.
VERSION ?= $(shell git log -1 --date=format:%Y%m%d --format=0~%cd+%h 2>/dev/null || echo 0~dev)

deb: go ## a Debian package, in OUT=.cache
	@rm -rf $(OUT)/deb
	@$(MAKE) install DESTDIR=$(abspath $(OUT))/deb PREFIX=/usr BIN=$(abspath $(OUT))/deb-bin RELEASE='$(VERSION)' >/dev/null
	@.ci/deb $(OUT)/deb '$(VERSION)' "$$(go env GOARCH)" $(OUT)

# A machine that is thrown away: the host's own /usr, read-only, and a tmpfs
# for everything else.
THROWAWAY := $(BIN)/launch --directory=/ --volatile=yes --machine=throwaway

run: build ## start a throw-away machine on this host's /usr
	@if [ -t 0 ] && [ -t 1 ]; then \
		.ci/as-root $(THROWAWAY) /bin/sh; \
	else \
		.ci/as-root $(THROWAWAY) --quiet --console=pipe /bin/sh -c \
			'echo "host name  $$(cat /proc/sys/kernel/hostname)"; \
			 echo "process    $$$$, the first of $$(ls -d /proc/[0-9]* | wc -l)"; \
			 echo "mounts     $$(wc -l </proc/self/mountinfo)"; \
			 echo "container  $$container"' </dev/null; \
	fi

# Tests run as root where that is possible: what launch does is root's work.
TEST := go run ./internal/rules/report -summary $(OUT)/summary
GOTEST := go test -json -count=1 -exec '$(CURDIR)/.ci/as-root'

test: go ## everything that holds every day: checks, unit tests, root tests
	@.ci/deps || true
	@mkdir -p $(OUT)
	@$(TEST) \
		-check 'gofmt .ci/gofmt' \
		-check 'vet go vet ./...' \
		-check 'vet-faults go vet -tags faults ./...' \
		-check 'vet-arm64 env GOARCH=arm64 go vet ./...' \
		-check 'staticcheck go tool -modfile=go.tool.mod staticcheck ./...' \
		-- $(GOTEST) ./...

unit: go ## the tests alone, as whoever you are; what needs root is skipped
	@go test ./...

deps: ## install what the tests need, by apt
	@.ci/deps

# The slow tests live beside the everyday ones, behind LAUNCH_TEST.
faults: go ## let each system call fail once, and kill the launcher after each
	@mkdir -p $(OUT)
	@LAUNCH_TEST=faults $(TEST) -- $(GOTEST) -timeout=60m -tags faults -run 'Fault' ./...

hostile: go ## trees and files that mean harm
	@mkdir -p $(OUT)
	@LAUNCH_TEST=hostile $(TEST) -- $(GOTEST) -timeout=90m -run 'Hostile' ./...

peers: go ## all that is held to systemd-nspawn, by running both
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=peers $(TEST) -- $(GOTEST) -timeout=30m -run 'Peer' ./...

compare: go ## what a payload sees, and its host, under systemd-nspawn and under launch
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=peers $(TEST) -- $(GOTEST) -timeout=30m -run 'TestPeersSee' ./internal/itest/compare ./internal/itest/host ./internal/itest/network

# The outside suites take RUNTIME=/path/of/another/runtime, with which they are
# tried themselves. Without it they take launch-oci as it is built from here.
SUITE = RUNTIME='$(RUNTIME)' ENGINES='$(ENGINES)' CHECKS='$(CHECKS)' CASES='$(CASES)' BUNDLES='$(BUNDLES)' $(TEST) -- $(GOTEST)

ocisuite: go ## runtime-tools' validation programs against launch-oci, or RUNTIME=…
	@mkdir -p $(OUT)
	@$(SUITE) -timeout=20m ./internal/itest/ocisuite

engines: go ## podman, buildah, containerd, CRI and docker with launch-oci, or RUNTIME=…; ENGINES=peers for the newest
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=engines $(SUITE) -timeout=60m -run TestEngines ./internal/itest/engines

bundles: go ## the same bundles and command lines under the newest runc and crun and launch-oci; BUNDLES=10000 for that many by chance
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=bundles REPORT='$(CURDIR)/$(OUT)/bundles.txt' $(SUITE) -timeout=180m -run 'TestBundles|TestVerbs' ./internal/itest/bundles

checkpoint: go ## launch-oci checkpoint and restore, with the newest CRIU
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=checkpoint $(SUITE) -timeout=20m ./internal/itest/checkpoint

host: go ## hosts with systemd, of two Debian releases, and all that is done with machines there (LAUNCH_HOST=launch boots the hosts, too)
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=host $(TEST) -- $(GOTEST) -timeout=60m ./internal/itest/host

images: go ## images against skopeo, umoci and hostile registries, pulls that are killed
	@.ci/deps || true
	@mkdir -p $(OUT)
	@LAUNCH_TEST=images $(TEST) -- $(GOTEST) -timeout=60m ./internal/itest/images ./oci/layer ./oci/store ./oci/image

fuzz: go ## each parser for FUZZTIME=30s
	@.ci/fuzz $(FUZZTIME)

bench: private ENTRY =
bench: build ## times and memory, beside the floor, systemd-nspawn, crun and runc (ROUNDS=40; BENCH=-fifo on a busy computer)
	@.ci/deps || true
	@$(BUILD) $(FLAGS) -o $(OUT)/bench ./bench
	@.ci/as-root $(OUT)/bench $(BENCH) -rounds $(ROUNDS) -alive 100 -oci $(BIN)/launch-oci -launch launch=$(BIN)/launch
	@.ci/as-root $(OUT)/bench -mounts -rounds 9
	@go test -run '^$$' -bench Registration -benchtime 1x -exec '$(CURDIR)/.ci/as-root' ./internal/itest/host

bench-images: private ENTRY =
bench-images: build ## pulls beside podman, and skopeo with umoci, and starts beside those from a directory (TREE=/an/OS/tree)
	@.ci/deps || true
	@$(BUILD) $(FLAGS) -o $(OUT)/bench ./bench
	@.ci/as-root $(OUT)/bench -pull '$(TREE)' -rounds 10 -launch launch=$(BIN)/launch

bench-base: private ENTRY =
bench-base: build ## start-up time of this tree beside that of a commit (BASE=HEAD)
	@rm -rf $(OUT)/base && mkdir -p $(OUT)/base
	@git archive $(BASE) | tar -x -C $(OUT)/base
	@$(MAKE) -C $(OUT)/base build BIN=bin OUT=.cache && install -m 0755 $(OUT)/base/bin/launch $(OUT)/base-launch
	@rm -rf $(OUT)/base
	@$(BUILD) $(FLAGS) -o $(OUT)/bench ./bench
	@.ci/as-root $(OUT)/bench $(BENCH) -rounds $(ROUNDS) -launch base=$(OUT)/base-launch -launch here=$(BIN)/launch

cross: go ## build for arm64
	@GOARCH=arm64 $(BUILD) $(FLAGS) -o $(OUT)/arm64/ ./cmd/...

clean: ## remove what was built
	@rm -rf $(BIN) $(OUT)
