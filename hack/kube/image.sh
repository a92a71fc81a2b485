#!/usr/bin/env bash
# image.sh NAME BINARY ARCHIVE: an OCI archive of an image that holds one static binary, for `ctr images import`. Offline; the same input gives the same bytes.
set -euo pipefail
name=$1 binary=$2 archive=$3
work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
flat=(--owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name --format=ustar)
mkdir -p "${work}/root" "${work}/oci/blobs/sha256"
install -m 0755 "${binary}" "${work}/root/$(basename "${binary}")"
tar "${flat[@]}" -C "${work}/root" -cf "${work}/layer" .

# keep FILE: moves it to the blobs; prints `DIGEST SIZE`.
keep() {
    local digest size
    digest=$(sha256sum < "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "${work}/oci/blobs/sha256/${digest}"
    echo "${digest} ${size}"
}
read -r layer layer_size < <(keep "${work}/layer")
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(basename "${binary}")" "${layer}" > "${work}/config"
read -r config config_size < <(keep "${work}/config")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    "${config}" "${config_size}" "${layer}" "${layer_size}" > "${work}/manifest"
read -r manifest manifest_size < <(keep "${work}/manifest")
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s"}}]}' \
    "${manifest}" "${manifest_size}" "${name}" > "${work}/oci/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "${work}/oci/oci-layout"
tar "${flat[@]}" -C "${work}/oci" -cf "${archive}" .
