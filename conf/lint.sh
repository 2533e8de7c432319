#!/usr/bin/env bash
# lint.sh [CARGO OPTION...]: everything that reads the source and does not run it.
set -euo pipefail
cd "$(dirname "$0")/.."

conf/cargo.sh fmt --all --check -- --config-path conf

# A package that forgets this line has no lints at all, silently.
bad=0
while read -r manifest; do
    if grep -q '^\[package\]' "$manifest" &&
        ! awk '/^\[/ { here = $0 == "[lints]" } here && /^workspace *= *true/ { found = 1 } END { exit !found }' "$manifest"; then
        echo "$manifest: no [lints] workspace = true" >&2
        bad=1
    fi
done < <(find . -name Cargo.toml -not -path './target/*' -not -path './tests/fuzz/*')
[ $bad = 0 ]

conf/cargo.sh clippy --workspace --all-targets "$@" -- -D warnings
# "All" leaves out those that `cargo test` leaves out.
conf/cargo.sh clippy -p shunt-tests --test '*' "$@" -- -D warnings
conf/kernel.sh clippy
