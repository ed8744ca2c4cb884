import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { RfbSession } from '../../src/qemu/rfb/session.ts';

it('sees the firmware of a real QEMU, presses a key and takes screenshots', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'cloudap-vnc-'));
  const path = join(folder, 'vnc');
  // The firmware's boot menu needs two devices to choose from; the prompt stays for a minute.
  const args =
    '-M pc-i440fx-7.2 -accel tcg -nodefaults -display none -vga std -m 32 -device virtio-net-pci -boot menu=on,splash-time=60000';
  const qemu = spawn('qemu-system-x86_64', [...args.split(' '), '-vnc', `unix:${path}`], { stdio: 'ignore' });
  try {
    let session: RfbSession | undefined;
    for (let attempt = 0; !session; attempt++) {
      session = await RfbSession.connect(path).catch(async (error: unknown) => {
        if (attempt === 400) throw error;
        await sleep(25);
        return undefined;
      });
    }
    using screen = session;
    expect(screen.name).toBe('QEMU');
    const text = { screen: { width: 720, height: 400 }, litPercent: 0.3, updatePixels: 500 };
    await screen.waitReady({ ...text, quietMs: 500, timeoutMs: 60_000 });
    const before = await screen.screenshot();
    expect(before.readUInt32BE(16)).toBe(720);
    expect(before.readUInt32BE(20)).toBe(400);
    const change = screen.waitChange({ timeoutMs: 30_000 });
    screen.tap('Escape');
    await change;
    await screen.waitStable({ quietMs: 300, updatePixels: 500, timeoutMs: 30_000 });
    expect(screen.screen.litPercent()).toBeGreaterThan(0.3);
    const ended = expect(
      screen.waitChange({ timeoutMs: 60_000, area: { x: 700, y: 390, width: 1, height: 1 } }),
    ).rejects;
    qemu.kill();
    await ended.toMatchObject({ code: 'RFB_CLOSED' });
  } finally {
    if (qemu.exitCode === null && qemu.signalCode === null) {
      qemu.kill('SIGKILL');
      await once(qemu, 'exit');
    }
    await rm(folder, { recursive: true });
  }
});
