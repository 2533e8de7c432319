#!/usr/bin/env bash
# test.sh [CARGO OPTION...]: all tests of the workspace, then what their tables say: each chain, each traffic case beside each
# backend, each protocol through Envoy; then one line that counts the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
log=target/test.log
# Written by tests/chain, tests/cases and tests/envoy; the latter two whether they passed or not.
tables='target/chain.txt target/cases.txt target/envoy.txt'
rm -f $tables
conf/cargo.sh test --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

read -r passed failed skipped < <(awk '/^test result: / {
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) p += $i
            if ($(i + 1) ~ /^failed/) f += $i
            if ($(i + 1) ~ /^ignored/) s += $i
        }
    } END { print p + 0, f + 0, s + 0 }' "$log")
# A test program that died on the way counted nothing.
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
if [ "$passed" = 0 ] || [ "$failed" != 0 ]; then status=1; fi
for table in $tables; do
    if [ -f "$table" ]; then printf '\n' && cat "$table"; fi
done
count="$passed passed, $failed failed"
if [ "$skipped" != 0 ]; then count+=", $skipped skipped"; fi
echo "$count" >target/test.count # for ci.sh, which says it again at its end
printf '\n%s\n' "$count"
exit "$status"
