#!/usr/bin/env bash
# Builds what is named into target/kube/bin from published Go modules: kube-apiserver kube-controller-manager kube-scheduler kubelet pause crdcheck e2e.test ginkgo helm helm3.
# What was built from the same sources and versions isn't built again. Go's own cache makes the next build quick; a first one takes minutes.
# Without Go it prints `skipped: no Go toolchain` and ends with 3.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=${PULLPIRI_KUBE_BIN:-$(cd "${here}/../.." && pwd)/target/kube/bin}
HELM=v4.3.1
# The chart's tests run with it, too.
HELM3=v3.22.0

if ! command -v go > /dev/null 2>&1; then
    echo "skipped: no Go toolchain"
    exit 3
fi
[ $# -gt 0 ] || { echo "usage: build.sh {kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|pause|crdcheck|e2e.test|ginkgo|helm|helm3}…" >&2; exit 2; }
mkdir -p "${bin}"
cd "${here}"
# The version that the servers tell: what upstream's own build writes.
version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
minor=${version#v1.}
minor=${minor%%.*}
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags+=" -X ${package}.gitVersion=${version} -X ${package}.gitMajor=1 -X ${package}.gitMinor=${minor}"
done
export CGO_ENABLED=0

# stamp NAME: what decides how NAME turns out.
stamp() {
    case $1 in
        helm) { go version; echo "${HELM}"; } | sha256sum && return ;;
        helm3) { go version; echo "${HELM3}"; } | sha256sum && return ;;
    esac
    { go version; echo "${ldflags}"; cat go.mod go.sum build.sh; cat "${1%.test}"/*.go 2> /dev/null || true; } | sha256sum
}

for name in "$@"; do
    # One builder of a binary at a time; others wait for what it builds.
    exec 9> "${bin}/.${name}.lock"
    flock 9
    wanted=$(stamp "${name}")
    if [ -x "${bin}/${name}" ] && [ "$(cat "${bin}/.${name}.stamp" 2> /dev/null)" = "${wanted}" ]; then
        continue
    fi
    began=${SECONDS}
    case ${name} in
        kube-apiserver | kube-controller-manager | kube-scheduler | kubelet | pause | crdcheck)
            nice -n 19 go build -buildvcs=false -trimpath -ldflags "${ldflags}" -o "${bin}/${name}" "./${name}" ;;
        e2e.test)
            nice -n 19 go test -c -buildvcs=false -trimpath -ldflags "${ldflags}" -o "${bin}/${name}" ./e2e ;;
        ginkgo)
            nice -n 19 go build -buildvcs=false -trimpath -ldflags "-s -w" -o "${bin}/${name}" github.com/onsi/ginkgo/v2/ginkgo ;;
        helm)
            GOBIN=${bin} nice -n 19 go install -buildvcs=false -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@${HELM}" ;;
        helm3)
            # `go install` names a program after its folder.
            GOBIN=${bin}/.helm3 nice -n 19 go install -buildvcs=false -trimpath -ldflags "-s -w" "helm.sh/helm/v3/cmd/helm@${HELM3}"
            mv "${bin}/.helm3/helm" "${bin}/helm3"
            rmdir "${bin}/.helm3" ;;
        *)
            echo "error: build.sh can't build ${name}" >&2
            exit 2 ;;
    esac
    echo "${wanted}" > "${bin}/.${name}.stamp"
    echo "built ${name} in $((SECONDS - began)) s" >&2
done
