# What one does with the repository, by name. The work is in dev/ and .ci/; `make help` lists the targets.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help build test lint fmt demo demo-stop bench fuzz torture install uninstall

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

build: ## the program, as target/release/shale in the directory that dev/env names
	dev/packages build
	dev/check build

install: ## the built program with units, pages and completions: PREFIX=/usr/local DESTDIR= SYSCONFDIR=/etc
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SYSCONFDIR="$(SYSCONFDIR)" dev/install

uninstall: ## removes what install made; settings, state and cache stay
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" SYSCONFDIR="$(SYSCONFDIR)" dev/install remove

test: ## every test; as root also those that mount, boot and make devices
	dev/packages build test
	dev/check build inputs tests examples

lint: ## format, clippy, licences and bans, documentation, scripts
	dev/packages build lint
	dev/check lock format scripts deny clippy docs

fmt: ## formats the sources
	cargo fmt --all

bench: ## one row of docs/benchmarks.md, measured next to its peers: make bench ROW=P1
	@test -n "$(ROW)" || { echo "make bench ROW=M1, or another row of docs/benchmarks.md" && false; }
	dev/packages build test bench
	dev/check build
	. dev/env && "$$CARGO_TARGET_DIR/release/bench" $(ROW)

MINUTES ?= 10
fuzz: ## coverage-guided fuzzing of everything that reads bytes of strangers: make fuzz MINUTES=60
	dev/packages build
	dev/fuzz $(MINUTES)

torture: ## guests and mounts that check their bytes while all around them is killed, cut and flipped: make torture MINUTES=60 SEED=
	dev/packages build test
	dev/check build
	. dev/env && "$$CARGO_TARGET_DIR/release/torture" $(MINUTES) $(SEED)

demo: ## the whole way, shown: push, compose, boot lazily over a slow link; CHECK=1 asserts and cleans up
	dev/demo $(if $(CHECK),check,start)

demo-stop: ## ends what `make demo` left running
	dev/demo stop
