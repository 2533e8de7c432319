#!/usr/bin/env bash
# cargo with the host compiler that toolchain.sh found.
set -euo pipefail
. "$(dirname "$0")/toolchain.sh"
find_host_rust
[ -n "$CARGO" ] || { echo "no Rust of $RUST_MIN or newer: run \`make deps\`" >&2; exit 1; }
exec "$CARGO" "$@"
