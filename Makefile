# What people run. `make test` needs Rust, Go (once) and Debian's media tools, and sets up the rest.

export TALLYLIGHT_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tallylight

cargo_deny_version := 0.20.2
cargo_deny := $(TALLYLIGHT_CACHE)/tools/cargo-deny-$(cargo_deny_version)/bin/cargo-deny
cargo_auditable_version := 0.7.2
cargo_auditable := $(TALLYLIGHT_CACHE)/tools/cargo-auditable-$(cargo_auditable_version)/bin/cargo-auditable
helm := $(or $(KUBE_ASSETS),$(TALLYLIGHT_CACHE)/bin)/helm

# What the chart's accounts asked of the API servers of the suites.
audit_folder := $(TALLYLIGHT_CACHE)/audit

promtool := $(TALLYLIGHT_CACHE)/bin/promtool

# The operator under test can be told to die at a named step.
test_features := --features webhook/crash-points

.PHONY: test test-unit check fix crds bench fuzz advisories setup player demo-clip

# Sets up what the tests need, then runs every one and prints the counts; then holds the chart's roles against what was done.
test: setup binaries
	rm -rf $(audit_folder) && mkdir -p $(audit_folder)
	TALLYLIGHT_AUDIT_FOLDER=$(audit_folder) tests/count.sh cargo test --workspace --locked --no-fail-fast $(test_features)
	TALLYLIGHT_AUDIT_FOLDER=$(audit_folder) $(or $(CARGO_TARGET_DIR),target)/debug/rbac-coverage

# The quick inner loop: no control plane, no media tools. The networks that fail (media-webrtc) need root.
test-unit:
	cargo test --workspace --exclude tests --locked

# What must hold besides: form, lints, documents, licences and the chart.
check: setup $(cargo_deny)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --package tests --test e2e --locked -- -D warnings
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

# Takes the play page's hls.js from the package that tests/tools/browser pins; a test holds the copy to it. Its version is in the name that
# media-node/src/playback/page.rs serves it under.
player: setup
	install -m 644 $(TALLYLIGHT_CACHE)/bin/hls.light.min.js media-node/assets/vendor/hls.js/hls.light.min.js
	install -m 644 $(TALLYLIGHT_CACHE)/bin/hls.js-LICENSE media-node/assets/vendor/hls.js/LICENSE

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

# The binaries of the images: static, stripped, without a path of the machine in them, so that the same source gives the same
# bytes. Paths of the workspace are relative to it; a flag that named its folder would build every crate anew in each clone. CFLAGS is for
# libopus, whose assertions name their files. The list of all crates inside is embedded (cargo-auditable): scanners such as syft, trivy and `cargo audit bin` read it.
.PHONY: static images e2e
STATIC_ARCH ?= amd64
static_target := $(if $(filter arm64,$(STATIC_ARCH)),aarch64,x86_64)-unknown-linux-gnu
target_dir := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
STATIC_DIR ?= $(target_dir)/static/$(STATIC_ARCH)
cargo_home := $(or $(CARGO_HOME),$(HOME)/.cargo)
static: $(cargo_auditable)
	rustup target add $(static_target) >/dev/null 2>&1 || true
	env CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false CARGO_INCREMENTAL=0 \
	  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	  RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(cargo_home)=/cargo" \
	  CFLAGS="-ffile-prefix-map=$(cargo_home)=/cargo" \
	  PATH="$(dir $(cargo_auditable)):$$PATH" \
	  cargo auditable build --release --locked --target $(static_target) -p tallylight-operator -p tallylight-media-node
	install -D -t $(STATIC_DIR) $(target_dir)/$(static_target)/release/tallylight-operator \
	  $(target_dir)/$(static_target)/release/tallylight-media-node
	install -m 644 /etc/ssl/certs/ca-certificates.crt $(STATIC_DIR)/ca-certificates.crt

# The images, built by the Dockerfile's final stages and checked, as archives for the cluster of the tests. As root, on Debian.
images:
	tests/setup.sh cluster
	$(MAKE) --no-print-directory static
	tests/images.sh $(STATIC_DIR) $(target_dir)/images

# The life of a release on a cluster with real kubelets, as CI runs it. As root.
.PHONY: story
story: $(target_dir)/images/operator.tar
	cargo test -p tests --locked --test e2e -- --nocapture story

$(target_dir)/images/operator.tar:
	$(MAKE) --no-print-directory images

# Every way to lose a pod or a node, many times over, on a cluster with real kubelets. As root; CI runs the story of it.
e2e: images
	cargo test -p tests --locked --test e2e -- --nocapture --test-threads=1

$(cargo_auditable):
	CARGO_TARGET_DIR=$(TALLYLIGHT_CACHE)/tools/.cargo-auditable-target cargo install --locked --quiet cargo-auditable \
	  --version $(cargo_auditable_version) --root $(TALLYLIGHT_CACHE)/tools/cargo-auditable-$(cargo_auditable_version)
	rm -rf $(TALLYLIGHT_CACHE)/tools/.cargo-auditable-target

$(cargo_deny):
	CARGO_TARGET_DIR=$(TALLYLIGHT_CACHE)/tools/.cargo-deny-target cargo install --locked --quiet cargo-deny \
	  --version $(cargo_deny_version) --root $(TALLYLIGHT_CACHE)/tools/cargo-deny-$(cargo_deny_version)
	rm -rf $(TALLYLIGHT_CACHE)/tools/.cargo-deny-target

# Makes the clip of `standalone --demo` anew; needs ffmpeg with drawtext, and fonts.
demo-clip:
	media-node/assets/clip.sh
