#!/usr/bin/env bash
# kernels.sh [OPTION...]: our suites on other kernels, in qemu. See tests/kernels/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. conf/toolchain.sh
find_host_rust
# In the middle of others' work: what is emulated takes whatever is left.
exec nice tests/kernels/run.py --kernels "$KERNELS" "$@"
