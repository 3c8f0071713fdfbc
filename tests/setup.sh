#!/usr/bin/env bash
# Sets up what the tests need, and prints one line a step. Run again, it only looks (under a second).
#
# Debian packages are installed when it runs as root; otherwise it names the missing ones and fails. What drives the browser comes from
# npm, by the lock file in tests/tools/browser, and a newer FFmpeg and aiortc from PyPI; their sums pin every byte. etcd, the Kubernetes
# binaries, Helm 4 and 3, and kubectl where the system has none that is new enough, are built from the Go modules in tests/tools, whose
# go.sum pins every byte, into a cache outside the clone. A build is kept in a folder named by the hash of its module, so a new
# version is built beside the old one; $cache/bin links to the current ones.
#
# `setup.sh cluster` adds what a cluster with real nodes needs (tests/cluster), which runs as root only: a container runtime,
# kubelet, kube-proxy, kube-scheduler and CoreDNS.
#
#   TALLYLIGHT_CACHE  the cache (default: ${XDG_CACHE_HOME:-~/.cache}/tallylight)
#   KUBE_ASSETS       a folder that holds the Kubernetes binaries already: nothing is built then
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TALLYLIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tallylight}

# python3 runs the receiver of docs/webhooks.md. ffmpeg and ffprobe publish and play; rtmp2sink and rtmp2src are in bad, flvmux in
# good, x264enc in ugly, decoders in libav. chromium plays what the play page plays. cmake builds libopus. conntrack, iproute2 and
# iptables make the networks that fail. obs-studio publishes, on a screen of xvfb, which libgl1-mesa-dri draws.
packages=(chromium cmake conntrack ffmpeg gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
  gstreamer1.0-plugins-ugly gstreamer1.0-libav iproute2 iptables libgl1-mesa-dri obs-plugins obs-studio python3 xvfb)
# Node.js drives the browser. The one that is there will do, wherever it is from: from version 18, as playwright-core asks.
node_major=18
node_is_there() {
  command -v npm >/dev/null && [ "$(node --version 2>/dev/null | sed -nE 's/^v([0-9]+).*/\1/p')" -ge $node_major ] 2>/dev/null
}
node_is_there || packages+=(nodejs npm)
# pip fetches the newer FFmpeg, and aiortc.
pip_is_there() { python3 -m pip --version >/dev/null 2>&1; }
pip_is_there || packages+=(python3-pip)
case ${1:-} in
  '') with_cluster= ;;
  # gcc links the pause container, openssl makes the certificates, buildah the images.
  cluster)
    with_cluster=yes
    packages+=(containerd runc containernetworking-plugins buildah nftables openssl gcc libc6-dev)
    ;;
  *)
    printf 'usage: setup.sh [cluster]\n' >&2
    exit 2
    ;;
esac
# The oldest kubectl that prints what the tests read (subresources, selectable fields).
kubectl_minor=28

say() { printf 'setup: %-24s %s\n' "$1" "$2"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

debian_packages() {
  if ! command -v dpkg-query >/dev/null; then
    local command
    for command in ffmpeg ffprobe gst-launch-1.0; do
      command -v "$command" >/dev/null || fail "$command is missing, and this is not Debian: install what provides it"
    done
    say 'media tools' 'found (not Debian: the GStreamer plugins were not checked)'
    return
  fi
  local installed missing=() package
  installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null || true)
  for package in "${packages[@]}"; do
    grep -qx "ii *$package" <<<"$installed" || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say 'debian packages' 'there'
  elif [ "$(id -u)" -eq 0 ]; then
    say 'debian packages' "installing ${missing[*]}"
    apt-get update -qq </dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
  else
    fail "missing Debian packages; run: sudo apt-get install --no-install-recommends ${missing[*]}"
  fi
}

# Builds the packages that follow with the linker flags into $cache/tools/NAME-KEY and links them from $cache/bin.
# A lock lets two clones share the cache; a build appears by one rename, whole or not at all.
build() { # name module-folder ldflags binary=package...
  local name=$1 module=$here/tools/$2 ldflags=$3 key target work entry
  shift 3
  key=$(cat "$module/go.mod" "$module/go.sum" | sha256sum | cut -c1-12)
  target=$cache/tools/$name-$key
  if [ ! -d "$target" ]; then
    command -v go >/dev/null || fail "go is missing: needed once to build $name; install Go 1.26 or newer"
    say "$name" "building into $target, once"
    work=$(mktemp -d "$cache/tools/.building-XXXXXX")
    for entry in "$@"; do
      (cd "$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $ldflags" -o "$work/${entry%%=*}" "${entry#*=}") </dev/null \
        || { rm -rf "$work"; fail "building ${entry#*=} failed"; }
    done
    chmod 755 "$work"
    mv -T "$work" "$target"
  fi
  for entry in "$@"; do
    link "$target/${entry%%=*}"
  done
  say "$name" "$target"
}

link() { # file
  local file=$1 name=${1##*/}
  [ "$(readlink "$cache/bin/$name" 2>/dev/null || true)" = "$file" ] && return
  ln -s "$file" "$cache/bin/.$name.$$"
  mv -T "$cache/bin/.$name.$$" "$cache/bin/$name"
}

kubernetes_version() {
  sed -nE 's#^(require )?\s*k8s.io/kubernetes v([0-9]+)\.([0-9]+)\.([0-9]+)$#\2 \3 \4#p' "$here/tools/kube/go.mod"
}

kubernetes() {
  local major minor patch version=k8s.io/component-base/version
  read -r major minor patch < <(kubernetes_version) || fail "tests/tools/kube/go.mod names no version of k8s.io/kubernetes"
  local flags="-X $version.gitVersion=v$major.$minor.$patch -X $version.gitMajor=$major -X $version.gitMinor=$minor"
  # The API server takes about 15 CPU minutes when nothing of it is in Go's build cache, the rest a few.
  build kube kube "$flags" \
    kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver \
    kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
  # Those of the nodes are small beside them: what they are made of is in Go's build cache by then.
  [ -z "$with_cluster" ] || build nodes kube "$flags" \
    kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler \
    kubelet=k8s.io/kubernetes/cmd/kubelet \
    kube-proxy=k8s.io/kubernetes/cmd/kube-proxy
  if system_kubectl; then
    [ ! -L "$cache/bin/kubectl" ] || rm -f "$cache/bin/kubectl"
    say kubectl "$(command -v kubectl)"
  else
    build kubectl kube "$flags" kubectl=k8s.io/kubernetes/cmd/kubectl
  fi
}

system_kubectl() {
  local minor
  minor=$(kubectl version --client 2>/dev/null | sed -nE 's/^Client Version: v1\.([0-9]+).*/\1/p') || return 1
  [ "${minor:-0}" -ge $kubectl_minor ]
}

# The custom resource definitions of others that the chart makes objects for: YAML files in their Go modules, whose sums are in
# go.sum. Joined into one file a module.
kinds() {
  local module=$here/tools/kinds key target
  key=$(cat "$module/go.mod" "$module/go.sum" | sha256sum | cut -c1-12)
  target=$cache/tools/kinds-$key
  if [ ! -d "$target" ]; then
    command -v go >/dev/null || fail "go is missing: needed once to fetch definitions; install Go 1.26 or newer"
    local work gateway=sigs.k8s.io/gateway-api monitoring=github.com/prometheus-operator/prometheus-operator
    local certificates=github.com/cert-manager/cert-manager
    work=$(mktemp -d "$cache/tools/.building-XXXXXX")
    (cd "$module" && go mod download "$gateway" "$monitoring" "$certificates") </dev/null || fail 'fetching definitions failed'
    folder() { (cd "$module" && go list -m -f '{{.Dir}}' "$1"); }
    join "$work/gateway-crds.yaml" "$(folder $gateway)"/config/crd/experimental/gateway.networking.k8s.io_{http,tcp}routes.yaml
    join "$work/monitoring-crds.yaml" \
      "$(folder $monitoring)"/example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules,servicemonitors}.yaml
    join "$work/cert-manager-crds.yaml" "$(folder $certificates)"/deploy/crds/cert-manager.io_certificates.yaml
    chmod 755 "$work"
    mv -T "$work" "$target"
  fi
  for entry in gateway monitoring cert-manager; do
    link "$target/$entry-crds.yaml"
  done
  say kinds "$target"
}

join() { # file part...
  local file=$1 part
  for part in "${@:2}"; do
    printf -- '---\n'
    cat "$part"
  done >"$file"
}

# playwright-core, and the hls.js of which the play page embeds a copy.
browser() {
  local module=$here/tools/browser key target work
  key=$(cat "$module/package.json" "$module/package-lock.json" | sha256sum | cut -c1-12)
  target=$cache/tools/browser-$key
  if [ ! -d "$target" ]; then
    node_is_there || fail "Node.js $node_major or newer with npm is missing: needed to drive the browser"
    work=$(mktemp -d "$cache/tools/.building-XXXXXX")
    cp "$module/package.json" "$module/package-lock.json" "$work"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) </dev/null >/dev/null || fail 'fetching from npm failed'
    printf 'export { chromium } from "./node_modules/playwright-core/index.mjs";\n' >"$work/playwright-core.mjs"
    cp "$work/node_modules/hls.js/dist/hls.light.min.js" "$work/node_modules/hls.js/LICENSE" "$work"
    mv "$work/LICENSE" "$work/hls.js-LICENSE"
    chmod 755 "$work"
    mv -T "$work" "$target"
  fi
  for entry in playwright-core.mjs hls.light.min.js hls.js-LICENSE; do
    link "$target/$entry"
  done
  say browser "$target"
}

# FFmpeg 9, which publishes H.265, AV1, VP9 and Opus over RTMP; Debian's cannot.
ffmpeg9() {
  local pins=$here/tools/ffmpeg/requirements.txt key target work
  key=$(sha256sum <"$pins" | cut -c1-12)
  target=$cache/tools/ffmpeg-$key
  if [ ! -d "$target" ]; then
    pip_is_there || fail "python3 with pip is missing: needed once to fetch FFmpeg 9"
    say ffmpeg9 "fetching into $target, once"
    work=$(mktemp -d "$cache/tools/.building-XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
      -r "$pins" -d "$work/wheel" </dev/null || fail 'fetching from PyPI failed'
    python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
    mv "$work"/wheel/imageio_ffmpeg/binaries/ffmpeg-linux-* "$work/ffmpeg9"
    rm -r "$work/wheel"
    chmod 755 "$work" "$work/ffmpeg9"
    mv -T "$work" "$target"
  fi
  link "$target/ffmpeg9"
  say ffmpeg9 "$target"
}

# aiortc, a WebRTC stack that shares no code with ours or a browser's; python-aiortc is a Python that has it.
aiortc() {
  local pins=$here/tools/aiortc/requirements.txt key target work
  key=$( (cat "$pins" && python3 --version) | sha256sum | cut -c1-12)
  target=$cache/tools/aiortc-$key
  if [ ! -d "$target" ]; then
    pip_is_there || fail "python3 with pip is missing: needed once to fetch aiortc"
    say aiortc "fetching into $target, once"
    work=$(mktemp -d "$cache/tools/.building-XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes --root-user-action ignore \
      -r "$pins" --target "$work/lib" </dev/null || fail 'fetching from PyPI failed'
    printf '#!/bin/sh\nPYTHONPATH="%s" exec python3 "$@"\n' "$target/lib" >"$work/python-aiortc"
    chmod 755 "$work" "$work/python-aiortc"
    mv -T "$work" "$target"
  fi
  link "$target/python-aiortc"
  say aiortc "$target"
}

debian_packages
mkdir -p "$cache/bin" "$cache/tools"
exec 9>"$cache/tools/.lock"
flock 9
rm -rf "$cache"/tools/.building-* # of a run that was killed: the lock says that nobody builds now
kinds
browser
ffmpeg9
aiortc
# Without its service discoveries: only rules are tried, and most of its code is clients of clouds.
GOFLAGS=-tags=remove_all_sd build promtool promtool '' promtool=github.com/prometheus/prometheus/cmd/promtool
build helm-unittest unittest '' helm-unittest=github.com/helm-unittest/helm-unittest/cmd/helm-unittest
if [ -n "${KUBE_ASSETS:-}" ]; then
  binaries=(etcd kube-apiserver kube-controller-manager helm helm3)
  [ -z "$with_cluster" ] || binaries+=(kube-scheduler kubelet kube-proxy coredns)
  for binary in "${binaries[@]}"; do
    [ -x "$KUBE_ASSETS/$binary" ] || fail "KUBE_ASSETS is set, but $KUBE_ASSETS/$binary is not there"
  done
  say 'kubernetes binaries' "$KUBE_ASSETS"
  exit
fi
build etcd etcd '' etcd=go.etcd.io/etcd/server/v3
build helm helm '' helm=helm.sh/helm/v4/cmd/helm
build helm3 helm3 '' helm3=helm.sh/helm/v3/cmd/helm
kubernetes
if [ -n "$with_cluster" ]; then
  build coredns coredns '' coredns=github.com/coredns/coredns
fi
