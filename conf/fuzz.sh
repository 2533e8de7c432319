#!/usr/bin/env bash
# fuzz.sh SECONDS: each target of tests/fuzz for so long; a finding stops it and stays in target/fuzz/found/.
#
# The coverage flags are those that libFuzzer asks for and a stable compiler takes: no nightly and no cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh
find_host_rust
[ -n "$CARGO" ] || { echo "no Rust of $RUST_MIN or newer: run \`make deps\`" >&2; exit 1; }
manifest=tests/fuzz/Cargo.toml
[ -f $manifest ] || { echo "$manifest is not there" >&2; exit 1; }

flags=(
    --cfg=fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
)
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_LTO=off
"$CARGO" build --release --manifest-path $manifest --target "$HOST" --target-dir target/fuzz ${CI:+--locked}

mkdir -p target/fuzz/found
for program in target/fuzz/"$HOST"/release/*; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then continue; fi
    name=$(basename "$program")
    mkdir -p "target/fuzz/corpus/$name"
    seeds=()
    if [ -d "tests/fuzz/seeds/$name" ]; then seeds=("tests/fuzz/seeds/$name"); fi
    printf '== %s, %s s\n' "$name" "$1"
    "$program" -max_total_time="$1" -timeout=10 -artifact_prefix="target/fuzz/found/$name-" -print_final_stats=1 \
        "target/fuzz/corpus/$name" "${seeds[@]}" 2>&1 | tail -n 12
done
