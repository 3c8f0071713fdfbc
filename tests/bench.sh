#!/usr/bin/env bash
# Builds what is measured in the release profile, makes the clip once into the cache, and measures. Prints Markdown.
# Arguments are the parts to measure: ingest play memory mux hooks api relay operator scale (all of them when there are none).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TALLYLIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tallylight}
packages=(nginx-light libnginx-mod-rtmp)

[ "$(nproc)" -ge 2 ] || { echo 'bench: two CPUs are needed: one for the server, one for the load client' >&2; exit 1; }

if ! command -v nginx >/dev/null || [ ! -e /usr/lib/nginx/modules/ngx_rtmp_module.so ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "bench: nginx with libnginx-mod-rtmp is missing; on Debian: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
    exit 1
  fi
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
fi

# 550 kbit/s of constant bit rate, a keyframe every two seconds, and 48 kbit/s of sound.
export TALLYLIGHT_BENCH_CLIP=$cache/bench-640x360.flv
if [ ! -s "$TALLYLIGHT_BENCH_CLIP" ]; then
  mkdir -p "$cache"
  ffmpeg -nostdin -loglevel error -y \
    -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 -t 20 -pix_fmt yuv420p \
    -c:v libx264 -profile:v baseline -preset veryfast -g 50 -keyint_min 50 -sc_threshold 0 \
    -b:v 550k -minrate 550k -maxrate 550k -bufsize 550k -nal-hrd cbr -c:a aac -b:a 48k \
    -f flv "$TALLYLIGHT_BENCH_CLIP.part"
  mv "$TALLYLIGHT_BENCH_CLIP.part" "$TALLYLIGHT_BENCH_CLIP"
fi

# etcd as durable as in a cluster
export TALLYLIGHT_ETCD_FSYNC=1

ulimit -n "$(ulimit -H -n)"
cd "$here/.."
cargo build --release --locked --package tallylight-operator --package tallylight-media-node --package rtmp-load
exec cargo bench --locked --package tests --bench numbers -- "$@"
