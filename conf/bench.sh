#!/usr/bin/env bash
# bench.sh [CARGO OPTION...]: the benches one after the other, then what they say together: ratios, goals, plots. `ONLY` names fewer of
# them, `BENCH_QUICK=1` takes a few rounds of the main rows, `BENCH_OUT` is where all of it goes (target/bench).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${BENCH_OUT:-$PWD/target/bench}
export BENCH_OUT=$out
mkdir -p "$out"
all='process path churn envoy others scale rules trace install'
quick='process path'
benches=${ONLY:-$([ -z "${BENCH_QUICK:-}" ] && echo "$all" || echo "$quick")}
rm -f "$out"/*.json "$out"/*.svg "$out"/report.*

# All of them first: what is built while others measure would be measured too.
conf/cargo.sh bench --quiet --no-run --profile dev "$@" -p shunt-tests
conf/cargo.sh build --quiet "$@" -p shunt-tests --bins
# The probe as a program that is measured with: unoptimised, it would be most of what is found.
conf/cargo.sh build --quiet "$@" --profile load -p shunt-tests --bin probe
export PROBE_BIN=${CARGO_TARGET_DIR:-$PWD/target}/load/probe

started=$SECONDS
for bench in $benches; do
    since=$SECONDS
    conf/cargo.sh bench --quiet --profile dev "$@" -p shunt-tests --bench "$bench"
    printf '\n%s: %d s\n' "$bench" $((SECONDS - since))
done
target/debug/figures "$out"
printf '\nbench: %d s; tables, JSON and plots are in %s\n' $((SECONDS - started)) "$out"
