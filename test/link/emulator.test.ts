import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { Emulator, type EmulatorOptions } from '../../src/link/emulator.ts';

interface Lab extends AsyncDisposable {
  wan: Emulator;
  open(): Socket;
}

/** An echo server behind an emulator. */
async function lab(options: Partial<EmulatorOptions>): Promise<Lab> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const wan = await Emulator.listen({
    listen: { host: '127.0.0.1', port: 0 },
    forward: { host: '127.0.0.1', port: (server.address() as AddressInfo).port },
    ...options,
  });
  const sockets: Socket[] = [];
  return {
    wan,
    open() {
      const address = wan.address as { host: string; port: number };
      const socket = connect({ ...address, allowHalfOpen: true });
      socket.on('error', () => {});
      sockets.push(socket);
      return socket;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await wan[Symbol.asyncDispose]();
      server.close();
    },
  };
}

async function collect(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'close');
  return Buffer.concat(chunks);
}

test('takes at least as long as rate and delay say, and changes no byte', async () => {
  await using l = await lab({ rateMbit: 40, rttMs: 40, jitterMs: 5 });
  const bytes = Buffer.from(Array.from({ length: 250_000 }, (_, i) => (i * 7) & 0xff));
  const fromMs = performance.now();
  const socket = l.open();
  const said = collect(socket);
  socket.end(bytes);
  expect((await said).equals(bytes)).toBe(true);
  // 50 ms on the line and a round trip; a slow machine only adds to it
  expect(performance.now() - fromMs).toBeGreaterThan(80);
  expect(l.wan.stats()).toMatchObject({ bytesUp: 250_000, bytesDown: 250_000, connectionsTotal: 1 });
});

test('the queue is bounded: what it does not hold stays with the sender', async () => {
  await using l = await lab({ rateMbit: 8, queueBytes: 50_000 });
  const socket = l.open();
  socket.resume();
  socket.write(Buffer.alloc(1_000_000));
  await sleep(200);
  const { maxQueueBytesUp, bytesUp } = l.wan.stats();
  // one read may go beyond it
  expect(maxQueueBytesUp).toBeLessThan(50_000 + 70_000);
  expect(bytesUp).toBeLessThan(600_000);
});

test('a dead link passes nothing, ends nothing and takes no connection; then everything arrives', async () => {
  await using l = await lab({});
  const socket = l.open();
  socket.write('a');
  await once(socket, 'data');
  l.wan.cut();
  const late = l.open();
  let arrived = '';
  for (const s of [socket, late]) s.on('data', (chunk: Buffer) => (arrived += chunk.toString()));
  const ended: string[] = [];
  socket.on('end', () => ended.push('socket'));
  late.write('b');
  socket.end('c');
  await sleep(150);
  expect([arrived, ended]).toEqual(['', []]);
  l.wan.restore();
  while (arrived.length < 2 || ended.length === 0) await sleep(5);
  expect(arrived.split('').sort()).toEqual(['b', 'c']);
});

test('drop resets connections, new ones work', async () => {
  await using l = await lab({});
  const socket = l.open();
  socket.write('a');
  await once(socket, 'data');
  // not once(): that would reject with the reset
  const closed = new Promise((resolve) => {
    socket.on('close', resolve);
  });
  l.wan.drop();
  await closed;
  const next = l.open();
  next.write('b');
  await once(next, 'data');
});

test('a further way shares rate and queue, and may be dialled from the other end', async () => {
  await using bench = await lab({ rateMbit: 8 });
  const first = bench.wan.address as { host: string; port: number };
  await using far = await lab({});
  const echo = far.wan.address as { host: string; port: number };
  const way = (await bench.wan.addForward({ host: first.host, port: 0 }, echo, true)) as typeof echo;
  const socket = connect(way);
  const received = once(socket, 'data') as Promise<[Buffer]>;
  socket.write('hello');
  expect((await received)[0].toString()).toBe('hello');
  expect(bench.wan.stats()).toMatchObject({ bytesUp: 5, bytesDown: 5, connectionsTotal: 1 });
  const startedMs = performance.now();
  const other = bench.open();
  for (const each of [other, socket]) each.write(Buffer.alloc(100_000));
  // each direction carries what one way asks and what the other answers: 200 kB at 1 MB/s
  let left = 200_000;
  await new Promise<void>((resolve) => {
    for (const each of [other, socket]) {
      each.on('data', (chunk: Buffer) => {
        left -= chunk.length;
        if (left === 0) resolve();
      });
    }
  });
  expect(performance.now() - startedMs).toBeGreaterThan(180);
  socket.destroy();
});

test('as a process it is steered by lines, and ends with its input', async () => {
  const main = fileURLToPath(new URL('../../src/link/emulator-main.ts', import.meta.url));
  const config = {
    listen: { host: '127.0.0.1', port: 0 },
    forward: { host: '127.0.0.1', port: 1 },
    link: 'rate=10mbit,rtt=5ms',
  };
  const child = spawn(process.execPath, [main, JSON.stringify(config)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<unknown> => JSON.parse((await lines.next()).value as string);
  expect(await next()).toMatchObject({ ready: true, address: { host: '127.0.0.1' } });
  const answers: [string, object][] = [
    ['cut', { ok: true }],
    ['restore', { ok: true }],
    ['drop', { ok: true }],
    ['rate 50', { ok: true }],
    ['rate unlimited', { ok: true }],
    ['delay 10 1', { ok: true }],
    ['stats', { ok: true, bytesUp: 0, connections: 0 }],
    ['rate 0', { ok: false, error: { code: 'LINK_SPEC' } }],
    ['what', { ok: false, error: { code: 'LINK_SPEC' } }],
  ];
  for (const [line, answer] of answers) {
    child.stdin.write(`${line}\n`);
    expect(await next()).toMatchObject(answer);
  }
  child.stdin.end();
  expect(await once(child, 'exit')).toEqual([0, null]);
});
