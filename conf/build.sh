#!/usr/bin/env bash
# build.sh [CARGO OPTION...]: the host binaries, static, to target/release/.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh
find_host_rust
[ -n "$CARGO" ] || { echo "no Rust of $RUST_MIN or newer: run \`make deps\`" >&2; exit 1; }

# Static, because the plugin runs on the host's files, not on ours. The target is named, although it is this machine's:
# so the flags are for the programs only, and procedural macros stay what they have to be, shared libraries.
flags=(-Ctarget-feature=+crt-static "--remap-path-prefix=$(pwd)=/shunt" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
# One after the other: together, each would get what the other asks of the libraries they share, and the plugin is to be small.
"$CARGO" build --release --target "$HOST" -p shunt "$@"
"$CARGO" build --release --target "$HOST" -p shunt-installer "$@"

for program in shunt shuntctl shunt-installer; do
    built=target/$HOST/release/$program
    # By content: cargo may bring back an older build of other settings.
    cmp -s "$built" target/release/$program || install -D "$built" target/release/$program
done
