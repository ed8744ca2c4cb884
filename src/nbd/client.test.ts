import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { CHUNK_FLAG, COMMAND, INFO, OPTION, OPTION_REPLY, TRANSMISSION } from '../wire/nbd/constants.ts';
import {
  encodeDataChunkHeader,
  encodeExportInfo,
  encodeExportNameReply,
  encodeGreeting,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeSimpleReply,
  encodeTextInfo,
} from '../wire/nbd/encode.ts';
import type { OptionFrame, RequestFrame } from '../wire/nbd/frames.ts';
import { RequestParser } from '../wire/nbd/request-parser.ts';
import type { NbdAddress } from './address.ts';
import { connectNbd, listNbdExports } from './connect.ts';
import { MemoryBackend } from './memory-backend.ts';
import { startNbdServer } from './server.ts';

interface Script {
  greeting?: Buffer;
  onOption?: (option: OptionFrame, socket: Socket) => Buffer[] | undefined;
  onRequest?: (request: RequestFrame, socket: Socket) => Buffer[];
}

const { ACK, ERR_UNSUP, ERR_POLICY } = OPTION_REPLY;
const FLAGS = TRANSMISSION.HAS_FLAGS | TRANSMISSION.SEND_FLUSH;
const optionInfo = (sizeBytes: number) =>
  encodeOptionReply(OPTION.GO, OPTION_REPLY.INFO, encodeExportInfo(sizeBytes, FLAGS));

/** A server that does the usual thing unless the script says otherwise. */
class FakeServer implements AsyncDisposable {
  readonly requests: RequestFrame[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(script: Script) {
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      const parser = new RequestParser();
      socket.on('error', () => {});
      socket.write(script.greeting ?? encodeGreeting(3));
      socket.on('data', (chunk: Buffer) => {
        parser.push(chunk);
        for (let frame = parser.next(); frame !== undefined; frame = parser.next()) {
          if (frame.kind === 'request') {
            this.requests.push(frame);
            if (frame.command === COMMAND.DISC) socket.end();
            else for (const b of script.onRequest?.(frame, socket) ?? []) socket.write(b);
          } else if (frame.kind === 'option') {
            const { option } = frame;
            const replies = script.onOption?.(frame, socket) ?? [
              ...(option === OPTION.GO ? [optionInfo(65_536)] : []),
              encodeOptionReply(option, ACK),
            ];
            for (const b of replies) socket.write(b);
            const accepted = option === OPTION.GO && replies.at(-1)?.readUInt32BE(12) === ACK;
            if (accepted || option === OPTION.EXPORT_NAME) parser.beginTransmission();
          }
        }
      });
    });
  }

  async listen(): Promise<NbdAddress> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return { host: '127.0.0.1', port: (this.#server.address() as AddressInfo).port };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

describe('handshake', () => {
  const reply = (option: number, type: number, data?: Buffer) => encodeOptionReply(option, type, data);
  const on = (option: number, ...replies: Buffer[]) => ({
    onOption: (frame: OptionFrame) => (frame.option === option ? replies : undefined),
  });
  const cases: [string, Script, string, string[]?][] = [
    ['is not NBD', { greeting: Buffer.from('SSH-2.0-OpenSSH_9.2p1') }, 'NBD_BAD_MAGIC'],
    ['is not fixed newstyle', { greeting: encodeGreeting(0) }, 'NBD_BAD_FRAME'],
    ['refuses', on(OPTION.GO, reply(OPTION.GO, ERR_POLICY, Buffer.from('no'))), 'NBD_OPTION_REFUSED'],
    ['tells no size', on(OPTION.GO, reply(OPTION.GO, ACK)), 'NBD_BAD_FRAME'],
    ['answers another option', on(OPTION.GO, reply(OPTION.LIST, ACK)), 'NBD_BAD_FRAME'],
    ['sends an odd type', on(OPTION.GO, reply(OPTION.GO, OPTION_REPLY.SERVER)), 'NBD_BAD_FRAME'],
    [
      'sends half an information',
      on(OPTION.GO, reply(OPTION.GO, OPTION_REPLY.INFO, Buffer.alloc(3))),
      'NBD_BAD_FRAME',
    ],
    [
      'never ends its replies',
      on(
        OPTION.GO,
        ...Array.from({ length: 5000 }, () =>
          reply(OPTION.GO, OPTION_REPLY.INFO, encodeTextInfo(INFO.NAME, 'x')),
        ),
      ),
      'NBD_TOO_LARGE',
    ],
    [
      'grants what nobody asked for',
      on(
        OPTION.SET_META_CONTEXT,
        reply(OPTION.SET_META_CONTEXT, OPTION_REPLY.META_CONTEXT, encodeMetaContext(1, 'x:y')),
      ),
      'NBD_BAD_FRAME',
      ['a:b'],
    ],
    ['grants nothing', {}, 'NBD_CONTEXT_UNKNOWN', ['a:b']],
  ];
  test.each(cases)('a server that %s', async (_name, script, code, metaContexts = []) => {
    await using fake = new FakeServer(script);
    const address = await fake.listen();
    await expect(connectNbd(address, { metaContexts })).rejects.toMatchObject({ code });
  });

  test('falls back to EXPORT_NAME, and to simple replies', async () => {
    await using fake = new FakeServer({
      onOption: ({ option }) =>
        option === OPTION.EXPORT_NAME
          ? [encodeExportNameReply(4096, FLAGS, true)]
          : [encodeOptionReply(option, ERR_UNSUP)],
      onRequest: (r) => [encodeSimpleReply(r.cookie, 0), Buffer.alloc(r.lengthBytes, 5)],
    });
    await using client = await connectNbd(await fake.listen());
    expect(client.export).toMatchObject({ sizeBytes: 4096, structuredReplies: false });
    expect(await client.read(7, 3)).toEqual(Buffer.from([5, 5, 5]));
  });

  test('nobody there, nobody answering, no longer wanted', async () => {
    const nobody = connectNbd({ path: '/nonexistent/nbd.sock' });
    await expect(nobody).rejects.toMatchObject({ code: 'NBD_CONNECT_FAILED' });
    await using fake = new FakeServer({ greeting: Buffer.alloc(0) });
    const address = await fake.listen();
    const slow = connectNbd(address, { handshakeTimeoutMs: 20 });
    await expect(slow).rejects.toMatchObject({ code: 'NBD_HANDSHAKE_TIMEOUT' });
    const unwanted = connectNbd(address, { signal: AbortSignal.timeout(10) });
    await expect(unwanted).rejects.toMatchObject({ name: 'TimeoutError' });
    await expect(connectNbd(address, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: 'AbortError',
    });
  });

  test('LIST refused, and a list with an entry that is cut short', async () => {
    for (const [type, data, code] of [
      [ERR_POLICY, Buffer.alloc(0), 'NBD_OPTION_REFUSED'],
      [OPTION_REPLY.SERVER, encodeServerEntry('name').subarray(0, 6), 'NBD_BAD_FRAME'],
    ] as const) {
      await using fake = new FakeServer({ onOption: (o) => [encodeOptionReply(o.option, type, data)] });
      await expect(listNbdExports(await fake.listen())).rejects.toMatchObject({ code });
    }
  });
});

describe('a server that breaks the protocol ends every call with the rule it broke', () => {
  const chunk = (cookie: bigint, offset: number, n: number, flags: number = CHUNK_FLAG.DONE) =>
    Buffer.concat([encodeDataChunkHeader(flags, cookie, offset, n), Buffer.alloc(n)]);
  const cases: [string, (r: RequestFrame) => Buffer[], string][] = [
    ['unknown cookie', (r) => [chunk(r.cookie + 1000n, r.offset, 512)], 'NBD_BAD_FRAME'],
    ['unknown cookie in a simple reply', (r) => [encodeSimpleReply(r.cookie + 9n, 0)], 'NBD_BAD_FRAME'],
    ['a second answer', (r) => [chunk(r.cookie, 0, 512), chunk(r.cookie, 0, 512)], 'NBD_BAD_FRAME'],
    ['wrong offset', (r) => [chunk(r.cookie, r.offset + 512, 512)], 'NBD_BAD_FRAME'],
    ['overlap', (r) => [chunk(r.cookie, 0, 300, 0), chunk(r.cookie, 299, 213)], 'NBD_BAD_FRAME'],
    ['missing bytes', (r) => [chunk(r.cookie, 0, 511)], 'NBD_BAD_FRAME'],
    ['too many bytes', (r) => [chunk(r.cookie, 0, 513)], 'NBD_BAD_FRAME'],
    ['oversize', (r) => [encodeDataChunkHeader(1, r.cookie, 0, 2 ** 30)], 'NBD_TOO_LARGE'],
    ['wrong magic', () => [Buffer.alloc(16, 1)], 'NBD_BAD_MAGIC'],
    ['simple reply to a structured read', (r) => [encodeSimpleReply(r.cookie, 0)], 'NBD_BAD_FRAME'],
  ];
  test.each(cases)('%s', async (_name, answer, code) => {
    await using fake = new FakeServer({ onRequest: (r) => (r.command === COMMAND.READ ? answer(r) : []) });
    const client = await connectNbd(await fake.listen());
    const flush = client.flush().catch((error: unknown) => error);
    const read = client.read(0, 512).catch((error: unknown) => error);
    expect(await flush).toMatchObject({ code });
    // the second answer comes too late for the read itself
    if (_name !== 'a second answer') expect(await read).toMatchObject({ code });
    await expect(client.closed).rejects.toMatchObject({ code });
    await expect(client.read(0, 1)).rejects.toMatchObject({ code });
    await client.disconnect();
  });
});

describe('calls', () => {
  test('end with the true cause when the server vanishes', async () => {
    const onRequest = (_: RequestFrame, socket: Socket) => {
      socket.destroy();
      return [];
    };
    await using fake = new FakeServer({ onRequest });
    const client = await connectNbd(await fake.listen());
    await expect(client.read(0, 512)).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' });
    await expect(client.write(0, Buffer.alloc(1))).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' });
    await expect(client.closed).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' });
  });

  test('keep to the limits: some on the wire, some waiting, the rest refused', async () => {
    const held: (() => void)[] = [];
    const onRequest = (r: RequestFrame, socket: Socket) => {
      held.push(() => socket.write(encodeSimpleReply(r.cookie, 0)));
      return [];
    };
    await using fake = new FakeServer({ onRequest });
    const limits = { maxInFlightRequests: 2, maxQueuedRequests: 2, maxInFlightBytes: 1000 };
    const client = await connectNbd(await fake.listen(), { limits });
    const flushes = Array.from({ length: 4 }, () => client.flush());
    await expect(client.flush()).rejects.toMatchObject({ code: 'NBD_QUEUE_FULL' });
    while (held.length < 2) await new Promise((resolve) => setImmediate(resolve));
    expect([fake.requests.length, client.pendingCalls]).toEqual([2, 4]);
    const done = Promise.all(flushes);
    const pump = setInterval(() => held.shift()?.(), 1);
    await done;
    // by bytes: the second write waits for the first, and one above the limit goes alone
    const writes = [900, 200, 5000].map((n) => client.write(0, Buffer.alloc(n)));
    await Promise.all(writes);
    clearInterval(pump);
    expect(fake.requests.map((r) => r.lengthBytes)).toEqual([0, 0, 0, 0, 900, 200, 5000]);
    await client.disconnect();
    expect(fake.requests.at(-1)?.command).toBe(COMMAND.DISC);
  });

  test('can be given up, on the wire and in the queue; the session goes on', async () => {
    const held: (() => void)[] = [];
    const onRequest = (r: RequestFrame, socket: Socket) => {
      const data = Buffer.alloc(r.lengthBytes, r.offset);
      const header = encodeDataChunkHeader(CHUNK_FLAG.DONE, r.cookie, r.offset, r.lengthBytes);
      held.push(() => socket.write(Buffer.concat([header, data])));
      return [];
    };
    await using fake = new FakeServer({ onRequest });
    const client = await connectNbd(await fake.listen(), { limits: { maxInFlightRequests: 1 } });
    const abort = new AbortController();
    const onWire = client.read(1, 10, { signal: abort.signal });
    const queued = client.read(2, 10, { signal: abort.signal });
    const kept = client.read(3, 10);
    while (held.length < 1) await new Promise((resolve) => setImmediate(resolve));
    abort.abort(new Error('enough'));
    await expect(onWire).rejects.toThrow('enough');
    await expect(queued).rejects.toThrow('enough');
    expect(client.pendingCalls).toBe(2);
    const pump = setInterval(() => held.shift()?.(), 1);
    expect((await kept)[0]).toBe(3);
    clearInterval(pump);
    expect(fake.requests.map((r) => r.offset)).toEqual([1, 3]);
    await expect(client.read(4, 1, { signal: abort.signal })).rejects.toThrow('enough');
    await client.disconnect();
  });

  test('are checked before anything is sent', async () => {
    const readOnly = new MemoryBackend(Buffer.alloc(10_000), { readOnly: true });
    const bare = { sizeBytes: 4096, readOnly: false, minimumBlockBytes: 512, read: () => Buffer.alloc(0) };
    await using server = await startNbdServer({
      listen: { host: '127.0.0.1', port: 0 },
      exports: [
        { name: 'ro', backend: readOnly },
        { name: 'bare', backend: { ...bare, write: () => {} } },
      ],
    });
    await using ro = await connectNbd(server.address, { exportName: 'ro' });
    await using rw = await connectNbd(server.address, { exportName: 'bare' });
    const range = { code: 'NBD_RANGE' };
    const unsupported = { code: 'NBD_UNSUPPORTED' };
    expect([ro.readOnly, rw.readOnly, ro.canMultiConn]).toEqual([true, false, true]);
    for (const [offset, length] of [
      [-1, 1],
      [0.5, 1],
      [9999, 2],
      [0, Number.NaN],
      [0, -1],
    ] as const) {
      await expect(ro.read(offset, length)).rejects.toMatchObject(range);
    }
    await expect(rw.read(0, 100)).rejects.toMatchObject(range);
    await expect(ro.write(0, Buffer.alloc(1))).rejects.toMatchObject(unsupported);
    await expect(rw.trim(0, 512)).rejects.toMatchObject(unsupported);
    await expect(rw.writeZeroes(0, 512)).rejects.toMatchObject(unsupported);
    await expect(rw.flush()).rejects.toMatchObject(unsupported);
    await expect(rw.write(0, Buffer.alloc(512), { fua: true })).rejects.toMatchObject(unsupported);
    await expect(ro.blockStatus('base:allocation', 0, 1)).rejects.toMatchObject({
      code: 'NBD_CONTEXT_UNKNOWN',
    });
  });

  test('after the end fail with NBD_CLOSED; disconnect and abort may be called again', async () => {
    const backend = new MemoryBackend(Buffer.alloc(100));
    await using server = await startNbdServer({
      listen: { host: '127.0.0.1', port: 0 },
      exports: [{ name: '', backend }],
    });
    const client = await connectNbd(server.address);
    const reads = Array.from({ length: 100 }, (_, i) => client.read(i, 1));
    await client.disconnect();
    expect(await Promise.all(reads)).toHaveLength(100);
    await client.closed;
    await client.disconnect();
    client.abort();
    await expect(client.read(0, 1)).rejects.toMatchObject({ code: 'NBD_CLOSED' });
  });
});
