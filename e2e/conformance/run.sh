#!/usr/bin/env bash
# The official specs of sig-api-machinery against `pullpiri apiserver`. run.sh [run|list]: `list` only checks that e2e/conformance/specs.txt names every
# spec of its groups. With PULLPIRI_CONFORMANCE_KUBECONFIG the specs run against that server instead (and all of them, with PULLPIRI_CONFORMANCE_ALL=1).
# Without Go it prints `skipped: no Go toolchain` and succeeds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/tools.sh
what=${1:-run}
out=${ROOT}/target/conformance
bin=${PULLPIRI_KUBE_BIN:-${ROOT}/target/kube/bin}
mkdir -p "${out}"
if ! command -v go > /dev/null 2>&1 && ! { [ -x "${bin}/e2e.test" ] && [ -x "${bin}/ginkgo" ]; }; then
    echo "skipped: no Go toolchain"
    exit 0
fi
need_apt python3:python3
! command -v go > /dev/null 2>&1 || hack/kube/build.sh ginkgo e2e.test

report=e2e/conformance/report.py
"${bin}/e2e.test" --provider=local --ginkgo.dry-run --ginkgo.no-color --ginkgo.focus="$(python3 "${report}" groups)" \
    --ginkgo.json-report="${out}/specs.json" > "${out}/specs.log" 2>&1 || { tail -n 20 "${out}/specs.log"; fail "the specs can't be listed"; }
python3 "${report}" check "${out}/specs.json"
[ "${what}" = run ] || exit 0

need_kubectl
pid=
cleanup() {
    [ -z "${pid}" ] || { kill "${pid}" 2> /dev/null || true; wait "${pid}" 2> /dev/null || true; }
    rm -rf "${out}/data"
}
trap cleanup EXIT
if [ -n "${PULLPIRI_CONFORMANCE_KUBECONFIG:-}" ]; then
    kubeconfig=${PULLPIRI_CONFORMANCE_KUBECONFIG}
else
    rm -rf "${out}/data"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    kubeconfig=${out}/data/kubeconfig.yaml
    # History is kept for seconds rather than minutes, for the spec that waits until a page of a list has expired.
    "${PULLPIRI_BIN:-${ROOT}/target/debug/pullpiri}" apiserver --data-dir "${out}/data" --listen "127.0.0.1:${port}" --compaction-interval 15 > "${out}/apiserver.log" 2>&1 &
    pid=$!
    for _ in $(seq 1 300); do
        ! kubectl --kubeconfig "${kubeconfig}" get --raw /readyz > /dev/null 2>&1 || break
        kill -0 "${pid}" 2> /dev/null || { cat "${out}/apiserver.log"; fail "the API server ended"; }
        sleep 0.1
    done
fi
focus=$(python3 "${report}" passing)
[ -z "${PULLPIRI_CONFORMANCE_ALL:-}" ] || focus=$(python3 "${report}" groups)
rm -f "${out}/run.json"
# The specs mostly wait: more processes than processors.
status=0
cd "${out}"
timeout --kill-after=10 "${PULLPIRI_CONFORMANCE_SECONDS:-900}" "${bin}/ginkgo" --procs="${PULLPIRI_CONFORMANCE_PROCS:-8}" --no-color --silence-skips --json-report=run.json \
    --focus="${focus}" --timeout=14m "${bin}/e2e.test" -- --provider=local --kubeconfig="${kubeconfig}" --kubectl-path="$(command -v kubectl)" \
    --allowed-not-ready-nodes=-1 --minStartupPods=-1 --num-nodes=0 --kube-api-content-type=application/json > "${out}/run.log" 2>&1 || status=$?
cd "${ROOT}"
[ -e "${out}/run.json" ] || { tail -n 40 "${out}/run.log"; fail "the specs didn't run to their end (${status}); see ${out}/run.log"; }
python3 "${report}" judge "${out}/run.json"
