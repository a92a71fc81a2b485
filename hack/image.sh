#!/usr/bin/env bash
# The image of all roles, from scratch: one static binary, its bill of materials and its licence. Offline, without a container engine; the same
# binary gives the same bytes. Writes target/image/pullpiri.oci.tar (for `ctr images import`, `podman load`, `skopeo copy`) and pullpiri.cdx.json.
#   IMAGE   the image's name (default: localhost/pullpiri:VERSION)
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
target=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
image=${IMAGE:-localhost/pullpiri:${version}}
out=${ROOT}/target/image
mkdir -p "${out}"

step "building the static binary"
# Position-independent, as a program that talks to networks should be. The C library is inside; names of hosts are resolved by the kubelet's
# environment (an address), so no plug-in of it is looked for.
RUSTFLAGS="-C target-feature=+crt-static ${INLINE}" build_package --release --target "${target}" --package pullpiri
binary=${CARGO_TARGET_DIR:-${ROOT}/target}/${target}/release/pullpiri
if ldd "${binary}" 2>&1 | grep -q "=>"; then
    fail "${binary} needs shared libraries"
fi

step "bill of materials"
cargo xtask sbom "${target}" > "${out}/pullpiri.cdx.json"

step "image ${image}"
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
"${binary}" image build --reference "${image}" --output "${out}/pullpiri.oci.tar" --user 65532:65532 \
    --file "${binary}:/pullpiri" --file "${out}/pullpiri.cdx.json:/usr/share/sbom/pullpiri.cdx.json" --file "LICENSE:/usr/share/licenses/pullpiri/LICENSE" \
    --label "org.opencontainers.image.title=pullpiri" --label "org.opencontainers.image.version=${version}" \
    --label "org.opencontainers.image.revision=${revision}" --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.source=https://github.com/eclipse-pullpiri/pullpiri" \
    --label "org.opencontainers.image.description=Orchestrates the services of a software-defined vehicle" \
    -- /pullpiri
printf '%s  %s\n' "$(sha256sum < "${out}/pullpiri.oci.tar" | cut -d' ' -f1)" "${out}/pullpiri.oci.tar"
