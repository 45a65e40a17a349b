#!/bin/sh
# Makes sure that the tools to build moe2 are there; says nothing when they are.
#
#   deploy/setup.sh          what building and running need
#   deploy/setup.sh --test   also what the tests need: curl, Node with npm, and a Vulkan driver (a software one
#                            will do)
#
# Missing tools are installed as root or with a passwordless sudo on Debian and Ubuntu; otherwise one
# line says which command to run. Looking at files rather than asking each tool for its version keeps
# the usual case, nothing missing, in the low milliseconds: this runs before every `make demo`.
set -eu

cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-${HOME:-/nonexistent}/.cargo}/bin"

want_tests=no
case "${1-}" in
    '') ;;
    --test) want_tests=yes ;;
    *) echo "moe2: setup.sh: unknown argument '$1'; usage: deploy/setup.sh [--test]" >&2; exit 2 ;;
esac

die() { echo "moe2: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
any_file() { for f in "$@"; do [ -e "$f" ] && return 0; done; return 1; }

# The development package has the unversioned or `-NN.so` link; the bare run-time library comes
# without the headers that the bindings generator needs.
have_libclang() {
    [ -n "${LIBCLANG_PATH-}" ] && any_file "$LIBCLANG_PATH" "$LIBCLANG_PATH"/libclang*.so* && return 0
    any_file /usr/lib/llvm-*/lib/libclang.so /usr/lib/*-linux-gnu/libclang*.so \
        /usr/lib/libclang.so /usr/lib64/libclang.so /usr/lib64/llvm*/lib64/libclang.so \
        /usr/local/lib/libclang.so
}

# Model files may come from wheels (pip), the API conformance test uses a throw-away environment (venv).
# The system's own Python is judged by its files; another one on the PATH has to be asked.
python_gaps() {
    python=$(command -v python3) || { echo 'python3 python3-pip python3-venv'; return; }
    if [ "$python" = /usr/bin/python3 ]; then
        any_file /usr/lib/python3*/*-packages/pip || echo python3-pip
        any_file /usr/lib/python3.*/ensurepip/__init__.py || echo python3-venv
    else
        "$python" -c 'from importlib.util import find_spec as f
for module, package in ("pip", "python3-pip"), ("ensurepip", "python3-venv"):
    if f(module) is None: print(package)'
    fi
}

have_vulkan_loader() {
    any_file /usr/lib/*-linux-gnu/libvulkan.so.1 /usr/lib64/libvulkan.so.1 /usr/lib/libvulkan.so.1 \
        /usr/local/lib/libvulkan.so.1
}
have_vulkan_driver() {
    [ -n "${VK_DRIVER_FILES-}${VK_ICD_FILENAMES-}" ] && return 0
    any_file /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json
}

# The API conformance test runs the official client for Node, which needs the fetch of Node 18 and later.
node_gaps() {
    major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) || major=0
    [ "$major" -ge 18 ] || echo nodejs
    have npm || echo npm
}

find_missing() {
    missing=''
    have cc && { have c++ || have g++ || have clang++; } || missing="$missing g++"
    have make || missing="$missing make"
    have cmake || missing="$missing cmake"
    have_libclang || missing="$missing libclang-dev"
    for package in $(python_gaps); do missing="$missing $package"; done
    if [ "$want_tests" = yes ]; then
        have curl || missing="$missing curl"
        for package in $(node_gaps); do missing="$missing $package"; done
        have_vulkan_loader || missing="$missing libvulkan1"
        have_vulkan_driver || missing="$missing mesa-vulkan-drivers"
    fi
    packages=${missing# }
}

install_packages() {
    have apt-get || die "missing build tools; install what your system calls: $packages"
    sudo=''
    if [ "$(id -u)" -ne 0 ]; then
        if have sudo && sudo -n true 2>/dev/null; then
            sudo='sudo -n'
        else
            die "missing build tools; run: sudo apt-get update && sudo apt-get install -y $packages"
        fi
    fi
    echo "moe2: installing build tools: $packages" >&2
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Word splitting of $sudo and $packages is wanted: a command prefix and a list of names.
    # shellcheck disable=SC2086
    if ! { $sudo apt-get update -q && \
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
    } >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        die "could not install build tools; run: sudo apt-get update && sudo apt-get install -y $packages"
    fi
}

find_missing
if [ -n "$missing" ]; then
    install_packages
    find_missing
    [ -z "$missing" ] || die "installed, yet not found by this shell: $packages (another python3 or compiler first on the PATH?)"
fi

# Rust: with rustup the pinned toolchain is installed once; any other cargo must be new enough.
have cargo || die "cargo is missing; install Rust with rustup (see rust-lang.org), then run this again"
channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
if have rustup && [ -z "${RUSTUP_TOOLCHAIN-}" ]; then
    any_file "${RUSTUP_HOME:-${HOME:-/nonexistent}/.rustup}/toolchains/$channel"* && exit 0
    echo "moe2: installing Rust $channel" >&2
    rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy >&2 ||
        die "could not install Rust; run: rustup toolchain install $channel"
else
    found=$(cargo --version | cut -d ' ' -f 2)
    oldest=$(printf '%s\n%s\n' "${channel%.*}" "$found" | sort -V | head -n 1)
    [ "$oldest" = "${channel%.*}" ] || die "cargo $found is too old, Rust ${channel%.*} or later is needed; run: rustup update"
fi
