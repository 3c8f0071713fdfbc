#!/usr/bin/env bash
# control-kill.sh PART: ends a part of the control plane (kube-apiserver, etcd, …) as a crash does. `up.sh` starts it again.
. "$(dirname "$0")/lib.sh"
need_dir
p=$(live_pid "$1") || die "$1 is not running"
kill -9 "$p"
while live_pid "$1" >/dev/null; do sleep 0.05; done
