import type { QemuHandle } from '../ports.ts';

/** Ends the QEMU that made the files. */
export async function end(qemu: QemuHandle, how: 'quit' | 'kill'): Promise<void> {
  await qemu[how]();
  await qemu.exited;
  await qemu.detach().catch(() => {});
}
