#!/usr/bin/env bash
# ci.sh STAGE...: make each stage in turn, stop at the first that fails, and say how long each took. The tests' own
# counting line comes last, where a reader of the log looks for it.
set -euo pipefail
cd "$(dirname "$0")/.."
summary=()
rm -f target/test.count target/{chain,cases,envoy}.txt
finish() {
    echo
    printf '%s\n' "${summary[@]}"
    for table in target/{chain,cases,envoy}.txt; do
        if [ -f "$table" ]; then tail -n 1 "$table"; fi
    done
    if [ -f target/test.count ]; then cat target/test.count; fi
}
for stage in "$@"; do
    printf '\n== %s\n' "$stage"
    started=$SECONDS
    if make --no-print-directory "$stage"; then
        summary+=("$(printf '%-6s %4d s' "$stage" $((SECONDS - started)))")
    else
        summary+=("$(printf '%-6s %4d s  FAILED' "$stage" $((SECONDS - started)))")
        finish
        exit 1
    fi
done
finish
