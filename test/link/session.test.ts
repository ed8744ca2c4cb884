import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { CloudapError, errorCode } from '../../src/base/errors.ts';
import { BULK_BACKLOG_BYTES } from '../../src/link/constants.ts';
import { dialLink } from '../../src/link/dial.ts';
import { generateCa, issueSiteCertificate } from '../../src/link/pki.ts';
import type { Lane, LinkSession, LinkState, MessageHandler } from '../../src/link/types.ts';
import { seededRandom } from '../../src/link/window.sim.ts';
import { MAX_MESSAGE_BYTES } from '../../src/wire/link/constants.ts';
import { linkLab, linkPair } from '../kit/link.ts';

const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
const LANES: readonly Lane[] = ['urgent', 'bulk'];

async function reached(session: LinkSession, state: LinkState): Promise<void> {
  while (session.state !== state) await sleep(5);
}

/** Checks what arrives against what `sendAll` sends: a counter, a length and a hash a lane. */
function checker(): {
  handler: MessageHandler;
  counts: Record<Lane, number>;
  digests: Record<Lane, string>;
  wrong: string[];
} {
  const counts = { urgent: 0, bulk: 0 };
  const hashes = { urgent: createHash('sha256'), bulk: createHash('sha256') };
  const wrong: string[] = [];
  let handling: Record<Lane, boolean> = { urgent: false, bulk: false };
  return {
    counts,
    wrong,
    get digests() {
      return { urgent: hashes.urgent.copy().digest('hex'), bulk: hashes.bulk.copy().digest('hex') };
    },
    async handler(type, payload, lane) {
      if (handling[lane]) wrong.push(`${lane}: two at once`);
      handling = { ...handling, [lane]: true };
      const expected = counts[lane];
      counts[lane] += 1;
      if (payload.length >= 4 && payload.readUInt32BE(0) !== expected)
        wrong.push(`${lane} ${payload.readUInt32BE(0)} at ${expected}`);
      if (type !== 1 + (expected % 255)) wrong.push(`type ${type} at ${expected}`);
      hashes[lane].update(payload);
      if (expected % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
      handling = { ...handling, [lane]: false };
    },
  };
}

async function sendAll(
  session: LinkSession,
  lane: Lane,
  bytes: number,
  seed: number,
): Promise<{ count: number; digest: string }> {
  const random = seededRandom(seed);
  const hash = createHash('sha256');
  let sent = 0;
  let count = 0;
  while (sent < bytes) {
    const large = random() < 0.1 ? 700_000 : 30_000;
    const payload = random() < 0.02 ? Buffer.alloc(0) : randomBytes(4 + Math.floor(random() * large));
    if (payload.length >= 4) payload.writeUInt32BE(count, 0);
    hash.update(payload);
    await session.send(lane, 1 + (count % 255), payload);
    sent += payload.length;
    count += 1;
  }
  await session.drained(lane);
  return { count, digest: hash.digest('hex') };
}

describe('messages', () => {
  test.each([1, 2, 3])(
    '10 MB each way on both lanes over random cuts, seed %d: no gap, no duplicate, in order',
    async (seed) => {
      await using lab = await linkLab({ rateMbit: 400, rttMs: 4, jitterMs: 1 });
      const atNear = checker();
      const atFar = checker();
      await using pair = await linkPair(lab, { onNear: atNear.handler, onFar: atFar.handler });
      const random = seededRandom(seed);
      const over = new AbortController();
      const breaking = (async () => {
        for (let i = 0; i < 12 && !over.signal.aborted; i += 1) {
          await sleep(20 + random() * 150);
          if (random() < 0.7) lab.wan.drop();
          else {
            lab.wan.cut();
            await sleep(random() * 100);
            lab.wan.drop();
            lab.wan.restore();
          }
        }
      })();
      const sent = await Promise.all([
        ...LANES.map((lane, i) => sendAll(pair.near, lane, 10_000_000, 100 + i)),
        ...LANES.map((lane, i) => sendAll(pair.far, lane, 10_000_000, 200 + i)),
      ]);
      over.abort();
      await breaking;
      expect(pair.near.stats().cuts + pair.far.stats().cuts).toBeGreaterThan(0);
      expect([atNear.wrong, atFar.wrong]).toEqual([[], []]);
      expect(sent.map(({ count }) => count)).toEqual([
        atFar.counts.urgent,
        atFar.counts.bulk,
        atNear.counts.urgent,
        atNear.counts.bulk,
      ]);
      expect(sent.map(({ digest }) => digest)).toEqual([
        atFar.digests.urgent,
        atFar.digests.bulk,
        atNear.digests.urgent,
        atNear.digests.bulk,
      ]);
      await pair.near.close();
      await pair.far.closed;
    },
  );

  test('of one lane are handled one after another, and a slow handler holds only its own lane', async () => {
    await using lab = await linkLab();
    const release = Promise.withResolvers<void>();
    const seen: string[] = [];
    await using pair = await linkPair(lab, {
      async onFar(type, _payload, lane) {
        if (lane === 'bulk' && type === 1) await release.promise;
        seen.push(`${lane}${type}`);
      },
    });
    await pair.near.send('bulk', 1, Buffer.alloc(10));
    await pair.near.send('bulk', 2, Buffer.alloc(10));
    await pair.near.send('urgent', 1, Buffer.alloc(10));
    await pair.near.drained('urgent');
    expect(seen).toEqual(['urgent1']);
    expect(pair.near.stats().bulk.bytesPending).toBe(20);
    release.resolve();
    await pair.near.drained('bulk');
    expect(seen).toEqual(['urgent1', 'bulk1', 'bulk2']);
    expect(pair.near.stats().bulk.bytesPending).toBe(0);
  });

  test('up to the limit pass, larger ones are refused, and so are types that do not exist', async () => {
    await using lab = await linkLab();
    const sizes: number[] = [];
    await using pair = await linkPair(lab, { onFar: (_type, payload) => void sizes.push(payload.length) });
    for (const lane of LANES) {
      await pair.near.send(lane, 255, Buffer.alloc(MAX_MESSAGE_BYTES));
      await pair.near.send(lane, 1, Buffer.alloc(0));
      expect(await codeOf(pair.near.send(lane, 1, Buffer.alloc(MAX_MESSAGE_BYTES + 1)))).toBe(
        'LINK_MESSAGE_TOO_LARGE',
      );
      expect(await codeOf(pair.near.send(lane, 0, Buffer.alloc(1)))).toBe('LINK_BAD_ARGUMENT');
      expect(await codeOf(pair.near.send(lane, 256, Buffer.alloc(1)))).toBe('LINK_BAD_ARGUMENT');
      await pair.near.drained(lane);
    }
    expect(sizes).toEqual([MAX_MESSAGE_BYTES, 0, MAX_MESSAGE_BYTES, 0]);
  });

  test('bulk flat out keeps within its window, and urgent messages pass it', async () => {
    await using lab = await linkLab({ rateMbit: 20, rttMs: 10 });
    let bulkArrived = 0;
    const overtaken: number[] = [];
    await using pair = await linkPair(lab, {
      onFar(_type, payload, lane) {
        if (lane === 'bulk') bulkArrived += payload.length;
        else overtaken.push(payload.readUInt32BE(0) - bulkArrived);
      },
    });
    const over = new AbortController();
    let bulkSent = 0;
    const bulk = (async () => {
      const payload = Buffer.alloc(16_384);
      while (!over.signal.aborted) {
        bulkSent += payload.length;
        await pair.near.send('bulk', 1, payload);
      }
    })();
    let largestInFlight = 0;
    for (let i = 0; i < 60; i += 1) {
      await sleep(25);
      const before = Buffer.alloc(4);
      before.writeUInt32BE(bulkSent);
      await pair.near.send('urgent', 1, before);
      const { bulk, windowBytes } = pair.near.stats();
      // the window shrinks at times below what was sent under the larger one; it never grows by more than doubling
      largestInFlight = Math.max(largestInFlight, bulk.bytesInFlight / windowBytes);
      if (i > 20) expect(bulk.bytesInFlight).toBeLessThan(200_000);
    }
    over.abort();
    await bulk;
    await pair.near.drained('bulk');
    await pair.near.drained('urgent');
    expect(overtaken).toHaveLength(60);
    expect(largestInFlight).toBeLessThan(4);
    // sent before and still behind: bounded by windows and what waits for credit, not by how long bulk has run
    expect(Math.max(...overtaken.slice(20))).toBeLessThan(400_000);
    expect(lab.wan.stats().maxQueueBytesUp).toBeLessThan(200_000);
  });

  test('a handler that does not keep up stops bulk at window and backlog', async () => {
    await using lab = await linkLab();
    const release = Promise.withResolvers<void>();
    await using pair = await linkPair(lab, { onFar: () => release.promise });
    let accepted = 0;
    // the window may be smaller later than it was when the bytes were taken
    let largestWindow = 0;
    const sending = (async () => {
      for (let i = 0; i < 400; i += 1) {
        largestWindow = Math.max(largestWindow, pair.near.stats().windowBytes);
        await pair.near.send('bulk', 1, Buffer.alloc(65_536));
        accepted += 65_536;
      }
    })();
    sending.catch(() => {});
    await sleep(300);
    const { bulk } = pair.near.stats();
    expect(bulk.bytesPending).toBeLessThan(2 * largestWindow + BULK_BACKLOG_BYTES + 3 * 65_536);
    expect(accepted).toBeLessThan(400 * 65_536);
    release.resolve();
    await sending;
    await pair.near.drained('bulk');
  });
});

describe('cuts', () => {
  test('a dead WAN is noticed although no connection ends, and what was sent arrives after it', async () => {
    await using lab = await linkLab({ rttMs: 2 });
    const seen: number[] = [];
    await using pair = await linkPair(lab, { onFar: (type) => void seen.push(type) });
    const states: string[] = [];
    pair.near.onStateChange((state) => states.push(state));
    await pair.near.send('urgent', 1, Buffer.alloc(1));
    await pair.near.drained('urgent');
    lab.wan.cut();
    await pair.near.send('urgent', 2, Buffer.alloc(1));
    await Promise.all([reached(pair.near, 'cut'), reached(pair.far, 'cut')]);
    await pair.near.send('urgent', 3, Buffer.alloc(1));
    lab.wan.restore();
    await pair.near.drained('urgent');
    await reached(pair.near, 'open');
    expect(seen).toEqual([1, 2, 3]);
    expect(states).toEqual(['cut', 'open']);
    expect(pair.near.stats().cuts).toBe(1);
  });

  test('that last too long end the session with LINK_LOST on both sides', async () => {
    await using lab = await linkLab();
    await using pair = await linkPair(lab, { lossTimeoutMs: 300, onFar: () => new Promise(() => {}) });
    await pair.near.send('bulk', 1, Buffer.alloc(10));
    const drained = codeOf(pair.near.drained('bulk'));
    lab.wan.cut();
    lab.wan.drop();
    expect(await codeOf(pair.near.closed)).toBe('LINK_LOST');
    expect(await codeOf(pair.far.closed)).toBe('LINK_LOST');
    expect(await drained).toBe('LINK_LOST');
    expect(await codeOf(pair.near.send('urgent', 1, Buffer.alloc(1)))).toBe('LINK_LOST');
    expect(pair.near.state).toBe('closed');
  });

  test('may last for ever once the loss timeout is Infinity, also if that is said during the cut', async () => {
    await using lab = await linkLab();
    let seen = 0;
    await using pair = await linkPair(lab, { lossTimeoutMs: 250, onFar: () => void (seen += 1) });
    lab.wan.cut();
    lab.wan.drop();
    await Promise.all([reached(pair.near, 'cut'), reached(pair.far, 'cut')]);
    pair.near.setLossTimeout(Number.POSITIVE_INFINITY);
    pair.far.setLossTimeout(Number.POSITIVE_INFINITY);
    await pair.near.send('urgent', 1, Buffer.alloc(1));
    await sleep(600);
    lab.wan.restore();
    await pair.near.drained('urgent');
    expect(seen).toBe(1);
  });
});

describe('the end', () => {
  test('close waits for the other side’s handlers, then both sides are closed in order', async () => {
    await using lab = await linkLab({ rttMs: 4 });
    let handled = 0;
    await using pair = await linkPair(lab, {
      async onFar() {
        await sleep(5);
        handled += 1;
      },
    });
    for (let i = 0; i < 20; i += 1) await pair.near.send('bulk', 1, Buffer.alloc(100));
    await pair.near.close();
    await pair.far.closed;
    expect(handled).toBe(20);
    expect([pair.near.state, pair.far.state]).toEqual(['closed', 'closed']);
    expect(await codeOf(pair.near.send('bulk', 1, Buffer.alloc(1)))).toBe('LINK_CLOSED');
    expect(await codeOf(pair.far.send('bulk', 1, Buffer.alloc(1)))).toBe('LINK_CLOSED');
  });

  test('both sides may close at once, or twice', async () => {
    await using lab = await linkLab();
    await using pair = await linkPair(lab);
    await Promise.all([pair.near.close(), pair.far.close(), pair.near.close()]);
  });

  test('close gives up after its time if a handler never ends', async () => {
    await using lab = await linkLab();
    await using pair = await linkPair(lab, { onFar: () => new Promise(() => {}) });
    await pair.near.send('bulk', 1, Buffer.alloc(1));
    expect(await codeOf(pair.near.close(100))).toBe('LINK_CLOSE_TIMEOUT');
    const error = await pair.far.closed.catch((e: unknown) => e as CloudapError);
    expect(error).toMatchObject({ code: 'LINK_PEER_ABORTED', fields: { peerCode: 'LINK_CLOSE_TIMEOUT' } });
  });

  test('abort ends at once; senders hear it and the other side is told the reason', async () => {
    await using lab = await linkLab({ rateMbit: 1 });
    const abort = new AbortController();
    await using pair = await linkPair(lab, { signal: abort.signal });
    const drained = codeOf(
      pair.near.drained('bulk', undefined).then(() => pair.near.send('bulk', 1, Buffer.alloc(900_000))),
    );
    await sleep(20);
    abort.abort(new CloudapError('MIGRATION_CANCELLED', 'by the user', 'none'));
    expect(await codeOf(pair.near.closed)).toBe('MIGRATION_CANCELLED');
    expect(await drained).toBe('LINK_CLOSED');
    const error = await pair.far.closed.catch((e: unknown) => e as CloudapError);
    expect(error).toMatchObject({ code: 'LINK_PEER_ABORTED', fields: { peerCode: 'MIGRATION_CANCELLED' } });
  });

  test('a handler that throws ends the session on both sides', async () => {
    await using lab = await linkLab();
    await using pair = await linkPair(lab, {
      onFar: () => {
        throw new CloudapError('DISK_FULL', 'x', 'y');
      },
    });
    await pair.near.send('bulk', 1, Buffer.alloc(1));
    const error = await pair.far.closed.catch((e: unknown) => e as Error);
    expect(error).toMatchObject({ code: 'LINK_HANDLER_FAILED', cause: { code: 'DISK_FULL' } });
    expect(await codeOf(pair.near.closed)).toBe('LINK_PEER_ABORTED');
  });
});

describe('who is let in', () => {
  const dial = (
    lab: Awaited<ReturnType<typeof linkLab>>,
    change: Partial<Parameters<typeof dialLink>[0]>,
  ): LinkSession =>
    dialLink({
      sessionId: 'm1',
      address: lab.address,
      route: 'm1',
      tls: lab.ap1,
      expectedPeer: 'center',
      onMessage: () => {},
      connectTimeoutMs: 800,
      ...change,
    });

  test('nobody else: other CA, other site, no such session, no such route', async () => {
    await using lab = await linkLab();
    await using pair = await linkPair(lab);
    const otherCa = await generateCa();
    const stranger = await issueSiteCertificate(otherCa, 'ap1');
    const ap2 = await issueSiteCertificate(lab.ca, 'ap2');
    expect(await codeOf(dial(lab, { tls: stranger }).closed)).toBe('LINK_TLS');
    // it trusts our CA, but is not of it
    expect(await codeOf(dial(lab, { tls: { ...stranger, ca: lab.ca.cert } }).closed)).toBe('LINK_TLS');
    expect(await codeOf(dial(lab, { tls: ap2 }).closed)).toBe('LINK_PEER_IDENTITY');
    expect(await codeOf(dial(lab, { expectedPeer: 'ap3' }).closed)).toBe('LINK_PEER_IDENTITY');
    expect(await codeOf(dial(lab, { sessionId: 'm2' }).closed)).toBe('LINK_SESSION_UNKNOWN');
    // a new process with the right name is not the one that the session is with
    expect(await codeOf(dial(lab, {}).closed)).toBe('LINK_CANNOT_RESUME');
    const error = await dial(lab, { route: 'nowhere' }).closed.catch((e: unknown) => e as CloudapError);
    expect(error).toMatchObject({ code: 'LINK_UNREACHABLE', cause: { code: 'LINK_NO_ROUTE' } });
    expect(pair.near.state).toBe('open');
    await pair.near.send('urgent', 1, Buffer.alloc(1));
    await pair.near.drained('urgent');
  });

  test('a dialler without a port, and one whose time is up', async () => {
    await using lab = await linkLab();
    lab.wan.cut();
    expect(await codeOf(dial(lab, { connectTimeoutMs: 100 }).opened())).toBe('LINK_CLOSED');
    expect(await codeOf(dial(lab, { address: { path: join(lab.dir, 'x'.repeat(100)) } }).closed)).toBe(
      'LINK_PATH_TOO_LONG',
    );
  });
});

test('round trip, clock offset and rate are measured', async () => {
  await using lab = await linkLab({ rttMs: 10, rateMbit: 50 });
  await using pair = await linkPair(lab);
  for (let i = 0; i < 60; i += 1) await pair.near.send('bulk', 1, Buffer.alloc(32_768));
  await pair.near.drained('bulk');
  const { minRttMs = 0, clockOffsetMs = Number.NaN, rateMbit = 0, bulk } = pair.near.stats();
  expect(minRttMs).toBeGreaterThan(9);
  // both ends share one clock: the estimate may err by half of what the round trip is above its minimum
  expect(Math.abs(clockOffsetMs)).toBeLessThan(minRttMs / 2);
  expect(rateMbit).toBeGreaterThan(5);
  expect(bulk.messagesSent).toBe(60);
  expect(pair.far.stats().bulk).toMatchObject({ messagesReceived: 60, bytesReceived: bulk.bytesSent });
});
