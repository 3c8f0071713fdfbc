#!/usr/bin/env bash
# Builds what is measured in the release profile, makes the clip once into the cache, and measures. Prints Markdown.
# Arguments are the parts to measure: ingest play memory mux hls hls-latency webrtc-latency record hooks api relay operator scale
# whep whip opus (all of them when there are none); whep is whep-fan-out whep-small whep-workers whep-memory whep-joins whep-idle whep-loss.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TALLYLIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tallylight}
packages=(nginx-light libnginx-mod-rtmp wrk)

[ "$(nproc)" -ge 2 ] || { echo 'bench: two CPUs are needed: one for the server, one for the load client' >&2; exit 1; }

if ! command -v nginx >/dev/null || [ ! -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || ! command -v wrk >/dev/null; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "bench: nginx with libnginx-mod-rtmp, or wrk, is missing; on Debian: sudo apt-get install --no-install-recommends ${packages[*]}" >&2
    exit 1
  fi
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null
fi

# Janus is compared with where Debian has it; without it the rest is measured.
if ! command -v janus >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends janus </dev/null >/dev/null ||
    echo 'bench: Debian has no janus that can be installed; going on without' >&2
fi

# clip FILE SIZE FRAMES RATE: 20 s of constant bit rate, a keyframe every two seconds, and 48 kbit/s of sound.
clip() {
  [ ! -s "$1" ] || return 0
  mkdir -p "$cache"
  ffmpeg -nostdin -loglevel error -y \
    -f lavfi -i "testsrc2=size=$2:rate=$3" -f lavfi -i sine=frequency=440:sample_rate=44100 -t 20 -pix_fmt yuv420p \
    -c:v libx264 -profile:v baseline -preset veryfast -g $(($3 * 2)) -keyint_min $(($3 * 2)) -sc_threshold 0 \
    -b:v "$4" -minrate "$4" -maxrate "$4" -bufsize "$4" -nal-hrd cbr -c:a aac -b:a 48k \
    -f flv "$1.part"
  mv "$1.part" "$1"
}
export TALLYLIGHT_BENCH_CLIP=$cache/bench-640x360.flv
clip "$TALLYLIGHT_BENCH_CLIP" 640x360 25 550k
export TALLYLIGHT_BENCH_HD_CLIP=$cache/bench-1280x720.flv
clip "$TALLYLIGHT_BENCH_HD_CLIP" 1280x720 30 4000k
export TALLYLIGHT_BENCH_BROADCAST_CLIP=$cache/bench-1280x720-6000k.flv
clip "$TALLYLIGHT_BENCH_BROADCAST_CLIP" 1280x720 30 6000k

export TALLYLIGHT_BENCH_WHIP_CLIP=$cache/bench-960x540-2500k.flv
clip "$TALLYLIGHT_BENCH_WHIP_CLIP" 960x540 30 2500k

# sound FILE RATE: five minutes of 128 kbit/s in stereo.
sound() {
  [ ! -s "$1" ] || return 0
  mkdir -p "$cache"
  ffmpeg -nostdin -loglevel error -y -f lavfi -i "anoisesrc=amplitude=0.2:sample_rate=$2" -f lavfi -i "sine=frequency=440:sample_rate=$2" \
    -filter_complex '[0][1]join=inputs=2:channel_layout=stereo' -t 300 -c:a aac -b:a 128k -f flv "$1.part"
  mv "$1.part" "$1"
}
export TALLYLIGHT_BENCH_SOUND_48_CLIP=$cache/bench-sound-48000.flv
sound "$TALLYLIGHT_BENCH_SOUND_48_CLIP" 48000
export TALLYLIGHT_BENCH_SOUND_44_CLIP=$cache/bench-sound-44100.flv
sound "$TALLYLIGHT_BENCH_SOUND_44_CLIP" 44100

# etcd as durable as in a cluster
export TALLYLIGHT_ETCD_FSYNC=1

ulimit -n "$(ulimit -H -n)"
cd "$here/.."
cargo build --release --locked --package tallylight-operator --package tallylight-media-node --package rtmp-load --package webrtc-load
exec cargo bench --locked --package tests --bench numbers -- "$@"
