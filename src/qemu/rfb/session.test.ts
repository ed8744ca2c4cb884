import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inflateSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { encodePng } from './png.ts';
import { RfbSession } from './session.ts';

const WIDTH = 8;
const HEIGHT = 4;

/** Serves a screen of one colour, byte by byte, and keeps what the client says. */
class FakeScreen {
  readonly received: Buffer[] = [];
  colour = 1;
  #socket: Socket | undefined;
  readonly #server: Server;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#socket = socket;
      socket.on('error', () => {});
      socket.on('data', (data) => this.received.push(data));
      this.dribble(Buffer.from('RFB 003.008\n\x01\x01\0\0\0\0', 'latin1'));
      const init = Buffer.alloc(24);
      init.writeUInt16BE(WIDTH, 0);
      init.writeUInt16BE(HEIGHT, 2);
      this.dribble(init);
    }).listen(path);
  }

  dribble(bytes: Buffer): void {
    for (const byte of bytes) this.#socket?.write(Buffer.from([byte]));
  }

  paint(colour: number): void {
    const head = Buffer.alloc(16);
    head.writeUInt16BE(1, 2);
    head.writeUInt16BE(WIDTH, 8);
    head.writeUInt16BE(HEIGHT, 10);
    this.dribble(Buffer.concat([head, Buffer.alloc(WIDTH * HEIGHT * 4, colour)]));
  }

  hangUp(): void {
    this.#socket?.destroy();
  }

  async close(): Promise<void> {
    this.hangUp();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

describe('RfbSession', () => {
  let folder: string;
  let fake: FakeScreen;
  let session: RfbSession;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cloudap-rfb-'));
    fake = new FakeScreen(join(folder, 'vnc'));
    session = await RfbSession.connect(join(folder, 'vnc'));
  });
  afterEach(async () => {
    session.close();
    await fake.close();
    await rm(folder, { recursive: true });
  });

  it('follows the screen and makes a PNG of it', async () => {
    const shot = session.screenshot();
    fake.paint(0x50);
    const png = await shot;
    expect(png.subarray(0, 8).toString('hex')).toBe('89504e470d0a1a0a');
    const dataAt = png.indexOf('IDAT') + 4;
    const row = `00${'50'.repeat(WIDTH * 3)}`;
    expect(inflateSync(png.subarray(dataAt, -12)).toString('hex')).toBe(row.repeat(HEIGHT));
    expect(session.screen.litPercent()).toBe(100);
  });

  it('waits for a change, for quiet and for readiness', async () => {
    const change = session.waitChange({ timeoutMs: 5000, area: { x: 1, y: 1, width: 1, height: 1 } });
    fake.paint(9);
    await change;
    await session.waitStable({ quietMs: 50, timeoutMs: 5000 });
    const ready = { litPercent: 90, updatePixels: 1, quietMs: 50, timeoutMs: 5000 };
    await session.waitReady({ ...ready, screen: { width: WIDTH, height: HEIGHT } });
    await expect(
      session.waitReady({ ...ready, screen: { width: 1, height: HEIGHT }, timeoutMs: 100 }),
    ).rejects.toMatchObject({ code: 'RFB_TIMEOUT' });
    await expect(session.waitChange({ timeoutMs: 20 })).rejects.toMatchObject({ code: 'RFB_TIMEOUT' });
  });

  it('holds Shift for capitals and symbols and clicks', async () => {
    await session.type('a!', { delayMs: 0 });
    await session.click(3, 2);
    await expect(session.type('aé')).rejects.toMatchObject({ code: 'RFB_KEY' });
    const key = (down: number, keysym: string) => `040${down}0000${keysym}`;
    await expect
      .poll(() => Buffer.concat(fake.received).toString('hex'), { timeout: 20_000 })
      .toContain(
        [
          key(1, '00000061') + key(0, '00000061'),
          key(1, '0000ffe1') + key(1, '00000021') + key(0, '00000021') + key(0, '0000ffe1'),
          '050000030002050100030002050000030002',
        ].join(''),
      );
  });

  it('ends every wait when the server goes, and says so afterwards', async () => {
    const waits = [
      session.waitChange({ timeoutMs: 60_000 }),
      session.waitStable({ quietMs: 50_000, timeoutMs: 60_000 }),
    ];
    fake.hangUp();
    for (const wait of waits) await expect(wait).rejects.toMatchObject({ code: 'RFB_CLOSED' });
    expect(() => session.tap('Enter')).toThrow(expect.objectContaining({ code: 'RFB_CLOSED' }));
    await expect(session.screenshot()).rejects.toMatchObject({ code: 'RFB_CLOSED' });
  });

  it('reports a missing socket, a silent server and an abort', async () => {
    await expect(RfbSession.connect(join(folder, 'none'))).rejects.toMatchObject({ code: 'RFB_CONNECT' });
    const silent = createServer().listen(join(folder, 'silent'));
    const connecting = RfbSession.connect(join(folder, 'silent'), { timeoutMs: 50 });
    await expect(connecting).rejects.toMatchObject({ code: 'RFB_CONNECT' });
    const stop = AbortSignal.abort(new Error('stop'));
    await expect(session.waitChange({ timeoutMs: 1000, signal: stop })).rejects.toThrow('stop');
    silent.close();
  });
});

it('encodes a PNG of a single pixel', async () => {
  const png = await encodePng(1, 1, Buffer.from([3, 2, 1, 0]));
  expect(inflateSync(png.subarray(png.indexOf('IDAT') + 4, -12))).toEqual(Buffer.from([0, 1, 2, 3]));
});
