#!/usr/bin/env bash
# Measures what docs/promises.md promises: prints a table, writes target/bench.json, fails if a bar isn't met. Arguments choose measurements by name.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
need_apt gcc:gcc podman:podman runc:runc catatonit:catatonit iptables:iptables /usr/lib/cni/bridge:containernetworking-plugins \
    clang:clang llvm-strip:llvm /usr/include/bpf/bpf_helpers.h:libbpf-dev ip:iproute2 nft:nftables iperf3:iperf3 perf:linux-perf
step "building (release)"
build_product
cargo build --quiet --release --package pullpiri-e2e
cargo build --quiet --release --package pullpiri-store --example powercut
cargo build --quiet --release --package pullpiri-rt --package pullpiri-net --examples
PULLPIRI_REQUIRE_BPF=1 cargo build --quiet --release --package pullpiri-ebpf --package pullpiri-agent --examples
PULLPIRI_DEMO_SERVICE=$(static_binary demo-service)
export PULLPIRI_DEMO_SERVICE
export PULLPIRI_BIN=${CARGO_TARGET_DIR:-${ROOT}/target}/release/pullpiri
# What the API server is measured beside, where it can be built; a first build takes minutes.
if [ $# -eq 0 ] || [[ " $* " = *" beside"* ]]; then
    hack/kube/build.sh kube-apiserver || [ $? = 3 ]
    need_apt etcd:etcd-server openssl:openssl
fi
step "measuring (some minutes; kill -9 rounds: ${PULLPIRI_KILLS:-200}, power cuts: ${PULLPIRI_POWER_CUTS:-1000})"
"${CARGO_TARGET_DIR:-${ROOT}/target}/release/bench" "$@"
