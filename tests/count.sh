#!/usr/bin/env bash
# Runs a `cargo test` command, shows its output, and ends with the sums over all of its test binaries. Fails as it fails.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$@" 2>&1 | tee "$log"
status=$?
awk '
  /^test result: / {
    for (i = 1; i < NF; i++) {
      if ($(i + 1) ~ /^passed/) passed += $i
      if ($(i + 1) ~ /^failed/) failed += $i
      if ($(i + 1) ~ /^ignored/) ignored += $i
    }
    binaries++
  }
  END { printf "\n%d tests passed, %d failed, %d ignored, in %d test binaries\n", passed, failed, ignored, binaries }' "$log"
exit $status
