#!/usr/bin/env bash
# Everything the tasks need before they can build. Each script of this folder sources this file and calls `setup` with
# what it is about to do; run by itself it prepares for one of them:
# setup.sh [terminal|start|bundle|test]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minimum_rust=1.95.0
minimum_node=20.19.0

say() { printf '\033[1m%s\033[0m\n' "reprise: $*" >&2; }
die() {
    printf '%s\n' "reprise: $*" >&2
    exit 1
}

# version_is_at_least HAVE NEED
version_is_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

setup_tools() {
    local cargo_bin=${CARGO_HOME:-${HOME:-}/.cargo}/bin
    if ! command -v cargo >/dev/null && [ -x "$cargo_bin/cargo" ]; then
        export PATH="$cargo_bin:$PATH"
    fi
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        die "Rust is missing. Install it with rustup (https://rustup.rs), then run this again."
    fi
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        die "Node.js is missing. Install version $minimum_node or newer (https://nodejs.org), then run this again."
    fi

    local rust node
    rust=$(rustc --version | cut -d' ' -f2)
    version_is_at_least "$rust" "$minimum_rust" ||
        die "Rust $rust is too old, $minimum_rust is needed. With rustup: rustup update stable"
    node=$(node --version)
    version_is_at_least "${node#v}" "$minimum_node" ||
        die "Node.js $node is too old, $minimum_node is needed (https://nodejs.org)."
}

# The compiler's own lints and formatter, which minimal toolchains leave out.
setup_rust_components() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || die "cargo $component is missing. Install Rust's $component component."
        rustup component add "${component/#fmt/rustfmt}"
    done
}

find_chromium() {
    local name
    for name in chromium chromium-browser google-chrome-stable google-chrome; do
        command -v "$name" && return
    done
    return 1
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# System packages of Debian and Ubuntu. `terminal` compiles C; `start` adds the window's web view and a font;
# `test` adds a virtual display with its tools, WebKit's driver and Chromium.
packages_for() {
    echo build-essential pkg-config
    [ "$1" = terminal ] && return
    echo libwebkit2gtk-4.1-dev fonts-dejavu-core
    [ "$1" != test ] && return
    echo xvfb webkit2gtk-driver openbox xdotool
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
    [ -n "${CHROMIUM:-}" ] || find_chromium >/dev/null || echo chromium
}

setup_packages() {
    [ "$(uname -s)" = Linux ] || return 0
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        [ "$1" = terminal ] || pkg-config --exists webkit2gtk-4.1 2>/dev/null ||
            die "WebKitGTK 4.1 with its headers is missing (Fedora: webkit2gtk4.1-devel, Arch: webkit2gtk-4.1)."
        return 0
    fi

    local package missing=()
    for package in $(packages_for "$1"); do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        # `sudo -n` asks for no password: it works or it fails.
        sudo -n true 2>/dev/null ||
            die "Please run: sudo apt-get install --no-install-recommends ${missing[*]}"
        as_root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    "${as_root[@]}" "${apt[@]}" update
    "${as_root[@]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# `npm ci` empties node_modules, so it runs only when the lock file or Node changed since the last time.
setup_npm() {
    local stamp=node_modules/.reprise-stamp now
    now="$(node --version) $(cksum <package-lock.json)"
    [ "$(cat "$stamp" 2>/dev/null || true)" = "$now" ] && return
    say "installing the page's packages"
    npm ci --no-audit --no-fund --loglevel=error
    printf '%s\n' "$now" >"$stamp"
}

# The CUDA kernels are compiled where nvcc is found, else left out. The tests insist on them; a bundle and a machine with
# an NVIDIA driver get the compiler if it can be fetched.
setup_nvcc() {
    [ "$(uname -s)" = Linux ] || return 0
    case $1 in
        test) bash .ci/nvcc.sh >/dev/null ;;
        bundle) bash .ci/nvcc.sh >/dev/null || say "building without CUDA kernels" ;;
        *) [ ! -e /proc/driver/nvidia/version ] || setup_nvcc bundle ;;
    esac
}

# setup terminal|start|bundle|test
setup() {
    setup_tools
    setup_packages "$1"
    setup_nvcc "$1"
    case $1 in
        start | bundle) setup_npm ;;
        test)
            setup_rust_components
            setup_npm
            ;;
    esac
}

# Where cargo puts what it builds: CARGO_TARGET_DIR, a cargo configuration or ./target.
target_dir() {
    cargo metadata --no-deps --format-version 1 --locked |
        node -e 'process.stdout.write(JSON.parse(require("node:fs").readFileSync(0, "utf8")).target_directory)'
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    case ${1:-start} in
        terminal | start | bundle | test) setup "${1:-start}" ;;
        *) die "usage: setup.sh [terminal|start|bundle|test]" ;;
    esac
fi
