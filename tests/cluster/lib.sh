# Shared by all scripts of this folder. Sourced, not run.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -z "${RIG_DIR:-}" ] || [ ! -e "$RIG_DIR/env" ] || . "$RIG_DIR/env"   # what the first up.sh was given
RIG_NAME=${RIG_NAME:-rig}                         # prefix of namespaces and cgroups; one name = one cluster
NET=${RIG_NET:-10.77.0}                           # node N is $NET.N, clients are $NET.200, the API server $NET.254
POD_NET=${RIG_POD_NET:-10.88}                     # pods of node N: $POD_NET.N.0/24
SVC_NET=${RIG_SVC_NET:-10.96}                     # services: $SVC_NET.0.0/16
API=$NET.254
CONTROLLERS="cpu cpuacct cpuset memory devices freezer blkio pids systemd"
# The Kubernetes binaries: where tests/setup.sh puts them.
KUBE_BIN=${KUBE_ASSETS:-${TALLYLIGHT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tallylight}/bin}
[ ! -d "$KUBE_BIN" ] || PATH=$(cd "$KUBE_BIN" && pwd):$PATH

die() { echo "rig: $*" >&2; exit 1; }
need_dir() { [ -n "${RIG_DIR:-}" ] && [ -d "$RIG_DIR" ] || die "set RIG_DIR to the folder that up.sh printed"; }
in_ns() { local ns=$1; shift; nsenter --net="/run/netns/$RIG_NAME-$ns" "$@"; }
has_ns() { [ -e "/run/netns/$RIG_NAME-$1" ]; }
# A pid file counts only while that pid still is what was started (its start time, column 22 of stat) and no zombie.
start_time() { sed -n 's/.*) [^Z] //p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f19; }
save_pid() { echo "$2 $(start_time "$2")" > "$RIG_DIR/pids/$1"; }
live_pid() { local p t; { read -r p t < "$RIG_DIR/pids/$1"; } 2>/dev/null || return 1
             [ -n "$t" ] && [ "$(start_time "$p")" = "$t" ] && echo "$p"; }
# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() { local end=$((SECONDS + $1)); shift
             until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "timeout: $*"; sleep 0.2; done; }
k() { in_ns client kubectl --kubeconfig="$RIG_DIR/kubeconfig" "$@"; }
# node_pid N: the node's init, as seen from outside (the only child of its unshare).
node_pid() { local p; p=$(live_pid "node$1") || return 1; cat "/proc/$p/task/$p/children" | tr -d ' '; }
in_node() { local p; p=$(node_pid "$1") || die "node $1 is not running"; shift; nsenter -t "$p" -m -u -i -n -p -C "$@"; }
rm_cgroups() { local c; for c in $CONTROLLERS; do
                 [ ! -d "/sys/fs/cgroup/$c/$1" ] || find "/sys/fs/cgroup/$c/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true; done; }
