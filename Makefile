# Every task of this project. `make` lists them.

EVENT ?= events/post-authentication.json
FAULT ?=
VIA ?=
ARCH ?= x86_64
# The function that `make run`, `make test` and `make e2e` start.
BINARY ?= target/release/userhub-signin
ARGS ?=
ZIPS ?=
TAG ?=
ARCHES ?= x86_64 arm64
SIGN_INS ?= 100000
SECONDS ?= 60
SHORT ?=
PORT ?= 9000
BASELINE ?=
# Recipes read these from the environment, so values need no quoting.
export EVENT FAULT VIA TAG ARCHES

QUIET := $(if $(CI),--quiet)
SHELL := bash
.SHELLFLAGS := -o pipefail -c
TOOLS := $(CURDIR)/.tools
export PATH := $(TOOLS)/bin:$(PATH)
export CARGO_TARGET_DIR := $(CURDIR)/target
export USERHUB_SIGNIN_BINARY = $(abspath $(BINARY))
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-zip e2e soak outage networks fuzz mutants bench instructions lint build reproduce sbom assets release watch invoke setup pyz deploy known-arch need-cargo-lambda

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(BINARY) ## one sign-in through the function on this machine (EVENT=events/….json, FAULT=hang|refuse|reset|302|401|429|500|slow, VIA=queue)
	@cargo build $(QUIET) --locked --package userhub-signin-harness --bin run
	@target/debug/run "$$EVENT" "$$FAULT" "$$VIA"

test: $(BINARY) ## all tests: units, and the release binary from outside (needs only Rust)
	@cargo test $(QUIET) --locked --package userhub-signin --package userhub-signin-harness

test-zip: build ## the same tests with the binary from the zip that `make build` makes
	@$(MAKE) --no-print-directory test BINARY=$(UNPACKED)

e2e: $(BINARY) $(TOOLS)/.installed $(TOOLS)/e2e/.installed ## sign-ins through Cognito and Lambda emulators, and everything that uses AWS (needs Python and Node.js)
	@'$(TOOLS)/e2e/bin/ruff' check --quiet --config tools/ruff.toml ops tools tests
	@'$(TOOLS)/e2e/bin/vermin' --quiet --no-tips --violations --target=3.9- ops
	@cargo build $(QUIET) --locked --package userhub-signin-harness --bin userhub
	@PATH="$(TOOLS)/e2e/bin:$(TOOLS)/e2e/node_modules/.bin:$$PATH" MOTO_IAM_LOAD_MANAGED_POLICIES=true \
		'$(TOOLS)/e2e/bin/python' tests/e2e/run.py

soak: $(BINARY) ## many sign-ins, many at a time, with a healthy UserHub and with one that fails at random (SIGN_INS=…; Linux)
	@cargo build $(QUIET) --locked --package userhub-signin-harness --bin soak
	@target/debug/soak '$(SIGN_INS)' | $(call record,soak)

# What was measured goes into benches/measured.md and the pages that quote it, unless it was only a short form.
record = $(if $(CI)$(SHORT),cat,python3 tools/figures.py --record $(1))

outage: $(BINARY) ## what an outage of UserHub does to a pool: sign-ins refused, slow and not reported (SHORT=1; Linux; Node.js if it is there)
	@cargo build $(QUIET) --locked --profile driver --package userhub-signin-harness --features charts --bin outage
	@target/driver/outage $(if $(SHORT),short,benches/outage.svg) | $(call record,outage)

networks: $(BINARY) ## how many sign-ins are reported over slow, lossy and dead connections (SHORT=1; Linux, Python)
	@cargo build $(QUIET) --locked --package userhub-signin-harness --features tls --bin networks
	@python3 tests/networks.py $(if $(SHORT),short) | $(call record,networks)

fuzz: $(TOOLS)/bin/cargo-fuzz ## search for an event that is reported wrongly, guided by coverage (SECONDS=…)
	@mkdir -p target/fuzz target/fuzz-seeds && split --lines=1 fuzz/seeds.jsonl target/fuzz-seeds/
	@unset CARGO_TARGET_DIR && cargo fuzz run --sanitizer none event_to_request $(CURDIR)/target/fuzz $(CURDIR)/target/fuzz-seeds events -- \
		-max_total_time='$(SECONDS)' -max_len=4096 -print_final_stats=1 >target/fuzz.log 2>&1 \
		|| { tail -n 50 target/fuzz.log >&2; exit 1; }
	@sed -n 's/^stat::number_of_executed_units: */- $(SECONDS) s of fuzzing, events: /p' target/fuzz.log | $(call record,fuzz)

$(TOOLS)/bin/cargo-fuzz:
	@cargo install cargo-fuzz --quiet --locked --version 0.13.1 --root '$(TOOLS)'

# Not in CI, because it takes half an hour. What is left out changes nothing: the shifted bits end with 0, and a body is cut
# to the same length after one more chunk.
mutants: $(TOOLS)/bin/cargo-mutants $(TOOLS)/bin/cargo-nextest ## change src/ in many small ways, and see which changes no test notices (into target/mutants.out)
	@mkdir -p target && env -u USERHUB_SIGNIN_BINARY -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo mutants \
		--exclude-re 'replace \| with \^ in State::record' --exclude-re 'replace < with <= in read_body' \
		--test-tool nextest --jobs 2 --timeout 200 --output target -- --package userhub-signin --retries 1 --test-threads=5

$(TOOLS)/bin/cargo-mutants:
	@cargo install cargo-mutants --quiet --locked --version 27.1.0 --root '$(TOOLS)'

$(TOOLS)/bin/cargo-nextest:
	@cargo install cargo-nextest --quiet --locked --version 0.9.143 --root '$(TOOLS)'

lint: ## formatting, clippy, rustdoc, warnings denied; and whether the pages say what was measured
	@python3 tools/figures.py --check
	@cargo fmt --all --check
	@cargo clippy --quiet --locked --workspace --all-targets --all-features -- --deny warnings
	@RUSTDOCFLAGS='--deny warnings' cargo doc --quiet --locked --workspace --all-features --no-deps --document-private-items

bench: build ## speed, memory and size compared with the runtime's floor and Node.js (SHORT=1; Linux)
	@$(AS_BUILT) cargo lambda build $(QUIET) --locked --release --target $(TARGET).$(GLIBC) --package userhub-signin-benches --bin floor --bin post
	@python3 tools/pack.py zip $(FLOOR)/bootstrap $(FLOOR)/bootstrap.zip
	@cargo build $(QUIET) --locked --profile driver --package userhub-signin-benches --bin bench
	@target/driver/bench $(UNPACKED) $(PACKAGE)/bootstrap.zip $(FLOOR)/bootstrap $(FLOOR)/bootstrap.zip \
		target/lambda/post/bootstrap $(if $(SHORT),target short,benches full) | $(call record,bench)

FLOOR = target/lambda/floor

instructions: $(BINARY) ## instructions of a cold start and a warm sign-in compared with benches/instructions.txt (BASELINE=new; Linux, valgrind)
	@valgrind --version >/dev/null || { echo 'valgrind is missing (Debian, Ubuntu: apt install valgrind)' >&2; exit 2; }
	@cargo build $(QUIET) --locked --profile driver --package userhub-signin-benches --bin bench
	@target/driver/bench instructions "$$USERHUB_SIGNIN_BINARY" benches/instructions.txt target '$(BASELINE)'

build: known-arch need-cargo-lambda ## the zip to deploy, with cargo-lambda (ARCH=x86_64|arm64)
	@$(AS_BUILT) cargo lambda build $(QUIET) --locked --release --target $(TARGET).$(GLIBC) --bin userhub-signin
	@python3 tools/pack.py zip $(PACKAGE)/bootstrap $(PACKAGE)/bootstrap.zip
	@python3 -m zipfile --extract $(PACKAGE)/bootstrap.zip $(PACKAGE)/unpacked && chmod +x $(UNPACKED)

PACKAGE = target/lambda/userhub-signin
UNPACKED = $(PACKAGE)/unpacked/bootstrap

# The C library of provided.al2023 (https://docs.aws.amazon.com/linux/al2023/ug/glibc-gcc-and-binutils.html). For an older
# one the binary would need libraries that are empty in this one, and loading them takes 4 % of a cold start.
GLIBC = 2.34

# The oldest processors of Lambda, which cargo-lambda names if there are no flags. Every panic message contains the path of
# cargo's directory, which would make the zip different for every user.
AS_BUILT = RUSTFLAGS="-Ctarget-cpu=$(TARGET_CPU) --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=/cargo"
TARGET_CPU = $(if $(filter arm64,$(ARCH)),neoverse-n1,haswell)

reproduce: build ## build the zip again in another place, and check that it has the same bytes
	@rm -rf target/again && mkdir -p target/again
	@git ls-files -z | xargs -0 cp --parents --target-directory target/again
	@ln -s '$(TOOLS)' target/again/.tools
	@$(MAKE) --no-print-directory --directory target/again build
	@cmp $(PACKAGE)/bootstrap.zip target/again/$(PACKAGE)/bootstrap.zip && echo 'the same bytes'

sbom: known-arch $(TOOLS)/bin/cargo-cyclonedx ## the list of the binary's components, in CycloneDX format (ARCH=x86_64|arm64)
	@cargo cyclonedx --quiet --format json --spec-version 1.5 --target $(TARGET) --no-build-deps --override-filename sbom
	@mkdir -p target && sed 's|path+file://$(CURDIR)|path+file:///|' sbom.json >target/sbom-$(ARCH).json
	@rm -f sbom.json benches/sbom.json tests/harness/sbom.json

TARGET = $(if $(filter arm64,$(ARCH)),aarch64,x86_64)-unknown-linux-gnu

$(TOOLS)/bin/cargo-cyclonedx:
	@cargo install cargo-cyclonedx --quiet --locked --version 0.5.9 --root '$(TOOLS)'

assets: build sbom ## the zip and the list of its components under the names that a release gives them, into target/assets (ARCH=x86_64|arm64)
	@mkdir -p target/assets
	@cp $(PACKAGE)/bootstrap.zip target/assets/$(RELEASE)-$(ARCH).zip
	@cp target/sbom-$(ARCH).json target/assets/$(RELEASE)-$(ARCH).cdx.json

RELEASE = userhub-signin-$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)

release: ## after `make assets` for each processor: all that a tag publishes, into target/assets, but for publishing it (TAG=v…, ARCHES="x86_64 arm64")
	@python3 tools/pack.py release --tag "$$TAG" $$ARCHES

# Not in CI by themselves: a test of `make e2e` runs `make watch` and `make invoke`.
watch: need-cargo-lambda ## the function in cargo-lambda's emulator, with this shell's USERHUB_… variables, until Ctrl-C (PORT=9000)
	@cargo lambda watch --invoke-address 127.0.0.1 --invoke-port '$(PORT)'

invoke: need-cargo-lambda ## send a sample event to `make watch` (EVENT=events/….json, PORT=9000)
	@cargo lambda invoke userhub-signin --invoke-address 127.0.0.1 --invoke-port '$(PORT)' --data-file "$$EVENT"

setup: $(TOOLS)/.installed ## install cargo-lambda and SAM into .tools (needs Python 3.11 or later)
	@cargo lambda --version && sam --version

pyz: $(if $(ZIPS),,build) ## the operator's program as one file, target/userhub-signin.pyz (ZIPS="….zip ….zip": one for each processor that it holds)
	@python3 tools/pack.py pyz target/userhub-signin.pyz $(or $(ZIPS),$(PACKAGE)/bootstrap.zip)

deploy: build ## build the zip and deploy it; all other commands: python3 ops --help (ARGS="eu-west-1_… --connection-id conn_…", ARCH=arm64)
	@python3 ops deploy --zip $(PACKAGE)/bootstrap.zip $(ARGS)

known-arch:
	@case '$(ARCH)' in x86_64 | arm64) ;; *) echo 'ARCH is x86_64 or arm64, not $(ARCH)' >&2; exit 2 ;; esac

need-cargo-lambda:
	@cargo lambda --version >/dev/null 2>&1 || { echo 'cargo-lambda is missing: `make setup` installs it into .tools (to deploy, a release'"'"'s userhub-signin.pyz is enough)' >&2; exit 2; }

$(TOOLS)/.installed: tools/setup.txt
	@$(call install,$(TOOLS),$<)
	@touch $@

$(TOOLS)/e2e/.installed: tools/e2e.txt tools/checkov.txt tools/package.json tools/package-lock.json
	@$(call install,$(TOOLS)/e2e,tools/e2e.txt)
	@$(call install,$(TOOLS)/checkov,tools/checkov.txt)
	@cp tools/package.json tools/package-lock.json $(TOOLS)/e2e
	@npm ci --prefix $(TOOLS)/e2e --silent --no-audit --no-fund
	@touch $@

# A virtual environment with the pinned packages in a requirements file, which lists their dependencies too.
install = python3 -m venv '$(1)' || { echo 'python3 with its venv module is needed (Debian, Ubuntu: apt install python3-venv)' >&2; exit 2; }; \
	'$(1)/bin/pip' install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(2) && \
	'$(1)/bin/pip' check --disable-pip-version-check >/dev/null || { echo '$(2) does not fit this Python; 3.11 to 3.13 are tested' >&2; exit 2; }

# Cargo decides whether there is anything to build.
target/release/userhub-signin: FORCE
	@cargo build $(QUIET) --locked --release
FORCE:
