# Every task of this project. `make` lists them.

EVENT ?= events/post-authentication.json
FAULT ?=
ARCH ?= x86_64
# What `make run` and `make test` start.
BINARY ?= target/release/userhub-signin

QUIET := $(if $(CI),--quiet)
TOOLS := $(CURDIR)/.tools
export PATH := $(TOOLS)/bin:$(PATH)
export CARGO_TARGET_DIR := $(CURDIR)/target

.DEFAULT_GOAL := help
.PHONY: help run test test-zip lint build watch invoke setup known-arch need-cargo-lambda

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(BINARY) ## one sign-in through the real function on this machine (EVENT=events/….json, FAULT=hang|refuse|reset|401|429|500|slow)
	@cargo build $(QUIET) --locked --example local
	@USERHUB_SIGNIN_BINARY='$(abspath $(BINARY))' target/debug/examples/local '$(EVENT)' '$(FAULT)'

test: $(BINARY) ## all tests: units, and the release binary from outside (needs only Rust)
	@USERHUB_SIGNIN_BINARY='$(abspath $(BINARY))' cargo test $(QUIET) --locked

test-zip: build ## the same tests on the binary in the zip that `make build` makes
	@python3 -m zipfile --extract target/lambda/userhub-signin/bootstrap.zip target/lambda/userhub-signin/unzipped
	@chmod +x target/lambda/userhub-signin/unzipped/bootstrap
	@$(MAKE) --no-print-directory test BINARY=target/lambda/userhub-signin/unzipped/bootstrap

lint: ## formatting, clippy and documentation, warnings denied
	@cargo fmt --check
	@cargo clippy --quiet --locked --all-targets -- --deny warnings
	@RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --locked --no-deps --document-private-items

build: known-arch need-cargo-lambda ## the deployable zip, with cargo-lambda (ARCH=x86_64|arm64)
	@cargo lambda build $(QUIET) --locked --release --$(subst _,-,$(ARCH)) --output-format zip
	@ls -l target/lambda/userhub-signin/bootstrap.zip | awk '{ print $$NF ": " $$5 " bytes, $(ARCH)" }'

watch: need-cargo-lambda ## the function in cargo-lambda's emulator, with this shell's USERHUB_… variables, until Ctrl-C
	@cargo lambda watch --invoke-address 127.0.0.1

invoke: need-cargo-lambda ## send a sample event to `make watch` (EVENT=events/….json)
	@cargo lambda invoke userhub-signin --invoke-address 127.0.0.1 --data-file '$(EVENT)'

setup: ## install the extra tools (cargo-lambda) into .tools; needs Python 3.9 or later
	@python3 -m venv '$(TOOLS)' || { echo 'python3 with its venv module is needed (Debian, Ubuntu: apt install python3-venv)' >&2; exit 2; }
	@'$(TOOLS)/bin/pip' install --quiet --disable-pip-version-check --require-hashes --requirement scripts/tools.txt
	@cargo lambda --version

known-arch:
	@case '$(ARCH)' in x86_64 | arm64) ;; *) echo 'ARCH is x86_64 or arm64, not $(ARCH)' >&2; exit 2 ;; esac

need-cargo-lambda:
	@cargo lambda --version >/dev/null 2>&1 || { echo 'cargo-lambda is missing: `make setup` installs it into .tools' >&2; exit 2; }

# Cargo knows whether it has something to do.
target/release/userhub-signin: FORCE
	@cargo build $(QUIET) --locked --release
FORCE:
