#!/usr/bin/env bash
# A whole Kubernetes for tests: cluster.sh up [--apiserver-only|--node] starts it and prints the path of the admin's kubeconfig; cluster.sh down
# ends what was started, and nothing else, and removes every trace.
#
#   up                   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, on loopback
#   up --apiserver-only  etcd and kube-apiserver: nothing moves by itself
#   up --node            all of it and a node (containerd, kubelet) in a network namespace, a mount namespace and cgroups of their own (needs root)
#   plan                 makes the certificates of up --apiserver-only and prints what it would start: a line for each process, its words apart by tabs
#   import ARCHIVE…      puts OCI archives into the node's containerd
#   run COMMAND…         runs a command in the node's network and mount namespaces
#
# Everything is kept in PULLPIRI_KUBE_DIR (target/kube/cluster). On loopback the ports from PULLPIRI_KUBE_PORT (17440) on are used. With a node the API
# server listens on the address of the Service `kubernetes`, so that pods reach it without kube-proxy. See build.sh for the binaries.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
dir=$(realpath -m "${PULLPIRI_KUBE_DIR:-${root}/target/kube/cluster}")
bin=${PULLPIRI_KUBE_BIN:-${root}/target/kube/bin}
base=${PULLPIRI_KUBE_PORT:-17440}

# The node's names and addresses; one node cluster at a time on a machine.
NETNS=pullpiri-kube
GROUP=pullpiri-kube
NODE=kube-node
OUTSIDE_IF=pkube-out
OUTSIDE_IP=10.217.9.1
INSIDE_IP=10.217.9.2
PODS=10.217.0.0/24
SERVICES=10.217.8.0/24
API_SERVICE=10.217.8.1

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}

# ---- what is started ----

# start NAME COMMAND…: in the background, in a session of its own, told in pids and logs. On the node it is in the node's namespaces and cgroups.
start() {
    local name=$1
    shift
    if [ -n "${planned:-}" ]; then
        (IFS=$'\t' && printf '%s\n' "$*")
        return
    fi
    if [ -e "${dir}/node" ]; then
        setsid nsenter --net="/run/netns/${NETNS}" --mount="${dir}/ns/mnt" "${here}/enter-group.sh" "${GROUP}/system" "$@" > "${dir}/log/${name}.log" 2>&1 < /dev/null 9>&- &
    else
        setsid "$@" > "${dir}/log/${name}.log" 2>&1 < /dev/null 9>&- &
    fi
    local pid=$!
    # A process id alone may be somebody else's later: the time of its start makes it ours.
    echo "${pid} $(started "${pid}") ${name}" >> "${dir}/pids"
}

# started PID: when it was started, in clock ticks since boot; nothing if there is none.
started() {
    [ -r "/proc/$1/stat" ] && sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | cut -d' ' -f20 || true
}

# alive PID START: whether the process that was started is there.
alive() {
    [ -n "$2" ] && [ "$(started "$1")" = "$2" ]
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
    local seconds=$1 what=$2 end
    shift 2
    [ -z "${planned:-}" ] || return 0
    end=$(($(date +%s) + seconds))
    until "$@" > /dev/null 2>&1; do
        while read -r pid start name; do
            alive "${pid}" "${start}" || { tail -n 15 "${dir}/log/${name}.log" >&2; fail "${name} ended; its log is ${dir}/log/${name}.log"; }
        done < "${dir}/pids"
        [ "$(date +%s)" -lt "${end}" ] || fail "${what} isn't ready after ${seconds} s; logs are in ${dir}/log"
        sleep 0.1
    done
}

# ---- identities ----

openssl_quiet() { openssl "$@" 2> /dev/null; }

# authority NAME: a certificate authority.
authority() {
    openssl_quiet req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$1" \
        -keyout "${dir}/pki/$1.key" -out "${dir}/pki/$1.crt"
}

# identity NAME AUTHORITY SUBJECT EXTENSIONS
identity() {
    openssl_quiet req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$3" -keyout "${dir}/pki/$1.key" -out "${dir}/pki/$1.csr"
    openssl_quiet x509 -req -in "${dir}/pki/$1.csr" -CA "${dir}/pki/$2.crt" -CAkey "${dir}/pki/$2.key" -CAcreateserial -days 30 \
        -extfile <(echo "$4") -out "${dir}/pki/$1.crt"
    rm "${dir}/pki/$1.csr"
}

# kubeconfig NAME: for the identity of that name.
kubeconfig() {
    cat > "${dir}/$1.kubeconfig" << YAML
apiVersion: v1
kind: Config
clusters:
- name: kube
  cluster: {server: "${server}", certificate-authority-data: $(base64 -w0 "${dir}/pki/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "${dir}/pki/$1.crt"), client-key-data: $(base64 -w0 "${dir}/pki/$1.key")}
contexts:
- name: kube
  context: {cluster: kube, user: $1}
current-context: kube
YAML
    chmod 600 "${dir}/$1.kubeconfig"
}

identities() {
    authority ca
    authority front-proxy-ca
    identity apiserver ca /CN=kube-apiserver "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:${API_SERVICE},IP:${INSIDE_IP}"
    local client=extendedKeyUsage=clientAuth
    identity admin ca /O=system:masters/CN=admin "${client}"
    identity controller-manager ca /CN=system:kube-controller-manager "${client}"
    identity scheduler ca /CN=system:kube-scheduler "${client}"
    identity node ca "/O=system:nodes/CN=system:node:${NODE}" "${client}"
    identity kubelet ca "/CN=${NODE}" "subjectAltName=DNS:${NODE},IP:${INSIDE_IP}"
    identity front-proxy front-proxy-ca /CN=front-proxy "${client}"
    openssl_quiet genrsa -out "${dir}/pki/service-accounts.key" 2048
    local name
    for name in admin controller-manager scheduler node; do kubeconfig "${name}"; done
}

# ---- the control plane ----

api_ready() { curl --silent --fail --max-time 2 --cacert "${dir}/pki/ca.crt" --cert "${dir}/pki/admin.crt" --key "${dir}/pki/admin.key" "${server}/readyz"; }

control_plane() {
    local etcd=http://127.0.0.1:$((base + 1)) peer=http://127.0.0.1:$((base + 2))
    start etcd etcd --name kube --data-dir "${dir}/etcd" --listen-client-urls "${etcd}" --advertise-client-urls "${etcd}" \
        --listen-peer-urls "${peer}" --initial-advertise-peer-urls "${peer}" --initial-cluster "kube=${peer}" --logger zap --log-level error
    local plugins=()
    [ "${mode}" != --apiserver-only ] || plugins=(--disable-admission-plugins=ServiceAccount)
    # Aggregated APIs and webhooks are called at the addresses of their endpoints: there is no kube-proxy.
    start kube-apiserver "${bin}/kube-apiserver" --etcd-servers="${etcd}" --bind-address="${api_ip}" --advertise-address="${advertise}" --secure-port="${api_port}" \
        --tls-cert-file="${dir}/pki/apiserver.crt" --tls-private-key-file="${dir}/pki/apiserver.key" --client-ca-file="${dir}/pki/ca.crt" \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="${dir}/pki/service-accounts.key" \
        --service-account-signing-key-file="${dir}/pki/service-accounts.key" --service-cluster-ip-range="${SERVICES}" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged --enable-aggregator-routing \
        --requestheader-client-ca-file="${dir}/pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="${dir}/pki/front-proxy.crt" --proxy-client-key-file="${dir}/pki/front-proxy.key" \
        --kubelet-client-certificate="${dir}/pki/admin.crt" --kubelet-client-key="${dir}/pki/admin.key" \
        ${PULLPIRI_KUBE_APISERVER_FLAGS:-} "${plugins[@]}"
    await 60 kube-apiserver api_ready
    [ "${mode}" != --apiserver-only ] || return 0
    start kube-controller-manager "${bin}/kube-controller-manager" --kubeconfig="${dir}/controller-manager.kubeconfig" --bind-address=127.0.0.1 \
        --secure-port=$((base + 3)) --cert-dir="${dir}/pki/kcm" --leader-elect=false --use-service-account-credentials \
        --root-ca-file="${dir}/pki/ca.crt" --service-account-private-key-file="${dir}/pki/service-accounts.key" \
        --cluster-signing-cert-file="${dir}/pki/ca.crt" --cluster-signing-key-file="${dir}/pki/ca.key"
    start kube-scheduler "${bin}/kube-scheduler" --kubeconfig="${dir}/scheduler.kubeconfig" --bind-address=127.0.0.1 --secure-port=$((base + 4)) \
        --cert-dir="${dir}/pki/scheduler" --leader-elect=false
    # Pods and the official specs want it, and nobody else makes it.
    await 30 "the service account of namespace default" curl --silent --fail --max-time 2 --cacert "${dir}/pki/ca.crt" --cert "${dir}/pki/admin.crt" \
        --key "${dir}/pki/admin.key" "${server}/api/v1/namespaces/default/serviceaccounts/default"
}

# ---- the node ----

groups() {
    local mount
    find /sys/fs/cgroup -maxdepth 2 -type d -name "${GROUP}" 2> /dev/null
}

# Mounts, addresses and processes of the node are in namespaces of its own: they go with it.
node_namespaces() {
    ip netns add "${NETNS}"
    ip link add "${OUTSIDE_IF}" type veth peer name eth0 netns "${NETNS}"
    ip address add "${OUTSIDE_IP}/30" dev "${OUTSIDE_IF}"
    ip link set "${OUTSIDE_IF}" up
    ip route add "${SERVICES}" via "${INSIDE_IP}" 
    ip route add "${PODS}" via "${INSIDE_IP}"
    local within=(nsenter --net="/run/netns/${NETNS}")
    "${within[@]}" ip link set lo up
    "${within[@]}" ip address add "${API_SERVICE}/32" dev lo
    "${within[@]}" ip address add "${INSIDE_IP}/30" dev eth0
    "${within[@]}" ip link set eth0 up
    "${within[@]}" ip route add default via "${OUTSIDE_IP}"
    "${within[@]}" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
    # The mount namespace is held by a file that is bound to it, under a mount that isn't shared (setns(2), mount_namespaces(7)).
    mkdir -p "${dir}/ns"
    mount --bind "${dir}/ns" "${dir}/ns"
    mount --make-private "${dir}/ns"
    touch "${dir}/ns/mnt"
    unshare --mount="${dir}/ns/mnt" --propagation private mount --make-rshared /
    # Where nothing of the machine's own node would be found.
    nsenter --mount="${dir}/ns/mnt" sh -c "mkdir -p /run/containerd && mount -t tmpfs none /run/containerd && mount -t tmpfs none /run/netns"
    local controller
    local group file
    for controller in /sys/fs/cgroup/*/; do
        [ -e "${controller}cgroup.procs" ] || continue
        for group in "${GROUP}" "${GROUP}/system"; do
            mkdir -p "${controller}${group}"
            # A group of cpuset takes processes once it has CPUs and memory.
            for file in cpuset.cpus cpuset.mems; do
                [ ! -e "${controller}${group}/${file}" ] || cat "${controller}${file}" > "${controller}${group}/${file}"
            done
        done
    done
    [ ! -e /sys/fs/cgroup/cgroup.procs ] || mkdir -p "/sys/fs/cgroup/${GROUP}/system"
}

node() {
    mkdir -p "${dir}/containerd" "${dir}/kubelet" "${dir}/cni" "${dir}/run" "${dir}/logs" "${dir}/images"
    cat > "${dir}/containerd.toml" << TOML
version = 2
root = "${dir}/containerd/root"
state = "${dir}/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "${dir}/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pullpiri.io/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${dir}/cni"
TOML
    cat > "${dir}/cni/10-kube.conflist" << JSON
{"cniVersion": "0.4.0", "name": "pullpiri-kube", "plugins": [
  {"type": "bridge", "bridge": "pkube0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "${dir}/run/cni", "ranges": [[{"subnet": "${PODS}"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    cat > "${dir}/kubelet.yaml" << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ${INSIDE_IP}
port: 10250
readOnlyPort: 0
healthzPort: $((base + 5))
cgroupDriver: cgroupfs
cgroupRoot: /${GROUP}
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
resolvConf: ""
tlsCertFile: ${dir}/pki/kubelet.crt
tlsPrivateKeyFile: ${dir}/pki/kubelet.key
podLogsDir: ${dir}/logs
containerRuntimeEndpoint: unix://${dir}/run/containerd.sock
nodeStatusUpdateFrequency: 5s
registerNode: true
maxPods: 100
evictionHard: {memory.available: 50Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: ${dir}/pki/ca.crt}}
authorization: {mode: Webhook}
YAML
    start containerd containerd --config "${dir}/containerd.toml" --log-level warn
    await 20 containerd ctr --address "${dir}/run/containerd.sock" version
    [ -e "${bin}/pause.tar" ] && [ "${bin}/pause.tar" -nt "${bin}/pause" ] || "${here}/image.sh" pullpiri.io/pause:1 "${bin}/pause" "${bin}/pause.tar"
    import "${bin}/pause.tar"
    start kubelet "${bin}/kubelet" --config="${dir}/kubelet.yaml" --kubeconfig="${dir}/node.kubeconfig" --root-dir="${dir}/kubelet" \
        --hostname-override="${NODE}" --node-ip="${INSIDE_IP}" --cert-dir="${dir}/pki/node"
    await 60 "the node" node_ready
}

node_ready() {
    local node
    node=$(curl --silent --fail --max-time 2 --cacert "${dir}/pki/ca.crt" --cert "${dir}/pki/admin.crt" --key "${dir}/pki/admin.key" \
        "${server}/api/v1/nodes/${NODE}" | tr -d ' \n') || return 1
    [[ ${node} = *'"type":"Ready","status":"True"'* ]]
}

import() {
    local archive
    for archive in "$@"; do
        nsenter --net="/run/netns/${NETNS}" --mount="${dir}/ns/mnt" ctr --address "${dir}/run/containerd.sock" --namespace k8s.io images import "${archive}" > /dev/null
    done
}

# ---- verbs ----

up() {
    mode=${1:-}
    local needed=(kube-apiserver)
    case ${mode} in
        --apiserver-only) ;;
        "") needed+=(kube-controller-manager kube-scheduler) ;;
        --node)
            [ "$(id -u)" = 0 ] || fail "a node needs root"
            needed+=(kube-controller-manager kube-scheduler kubelet pause) ;;
        *) fail "up takes --apiserver-only or --node, not ${mode}" ;;
    esac
    if ! command -v go > /dev/null 2>&1; then
        local name
        for name in "${needed[@]}"; do
            [ -x "${bin}/${name}" ] || { echo "skipped: no Go toolchain"; exit 3; }
        done
    else
        "${here}/build.sh" "${needed[@]}" >&2
    fi
    . "${root}/hack/tools.sh"
    need_apt etcd:etcd-server openssl:openssl curl:curl
    [ "${mode}" != --node ] || need_apt containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins ip:iproute2 iptables:iptables nsenter:util-linux
    [ ! -e "${dir}/pids" ] || down
    mkdir -p "${dir}/pki" "${dir}/log"
    chmod 700 "${dir}"
    : > "${dir}/pids"
    trap 'code=$?; [ ${code} = 0 ] || { rm -rf "${dir}.failed-log"; cp -r "${dir}/log" "${dir}.failed-log" 2> /dev/null || true; down; }' EXIT
    api_ip=127.0.0.1 api_port=${base} advertise=127.0.0.1
    # An endpoint can't be a loopback address.
    advertise=192.0.2.1
    if [ "${mode}" = --node ]; then
        : > "${dir}/node"
        api_ip=${API_SERVICE} api_port=443 advertise=${INSIDE_IP}
        node_namespaces
    fi
    server=https://${api_ip}:${api_port}
    identities
    control_plane
    [ "${mode}" != --node ] || node
    echo "${dir}/admin.kubeconfig"
}

# end PIDS…: asks, then makes; waits until they are gone.
end_processes() {
    local pid start name signal round
    for signal in TERM KILL; do
        for round in $(seq 1 50); do
            local left=0
            while read -r pid start name; do
                alive "${pid}" "${start}" || continue
                [ "$(sed 's/.*) //' "/proc/${pid}/stat" 2> /dev/null | cut -c1)" != Z ] || continue
                left=1
                [ "${round}" != 1 ] || kill -s "${signal}" "${pid}" 2> /dev/null || true
            done < "${dir}/pids"
            [ "${left}" = 1 ] || return 0
            sleep 0.1
        done
    done
}

# What the node started is in its cgroups, wherever it was put there.
end_groups() {
    local round
    for round in $(seq 1 100); do
        local groups pids
        groups=$(groups)
        [ -n "${groups}" ] || return 0
        # shellcheck disable=SC2086
        pids=$(find ${groups} -name cgroup.procs -exec cat {} + 2> /dev/null | sort -u | grep -v '^0$' || true)
        # shellcheck disable=SC2086
        [ -z "${pids}" ] || kill -s KILL ${pids} 2> /dev/null || true
        # shellcheck disable=SC2086
        find ${groups} -depth -type d -exec rmdir {} + 2> /dev/null || true
        sleep 0.05
    done
    say "cgroups of the node are left: $(groups | tr '\n' ' ')"
}

down() {
    [ -e "${dir}" ] || return 0
    [ ! -e "${dir}/pids" ] || tac "${dir}/pids" > "${dir}/pids.end"
    [ ! -e "${dir}/pids" ] || end_processes
    if [ -e "${dir}/node" ]; then
        end_groups
        umount "${dir}/ns/mnt" 2> /dev/null || true
        umount "${dir}/ns" 2> /dev/null || true
        ip link delete "${OUTSIDE_IF}" 2> /dev/null || true
        ip netns delete "${NETNS}" 2> /dev/null || true
    fi
    rm -rf --one-file-system "${dir}"
}

verb=${1:-}
[ $# -eq 0 ] || shift
case ${verb} in
    up) up "$@" ;;
    plan)
        planned=yes
        up --apiserver-only ;;
    down) down ;;
    import) import "$@" ;;
    run) exec nsenter --net="/run/netns/${NETNS}" --mount="${dir}/ns/mnt" "$@" ;;
    *)
        say "usage: cluster.sh {up [--apiserver-only|--node]|down|plan|import ARCHIVE…|run COMMAND…}"
        exit 2 ;;
esac
