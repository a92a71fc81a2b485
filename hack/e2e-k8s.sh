#!/usr/bin/env bash
# Pullpiri on a real Kubernetes: kube-apiserver, controller manager, scheduler, kubelet, containerd (hack/kube), installed by Helm from charts/pullpiri
# with the image of hack/image.sh. From a published manifest and a signal to containers, and to one more that is a Pod; then a leader is killed, the release
# upgraded (with the other meaning of `node.host`), rolled back and uninstalled, and what runs must not notice until it has to go. Without Go it prints
# `skipped: no Go toolchain` and ends well.
#   PULLPIRI_E2E_DIR   where it keeps what it makes (target/e2e-k8s)
#   PULLPIRI_E2E_KEEP  1: leaves the cluster running when a step fails
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

DIR=${PULLPIRI_E2E_DIR:-${ROOT}/target/e2e-k8s}
export PULLPIRI_KUBE_DIR=${DIR}/cluster PULLPIRI_KUBE_PORT=${PULLPIRI_KUBE_PORT:-17540}
DATA=${DIR}/data
NS=pullpiri-system
RELEASE=pullpiri
CHART=charts/pullpiri
PROMETHEUS_PORT=$((PULLPIRI_KUBE_PORT + 10))
KUBE_NODE=kube-node
PIDS=()
export HELM_CACHE_HOME=${DIR}/helm/cache HELM_CONFIG_HOME=${DIR}/helm/config HELM_DATA_HOME=${DIR}/helm/data

skip() { echo "skipped: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "a real kubelet needs root"

# ---- the end ----

finish() {
    local code=$?
    trap - EXIT
    set +e
    if [ "${code}" -ne 0 ]; then
        diagnose >&2
        [ "${PULLPIRI_E2E_KEEP:-}" != 1 ] || { echo "left running: ${DIR}" >&2; exit "${code}"; }
    fi
    local pid
    for pid in "${PIDS[@]}"; do kill "${pid}" 2> /dev/null; wait "${pid}" 2> /dev/null; done
    [ -z "${KUBECONFIG:-}" ] || purge_by_hand
    hack/kube/cluster.sh down
    exit "${code}"
}

diagnose() {
    [ -n "${KUBECONFIG:-}" ] || return 0
    echo "---- what was there when it failed"
    kubectl get pods --all-namespaces -o wide
    kubectl get pullpiri --all-namespaces
    kubectl get apiservice v1alpha1.signals.pullpiri.io
    kubectl -n "${NS}" get events --sort-by=.lastTimestamp | tail -n 15
    local log
    for log in "${PULLPIRI_KUBE_DIR}"/logs/"${NS}"_*/*/*.log; do
        [ ! -e "${log}" ] || { echo "-- ${log##*/logs/}"; tail -n 12 "${log}"; }
    done
}

# Whatever a failed run left of workloads, by the ids that it wrote down.
purge_by_hand() {
    local uid group
    for uid in $(cat "${DIR}/uids" 2> /dev/null); do
        for group in /sys/fs/cgroup/pullpiri/"${uid}" /sys/fs/cgroup/*/pullpiri/"${uid}"; do
            [ ! -e "${group}" ] || find "${group}" -name cgroup.procs -exec cat {} + 2> /dev/null | xargs -r kill -9 2> /dev/null
        done
    done
    awk -v at="${DATA}" '$5 ~ "^" at { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do umount -l "${mount}"; done
}

# ---- waiting and asking ----

# until_ok SECONDS TEXT COMMAND…
until_ok() {
    local seconds=$1 text=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" > "${DIR}/last" 2>&1; do
        [ "${SECONDS}" -lt "${end}" ] || { tail -n 5 "${DIR}/last" >&2; fail "${text}: not within ${seconds} s"; }
        sleep 0.2
    done
}

equals() { [ "$("${@:2}")" = "$1" ] || { echo "expected $1: ${*:2}"; "${@:2}"; return 1; }; }

running() { kubectl get modelinstances --all-namespaces -o jsonpath='{range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\n"}{end}' | wc -l; }

# Process ids of all containers that run, as the ModelInstances tell them, with when each was started: the same text means the same processes.
processes() {
    local pid
    for pid in $(kubectl get modelinstances --all-namespaces -o jsonpath='{range .items[*]}{range .status.containers[*]}{.pid}{"\n"}{end}{end}' | sort -n); do
        echo "${pid} $(sed 's/.*) //' "/proc/${pid}/stat" | cut -d' ' -f20)"
    done
}

leader() { kubectl -n "${NS}" get lease pullpiri-controllers -o jsonpath='{.spec.holderIdentity}'; }

another_leader() {
    local now
    now=$(leader)
    [ -n "${now}" ] && [ "${now}" != "$1" ]
}

# The containers that run have processes, none of them the one that was killed.
replaced() {
    local now
    now=$(processes)
    [ "$(grep -c . <<< "${now}")" = 5 ] && ! grep -q "^$1 " <<< "${now}"
}

# restarts TEXT: the node runtime that is there now watches: a container of its that ends is started again.
restarts() {
    local victim pod
    pod=$(pod_process)
    victim=$(grep -v "^${pod} " <<< "${BEFORE}" | tail -n 1 | cut -d' ' -f1)
    kill -9 "${victim}"
    until_ok 30 "$1: a killed container is started again" replaced "${victim}"
    BEFORE=$(processes)
}

# The process of the instance that is a Pod.
pod_process() {
    kubectl get modelinstances -l pullpiri.io/package=as-pod -o jsonpath='{.items[0].status.containers[0].pid}'
}

# How many interfaces of Pods have a program of ours.
guests() { hack/kube/cluster.sh run sh -c 'ls /sys/fs/bpf/pullpiri/*/links 2> /dev/null' | grep -c '~guest_egress$'; }

# query EXPRESSION: the first value that Prometheus gives.
query() { curl --silent --get --max-time 5 --data-urlencode "query=$1" "http://127.0.0.1:${PROMETHEUS_PORT}/api/v1/query" | sed -n 's/.*"value":\[[0-9.]*,"\([^"]*\)"\].*/\1/p'; }

unchanged() {
    local now
    now=$(processes)
    [ "${now}" = "${BEFORE}" ] || fail "$1: other processes than before:"$'\n'"${BEFORE}"$'\n'"now:"$'\n'"${now}"
}

# targets COMPONENT: a target for each port of each pod, labelled as Prometheus' service discovery for pods does.
targets() {
    kubectl -n "${NS}" get pods -l "app.kubernetes.io/instance=${RELEASE},app.kubernetes.io/component=$1" \
        -o jsonpath='{range .items[*]}{.status.podIP} {.status.phase} {.spec.nodeName} {.metadata.name}{range .spec.containers[*].ports[*]} {.name}={.containerPort}{end}{"\n"}{end}' \
        | awk -v ns="${NS}" 'BEGIN { printf "[" } { for (i = 5; i <= NF; i++) { split($i, port, "=")
            printf "%s{\"targets\": [\"%s:%s\"], \"labels\": {\"__meta_kubernetes_pod_phase\": \"%s\", \"__meta_kubernetes_pod_container_port_name\": \"%s\", \"__meta_kubernetes_pod_node_name\": \"%s\", \"__meta_kubernetes_pod_name\": \"%s\", \"__meta_kubernetes_namespace\": \"%s\"}}", n++ ? ",\n" : "", $1, port[2], $2, port[1], $3, $4, ns } } END { print "]" }' \
        > "${DIR}/prometheus/$1.json"
}

# ---- the steps ----

prepare() {
    mkdir -p "${DIR}"
    command -v go > /dev/null 2>&1 || [ -x target/kube/bin/kubelet ] || skip "no Go toolchain"
    need_apt prometheus:prometheus curl:curl nsenter:util-linux python3:python3
    need_kubectl
    local code=0
    hack/kube/build.sh helm > /dev/null || code=$?
    if [ "${code}" != 0 ] && [ ! -x target/kube/bin/helm ]; then
        [ "${code}" != 3 ] || skip "no Go toolchain"
        fail "helm can't be built"
    fi
    export PATH=${ROOT}/target/kube/bin:${PATH}
    if [ -z "${PULLPIRI_IMAGE:-}" ]; then
        hack/image.sh > /dev/null
        PULLPIRI_IMAGE=${ROOT}/target/image/pullpiri.oci.tar
    fi
    BIN=${PULLPIRI_BIN:-${CARGO_TARGET_DIR:-${ROOT}/target}/$(rustc -vV | sed -n 's/^host: //p')/release/pullpiri}
    # The chart's controllers are two, of which one leads.
    "${BIN}" controllers --help | grep -q -e --leader-elect || skip "this pullpiri has no leader election, which the chart's controllers need"
    DEMO=${PULLPIRI_DEMO_SERVICE:-$(static_binary demo-service)}
}

cluster() {
    step "a Kubernetes with a node"
    local code=0
    trap finish EXIT
    rm -f "${DIR}/audit.log"
    echo '{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}' > "${DIR}/audit.json"
    # Who says that an owner can't go before what it owns needs a right to the owner, where a cluster is run so (OpenShift's are).
    KUBECONFIG=$(PULLPIRI_KUBE_APISERVER_FLAGS="--enable-admission-plugins=OwnerReferencesPermissionEnforcement --audit-policy-file=${DIR}/audit.json --audit-log-path=${DIR}/audit.log" hack/kube/cluster.sh up --node) || code=$?
    if [ "${code}" = 3 ]; then
        echo "${KUBECONFIG}"
        unset KUBECONFIG
        exit 0
    fi
    [ "${code}" = 0 ] || { unset KUBECONFIG; fail "no cluster"; }
    export KUBECONFIG
    hack/kube/cluster.sh import "${PULLPIRI_IMAGE}"
}

# Values of this machine: a data directory below target/, and no capability that root itself hasn't.
values() {
    {
        echo "node:"
        # The node of hack/kube lives in a mount namespace of its own.
        echo "  host: runtime"
        echo "  dataDir: ${DATA}"
        echo "  kubernetesRuntime: {enabled: true}"
        echo "  uplink: eth0"
        echo "  linkRate: 100M"
        echo "  capabilities:"
        local bounds capability index=0
        bounds=$((16#$(sed -n 's/^CapBnd:\t//p' /proc/self/status)))
        for capability in CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST \
            NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME \
            SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP; do
            if [ $(((bounds >> index) & 1)) = 1 ] && sed -n '/^  capabilities:/,/^  #/p' "${CHART}/values.yaml" | grep -qx "    - ${capability}"; then
                echo "    - ${capability}"
            fi
            index=$((index + 1))
        done
        echo "crds: {keep: false}"
        echo "monitoring: {configMap: {enabled: true}, dashboard: {enabled: true}, interval: 1s}"
    } > "${DIR}/values.yaml"
}

install() {
    step "helm install"
    values
    local began
    began=$(date +%s%N)
    helm install "${RELEASE}" "${CHART}" --namespace "${NS}" --create-namespace --values "${DIR}/values.yaml" --wait --timeout 90s > "${DIR}/install.log"
    local took=$((($(date +%s%N) - began) / 1000000))
    step "all ready ${took} ms after the install began"
    # make bench shows it.
    echo "${took}" > "${ROOT}/target/e2e-k8s.install-ms"
    until_ok 20 "the node registers" kubectl wait noderuntime/"${KUBE_NODE}" --for=condition=Ready --timeout=1s
    until_ok 20 "signals are served" kubectl wait apiservice/v1alpha1.signals.pullpiri.io --for=condition=Available --timeout=1s
    local name
    for name in blis frism mavd rdv; do
        "${BIN}" image build --reference "localhost/${name}:1.0" --file "${DEMO}:/demo-service" --output "${DIR}/${name}.tar" -- /demo-service "${name}"
        "${BIN}" image load "${DIR}/${name}.tar" --data-dir "${DATA}" > /dev/null
    done
    "${BIN}" image build --reference localhost/as-pod:1.0 --file "${DEMO}:/demo-service" --output "${DIR}/as-pod.tar" -- /demo-service as-pod
    hack/kube/cluster.sh import "${DIR}/as-pod.tar"
}

declare_and_signal() {
    step "the published manifest, and the signal that it waits for"
    sed -E "s/\b(ZONE|HPC)\b/${KUBE_NODE}/" examples/bms/bms-eco.published.yaml > "${DIR}/bms.yaml"
    "${BIN}" convert "${DIR}/bms.yaml" 2> /dev/null | kubectl apply -f - > /dev/null
    equals 0 running
    "${BIN}" signal set PowertrainTransmissionCurrentGear=P > /dev/null
    until_ok 30 "four containers run" equals 4 running
    kubectl get modelinstances --all-namespaces -o jsonpath='{range .items[*]}{.metadata.uid}{"\n"}{end}' > "${DIR}/uids"
    BEFORE=$(processes)
    # Not in the pod's cgroups, in no hierarchy.
    local pid
    for pid in $(cut -d' ' -f1 <<< "${BEFORE}"); do
        ! grep -q kubepods "/proc/${pid}/cgroup" || fail "process ${pid} is in a pod's cgroup: $(grep kubepods "/proc/${pid}/cgroup" | head -n 1)"
    done
    kubectl get signals -o wide | grep -q PowertrainTransmissionCurrentGear || fail "kubectl get signals doesn't show the signal"
}

as_a_pod() {
    step "beside them, a model that is a Pod and has a class"
    kubectl apply -f - > /dev/null << YAML
apiVersion: pullpiri.io/v1alpha1
kind: Model
metadata: {name: as-pod, labels: {net: of-pods}}
spec:
  runtime: kubernetes
  terminationGracePeriodSeconds: 1
  containers: [{name: demo, image: "localhost/as-pod:1.0", imagePullPolicy: Never}]
---
apiVersion: pullpiri.io/v1alpha1
kind: Network
metadata: {name: of-pods}
spec:
  attach: {matchLabels: {net: of-pods}}
  qos: {classes: [{name: all, priority: 1, guarantee: 1M, selectors: [{model: as-pod}]}]}
---
apiVersion: pullpiri.io/v1alpha1
kind: Package
metadata: {name: as-pod}
spec: {desiredState: Running, models: [{name: as-pod, node: ${KUBE_NODE}}]}
YAML
    until_ok 30 "five containers run" equals 5 running
    equals "${KUBE_NODE} ModelInstance" kubectl get pods -l pullpiri.io/package=as-pod -o jsonpath='{.items[*].spec.nodeName} {.items[*].metadata.ownerReferences[*].kind}'
    BEFORE=$(processes)
    grep -q kubepods "/proc/$(pod_process)/cgroup" || fail "the Pod's process isn't in a cgroup of the kubelet"
    until_ok 20 "its interface has its class" equals 1 guests
}

monitoring() {
    step "a real Prometheus scrapes by the chart's configuration"
    mkdir -p "${DIR}/prometheus"
    kubectl -n "${NS}" get configmap "${RELEASE}-prometheus" -o jsonpath='{.data.rules\.yaml}' > "${DIR}/prometheus/rules.yaml"
    promtool check rules "${DIR}/prometheus/rules.yaml" > /dev/null
    # Debian's Prometheus knows no Kubernetes: what it would find out there comes by files, with the same labels. The rest is the chart's.
    {
        echo "rule_files: [rules.yaml]"
        kubectl -n "${NS}" get configmap "${RELEASE}-prometheus" -o jsonpath='{.data.scrape\.yaml}' \
            | awk '/job_name:/ { job = $NF; sub(/^pullpiri-/, "", job) }
                   /kubernetes_sd_configs:/ { print "    file_sd_configs: [{files: [" job ".json]}]"; skip = 1; next }
                   /relabel_configs:/ { skip = 0 } !skip { print }'
    } > "${DIR}/prometheus/prometheus.yml"
    targets controllers
    targets node
    promtool check config "${DIR}/prometheus/prometheus.yml" > "${DIR}/promtool.log" 2>&1 || { cat "${DIR}/promtool.log" >&2; fail "promtool refuses the configuration"; }
    prometheus --config.file="${DIR}/prometheus/prometheus.yml" --storage.tsdb.path="${DIR}/prometheus/data" --web.listen-address="127.0.0.1:${PROMETHEUS_PORT}" \
        --log.level=warn > "${DIR}/prometheus.log" 2>&1 &
    PIDS+=($!)
    until_ok 30 "both controllers are scraped" equals 2 query 'sum(up{job="pullpiri-controllers"})'
    until_ok 30 "the node is scraped" equals 1 query 'sum(up{job="pullpiri-node"})'
    until_ok 30 "its instances are counted" equals 5 query 'sum(pullpiri_node_instances{phase="Running"})'
    equals "$(grep -cE '^ *- (alert|record):' "${DIR}/prometheus/rules.yaml")" \
        sh -c "curl --silent http://127.0.0.1:${PROMETHEUS_PORT}/api/v1/rules | grep -oE '\"type\":\"(alerting|recording)\"' | wc -l"
}

leader_killed() {
    step "the leader is killed"
    local old pod
    old=$(leader)
    pod=$(kubectl -n "${NS}" get pods -l app.kubernetes.io/component=controllers -o name | while read -r name; do [[ ${old} != *"${name#pod/}"* ]] || echo "${name#pod/}"; done)
    [ -n "${pod}" ] || fail "the Lease's holder ${old} is no pod of the controllers"
    kubectl -n "${NS}" delete pod "${pod}" --grace-period=0 --force > /dev/null 2>&1
    until_ok 40 "another leader" another_leader "${old}"
    # It does a leader's work: another scenario, with a signal of its own.
    sed -e 's/PowertrainTransmissionCurrentGear/SecondSignal/; s/name: bms-eco$/name: second/' "${DIR}/bms.yaml" | awk '/^---/ { exit } { print }' > "${DIR}/second.yaml"
    "${BIN}" convert "${DIR}/second.yaml" 2> /dev/null | kubectl apply -f - > /dev/null
    until_ok 30 "signals are served again" "${BIN}" signal set SecondSignal#gear=P
    until_ok 30 "the new leader writes a Claim" equals 2 sh -c "kubectl get claims --all-namespaces --no-headers | wc -l"
    unchanged "a new leader"
}

upgrade_and_rollback() {
    step "helm upgrade with a changed value, helm test, rollback"
    # The first process' files are the same here: the node only has mounts of its own beside them.
    local host=init
    readlink /proc/1/ns/mnt > /dev/null || { host=runtime; step "without node.host=init: this machine lets nobody see the namespaces of process 1"; }
    helm upgrade "${RELEASE}" "${CHART}" --namespace "${NS}" --values "${DIR}/values.yaml" --set log.filter=debug --set node.host=${host} --wait --timeout 120s \
        > "${DIR}/upgrade.log"
    unchanged "after the upgrade"
    restarts "after the upgrade"
    helm test "${RELEASE}" --namespace "${NS}" --timeout 60s > "${DIR}/test.log" || { cat "${DIR}/test.log" >&2; fail "helm test"; }
    helm rollback "${RELEASE}" 1 --namespace "${NS}" --wait --timeout 120s > "${DIR}/rollback.log"
    unchanged "after the rollback"
    equals 5 running
    equals 1 guests
    restarts "after the rollback"
}

# What the chart grants is enough: the API server let everything that was asked for by its ServiceAccounts.
nothing_refused() {
    step "nothing that controllers or node asked for was refused"
    local refused
    refused=$(grep -F '"code":403' "${DIR}/audit.log" | grep -F "\"username\":\"system:serviceaccount:${NS}:" || true)
    [ -z "${refused}" ] || fail "refused: $(head -n 3 <<< "${refused}")"
    grep -qF "\"username\":\"system:serviceaccount:${NS}:${RELEASE}-node\"" "${DIR}/audit.log" || fail "the audit log knows of no request of a node"
}

# A node's token is good for that node's own objects only.
node_restriction() {
    step "what a node may not write"
    local token said
    token=$(kubectl -n "${NS}" create token "${RELEASE}-node")
    local as=(kubectl --kubeconfig /dev/null --server "$(kubectl config view --raw -o jsonpath='{.clusters[0].cluster.server}')" --certificate-authority "${PULLPIRI_KUBE_DIR}/pki/ca.crt" --token "${token}")
    said=$("${as[@]}" apply --server-side --field-manager e2e -f - 2>&1 \
        <<< '{"apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": "another-node"}, "spec": {}}') && fail "a token that says of no node was let write"
    grep -q "the token says of no node" <<< "${said}" || fail "refused for another reason: ${said}"
    said=$("${as[@]}" delete package --all 2>&1) && fail "a node may delete Packages"
    said=$("${as[@]}" get secrets --namespace default 2>&1) || fail "a node can't read Secrets of workloads: ${said}"
    said=$("${as[@]}" get secrets --namespace kube-system 2>&1) && fail "a node reads Secrets of namespaces that have no workloads"
    said=$("${as[@]}" get nodes 2>&1) && fail "a node may list Nodes"
    return 0
}

# Every object of the golden test's cases is one that a real API server takes.
dry_run() {
    step "the chart's other cases, by server-side dry run"
    local values options
    kubectl create namespace chassis --dry-run=client -o yaml | kubectl apply -f - > /dev/null
    kubectl create namespace body --dry-run=client -o yaml | kubectl apply -f - > /dev/null
    for values in e2e/tests/chart/*.values.yaml; do
        options=$(sed -n '1s/^# helm: *//p' "${values}")
        # The operator's kinds aren't here; promtool and the golden files see to theirs. The test's pod has run already.
        # shellcheck disable=SC2086
        helm template dry "${CHART}" --skip-tests --namespace "${NS}" --kube-version=1.37.0 ${options} --values "${values}" \
            | awk 'BEGIN { RS = "---\n"; ORS = "" } !/kind: (PodMonitor|ServiceMonitor|PrometheusRule)/ { print "---\n" $0 }' > "${DIR}/dry.yaml"
        kubectl apply --server-side --force-conflicts --dry-run=server -f "${DIR}/dry.yaml" > "${DIR}/dry.log" 2>&1 || { grep -v serverside "${DIR}/dry.log" >&2; fail "${values}"; }
    done
    kubectl delete namespace chassis body --wait=false > /dev/null
}

uninstall() {
    step "helm uninstall"
    local pod left
    pod=$(pod_process)
    # One of each kind that the others didn't need.
    kubectl apply -f - > /dev/null << YAML
apiVersion: pullpiri.io/v1alpha1
kind: Policy
metadata: {name: unused}
spec: {placement: {availableNodes: [${KUBE_NODE}]}}
---
apiVersion: pullpiri.io/v1alpha1
kind: Schedule
metadata: {name: unused}
spec: {tasks: [{name: control, wcet: 1ms, period: 10ms, target: {model: unused}}]}
---
apiVersion: pullpiri.io/v1alpha1
kind: Claim
metadata: {name: unused}
spec: {package: unused, action: launch}
YAML
    helm uninstall "${RELEASE}" --namespace "${NS}" --wait --timeout 120s > "${DIR}/uninstall.log"
    # The permissions' test takes each verb of the chart's roles away and looks which of these requests is refused then (e2e/tests/rbac.rs).
    hack/kube/requests.py "${DIR}/audit.log" "${NS}" "${RELEASE}-" > "${DIR}/requests"
    left=$(sed -n 's/^e2e-k8s //p' e2e/tests/rbac/requests.txt | grep -vxF -f "${DIR}/requests" || true)
    [ -z "${left}" ] || fail "nobody asked for this any more, so that the chart needn't allow it: ${left}"
    # Objects. The namespace is who made it's to delete; what is in there and isn't Helm's is the controllers' Lease.
    until_ok 60 "no pod is left" equals 0 sh -c "kubectl -n ${NS} get pods --no-headers 2> /dev/null | wc -l"
    kubectl delete namespace "${NS}" --timeout=60s > /dev/null
    left=$(kubectl api-resources --no-headers 2> /dev/null | grep pullpiri.io || true)
    [ -z "${left}" ] || fail "kinds are left: ${left}"
    left=$(kubectl get clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,apiservices,crds -o name | grep pullpiri || true)
    [ -z "${left}" ] || fail "objects are left: ${left}"
    left=$(kubectl get roles,rolebindings,services,serviceaccounts,deployments,daemonsets,networkpolicies,poddisruptionbudgets,jobs,secrets,configmaps --all-namespaces -o name | grep pullpiri || true)
    [ -z "${left}" ] || fail "objects are left: ${left}"
    until_ok 60 "no Lease is left" sh -c "! kubectl get leases --all-namespaces -o name | grep pullpiri"
    left=$(kubectl get pods -o name)
    [ -z "${left}" ] || fail "Pods of models are left: ${left}"
    # And on the node.
    [ ! -e "/proc/${pod}" ] || fail "the Pod's process ${pod} is left"
    left=$(pgrep -f -- "${DATA}" || true)
    [ -z "${left}" ] || fail "processes are left: $(ps -o pid,args -p "${left//$'\n'/,}")"
    left=$(grep -F " ${DATA}" /proc/self/mountinfo || true)
    [ -z "${left}" ] || fail "mounts are left: ${left}"
    local uid
    for uid in $(cat "${DIR}/uids"); do
        left=$(find /sys/fs/cgroup -maxdepth 3 -type d -name "${uid}" 2> /dev/null)
        [ -z "${left}" ] || fail "cgroups are left: ${left}"
    done
    left=$(hack/kube/cluster.sh run ip -brief link | grep -E '^ppl' || true)
    [ -z "${left}" ] || fail "interfaces are left: ${left}"
    left=$(compgen -G "/sys/fs/bpf/pullpiri/${KUBE_NODE}-*" || true)
    [ -z "${left}" ] || fail "pins are left: ${left}"
    rm -rf "${DATA}"
}

began=${SECONDS}
prepare
cluster
install
declare_and_signal
as_a_pod
monitoring
leader_killed
upgrade_and_rollback
nothing_refused
node_restriction
dry_run
uninstall
step "e2e-k8s passed in $((SECONDS - began)) s"
