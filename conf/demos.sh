#!/usr/bin/env bash
# demos.sh: the demo for every mesh on both backends, a line for each; the whole story of one that was not seen.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
for mesh in istio linkerd kuma consul osm fsm appmesh custom; do
    for backend in ebpf iptables; do
        if told=$(target/debug/demo --mesh "$mesh" --backend "$backend" 2>&1); then
            printf '%-8s %-9s %s\n' "$mesh" "$backend" "${told##*$'\n'}"
        else
            printf '%-8s %-9s FAILED\n%s\n' "$mesh" "$backend" "$told"
            failed=1
        fi
    done
done
exit "$failed"
