import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TempDir, tempDir } from '../../../test/kit/tempdir.ts';
import { sleep } from '../../base/async.ts';
import { Chunks } from './chunks.ts';

let dir: TempDir;
let count = 0;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir[Symbol.asyncDispose]());

/** A socket's two ends: QEMU's, and ours. */
async function ends(): Promise<{ qemu: Socket; ours: Socket } & AsyncDisposable> {
  const path = dir.file(`s${(count += 1)}`);
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  const qemu = connect(path);
  const [ours] = (await once(server, 'connection')) as [Socket];
  return {
    qemu,
    ours,
    async [Symbol.asyncDispose]() {
      qemu.destroy();
      ours.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

/** Until nothing more is read; returns the bytes that have been. */
async function filled(ours: Socket): Promise<number> {
  for (;;) {
    const before = ours.bytesRead;
    await sleep(30);
    if (ours.bytesRead === before) return before;
  }
}

test('all bytes come out in order, and then the end', async () => {
  await using pair = await ends();
  const sent = Buffer.from(Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 7919) >>> 5));
  pair.qemu.end(sent);
  const got: Buffer[] = [];
  for await (const chunk of new Chunks(pair.ours)) got.push(chunk);
  expect(Buffer.concat(got).equals(sent)).toBe(true);
});

test('QEMU waits while nothing is dealt with, and comes to the next request when it is asked', async () => {
  await using pair = await ends();
  const chunks = new Chunks(pair.ours);
  for (let i = 0; i < 64; i++) pair.qemu.write(Buffer.alloc(256 * 1024, i));
  let read = await filled(pair.ours);
  expect(read).toBeLessThan(2 * 1024 * 1024);
  for (let request = 0; request < 4; request++) {
    chunks.readOn();
    const now = await filled(pair.ours);
    // more than QEMU hands over in one write
    expect(now - read).toBeGreaterThanOrEqual(128 * 1024);
    read = now;
  }
  // whatever is asked for: what waits here has a limit
  for (let request = 0; request < 100; request++) chunks.readOn();
  expect(await filled(pair.ours)).toBeLessThan(10 * 1024 * 1024);
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes === 64 * 256 * 1024) break;
  }
  expect(bytes).toBe(64 * 256 * 1024);
});

test('an end without an end is an error', async () => {
  await using pair = await ends();
  const chunks = new Chunks(pair.ours);
  pair.qemu.write('something');
  await once(pair.ours, 'data');
  pair.ours.destroy();
  const read = async (): Promise<void> => {
    for await (const chunk of chunks) expect(chunk.toString()).toBe('something');
  };
  await expect(read()).rejects.toThrow('closed');
});
