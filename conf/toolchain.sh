# Which compilers this machine has. Sourced by the other scripts here; sets and exports:
#
#   CARGO, RUSTC, HOST            host side: the Rust on PATH when it is new enough, else Debian's
#   KERNEL_RUSTC, KERNEL_CARGO    kernel side: a compiler whose root has `core` for BPF, prebuilt or as source
#   KERNEL_STD                    prebuilt | source
#   KERNEL_LLVM, BPF_LINKER       its LLVM major, and the linker built against that LLVM
#
# A value that is already in the environment is kept. What is not found is left empty: deps.sh says what to install,
# every other script says "run `make deps`".

SHUNT_CACHE=${SHUNT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shunt}
RUST_MIN=1.95
GO_MIN=1.24
BPF_LINKER_VERSION=0.13.0
CNI_VERSION=1.3.0
PLUGINS_VERSION=1.9.1
GO_VERSION=1.26.6
ENVOY_VERSION=1.40.0
# The last that asks for nothing the module proxy does not have.
FORTIO_VERSION=1.66.5
HELM_VERSION=3.22.0
KUSTOMIZE_VERSION=5.8.1
SCHEMAS_VERSION=1.37.0
CONTAINERD_VERSION=2.1.9
CONTAINERD_DEBIAN=1.6
RUNC_VERSION=1.3.6
KUBERNETES_VERSION=1.34.1
# What the package asks for without saying which; typing_extensions only with an old Python.
SCHEMAS_NEEDS='attrs==26.1.0 importlib_resources==7.1.0 jsonschema==4.26.0 jsonschema-specifications==2025.9.1 packaging==26.4
    PyYAML==6.0.4 referencing==0.37.0 rpds-py==2026.9.1 typing_extensions==4.16.0'
PEERS='grpcio==1.85.3 h2==4.4.1 hpack==4.2.0 hyperframe==6.1.0 typing_extensions==4.16.0 websockets==17.4'
# Series of Debian's cloud kernels that `make test-kernel` boots; `KERNEL` names fewer.
KERNELS=${KERNEL:-5.10 6.1 6.12 6.18 7.3}
BPF_TARGET=bpfel-unknown-none

# at_least MIN VERSION, both dotted numbers
at_least() {
    [ -n "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# One field of `rustc -vV`: release, host, LLVM version
rust_field() {
    "$1" -vV 2>/dev/null | sed -n "s/^$2: //p"
}

# Packages may have been installed since the last call: deps.sh calls these again.
find_host_rust() {
    if [ -n "${CARGO:-}" ] && [ -n "${RUSTC:-}" ]; then
        :
    elif command -v cargo >/dev/null && at_least "$RUST_MIN" "$(rust_field rustc release)"; then
        CARGO=$(command -v cargo) RUSTC=$(command -v rustc)
    elif [ -x /usr/bin/cargo ] && at_least "$RUST_MIN" "$(rust_field /usr/bin/rustc release)"; then
        CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc
    else
        CARGO='' RUSTC='' HOST=''
        return
    fi
    HOST=${HOST:-$(rust_field "$RUSTC" host)}
    export CARGO RUSTC
}

find_kernel_rust() {
    local candidate root
    KERNEL_STD='' KERNEL_LLVM='' BPF_LINKER=${BPF_LINKER:-}
    # Prebuilt `core` first: it saves building it. The order is fixed, so that one machine gives one object.
    for candidate in ${KERNEL_RUSTC:-"$RUSTC" /usr/bin/rustc "$HOME"/.rustup/toolchains/*/bin/rustc}; do
        [ -x "$candidate" ] || continue
        root=$("$candidate" --print sysroot 2>/dev/null) || continue
        if [ -d "$root/lib/rustlib/$BPF_TARGET" ]; then
            KERNEL_STD=prebuilt KERNEL_RUSTC=$candidate
            break
        elif [ -z "$KERNEL_STD" ] && [ -d "$root/lib/rustlib/src/rust/library/core" ]; then
            KERNEL_STD=source KERNEL_RUSTC=$candidate
        fi
    done
    [ -n "$KERNEL_STD" ] || { KERNEL_RUSTC=''; return; }
    root=$("$KERNEL_RUSTC" --print sysroot)
    KERNEL_LLVM=$(rust_field "$KERNEL_RUSTC" 'LLVM version' | cut -d. -f1)
    KERNEL_LLVM_LIBRARY=$(ls -d "$root"/lib/libLLVM.so."$KERNEL_LLVM"* /usr/lib/*/libLLVM.so."$KERNEL_LLVM"* \
        2>/dev/null | head -n 1) || true
    # `core` from source needs a cargo of the same release as the compiler; a prebuilt one works with any.
    KERNEL_CARGO=$CARGO
    if [ "$KERNEL_STD" = source ] && [ -x "$root/bin/cargo" ]; then KERNEL_CARGO=$root/bin/cargo; fi
    # One cached linker for each library it can have been linked against.
    BPF_LINKER_ROOT=$SHUNT_CACHE/bpf-linker-$BPF_LINKER_VERSION-llvm$KERNEL_LLVM-$(basename "$KERNEL_LLVM_LIBRARY")
    if [ -z "$BPF_LINKER" ] && [ -x "$BPF_LINKER_ROOT/bin/bpf-linker" ]; then
        BPF_LINKER=$BPF_LINKER_ROOT/bin/bpf-linker
    fi
    # Optional: takes the DWARF out of the finished object.
    OBJCOPY=$(ls "$root"/lib/rustlib/*/bin/rust-objcopy 2>/dev/null | head -n 1) || true
}

find_go() {
    local candidate version
    GO=''
    for candidate in "$(command -v go)" "$SHUNT_CACHE/go-$GO_VERSION/go/bin/go"; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" env GOVERSION 2>/dev/null)
        if at_least "$GO_MIN" "${version#go}"; then
            GO=$candidate
            return
        fi
    done
}

CNI_ROOT=$SHUNT_CACHE/cni-$CNI_VERSION-plugins-$PLUGINS_VERSION
CNI_TOOLS='cnitool bridge host-local loopback ptp portmap tuning'
CHAIN_TOOLS='bandwidth firewall macvlan sbr vrf'
ENVOY_ROOT=$SHUNT_CACHE/envoy-$ENVOY_VERSION
HELM_ROOT=$SHUNT_CACHE/helm-$HELM_VERSION
KERNELS_ROOT=$SHUNT_CACHE/kernels
KUSTOMIZE_ROOT=$SHUNT_CACHE/kustomize-$KUSTOMIZE_VERSION
CONTAINERD_ROOT=$SHUNT_CACHE/containerd-$CONTAINERD_VERSION
CONTAINERD_DEBIAN_ROOT=$SHUNT_CACHE/containerd-debian-$CONTAINERD_DEBIAN
RUNC_ROOT=$SHUNT_CACHE/runc-$RUNC_VERSION

NODE_ROOT=$SHUNT_CACHE/kubernetes-$KUBERNETES_VERSION
NODE_PROGRAMS='etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl'
NODE_PACKAGES='go.etcd.io/etcd/server/v3'
for program in kubelet kube-apiserver kube-controller-manager kube-scheduler kubectl; do
    NODE_PACKAGES+=" k8s.io/kubernetes/cmd/$program"
done

# Where Python's packages lie: by its minor, because a part of them is compiled. deps.sh calls this again when it has installed one.
find_python() {
    PYTHON_TAG=$(python3 -c 'import sys; print("py%d.%d" % sys.version_info[:2])' 2>/dev/null) || PYTHON_TAG=none
    SCHEMAS_ROOT=$SHUNT_CACHE/kubernetes-validate-$SCHEMAS_VERSION-$PYTHON_TAG
    PEERS_ROOT=$SHUNT_CACHE/peers-$(printf %s "$PEERS" | cksum | cut -d ' ' -f 1)-$PYTHON_TAG
}
find_python
