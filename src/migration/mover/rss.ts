import { readFileSync } from 'node:fs';

/** The most memory this process has held so far, in MiB (VmHWM). */
export function peakRssMiB(): number {
  const found = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'latin1'));
  return found ? Math.round(Number(found[1]) / 1024) : 0;
}
