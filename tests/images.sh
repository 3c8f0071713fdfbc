#!/usr/bin/env bash
# images.sh BINARIES OUT: builds the final stages of the Dockerfile from a folder that holds the binaries (`make static`), so
# without pulling an image, proves what docs/install.md promises of them, and leaves OUT/operator.tar and OUT/media-node.tar.
# Needs root and buildah; its storage is a folder of its own, gone at the end.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binaries=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
limit=$((30 << 20)) # bytes of an image

fail() { printf 'images: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || fail 'buildah runs as root here'
command -v buildah >/dev/null || fail 'buildah is missing; run: tests/setup.sh cluster'

work=$(mktemp -d)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
trap 'rm -rf --one-file-system "$work"' EXIT

# The build stage is what the folder stands for.
sed '/^FROM .* AS build$/,/^$/d' "$root/Dockerfile" >"$work/Dockerfile"
mkdir "$work/context" && mkdir "$work/context/out"
install -t "$work/context/out" "$binaries"/tallylight-operator "$binaries"/tallylight-media-node
install -m 644 -t "$work/context/out" "$binaries/ca-certificates.crt"

build() { # target archive
  local ref=localhost/tallylight/$1:test
  buildah "${storage[@]}" bud --quiet --no-cache --timestamp "$SOURCE_DATE_EPOCH" --target "$1" --tag "$ref" \
    --build-context "build=$work/context" --file "$work/Dockerfile" "$work/context" >/dev/null
  buildah "${storage[@]}" push --quiet "$ref" "oci-archive:$2:$ref" >/dev/null
}

mb() { awk -v bytes="$1" 'BEGIN { printf "%.1f MB", bytes / 1000000 }'; }
digest() { tar -xOf "$1" index.json | sed -nE 's/.*"digest":"([^"]+)".*/\1/p'; }

check_binary() { # file
  file_type=$(readelf -lW "$1")
  ! grep -q 'INTERP' <<<"$file_type" || fail "$1 is not static"
  readelf -SW "$1" | grep -q '\.dep-v0' || fail "$1 does not list what it is made of"
  ! readelf -SW "$1" | grep -q '\.debug_info' || fail "$1 is not stripped"
  ! grep -aqF -e "${HOME:?}/" -e "$root/" "$1" || fail "$1 holds a path of this machine"
  env -i "$1" --version >/dev/null || fail "$1 does not run"
}

for target in operator media-node; do
  check_binary "$binaries/tallylight-$target"
  build "$target" "$work/$target.tar"
  build "$target" "$work/again.tar"
  [ "$(digest "$work/$target.tar")" = "$(digest "$work/again.tar")" ] || fail "two builds of $target differ"
  rm "$work/again.tar"
  size=$(stat -c %s "$work/$target.tar")
  [ "$size" -le "$limit" ] || fail "$target has $size bytes, more than $limit"
  user=$(buildah "${storage[@]}" inspect --type image --format '{{.OCIv1.Config.User}}' "localhost/tallylight/$target:test")
  [ "$user" = 65532:65532 ] || fail "$target runs as $user"
  container=$(buildah "${storage[@]}" from --pull-never "localhost/tallylight/$target:test")
  files=$(cd "$(buildah "${storage[@]}" mount "$container")" && find . -type f | sort | tr '\n' ' ')
  wanted="./etc/ssl/certs/ca-certificates.crt ./usr/local/bin/tallylight-$target "
  [ "$files" = "$wanted" ] || fail "$target holds $files"
  buildah "${storage[@]}" rm "$container" >/dev/null
  mv "$work/$target.tar" "$out/$target.tar"
  printf 'images: %-12s %s, binary %s  %s\n' "$target" "$(mb "$size")" \
    "$(mb "$(stat -c %s "$binaries/tallylight-$target")")" "$(digest "$out/$target.tar")"
done
