#!/usr/bin/env bash
# up.sh [N]: a Kubernetes cluster of N nodes (default 2) in network namespaces. Run again: starts what is missing.
. "$(dirname "$0")/lib.sh"
N=${1:-2}
[ "$(id -u)" = 0 ] || die "needs root"
for b in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl containerd runc iptables nft conntrack ip \
  openssl gcc; do command -v $b >/dev/null || die "$b not found ; run: tests/setup.sh cluster"; done
CNI_BIN=${CNI_BIN:-/usr/lib/cni}; [ -x "$CNI_BIN/bridge" ] || die "CNI plugins not in CNI_BIN=$CNI_BIN"
has_ns cp && [ ! -e "${RIG_DIR:-}/env" ] && die "a cluster named $RIG_NAME exists: set its RIG_DIR, or another RIG_NAME"
RIG_DIR=${RIG_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/rig.XXXX")}
mkdir -p "$RIG_DIR"/{pki,cp,pids,log}; cd "$RIG_DIR"; export RIG_DIR=$PWD; echo "rig: cluster $RIG_NAME in $RIG_DIR" >&2
[ -e env ] || printf '%s=%q\n' RIG_NAME "$RIG_NAME" RIG_NET "$NET" RIG_POD_NET "$POD_NET" RIG_SVC_NET "$SVC_NET" RIG_FAST "${RIG_FAST:-}" \
  RIG_PROXY_MODE "${RIG_PROXY_MODE:-nftables}" RIG_APISERVER_ARGS "${RIG_APISERVER_ARGS:-}" RIG_KCM_ARGS "${RIG_KCM_ARGS:-}" > env
. ./env

# --- network: a bridge in the control plane's namespace, a veth to each node and to the clients' namespace
plug() { # plug NS LAST_BYTE_OF_ADDRESS
  ip netns add "$RIG_NAME-$1"
  in_ns cp ip link add "$1" type veth peer name eth0 address "02:00:00:00:00:$(printf %02x "$2")" netns "$RIG_NAME-$1"
  in_ns cp ip link set "$1" master br0 up
  in_ns "$1" ip link set lo up; in_ns "$1" ip addr add "$NET.$2/24" dev eth0; in_ns "$1" ip link set eth0 up
  in_ns "$1" ip route add default via "$API"      # without a route to the service range, DNAT never runs
}
if ! has_ns cp; then
  ip netns add "$RIG_NAME-cp"
  in_ns cp ip link set lo up; in_ns cp ip link add br0 type bridge; in_ns cp ip addr add "$API/24" dev br0; in_ns cp ip link set br0 up
  in_ns cp sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0
  plug client 200
  # A node that has no rules of a Service yet passes its address on to the gateway and says so: clients would go there for five minutes.
  in_ns client sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.eth0.accept_redirects=0
fi

# --- certificates: one CA; `cert NAME CN ORGANISATION [SAN]`
cert() { [ -e "pki/$1.crt" ] || openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "pki/$1.key" -subj "/O=$3/CN=$2" 2>/dev/null |
  openssl x509 -req -CA pki/ca.crt -CAkey pki/ca.key -days 365 -out "pki/$1.crt" -extfile <(
    printf 'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n'; [ -z "${4:-}" ] || echo "subjectAltName=$4") 2>/dev/null; }
kubeconfig() { # kubeconfig FILE CERT
  cat > "$1" <<Y
{apiVersion: v1, kind: Config, current-context: rig, contexts: [{name: rig, context: {cluster: rig, user: me}}],
 clusters: [{name: rig, cluster: {server: "https://$API:6443", certificate-authority-data: $(base64 -w0 pki/ca.crt)}}],
 users: [{name: me, user: {client-certificate-data: $(base64 -w0 "pki/$2.crt"), client-key-data: $(base64 -w0 "pki/$2.key")}}]}
Y
}
if [ ! -e pki/ca.crt ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -keyout pki/ca.key -out pki/ca.crt -subj /CN=rig-ca 2>/dev/null
  openssl ecparam -genkey -name prime256v1 -noout -out pki/sa.key; openssl ec -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
fi
cert api kube-apiserver rig "IP:$API,IP:$SVC_NET.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
cert admin admin system:masters
for c in kube-controller-manager kube-scheduler kube-proxy; do cert $c system:$c rig; kubeconfig cp/$c.kubeconfig $c; done
kubeconfig kubeconfig admin

# --- control plane: plain processes in the namespace `cp`
start() { # start NAME COMMAND...
  local name=$1; shift; live_pid "$name" >/dev/null && return
  setsid nsenter --net="/run/netns/$RIG_NAME-cp" "$@" >> "log/$name.log" 2>&1 < /dev/null & save_pid "$name" $!; }
start etcd etcd --data-dir="$RIG_DIR/cp/etcd" --unsafe-no-fsync --log-level=warn \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --advertise-address="$API" --secure-port=6443 \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --service-cluster-ip-range="$SVC_NET.0.0/16" \
  --client-ca-file=pki/ca.crt --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
  --kubelet-certificate-authority=pki/ca.crt --kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
  --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true $RIG_APISERVER_ARGS
wait_for 60 k get --raw /readyz
start kube-controller-manager kube-controller-manager --kubeconfig=cp/kube-controller-manager.kubeconfig --leader-elect=false \
  --bind-address=127.0.0.1 --kube-api-qps=500 --kube-api-burst=1000 --use-service-account-credentials --root-ca-file=pki/ca.crt \
  --service-account-private-key-file=pki/sa.key --flex-volume-plugin-dir="$RIG_DIR/cp/flex" \
  ${RIG_FAST:+--node-monitor-grace-period=8s --node-monitor-period=1s} $RIG_KCM_ARGS
start kube-scheduler kube-scheduler --kubeconfig=cp/kube-scheduler.kubeconfig --leader-elect=false --bind-address=127.0.0.1
if command -v coredns >/dev/null; then        # without it names are refused at once; pods use addresses and the service variables
  cat > cp/Corefile <<Y
.:53 {
  bind $API
  hosts {
    $NET.200 client.rig
    fallthrough
  }
  kubernetes cluster.local {
    kubeconfig $RIG_DIR/kubeconfig
    ttl 5
  }
}
Y
  start coredns coredns -conf cp/Corefile
fi

# --- nodes
if [ ! -e pause.tar ]; then
  mkdir -p pause && gcc -static -Os -s -o pause/pause "$HERE/pause.c" && "$HERE/make-image.sh" localhost/pause:3.10 pause.tar pause /pause; fi
for i in $(seq "$N"); do
  has_ns "node$i" || { plug "node$i" "$i"; in_ns "node$i" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0; }
  in_ns cp ip route replace "$POD_NET.$i.0/24" via "$NET.$i"
  for o in $(seq "$N"); do [ "$o" = "$i" ] || in_ns "node$i" ip route replace "$POD_NET.$o.0/24" via "$NET.$o"; done
  live_pid "node$i" >/dev/null && continue
  rm_cgroups "$RIG_NAME/node$i"
  mkdir -p "node$i"/{lib,log,net.d}
  cert "node$i" "system:node:node-$i" system:nodes "IP:$NET.$i,DNS:node-$i"; kubeconfig "node$i/kubeconfig" "node$i"
  NODE=$i CNI_BIN=$CNI_BIN setsid nsenter --net="/run/netns/$RIG_NAME-node$i" bash "$HERE/node.sh" \
    >> "log/node$i.log" 2>&1 < /dev/null & save_pid "node$i" $!
done
for i in $(seq "$N"); do                          # healthz first: after a power cycle the old Ready is still in the API
  # After an outage of the API server a kubelet's watch may rest for a minute before it sees that the node is not Ready.
  wait_for 60 k get --raw "/api/v1/nodes/node-$i/proxy/healthz"; wait_for 120 k wait --for=condition=Ready "node/node-$i" --timeout=1s; done
wait_for 30 k -n default get serviceaccount default
echo "export RIG_DIR=$RIG_DIR"
