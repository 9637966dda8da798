# Assay. `make help` lists what there is.
#
# demo and test set everything up by themselves and never build the tools of
# tools/go.mod; lint and generate do.

GO      ?= go
BIN     := bin
TOOLS   := $(CURDIR)/$(BIN)/tools
MODTOOL := cd tools && GOBIN=$(TOOLS) $(GO) install

.DEFAULT_GOAL := help
.PHONY: help demo build signer install uninstall dist test lint generate fuzz bench tools soak

help: ## what there is to make
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## simulated enclaves, a guest and a machine attest; others are refused, and told why
	@bash scripts/demo.sh

build: ## the binaries, into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -tags=grpcnotrace -ldflags="-s -w" -o $(BIN)/ ./cmd/...

signer: ## bin/assay-signer, a module of its own (needs a C compiler)
	@mkdir -p $(BIN)
	CGO_ENABLED=1 $(GO) -C cmd/assay-signer build -trimpath -ldflags="-s -w" -o $(CURDIR)/$(BIN)/ .

PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= /etc
UNITDIR    ?= $(if $(filter /usr,$(PREFIX)),/usr/lib/systemd/system,/etc/systemd/system)
install: build ## binaries, units, completions and documents below PREFIX (default /usr/local)
	@BIN=$(BIN) PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) UNITDIR=$(UNITDIR) bash scripts/install.sh install

uninstall: ## takes away what install put there; data and configuration stay
	@BIN=$(BIN) PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) UNITDIR=$(UNITDIR) bash scripts/install.sh uninstall

DIST ?= dist
dist: ## tarballs and .deb for amd64 and arm64, SHA256SUMS, SBOMs, into dist/; repeatable
	@$(GO) -C scripts/dist run . -source $(CURDIR) -out $(abspath $(DIST)) $(if $(VERSION),-version $(VERSION))

test: ## everything: unit, negative, end to end, race; installs what it lacks
	@bash scripts/test.sh

lint: tools ## golangci-lint and buf lint, as pinned in tools/go.mod
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/buf lint

generate: tools ## generated code and documents; leaves no diff
	PATH="$(TOOLS):$$PATH" $(TOOLS)/buf generate
	$(GO) generate ./...

FUZZTIME ?= 1m
fuzz: ## every fuzz target for FUZZTIME (default 1m) each
	@bash scripts/fuzz.sh $(FUZZTIME)

BENCH ?= .
bench: ## benchmarks, as ratios to what can't be avoided
	@bash scripts/bench.sh '$(BENCH)'

SEED ?=
soak: ## two servers, one PostgreSQL, fifty agents: ten minutes of killing and rotating
	@bash scripts/soak.sh $(SEED)

tools: $(TOOLS)/.built
$(TOOLS)/.built: tools/go.mod tools/go.sum
	@echo "building the tools of tools/go.mod (some minutes at first)"
	@mkdir -p $(TOOLS)
	$(MODTOOL) tool
	@touch $@
