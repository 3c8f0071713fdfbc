# What people run. `make test` needs Rust, Go (once) and Debian's media tools, and sets up the rest.

export TALLYLIGHT_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tallylight

cargo_deny_version := 0.20.2
cargo_deny := $(TALLYLIGHT_CACHE)/tools/cargo-deny-$(cargo_deny_version)/bin/cargo-deny
helm := $(or $(KUBE_ASSETS),$(TALLYLIGHT_CACHE)/bin)/helm

# What the chart's accounts asked of the API servers of the suites.
audit_folder := $(TALLYLIGHT_CACHE)/audit

promtool := $(TALLYLIGHT_CACHE)/bin/promtool

# The operator under test can be told to die at a named step.
test_features := --features webhook/crash-points

.PHONY: test test-unit check fix crds bench fuzz advisories setup demo-clip

# Sets up what the tests need, then runs every one and prints the counts; then holds the chart's roles against what was done.
test: setup binaries
	rm -rf $(audit_folder) && mkdir -p $(audit_folder)
	TALLYLIGHT_AUDIT_FOLDER=$(audit_folder) tests/count.sh cargo test --workspace --locked --no-fail-fast $(test_features)
	TALLYLIGHT_AUDIT_FOLDER=$(audit_folder) $(or $(CARGO_TARGET_DIR),target)/debug/rbac-coverage

# The quick inner loop: no control plane, no media tools.
test-unit:
	cargo test --workspace --exclude tests --locked

# What must hold besides: form, lints, documents, licences and the chart.
check: setup $(cargo_deny)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
	$(cargo_deny) --locked check --hide-inclusion-graph bans licenses sources
	$(helm) lint --strict --quiet charts/tallylight
	$(TALLYLIGHT_CACHE)/bin/helm-unittest --color=false charts/tallylight
	$(promtool) test rules tests/alerts.yaml

# Repairs what can be repaired by a tool.
fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Makes crds/*.yaml, the chart's copy of them and docs/api.md from the Rust types.
crds:
	cargo run --locked --quiet --package tallylight-operator -- crd --output-dir crds
	cp crds/*.yaml charts/tallylight/files/crds/
	cargo run --locked --quiet --package tallylight-operator -- crd --format markdown --output-dir docs

bench: setup
	tests/bench.sh $(BENCH)

# FUZZ_SECONDS a target; needs a nightly toolchain and cargo-fuzz, which it names when they are missing.
fuzz:
	tests/fuzz.sh

# Known vulnerabilities among the dependencies. Needs the network, so it is no part of `check`.
advisories: $(cargo_deny)
	$(cargo_deny) --locked check --hide-inclusion-graph advisories

setup:
	tests/setup.sh

.PHONY: binaries demo-clip
# The binaries that the suites start, with the tests: in one build, so that nothing is built twice with other features.
binaries:
	cargo build --workspace --bins --tests --locked $(test_features)

$(cargo_deny):
	CARGO_TARGET_DIR=$(TALLYLIGHT_CACHE)/tools/.cargo-deny-target cargo install --locked --quiet cargo-deny \
	  --version $(cargo_deny_version) --root $(TALLYLIGHT_CACHE)/tools/cargo-deny-$(cargo_deny_version)
	rm -rf $(TALLYLIGHT_CACHE)/tools/.cargo-deny-target

# Makes the clip of `standalone --demo` anew; needs ffmpeg with drawtext, and fonts.
demo-clip:
	media-node/assets/clip.sh
