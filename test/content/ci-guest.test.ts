import { execFileSync } from 'node:child_process';
import { open } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { builtGuest, Guest } from './launcher.ts';

const BLOCK_BYTES = 4096;

it('boots, works on disk and memory, and finds nothing wrong', async () => {
  const image = await builtGuest('ci');
  await using guest = await Guest.start(image);
  const [console_, workload] = [await guest.serial(0), await guest.serial(1)];
  await console_.next('GUEST up');
  await workload.ready();
  expect((await workload.command('start disk=200 mem=2000')).ok).toBe(true);
  await expect
    .poll(async () => Number((await workload.command('stat')).fields.get('disk_discarded')), {
      timeout: 60_000,
    })
    .toBeGreaterThan(200);
  const verified = await workload.command('verify');
  expect(verified.line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(Number(verified.fields.get('disk_checked'))).toBeGreaterThanOrEqual(
    image.manifest.disk.virtualSizeBytes / BLOCK_BYTES,
  );
  await workload.command('beat 20');
  await workload.next('tick n=3');
  await workload.command('beat 0');
  expect((await workload.command('stop')).ok).toBe(true);
  const before = await workload.command('stat');
  expect((await workload.command('stat')).fields.get('disk_ops')).toBe(before.fields.get('disk_ops'));

  await guest.stop();
  // The region was written through the overlay and the part below it was not.
  execFileSync('qemu-img', ['check', '-q', guest.overlay]);
  const map = JSON.parse(execFileSync('qemu-img', ['map', '--output=json', guest.overlay]).toString()) as {
    start: number;
    length: number;
    depth: number;
  }[];
  const own = map.filter(({ depth }) => depth === 0);
  expect(own.length).toBeGreaterThan(0);
  expect(Math.min(...own.map(({ start }) => start))).toBeGreaterThanOrEqual(64 * 1024 * 1024);
});

it('notices a base disk that is not what it was', async () => {
  const image = await builtGuest('ci');
  // The overlay gets one block that nobody in the guest wrote.
  const alter = `write -q -P 0x5a ${5 * BLOCK_BYTES} ${BLOCK_BYTES}`;
  await using guest = await Guest.start(image, { prepare: ['-f', 'qcow2', '-c', alter] });
  const workload = await guest.serial(1);
  await workload.ready();
  const verified = await workload.command('verify');
  expect(verified.line).toMatch(/^verify bad .*disk_bad=1 /);
  expect((await workload.command('bad')).line).toContain('disk:5:expected:0');
});

it('is built the same way twice', async () => {
  const image = await builtGuest('ci');
  expect((await builtGuest('ci')).manifest.digest).toBe(image.manifest.digest);
  const file = await open(image.diskPath);
  try {
    const header = Buffer.alloc(32);
    await file.read(header, 0, 32, 7 * BLOCK_BYTES);
    expect([header.toString('latin1', 0, 4), header.readUInt32LE(8), header.readUInt32LE(16)]).toEqual([
      'disk',
      7,
      0,
    ]);
  } finally {
    await file.close();
  }
});
