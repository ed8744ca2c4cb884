import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { processAlive } from '../../src/base/process.ts';
import { encodePreamble, GATEWAY_STATUS } from '../../src/wire/link/preamble.ts';
import { Gateway } from '../../src/link/gateway.ts';
import { linkLab, linkPair } from '../kit/link.ts';

/** Everything a connection says until it ends. */
async function all(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(socket, 'close');
  return Buffer.concat(chunks);
}

async function echo(path: string): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  server.listen(path);
  await once(server, 'listening');
  return server;
}

test('bytes pass both ways, and the end of each direction', async () => {
  await using lab = await linkLab();
  const server = await echo(join(lab.socketDir, 'echo.sock'));
  const socket = connect({ port: lab.gateway.port, host: '127.0.0.1', allowHalfOpen: true });
  const said = all(socket);
  // the preamble in pieces, and data right behind it
  const bytes = Buffer.concat([encodePreamble('echo'), Buffer.alloc(500_000, 7)]);
  for (const byte of bytes.subarray(0, 8)) {
    socket.write(Buffer.of(byte));
    await sleep(1);
  }
  socket.end(bytes.subarray(8));
  const answer = await said;
  expect(answer[0]).toBe(GATEWAY_STATUS.OK);
  expect(answer.subarray(1).equals(Buffer.alloc(500_000, 7))).toBe(true);
  server.close();
});

test.each([
  ['garbage', Buffer.from('GET / HTTP/1.1\r\n\r\n'), GATEWAY_STATUS.BAD_PREAMBLE],
  ['garbage without end', Buffer.alloc(300_000, 0x41), GATEWAY_STATUS.BAD_PREAMBLE],
  ['silence', Buffer.alloc(0), GATEWAY_STATUS.BAD_PREAMBLE],
  ['half a preamble', encodePreamble('echo').subarray(0, 7), GATEWAY_STATUS.BAD_PREAMBLE],
  ['a route that nobody serves', encodePreamble('nobody'), GATEWAY_STATUS.NO_ROUTE],
])('%s is refused with its status', async (_name, bytes, status) => {
  await using lab = await linkLab();
  const socket = connect(lab.gateway.port, '127.0.0.1');
  const said = all(socket);
  socket.write(bytes);
  expect(await said).toEqual(Buffer.of(status));
  expect(lab.gateway.stats().refused).toBe(1);
});

test('connections beyond the limit are refused, and accepted again when others have gone', async () => {
  await using lab = await linkLab();
  await using gateway = await Gateway.listen({
    host: '127.0.0.1',
    port: 0,
    socketDir: lab.socketDir,
    maxConnections: 1,
  });
  const server = await echo(join(lab.socketDir, 'echo.sock'));
  const first = connect(gateway.port, '127.0.0.1');
  first.write(encodePreamble('echo'));
  await once(first, 'data');
  expect(await all(connect(gateway.port, '127.0.0.1'))).toEqual(Buffer.of(GATEWAY_STATUS.BUSY));
  first.destroy();
  while (gateway.stats().connections > 0) await sleep(5);
  const next = connect(gateway.port, '127.0.0.1');
  next.write(encodePreamble('echo'));
  expect((await once(next, 'data'))[0]).toEqual(Buffer.of(GATEWAY_STATUS.OK));
  next.destroy();
  server.close();
});

test('who does not read is not buffered without end', async () => {
  await using lab = await linkLab();
  const server = await echo(join(lab.socketDir, 'echo.sock'));
  const socket = connect(lab.gateway.port, '127.0.0.1');
  socket.on('error', () => {});
  socket.pause();
  socket.write(encodePreamble('echo'));
  let written = 0;
  let full = 0;
  // nobody reads the echo: sooner or later nothing more is taken
  while (full < 20 && written < 400_000_000) {
    if (socket.write(Buffer.alloc(1_000_000))) full = 0;
    else {
      full += 1;
      await sleep(10);
      if (socket.writableLength === 0) full = 0;
    }
    written += 1_000_000;
  }
  expect(written).toBeLessThan(100_000_000);
  socket.destroy();
  server.close();
});

test('behind it, TLS without a certificate or with garbage gets nowhere, and harms no session', async () => {
  await using lab = await linkLab();
  await using pair = await linkPair(lab);
  for (const speak of [true, false]) {
    const raw = connect(lab.gateway.port, '127.0.0.1');
    raw.write(encodePreamble('m1'));
    expect((await once(raw, 'data'))[0]).toEqual(Buffer.of(GATEWAY_STATUS.OK));
    if (speak) {
      const tls = connectTls({ socket: raw, ca: lab.ca.cert, checkServerIdentity: () => undefined });
      const said = (await all(tls)).toString('latin1');
      expect(said).toContain('LINK_TLS');
    } else {
      raw.write(Buffer.alloc(10_000, 0x55));
      await all(raw);
    }
  }
  await pair.near.send('urgent', 1, Buffer.alloc(1));
  await pair.near.drained('urgent');
  expect(pair.near.stats().cuts).toBe(0);
});

test('as a process it says its port, outlives the pipes of its parent, and ends on SIGTERM', async () => {
  await using lab = await linkLab();
  const server = await echo(join(lab.socketDir, 'echo.sock'));
  const main = fileURLToPath(new URL('../../src/link/gateway-main.ts', import.meta.url));
  const config = JSON.stringify({ host: '127.0.0.1', port: 0, socketDir: lab.socketDir });
  const child: ChildProcess = spawn(process.execPath, [main, config], {
    detached: true,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  try {
    if (!child.stdout) throw new Error('no pipe');
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
    const ready = JSON.parse(line) as { ready: boolean; port: number; pid: number };
    expect(ready).toMatchObject({ ready: true, pid: child.pid });
    child.stdin?.destroy();
    child.stdout.destroy();
    await sleep(100);
    expect(processAlive(ready.pid)).toBe(true);
    const socket = connect(ready.port, '127.0.0.1');
    socket.write(encodePreamble('echo'));
    expect((await once(socket, 'data'))[0]).toEqual(Buffer.of(GATEWAY_STATUS.OK));
    child.kill('SIGTERM');
    const [code] = (await once(child, 'exit')) as [number | null];
    expect(code).toBe(0);
    socket.destroy();
  } finally {
    child.kill('SIGKILL');
    server.close();
  }
});

test('a wrong configuration is told with its code', async () => {
  const main = fileURLToPath(new URL('../../src/link/gateway-main.ts', import.meta.url));
  const child = spawn(process.execPath, [main, '{"port":"x"}'], { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const [code] = (await once(child, 'exit')) as [number];
  expect(code).toBe(1);
  expect(text).toContain('"code":"LINK_CONFIG"');
});
