#!/usr/bin/env bash
# probe.sh [CARGO OPTION...]: the tests' helper program, static, to target/tools/probe: it runs in images that hold nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh
find_host_rust
[ -n "$CARGO" ] || { echo "no Rust of $RUST_MIN or newer: run \`make deps\`" >&2; exit 1; }
# The target is named although it is this machine's, so that the flag is not for procedural macros; they have to be shared libraries.
CARGO_ENCODED_RUSTFLAGS=-Ctarget-feature=+crt-static "$CARGO" build --quiet --target "$HOST" -p shunt-tests --bin probe "$@"
mkdir -p target/tools
# Whoever runs it meanwhile keeps the one there was.
cp "target/$HOST/debug/probe" target/tools/.probe
strip --strip-debug target/tools/.probe
mv target/tools/.probe target/tools/probe
