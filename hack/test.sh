#!/usr/bin/env bash
# Every check and every test that this machine can run. What it can't, a test says: `skipped: <reason>`. The log of all tests is in target/test.log.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
began=${SECONDS}
export CARGO_TERM_COLOR=never
mkdir -p target

# The real Kubernetes is built beside, of what the compilers leave idle: minutes the first time, nothing later.
kube_build=
if command -v go > /dev/null 2>&1; then
    hack/kube/build.sh kube-apiserver crdcheck ginkgo e2e.test kubelet kube-controller-manager kube-scheduler pause helm helm3 > target/kube-build.log 2>&1 &
    kube_build=$!
fi

step "format"
cargo fmt --all --check

step "dependency directions and generated CRDs"
cargo xtask directions
cargo xtask crdgen --check

step "clippy"
cargo clippy --quiet --workspace --all-targets -- -D warnings

if cargo deny --version > /dev/null 2>&1; then
    step "cargo-deny"
    cargo deny --log-level error check bans licenses sources
else
    echo "skipped: no cargo-deny (cargo install cargo-deny)" | tee target/skipped-checks
fi

step "building"
PULLPIRI_DEMO_SERVICE=$(static_binary demo-service)
export PULLPIRI_DEMO_SERVICE
cargo build --quiet --workspace
export PULLPIRI_BIN=${CARGO_TARGET_DIR:-${ROOT}/target}/debug/pullpiri
cargo test --quiet --workspace --no-run

if [ -n "${kube_build}" ]; then
    step "building the real Kubernetes (log: target/kube-build.log)"
    wait "${kube_build}" || { tail -n 20 target/kube-build.log; fail "the real Kubernetes isn't built"; }
fi

step "tests (log: target/test.log)"
log=target/test.log
status=0
cargo test --workspace --no-fail-fast -- --show-output > "${log}" 2>&1 || status=$?
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     /Running|Doc-tests/ { target = $0 }
     /^test .* FAILED$/ { print "  FAILED " $2 " (" target ")" }
     END { printf "%d %d %d\n", passed, failed, ignored > "target/test.counts" }' "${log}"
step "conformance (log: target/conformance/run.log)"
e2e/conformance/run.sh | tee -a "${log}" || status=1
step "by Helm on a real Kubernetes (log: target/e2e-k8s.log)"
hack/e2e-k8s.sh > target/e2e-k8s.log 2>&1 || { tail -n 60 target/e2e-k8s.log; status=1; }
tail -n 1 target/e2e-k8s.log | tee -a "${log}"
skipped=$(grep -cE '^\s*skipped: ' "${log}" || true)
read -r passed failed ignored < target/test.counts

[ -s target/skipped-checks ] || rm -f target/skipped-checks

if [ "${status}" -ne 0 ]; then
    # A panic's message is on the line after it.
    grep -nE -A 1 'panicked at|^error' "${log}" | cut -c -1600 | head -n 60 || true
    tail -n 120 "${log}"
fi
if [ "${skipped}" -gt 0 ]; then
    echo "What this machine can't prove:"
    grep -hE '^\s*skipped: ' "${log}" | sort | uniq -c | sort -rn
fi
[ -f target/skipped-checks ] && cat target/skipped-checks && rm -f target/skipped-checks
verdict=passed
[ "${status}" -eq 0 ] || verdict=FAILED
echo "make test ${verdict}: ${passed} tests passed, ${failed} failed, ${ignored} ignored, ${skipped} skipped for what this machine lacks, in $((SECONDS - began)) s"
exit "${status}"
