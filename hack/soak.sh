#!/usr/bin/env bash
# The crash and power-cut suites of the store, long: KILLS random kill -9 and CUTS simulated power cuts; and ETCD_ROUNDS rounds of faults of an
# etcd cluster's members.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
step "${KILLS:-1000} kill -9 under load"
cargo run --quiet --release --package pullpiri-store --example kill9 -- "${KILLS:-1000}"
step "${CUTS:-20000} simulated power cuts"
cargo run --quiet --release --package pullpiri-store --example powercut -- "${CUTS:-20000}"
need_apt etcd:etcd-server
step "${ETCD_ROUNDS:-50} rounds of faults of an etcd cluster"
ETCD_ROUNDS=${ETCD_ROUNDS:-50} cargo test --quiet --release --package pullpiri-store --test etcd -- faults --nocapture
