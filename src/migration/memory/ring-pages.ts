import { z } from 'zod';
import type { QemuMonitor } from '../../qemu/monitor.ts';

/** Below this every x86 machine has its memory at the same place in RAM and in the guest's address space. */
const IDENTITY_LIMIT_BYTES = 2 * 1024 ** 3;
const PAGE_BYTES = 4096;
const MAX_PAGES = 1024;

const address = z.number().int().nonnegative();
const devicesSchema = z.array(z.object({ path: z.string() }));
const statusSchema = z.object({ 'num-vqs': z.number().int() });
const queueSchema = z.object({
  'vring-num': z.number().int(),
  'vring-desc': address,
  'vring-avail': address,
  'vring-used': address,
});

/**
 * Offsets in RAM of the pages that hold virtio rings. QEMU reads them while it loads the devices' state
 * (hw/virtio/virtio.c, virtio_load), i.e. before the VM runs: if they are dirty, that is a round trip of the WAN
 * within the downtime. The source sends them unasked right behind the device state.
 * Empty where QEMU cannot tell (the commands are unstable, `x-query-virtio-*`): that only costs the round trip.
 */
export async function ringPages(qmp: QemuMonitor, memoryBytes: number): Promise<number[]> {
  const pages = new Set<number>();
  const limitBytes = Math.min(memoryBytes, IDENTITY_LIMIT_BYTES);
  const add = (startBytes: number, lengthBytes: number): void => {
    const end = Math.min(startBytes + lengthBytes, limitBytes);
    for (
      let at = startBytes - (startBytes % PAGE_BYTES);
      at < end && pages.size < MAX_PAGES;
      at += PAGE_BYTES
    ) {
      pages.add(at);
    }
  };
  try {
    for (const { path } of await qmp.query(devicesSchema, 'x-query-virtio')) {
      const { 'num-vqs': queues } = await qmp.query(statusSchema, 'x-query-virtio-status', { path });
      for (let queue = 0; queue < queues; queue += 1) {
        const ring = await qmp.query(queueSchema, 'x-query-virtio-queue-status', { path, queue });
        const entries = ring['vring-num'];
        if (entries === 0 || ring['vring-desc'] === 0) continue;
        // sizes of the split ring: virtio 1.2, 2.7
        add(ring['vring-avail'], 6 + 2 * entries);
        add(ring['vring-used'], 6 + 8 * entries);
        add(ring['vring-desc'], 16 * entries);
      }
    }
  } catch {
    return [];
  }
  return [...pages];
}
