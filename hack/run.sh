#!/usr/bin/env bash
# The main job, live: a published vehicle manifest on two nodes. ZONE runs API server, controllers and a node in one process; HPC is a
# second node in its own network namespace behind a veth link. Ctrl-C stops everything that was started here, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

STATE=${PULLPIRI_RUN_DIR:-${ROOT}/target/run}
NETNS=pullpiri-hpc
LINK=pullpiri-zone0
ZONE_IP=10.213.77.1
HPC_IP=10.213.77.2
PORT=${PULLPIRI_RUN_PORT:-16443}
MANIFEST=examples/bms/bms-eco.published.yaml
SERVICES="blis frism mavd rdv"
PIDS=()

[ "$(id -u)" = 0 ] || fail "make run starts containers and a network namespace: run it as root"

cleanup() {
    trap - EXIT INT TERM
    [ ${#PIDS[@]} -gt 0 ] && step "stopping"
    local pid
    for pid in "${PIDS[@]}"; do kill -TERM "${pid}" 2> /dev/null || true; done
    for pid in "${PIDS[@]}"; do wait "${pid}" 2> /dev/null || true; done
    ip link delete "${LINK}" 2> /dev/null || true
    ip netns delete "${NETNS}" 2> /dev/null || true
}

build() {
    need_apt gcc:gcc ip:iproute2 nsenter:util-linux clang:clang llvm-strip:llvm /usr/include/bpf/bpf_helpers.h:libbpf-dev
    need_kubectl
    step "building pullpiri (release)"
    cargo build --quiet --release --package pullpiri
    BIN=${CARGO_TARGET_DIR:-${ROOT}/target}/release/pullpiri
    step "building the demo service (static)"
    DEMO=$(static_demo)
}

images() {
    step "making the images offline: ${SERVICES}"
    mkdir -p "${STATE}/images"
    local name node
    for name in ${SERVICES}; do
        "${BIN}" image build --reference "localhost/${name}:1.0" --file "${DEMO}:/demo-service" \
            --output "${STATE}/images/${name}.tar" -- /demo-service "${name}"
        for node in zone hpc; do
            "${BIN}" image load "${STATE}/images/${name}.tar" --data-dir "${STATE}/${node}" > /dev/null
        done
    done
}

network() {
    step "linking network namespace ${NETNS} (${HPC_IP}) to this one (${ZONE_IP})"
    ip link delete "${LINK}" 2> /dev/null || true
    ip netns delete "${NETNS}" 2> /dev/null || true
    ip netns add "${NETNS}"
    ip link add "${LINK}" type veth peer name eth0 netns "${NETNS}"
    ip address add "${ZONE_IP}/30" dev "${LINK}"
    ip link set "${LINK}" up
    nsenter --net="/run/netns/${NETNS}" ip address add "${HPC_IP}/30" dev eth0
    nsenter --net="/run/netns/${NETNS}" ip link set eth0 up
    nsenter --net="/run/netns/${NETNS}" ip link set lo up
}

# start NAME COMMAND…: runs it in a session of its own, so that Ctrl-C reaches this script alone, which then stops everything in order.
start() {
    local name=$1
    shift
    setsid "$@" > "${STATE}/${name}.log" 2>&1 &
    PIDS+=($!)
}

# wait_for SECONDS TEXT COMMAND…: until the command succeeds.
wait_for() {
    local seconds=$1 text=$2 deadline=$((SECONDS + $1)) pid
    shift 2
    until "$@" > /dev/null 2>&1; do
        [ "${SECONDS}" -lt "${deadline}" ] || { tail -n 20 "${STATE}"/*.log >&2; fail "${text}: not within ${seconds} s"; }
        for pid in "${PIDS[@]}"; do
            kill -0 "${pid}" 2> /dev/null || { tail -n 20 "${STATE}"/*.log >&2; fail "${text}: a process of ours ended"; }
        done
        sleep 0.05
    done
}

k() { kubectl --kubeconfig "${STATE}/zone/kubeconfig.yaml" "$@"; }

start_nodes() {
    step "starting ZONE: API server, controllers and node in one process"
    start zone "${BIN}" up --data-dir "${STATE}/zone" --node ZONE --runtime oci --stop-workloads \
        --listen "127.0.0.1:${PORT}" --listen "${ZONE_IP}:${PORT}"
    wait_for 20 "the API server" curl_ready
    "${BIN}" kubeconfig --data-dir "${STATE}/zone" --user system:node:HPC --group system:nodes \
        --server "https://${ZONE_IP}:${PORT}" > "${STATE}/hpc.kubeconfig.yaml"
    step "starting HPC: a node behind the link"
    start hpc nsenter --net="/run/netns/${NETNS}" "${BIN}" node --kubeconfig "${STATE}/hpc.kubeconfig.yaml" --name HPC \
        --data-dir "${STATE}/hpc" --runtime oci --stop-workloads
    wait_for 20 "both nodes ready" both_ready
}

curl_ready() { [ -s "${STATE}/zone/kubeconfig.yaml" ] && k get --raw /readyz; }

both_ready() {
    [ "$(k get noderuntimes -o jsonpath='{.items[*].status.conditions[?(@.type=="Ready")].status}')" = "True True" ]
}

nothing_left() { [ -z "$(k get scenarios,packages,models,modelinstances -A -o name)" ]; }

table() {
    {
        echo "SCENARIO STATE HISTORY"
        k get scenarios -o jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.state}{" "}{range .status.history[*]}{.from}{"→"}{.to}{","}{end}{"\n"}{end}'
        echo "- - -"
        echo "PACKAGE STATE READY"
        k get packages -o jsonpath='{range .items[*]}{.metadata.name}{" "}{.status.state}{" "}{.status.ready}{"\n"}{end}'
        echo "- - -"
        echo "INSTANCE NODE PHASE/PID"
        k get modelinstances -o jsonpath='{range .items[*]}{.spec.model}{" "}{.spec.nodeName}{" "}{.status.phase}{"/"}{.status.containers[0].pid}{"\n"}{end}'
    } | column -t | sed 's/^-.*//'
}

# show UNTIL: draws the table, again on every change, until the package's state is UNTIL.
show() {
    local until=$1 deadline=$((SECONDS + 30)) last="" now state drawn=0
    while :; do
        # The state first: the table that follows is at least as new.
        state=$(k get scenarios -o jsonpath='{.items[0].status.state}')
        now=$(table)
        if [ "${now}" != "${last}" ]; then
            [ -t 1 ] && [ "${drawn}" -gt 0 ] && printf '\033[%dA\033[J' "${drawn}"
            printf '%s\n\n' "${now}"
            drawn=$(($(printf '%s\n' "${now}" | wc -l) + 1))
            last=${now}
        fi
        [ "${state}" = "${until}" ] && return 0
        [ "${SECONDS}" -lt "${deadline}" ] || { tail -n 20 "${STATE}"/*.log >&2; fail "the scenario isn't ${until} after 30 s"; }
        sleep 0.1
    done
}

play() {
    if ! nothing_left; then
        step "removing what an earlier run left"
        k delete scenarios,packages,models,volumes,networks --all --wait > /dev/null
        wait_for 60 "the earlier run's instances to go" nothing_left
    fi
    step "converting and applying ${MANIFEST}"
    "${BIN}" convert "${MANIFEST}" > "${STATE}/bms.yaml"
    k apply -f "${STATE}/bms.yaml"
    show Waiting
    step "signal: PowertrainTransmissionCurrentGear=P"
    "${BIN}" signal set PowertrainTransmissionCurrentGear=P --kubeconfig "${STATE}/zone/kubeconfig.yaml"
    show Completed
}

build
mkdir -p "${STATE}"
exec 9> "${STATE}/lock"
flock -n 9 || fail "another make run is active in ${STATE}"
trap cleanup EXIT
trap 'exit 0' INT TERM
images
network
start_nodes
play
cat <<EOF
It runs. Ctrl-C stops it. In another terminal:

  export KUBECONFIG=${STATE}/zone/kubeconfig.yaml
  kubectl get pullpiri -A
  kubectl describe scenario bms-eco
  ${BIN} signal get PowertrainTransmissionCurrentGear

EOF
if [ -n "${PULLPIRI_RUN_ONCE:-}" ]; then exit 0; fi
wait -n "${PIDS[@]}" || true
tail -n 20 "${STATE}"/*.log >&2
fail "a node ended by itself"
