import { once } from 'node:events';
import { existsSync, statSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { errorCode } from '../base/errors.ts';
import { ALLOCATION, COMMAND, COMMAND_FLAG, NBD_ERRNO, OPTION, OPTION_REPLY } from '../wire/nbd/constants.ts';
import { encodeClientFlags, encodeOption, encodeRequest } from '../wire/nbd/encode.ts';
import type { NbdAddress } from './address.ts';
import { errnoOf, type NbdBackend } from './backend.ts';
import { connectNbd, listNbdExports } from './connect.ts';
import { MemoryBackend } from './memory-backend.ts';
import { startNbdServer } from './server.ts';
import { toDescriptors } from './server-requests.ts';

const LOCAL: NbdAddress = { host: '127.0.0.1', port: 0 };

/** A backend whose reads wait until the test lets them go. */
class HeldBackend implements NbdBackend {
  readonly sizeBytes = 2 ** 20;
  readonly readOnly = true;
  readonly waiting = new Map<number, () => void>();
  readonly signals: AbortSignal[] = [];

  read(offset: number, lengthBytes: number, signal: AbortSignal): Buffer | Promise<Buffer> {
    const data = Buffer.alloc(lengthBytes, offset % 251);
    if (offset < 4096) return data;
    this.signals.push(signal);
    return new Promise((resolve) => this.waiting.set(offset, () => resolve(data)));
  }
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** A client that says what it likes; its socket collects what the server answers. */
async function rawClient(address: NbdAddress): Promise<{ socket: Socket; received: () => Buffer }> {
  const chunks: Buffer[] = [];
  const socket = connect({ ...address });
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('error', () => {});
  await once(socket, 'connect');
  return { socket, received: () => Buffer.concat(chunks) };
}

const ended = (socket: Socket) => (socket.closed ? Promise.resolve() : once(socket, 'close'));
const HELLO = encodeClientFlags(3);
const ENTER = Buffer.concat([HELLO, encodeOption(OPTION.EXPORT_NAME)]);

describe('answers', () => {
  test('a slow read does not hold back a fast one', async () => {
    const backend = new HeldBackend();
    await using server = await startNbdServer({ listen: LOCAL, exports: [{ name: '', backend }] });
    await using client = await connectNbd(server.address);
    const order: string[] = [];
    const slow = client.read(8192, 16).then((data) => order.push(`slow ${data[0]}`));
    await until(() => backend.waiting.has(8192));
    await client.read(1, 16).then((data) => order.push(`fast ${data[0]}`));
    backend.waiting.get(8192)?.();
    await slow;
    expect(order).toEqual(['fast 1', `slow ${8192 % 251}`]);
  });

  test.each([true, false])('every command, structured replies: %s', async (structuredReplies) => {
    const bytes = Buffer.alloc(256 * 1024);
    const backend = new MemoryBackend(bytes);
    await using server = await startNbdServer({ listen: LOCAL, exports: [{ name: 'x', backend }] });
    const metaContexts = structuredReplies ? ['base:allocation'] : [];
    await using client = await connectNbd(server.address, {
      exportName: 'x',
      structuredReplies,
      metaContexts,
    });
    const data = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 256));
    await client.write(1000, data, { fua: true });
    expect((await client.read(1000, data.length)).equals(data)).toBe(true);
    await client.flush();
    await client.writeZeroes(2000, 500, { noHole: true });
    await client.trim(4096, 4096, { fua: true });
    expect(bytes.subarray(2000, 2500).every((b) => b === 0)).toBe(true);
    expect(bytes.subarray(4096, 8192).every((b) => b === 0)).toBe(true);
    expect(await client.read(0, 0)).toHaveLength(0);
    if (!structuredReplies) return;
    const map = await client.blockStatus('base:allocation', 0, bytes.length);
    expect(map.reduce((sum, e) => sum + e.lengthBytes, 0)).toBe(bytes.length);
    expect(map).toContainEqual({ offset: 4096, lengthBytes: 4096, flags: ALLOCATION.ZERO });
  });

  test('the error of a backend becomes an error number; the connection goes on', async () => {
    const seen: unknown[] = [];
    const backend: NbdBackend = {
      sizeBytes: 4096,
      readOnly: false,
      read: (offset) => {
        if (offset === 1) throw Object.assign(new Error('gone'), { code: 'ENOMEM' });
        return offset === 2 ? Promise.reject(new Error('disk on fire')) : Buffer.alloc(3);
      },
      write: () => Promise.reject(Object.assign(new Error('full'), { code: 'EDQUOT' })),
    };
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [{ name: '', backend }],
      onBackendError: (error) => seen.push(error),
    });
    await using client = await connectNbd(server.address);
    const failsWith = async (call: Promise<unknown>, errno: number) => {
      await expect(call).rejects.toMatchObject({ code: 'NBD_REQUEST_FAILED', fields: { errno } });
    };
    await failsWith(client.read(1, 1), NBD_ERRNO.ENOMEM);
    await failsWith(client.read(2, 1), NBD_ERRNO.EIO);
    await expect(client.read(2, 1)).rejects.toThrow(/disk on fire/);
    await failsWith(client.read(3, 7), NBD_ERRNO.EIO);
    await failsWith(client.write(0, Buffer.alloc(1)), NBD_ERRNO.ENOSPC);
    expect(await client.read(0, 3)).toHaveLength(3);
    expect(seen).toHaveLength(5);
    expect(errorCode(seen[3])).toBe('NBD_BACKEND');
  });

  test('requests outside the rules are refused one by one', async () => {
    const backend: NbdBackend = {
      sizeBytes: 8192,
      readOnly: true,
      minimumBlockBytes: 512,
      read: (_, n) => Buffer.alloc(n),
    };
    await using server = await startNbdServer({ listen: LOCAL, exports: [{ name: '', backend }] });
    const { socket, received } = await rawClient(server.address);
    const requests: [number, number, number, number, number][] = [
      [COMMAND.READ, 0, 8192, 512, NBD_ERRNO.EINVAL],
      [COMMAND.READ, 0, 100, 512, NBD_ERRNO.EINVAL],
      [COMMAND.READ, COMMAND_FLAG.DF, 0, 512, NBD_ERRNO.EINVAL],
      [COMMAND.TRIM, 0, 0, 512, NBD_ERRNO.EPERM],
      [COMMAND.WRITE_ZEROES, 0, 0, 512, NBD_ERRNO.EPERM],
      [COMMAND.FLUSH, 0, 0, 0, NBD_ERRNO.EINVAL],
      [COMMAND.BLOCK_STATUS, 0, 0, 512, NBD_ERRNO.EINVAL],
      [77, 0, 0, 0, NBD_ERRNO.EINVAL],
      [COMMAND.READ, 0, 0, 0, 0],
    ];
    const wire = requests.map(([command, flags, offset, length], i) =>
      encodeRequest(command, flags, BigInt(i), offset, length),
    );
    const write = Buffer.concat([encodeRequest(COMMAND.WRITE, 0, 99n, 0, 512), Buffer.alloc(512)]);
    socket.write(Buffer.concat([ENTER, ...wire, write, encodeRequest(COMMAND.DISC, 0, 0n, 0, 0)]));
    await ended(socket);
    const replies = received().subarray(18 + 10);
    expect(replies).toHaveLength(16 * (requests.length + 1));
    for (const [i, [, , , , errno]] of requests.entries())
      expect(replies.readUInt32BE(16 * i + 4)).toBe(errno);
    expect(replies.readUInt32BE(16 * requests.length + 4)).toBe(NBD_ERRNO.EPERM);
  });

  test('extents are clipped, limited and checked', () => {
    const request = { kind: 'request' as const, command: 7, flags: 0, cookie: 1n, payload: undefined };
    const all = { ...request, offset: 100, lengthBytes: 50 };
    const extents = [
      { offset: 100, lengthBytes: 20, flags: 0 },
      { offset: 120, lengthBytes: 1000, flags: 3 },
    ];
    const first = { lengthBytes: 20, flags: 0 };
    expect(toDescriptors(all, extents)).toEqual([first, { lengthBytes: 30, flags: 3 }]);
    expect(toDescriptors({ ...all, flags: COMMAND_FLAG.REQ_ONE }, extents)).toEqual([first]);
    for (const bad of [[], [{ offset: 99, lengthBytes: 20, flags: 0 }], extents.toReversed()]) {
      expect(() => toDescriptors(all, bad)).toThrow(expect.objectContaining({ code: 'NBD_BACKEND' }));
    }
  });

  test.each([
    ['EACCES', NBD_ERRNO.EPERM],
    ['EROFS', NBD_ERRNO.EPERM],
    ['EOPNOTSUPP', NBD_ERRNO.ENOTSUP],
    ['ESHUTDOWN', NBD_ERRNO.ESHUTDOWN],
    ['toString', NBD_ERRNO.EIO],
    [undefined, NBD_ERRNO.EIO],
  ])('error code %s', (code, errno) => {
    expect(errnoOf(Object.assign(new Error('x'), { code }))).toBe(errno);
    expect(errnoOf(null)).toBe(NBD_ERRNO.EIO);
  });
});

describe('handshake', () => {
  test('LIST, an unknown export, an unknown option, contexts that are not there', async () => {
    const backend = new HeldBackend();
    const exports = [
      { name: 'a', description: 'first', backend },
      { name: 'b', backend },
    ];
    await using server = await startNbdServer({ listen: LOCAL, exports });
    expect(await listNbdExports(server.address)).toEqual([
      { name: 'a', description: 'first' },
      { name: 'b', description: '' },
    ]);
    await expect(connectNbd(server.address)).rejects.toMatchObject({ code: 'NBD_EXPORT_UNKNOWN' });
    const wish = { exportName: 'a', metaContexts: ['base:allocation'] };
    await expect(connectNbd(server.address, wish)).rejects.toMatchObject({ code: 'NBD_CONTEXT_UNKNOWN' });

    const { socket, received } = await rawClient(server.address);
    socket.write(
      Buffer.concat([
        HELLO,
        encodeOption(0x1234),
        encodeOption(OPTION.GO, Buffer.from([0, 0, 0, 9, 1])),
        encodeOption(OPTION.LIST, Buffer.alloc(1)),
        encodeOption(OPTION.SET_META_CONTEXT),
        encodeOption(OPTION.ABORT),
      ]),
    );
    await ended(socket);
    const types: number[] = [];
    for (let at = 18; at < received().length; at += 20 + received().readUInt32BE(at + 16)) {
      types.push(received().readUInt32BE(at + 12));
    }
    const { ERR_UNSUP, ERR_INVALID, ACK } = OPTION_REPLY;
    expect(types).toEqual([ERR_UNSUP, ERR_INVALID, ERR_INVALID, ERR_INVALID, ACK]);
    await until(() => server.connectionCount === 0);
  });

  test.each([
    ['something else than NBD', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'), 'NBD_BAD_FRAME'],
    ['a bad option magic', Buffer.concat([HELLO, Buffer.alloc(16)]), 'NBD_BAD_MAGIC'],
    ['a bad request magic', Buffer.concat([ENTER, Buffer.alloc(28)]), 'NBD_BAD_MAGIC'],
    ['unknown client flags', encodeClientFlags(0x80), 'NBD_BAD_FRAME'],
    [
      'an unknown export by EXPORT_NAME',
      Buffer.concat([HELLO, encodeOption(1, Buffer.from('?'))]),
      'NBD_EXPORT_UNKNOWN',
    ],
    [
      'too many options',
      Buffer.concat([HELLO, ...Array.from({ length: 300 }, () => encodeOption(OPTION.LIST))]),
      'NBD_TOO_LARGE',
    ],
    [
      'a write above the limit',
      Buffer.concat([ENTER, encodeRequest(COMMAND.WRITE, 0, 1n, 0, 2 ** 25 + 1)]),
      'NBD_TOO_LARGE',
    ],
  ])('%s ends the connection with a code', async (_name, wire, code) => {
    const errors: string[] = [];
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [{ name: '', backend: new MemoryBackend(Buffer.alloc(4096)) }],
      onConnectionError: (error) => errors.push(errorCode(error)),
    });
    const { socket } = await rawClient(server.address);
    socket.write(wire);
    await ended(socket);
    expect(errors).toEqual([code]);
  });

  test('a silent client is dropped after the timeout', async () => {
    const errors: string[] = [];
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [],
      limits: { handshakeTimeoutMs: 20 },
      onConnectionError: (error) => errors.push(errorCode(error)),
    });
    const { socket } = await rawClient(server.address);
    await ended(socket);
    expect(errors).toEqual(['NBD_HANDSHAKE_TIMEOUT']);
  });
});

describe('limits and ends', () => {
  test('requests beyond the limit are not read until others are answered', async () => {
    const backend = new HeldBackend();
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [{ name: '', backend }],
      limits: { maxInFlightRequests: 4 },
    });
    await using client = await connectNbd(server.address);
    const reads = Array.from({ length: 20 }, (_, i) => client.read(4096 * (i + 1), 512));
    await until(() => backend.waiting.size === 4);
    // the fast read was sent after them and is not even looked at
    let fast = false;
    const last = client.read(0, 512).then(() => {
      fast = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([backend.waiting.size, server.inFlightRequests, fast]).toEqual([4, 4, false]);
    const letGo = setInterval(() => {
      for (const [offset, go] of backend.waiting) {
        backend.waiting.delete(offset);
        go();
      }
    }, 1);
    const all = await Promise.all(reads);
    await last;
    clearInterval(letGo);
    expect(all.map((data) => data[0])).toEqual(reads.map((_, i) => (4096 * (i + 1)) % 251));
  });

  test('a client that takes no answers is not read any further', async () => {
    let reads = 0;
    const backend: NbdBackend = {
      sizeBytes: 2 ** 30,
      readOnly: true,
      read: (_, n) => {
        reads += 1;
        return Buffer.alloc(n);
      },
    };
    const maxInFlightBytes = 2 ** 20;
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [{ name: '', backend }],
      limits: { maxInFlightBytes },
    });
    const { socket, received } = await rawClient(server.address);
    socket.pause();
    const count = 400;
    const wire = Array.from({ length: count }, (_, i) =>
      encodeRequest(COMMAND.READ, 0, BigInt(i), 0, 65_536),
    );
    socket.write(Buffer.concat([ENTER, ...wire, encodeRequest(COMMAND.DISC, 0, 0n, 0, 0)]));
    await until(() => reads > 10);
    await new Promise((resolve) => setTimeout(resolve, 50));
    // what the kernel's socket buffers hold comes on top of the limit
    expect(reads).toBeLessThan(count);
    socket.resume();
    await ended(socket);
    expect(received()).toHaveLength(18 + 10 + count * (16 + 65_536));
  });

  test('connections above the limit are refused', async () => {
    const exports = [{ name: '', backend: new HeldBackend() }];
    await using server = await startNbdServer({ listen: LOCAL, exports, limits: { maxConnections: 1 } });
    await using first = await connectNbd(server.address);
    await expect(connectNbd(server.address)).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' });
    expect(await first.read(0, 1)).toHaveLength(1);
  });

  test('a client that vanishes in mid-request aborts what it waited for', async () => {
    const backend = new HeldBackend();
    const errors: string[] = [];
    await using server = await startNbdServer({
      listen: LOCAL,
      exports: [{ name: '', backend }],
      onConnectionError: (error) => errors.push(errorCode(error)),
    });
    const client = await connectNbd(server.address);
    const read = client.read(8192, 512);
    await until(() => backend.waiting.size === 1);
    client.abort();
    await expect(read).rejects.toMatchObject({ code: 'NBD_CLOSED' });
    await until(() => server.connectionCount === 0);
    expect(backend.signals[0]?.aborted).toBe(true);
    expect(errors).toEqual(['NBD_CONNECTION_LOST']);
    backend.waiting.get(8192)?.();
  });

  test('close lets requests in flight finish; destroy does not', async () => {
    const backend = new HeldBackend();
    for (const way of ['close', 'destroy'] as const) {
      const server = await startNbdServer({ listen: LOCAL, exports: [{ name: '', backend }] });
      const client = await connectNbd(server.address);
      const read = client.read(8192, 512).then(
        () => 'answered',
        (error) => errorCode(error),
      );
      await until(() => backend.waiting.size === 1);
      const done = server[way]();
      backend.waiting.get(8192)?.();
      backend.waiting.clear();
      await done;
      expect(await read).toBe(way === 'close' ? 'answered' : 'NBD_CONNECTION_LOST');
      await client.disconnect();
    }
  });

  test('close does not wait for ever', async () => {
    const backend = new HeldBackend();
    const server = await startNbdServer({ listen: LOCAL, exports: [{ name: '', backend }] });
    const client = await connectNbd(server.address);
    const read = client.read(8192, 512);
    await until(() => backend.waiting.size === 1);
    await Promise.all([
      server.close(10),
      expect(read).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' }),
    ]);
  });
});

describe('the Unix socket', () => {
  const exports = [{ name: '', backend: new HeldBackend() }];

  test('is private and goes with the server', async () => {
    await using dir = await tempDir();
    const path = dir.file('nbd.sock');
    const server = await startNbdServer({ listen: { path }, exports });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await server.close();
    expect(existsSync(path)).toBe(false);
  });

  test('of a dead server is replaced, of a living one not', async () => {
    await using dir = await tempDir();
    const path = dir.file('nbd.sock');
    await using living = await startNbdServer({ listen: { path }, exports });
    const again = startNbdServer({ listen: { path }, exports });
    await expect(again).rejects.toMatchObject({ code: 'NBD_LISTEN_FAILED' });
    await using client = await connectNbd(living.address);
    expect(await client.read(0, 1)).toHaveLength(1);

    // a socket file without a listener, as a killed process leaves it
    const stale = dir.file('stale.sock');
    const temporary = createServer().listen(dir.file('t.sock'));
    await once(temporary, 'listening');
    await rename(dir.file('t.sock'), stale);
    await new Promise((resolve) => temporary.close(resolve));
    expect(existsSync(stale)).toBe(true);
    await using fresh = await startNbdServer({ listen: { path: stale }, exports });
    await using second = await connectNbd(fresh.address);
    expect(await second.read(0, 1)).toHaveLength(1);
  });

  test('never replaces a file, and its path has a limit', async () => {
    await using dir = await tempDir();
    await writeFile(dir.file('precious'), 'data');
    for (const path of [dir.file('precious'), dir.file('x'.repeat(108)), dir.file('no/such/dir')]) {
      const starting = startNbdServer({ listen: { path }, exports });
      await expect(starting).rejects.toMatchObject({ code: 'NBD_LISTEN_FAILED' });
    }
    expect(statSync(dir.file('precious')).isFile()).toBe(true);
  });
});
