#!/usr/bin/env bash
# The main job, live: a published vehicle manifest on two nodes; then real time and network QoS (examples/brake-and-video). ZONE runs API server,
# controllers and a node in one process, HPC is a second node; each is in its own network namespace, and a veth link joins them. Ctrl-C stops
# everything that was started here, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

STATE=${PULLPIRI_RUN_DIR:-${ROOT}/target/run}
ZONE_NS=pullpiri-zone
HPC_NS=pullpiri-hpc
# Between the nodes, and from here to ZONE: kubectl's way.
ZONE_IP=10.213.77.1
HPC_IP=10.213.77.2
HERE_IF=pullpiri-run0
HERE_IP=10.213.78.1
API_IP=10.213.78.2
PORT=${PULLPIRI_RUN_PORT:-16443}
METRICS_PORT=9464
# What the link is said to carry: little enough that a video stream fills it.
LINK_RATE=${PULLPIRI_RUN_LINK_RATE:-100M}
MANIFEST=examples/bms/bms-eco.published.yaml
EXAMPLE=examples/brake-and-video
SERVICES="blis frism mavd rdv"
MACHINE_LOCK=/run/pullpiri-make-run.lock
PIDS=()

[ "$(id -u)" = 0 ] || fail "make run starts containers and a network namespace: run it as root"

# Stops what was started, whatever signals come meanwhile and whether or not anybody still reads what is printed.
cleanup() {
    trap '' INT TERM HUP PIPE
    trap - EXIT
    set +e
    [ ${#PIDS[@]} -gt 0 ] && step "stopping" 2> /dev/null
    local pid
    for pid in "${PIDS[@]}"; do kill -TERM "${pid}" 2> /dev/null; done
    for pid in "${PIDS[@]}"; do wait "${pid}" 2> /dev/null; done
    rm -f "${STATE}"/*.pid
    unlink_nodes
    # What adoption would need, of namespaces that are gone.
    local node
    for node in zone hpc; do rm -rf "/sys/fs/bpf/pullpiri/${node}-$(cat "${STATE}/${node}/network/installation" 2> /dev/null)"; done
}

# born PID: when it started, in clock ticks since boot; tells a process from a later one with its number.
born() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat" 2> /dev/null; }

# A run that was killed couldn't stop its nodes: theirs are the pids in its folder that still began when it wrote them down.
stop_leftovers() {
    local file pid began
    for file in "${STATE}"/*.pid; do
        [ -e "${file}" ] || continue
        read -r pid began < "${file}" || true
        if [ -n "${began:-}" ] && [ "$(born "${pid}")" = "${began}" ]; then
            step "stopping what a killed run left: process ${pid}"
            kill -TERM "${pid}" 2> /dev/null || true
            while [ "$(born "${pid}")" = "${began}" ]; do sleep 0.05; done
        fi
        rm -f "${file}"
    done
}

# What a run of another checkout left when it was killed isn't this one's to stop.
nobody_is_there() {
    local ns pids
    for ns in "${ZONE_NS}" "${HPC_NS}"; do
        pids=$(ip netns pids "${ns}" 2> /dev/null | xargs) || true
        if [ -n "${pids}" ]; then
            trap - EXIT
            fail "network namespace ${ns} is in use by processes ${pids}: a make run of another checkout was killed; make run there, or end them"
        fi
    done
}

unlink_nodes() {
    ip link delete "${HERE_IF}" 2> /dev/null || true
    ip netns delete "${ZONE_NS}" 2> /dev/null || true
    ip netns delete "${HPC_NS}" 2> /dev/null || true
}

build() {
    need_apt gcc:gcc ip:iproute2 nsenter:util-linux clang:clang llvm-strip:llvm /usr/include/bpf/bpf_helpers.h:libbpf-dev
    need_kubectl
    BIN=${PULLPIRI_BIN:-}
    if [ -z "${BIN}" ]; then
        step "building pullpiri (release); the first time takes minutes"
        build_product
        BIN=${CARGO_TARGET_DIR:-${ROOT}/target}/release/pullpiri
    fi
    step "building the demo service (static)"
    DEMO=$(static_binary demo-service)
    BRAKE=$(static_binary brake-and-video)
}

images() {
    step "making the images offline: ${SERVICES} brake-and-video"
    mkdir -p "${STATE}/images"
    local name node
    for name in ${SERVICES}; do
        "${BIN}" image build --reference "localhost/${name}:1.0" --file "${DEMO}:/demo-service" \
            --output "${STATE}/images/${name}.tar" -- /demo-service "${name}"
    done
    "${BIN}" image build --reference localhost/brake-and-video:1.0 --file "${BRAKE}:/brake-and-video" \
        --output "${STATE}/images/brake-and-video.tar" -- /brake-and-video
    for name in ${SERVICES} brake-and-video; do
        for node in zone hpc; do
            "${BIN}" image load "${STATE}/images/${name}.tar" --data-dir "${STATE}/${node}" > /dev/null
        done
    done
}

in_ns() { local ns=$1; shift; nsenter --net="/run/netns/${ns}" "$@"; }

# join NETNS INTERFACE ADDRESS: gives an interface of a namespace its address and brings it up.
join() {
    in_ns "$1" ip link set lo up
    in_ns "$1" ip address add "$3" dev "$2"
    in_ns "$1" ip link set "$2" up
}

network() {
    step "linking network namespaces ${ZONE_NS} (${ZONE_IP}) and ${HPC_NS} (${HPC_IP})"
    unlink_nodes
    ip netns add "${ZONE_NS}"
    ip netns add "${HPC_NS}"
    ip link add name eth0 netns "${ZONE_NS}" type veth peer name eth0 netns "${HPC_NS}"
    ip link add "${HERE_IF}" type veth peer name mgmt0 netns "${ZONE_NS}"
    join "${ZONE_NS}" eth0 "${ZONE_IP}/30"
    join "${HPC_NS}" eth0 "${HPC_IP}/30"
    # The example's network has both families.
    in_ns "${ZONE_NS}" ip address add fd10:213:77::1/64 dev eth0 nodad
    in_ns "${HPC_NS}" ip address add fd10:213:77::2/64 dev eth0 nodad
    join "${ZONE_NS}" mgmt0 "${API_IP}/30"
    ip address add "${HERE_IP}/30" dev "${HERE_IF}"
    ip link set "${HERE_IF}" up
    # top reads HPC's metrics through ZONE.
    in_ns "${ZONE_NS}" sysctl -qw net.ipv4.ip_forward=1
    ip route replace "${HPC_IP}/32" via "${API_IP}" dev "${HERE_IF}"
    in_ns "${HPC_NS}" ip route replace "${HERE_IP}/32" via "${ZONE_IP}"
}

# start NAME NETNS COMMAND…: runs it in that namespace, in a session of its own, so that Ctrl-C reaches this script alone, which then stops everything in order.
start() {
    local name=$1
    shift
    setsid nsenter --net="/run/netns/$1" "${@:2}" > "${STATE}/${name}.log" 2>&1 8>&- 9>&- &
    PIDS+=($!)
    echo "$! $(born "$!")" > "${STATE}/${name}.pid"
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
    start zone "${ZONE_NS}" "${BIN}" up --data-dir "${STATE}/zone" --node ZONE --runtime oci --stop-workloads \
        --listen "${API_IP}:${PORT}" --listen "${ZONE_IP}:${PORT}" --metrics-listen "${API_IP}:${METRICS_PORT}" \
        --uplink eth0 --link-rate "${LINK_RATE}"
    wait_for 20 "the API server" curl_ready
    "${BIN}" kubeconfig --data-dir "${STATE}/zone" --user system:node:HPC --group system:nodes \
        --server "https://${ZONE_IP}:${PORT}" > "${STATE}/hpc.kubeconfig.yaml"
    step "starting HPC: a node behind the link"
    start hpc "${HPC_NS}" "${BIN}" node --kubeconfig "${STATE}/hpc.kubeconfig.yaml" --name HPC \
        --data-dir "${STATE}/hpc" --runtime oci --stop-workloads --metrics-listen "${HPC_IP}:${METRICS_PORT}" \
        --uplink eth0 --link-rate "${LINK_RATE}"
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
        k delete scenarios,packages,models,volumes,networks,schedules --all --wait > /dev/null
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

top() { "${BIN}" top --kubeconfig "${STATE}/zone/kubeconfig.yaml" "$@"; }

# brake PATH: a field of the brake's ModelInstance.
brake() { k get modelinstances -l pullpiri.io/model=brake -o jsonpath="{.items[0]$1}"; }

all_running() { [ "$(k get package brake-and-video -o jsonpath='{.status.state}')" = Running ]; }
is_refused() { [ "$(k get package broken -o jsonpath='{.status.conditions[?(@.type=="Schedulable")].status}')" = False ]; }
has_restarted() { [ "$(brake .status.restarts)" -gt "$1" ]; }
is_measured() { [ "$(brake '.status.realtime[0].jobs')" -gt 0 ]; }

# watch SECONDS: the live table of tasks and classes.
watch() {
    timeout --foreground "$1" "${BIN}" top --watch --kubeconfig "${STATE}/zone/kubeconfig.yaml" || true
}

play_brake_and_video() {
    step "applying ${EXAMPLE}: a proven control loop, its sensor, a video stream and CPU hogs, on a link of ${LINK_RATE}bit/s"
    k apply -f "${EXAMPLE}/network.yaml" -f "${EXAMPLE}/schedule.yaml" -f "${EXAMPLE}/package.yaml"
    wait_for 30 "brake-and-video to run" all_running
    wait_for 20 "the brake's loop to be measured" is_measured
    watch "${PULLPIRI_RUN_WATCH:-10}"
    step "a set that would miss is refused, and says why"
    k apply -f "${EXAMPLE}/broken.yaml"
    wait_for 20 "the broken set to be refused" is_refused
    k get package broken -o jsonpath='{.status.conditions[?(@.type=="Schedulable")].message}{"\n"}'
    k delete -f "${EXAMPLE}/broken.yaml" > /dev/null
    step "the brake's next job lasts 30 ms: onMiss restarts it"
    local restarts
    restarts=$(brake .status.restarts)
    kill -USR1 "$(brake '.status.containers[0].pid')"
    wait_for 20 "the miss to restart the brake" has_restarted "${restarts:-0}"
    k get events --field-selector reason=MissBudgetSpent -o jsonpath='{range .items[*]}{.reason}: {.message}{"\n"}{end}'
    watch 4
}

build
mkdir -p "${STATE}"
exec 9>> "${STATE}/lock"
flock -n 9 || fail "another make run is active in ${STATE}: process $(cat "${STATE}/lock")"
echo "$$" > "${STATE}/lock"
# The namespaces and addresses are the machine's: of all checkouts one runs at a time.
exec 8>> "${MACHINE_LOCK}"
flock -n 8 || fail "another make run is active on this machine: $(cat "${MACHINE_LOCK}")"
echo "process $$ in ${STATE}" > "${MACHINE_LOCK}"
trap cleanup EXIT
trap 'exit 0' INT TERM
trap 'exit 1' HUP PIPE
stop_leftovers
nobody_is_there
images
network
start_nodes
play
play_brake_and_video
cat <<EOF
It runs. Ctrl-C stops it. In another terminal:

  export KUBECONFIG=${STATE}/zone/kubeconfig.yaml
  kubectl get pullpiri -A
  kubectl describe scenario bms-eco
  ${BIN} top --watch
  ${BIN} signal get PowertrainTransmissionCurrentGear

EOF
if [ -n "${PULLPIRI_RUN_ONCE:-}" ]; then exit 0; fi
wait -n "${PIDS[@]}" || true
tail -n 20 "${STATE}"/*.log >&2
fail "a node ended by itself"
