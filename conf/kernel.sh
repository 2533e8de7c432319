#!/usr/bin/env bash
# kernel.sh [build|clippy]: the kernel object, target/bpf/shunt.bpf.o, or clippy for its source.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh
find_host_rust
find_kernel_rust
[ -n "$KERNEL_STD" ] || { echo "no compiler with core for $BPF_TARGET: run \`make deps\`" >&2; exit 1; }
[ -n "$BPF_LINKER" ] || { echo "no bpf-linker for LLVM $KERNEL_LLVM: run \`make deps\`" >&2; exit 1; }

root=$(pwd)
flags=(
    # The maps' BTF comes from full debug information: less of it and `.maps` is not found.
    -Cdebuginfo=2 -Clink-arg=--btf
    # The same bytes wherever the checkout and the crates lie.
    "--remap-path-prefix=$root=/shunt" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    "--remap-path-prefix=$("$KERNEL_RUSTC" --print sysroot)/lib/rustlib/src/rust=/rust"
)
export RUSTC=$KERNEL_RUSTC RUSTC_BOOTSTRAP=1
export CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER=$BPF_LINKER
# Separated by 0x1f, so that a path may hold spaces.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
options=(-p shunt-bpf --release --target "$BPF_TARGET" --target-dir target/bpf ${CI:+--locked})
if [ "$KERNEL_STD" = source ]; then options+=(-Zbuild-std=core); fi

if [ "${1:-build}" = clippy ]; then
    # clippy reads the compiler's own metadata: it must be of the same release.
    bin=$(dirname "$KERNEL_RUSTC")
    if [ ! -x "$bin/clippy-driver" ]; then
        echo "clippy for the kernel side left out: $KERNEL_RUSTC has none beside it"
        exit 0
    fi
    PATH=$bin:$PATH exec "$KERNEL_CARGO" clippy "${options[@]}" -- -D warnings
fi

"$KERNEL_CARGO" build "${options[@]}"
mkdir -p target/bpf
new=target/bpf/.shunt.bpf.o
cp "target/bpf/$BPF_TARGET/release/shunt-bpf" "$new"
# DWARF has done its work: the loader reads BTF only, and of that the types. Source lines for each instruction would be half of
# the object, which is in the plugin as it is.
if [ -n "$OBJCOPY" ]; then
    "$OBJCOPY" --strip-debug --remove-section=.BTF.ext --remove-section=.rel.BTF.ext "$new"
else
    echo 'no rust-objcopy: the kernel object keeps its debug sections'
fi
# Same bytes, same file: the host side is built again only when the object changed.
if cmp -s "$new" target/bpf/shunt.bpf.o; then rm "$new"; else mv "$new" target/bpf/shunt.bpf.o; fi
