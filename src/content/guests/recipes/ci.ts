import type { MemoryRecipe } from '../recipe.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 128 * MIB;
const REGION_OFFSET_BYTES = 64 * MIB;

/** The guest of the tests: busybox and the workload in memory, up in about three seconds under TCG, no screen. */
export const ciRecipe: MemoryRecipe = {
  kind: 'memory',
  name: 'ci',
  title: 'busybox and a self-checking disk and memory workload',
  modules: ['virtio_pci', 'virtio_blk'],
  applets:
    'sh mount insmod cat echo sleep setsid cttyhack stty ls dd printf sync md5sum free ps kill top poweroff reboot dmesg'.split(
      ' ',
    ),
  init: 'ci-init.sh',
  commandLine: `wl.ctl=/dev/ttyS1,/dev/ttyS0 wl.dev=/dev/vda wl.off=${REGION_OFFSET_BYTES / MIB}M wl.below=1 wl.ram=32M`,
  defaults: { memoryMiB: 128, cpus: 1, display: 'none', input: 'none' },
  guest: {
    bootMarks: ['GUEST up'],
    workload: {
      serialPort: 1,
      offsetBytes: REGION_OFFSET_BYTES,
      lengthBytes: DISK_BYTES - REGION_OFFSET_BYTES,
    },
  },
  assets: ['ci-init.sh', 'workload.c'],
  diskBytes: DISK_BYTES,
  workloadPath: 'bin/workload',
};
