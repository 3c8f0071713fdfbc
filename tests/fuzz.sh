#!/usr/bin/env bash
# Fuzzes the parsers of foreign bytes: for each target it replays the committed corpus, then explores. What it finds that
# breaks a rule is kept in tests/fuzz/artifacts, and the run fails.
#
#   tests/fuzz.sh [SECONDS [TARGET...]]   seconds of exploring a target (default: FUZZ_SECONDS, else 10), and which targets
#
# It needs a nightly toolchain and a C++ compiler. cargo-fuzz, the build and what exploring adds to the corpus are kept in a
# cache outside the clone (TALLYLIGHT_CACHE, default ${XDG_CACHE_HOME:-~/.cache}/tallylight), so a later run goes on where
# this one ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TALLYLIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tallylight}
seconds=${1:-${FUZZ_SECONDS:-10}}
shift $(($# > 0 ? 1 : 0))
cargo_fuzz_version=0.13.2
nightly=${FUZZ_TOOLCHAIN:-nightly}

fail() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }

[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "'$seconds' is no number of seconds"
rustc "+$nightly" --version >/dev/null 2>&1 \
  || fail "a nightly toolchain is missing; run: rustup toolchain install nightly --profile minimal"
command -v c++ >/dev/null || fail "a C++ compiler is missing; run: apt-get install g++"

tools=$cache/tools/cargo-fuzz-$cargo_fuzz_version
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
  printf 'fuzz: building cargo-fuzz %s into %s, once\n' "$cargo_fuzz_version" "$tools"
  CARGO_TARGET_DIR=$cache/tools/.cargo-fuzz-target cargo install --locked --quiet cargo-fuzz \
    --version "$cargo_fuzz_version" --root "$tools"
  rm -rf "$cache/tools/.cargo-fuzz-target"
fi
export PATH=$tools/bin:$PATH
# The flags of the workspace's own builds, such as -D warnings, are not for the sanitizer's.
unset RUSTFLAGS CARGO_TARGET_DIR CARGO_BUILD_TARGET

cd "$here/fuzz"
fuzz() { cargo "+$nightly" fuzz "$@"; }
build=(--fuzz-dir . --target-dir "$cache/fuzz-target")
# No input may take 5 seconds, hold 512 MiB (of which the sanitizer's own are most), or ask for 8 MiB at once.
limits=(-timeout=5 -rss_limit_mb=512 -malloc_limit_mb=8)

[ $# -gt 0 ] || mapfile -t targets < <(fuzz list --fuzz-dir .)
[ $# -eq 0 ] || targets=("$@")
[ ${#targets[@]} -gt 0 ] || fail "there are no targets in $here/fuzz"
fuzz build "${build[@]}"
for target in "${targets[@]}"; do
  [ -n "$(ls -A "corpus/$target" 2>/dev/null)" ] || fail "the corpus of $target is missing: tests/fuzz/corpus/$target"
  explored=$cache/fuzz-corpus/$target
  mkdir -p "$explored"
  log=$cache/fuzz-corpus/$target.log
  # the first folder takes what is new, so the committed one is only read
  for arguments in "-runs=0" "-max_total_time=$seconds"; do
    fuzz run "${build[@]}" "$target" "$explored" "corpus/$target" -- "$arguments" "${limits[@]}" >"$log" 2>&1 \
      || { tail -n 60 "$log" >&2; fail "$target failed; see above, and tests/fuzz/artifacts/$target for the input"; }
  done
  printf 'fuzz: %-16s %6d inputs in the committed corpus, %s\n' "$target" "$(find "corpus/$target" -type f | wc -l)" \
    "$(grep -E '^Done ' "$log" | tail -n 1)"
done
