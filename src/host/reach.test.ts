import { pino } from 'pino';
import { beforeEach, describe, expect, test } from 'vitest';
import type { Inventory } from '../control/messages.ts';
import { failSite } from '../site/errors.ts';
import type { PeerAddress } from '../site/peers.ts';
import { DIRECT_RETRY_MS } from './constants.ts';
import type { Connect } from './messages.ts';
import { Reach } from './reach.ts';

const inventory = (site: string, host: string, more: Partial<Inventory> = {}): Inventory => ({
  version: 1,
  host,
  site,
  cloudapVersion: '0',
  qemuVersion: '7.2',
  accelerator: 'tcg',
  address: null,
  relay: false,
  images: [],
  templates: [],
  ...more,
});

/** What was tried, in order. */
let tried: string[];
/** What works: by the text in `tried`. */
let open: Set<string>;
let connected: Set<string>;
let records: Inventory[];
let nowMs: number;
const { signal } = new AbortController();

/** What gets no answer. */
let silent: Set<string>;

const tryIt = (what: string, host: string): Promise<void> => {
  tried.push(what);
  if (silent.has(what)) return new Promise(() => {});
  if (!open.has(what)) return Promise.reject(failSite('SITE_NOT_CONNECTED', what));
  connected.add(host);
  return Promise.resolve();
};

function reach(address: { host: string; port: number } | undefined, timeoutMs?: number): Reach {
  const place = ({ host, port, relay }: PeerAddress): string =>
    relay === undefined ? `${host}:${port}` : `${host}:${port} by ${relay}`;
  return new Reach({
    host: 'me',
    address,
    center: 'center',
    peers: {
      isConnected: (host) => connected.has(host),
      connect: (host, at) => tryIt(`dial ${place(at)}`, host),
      connected: (host) => tryIt(`wait for ${host}`, host),
      listenFor: (host, relay) => tryIt(`listen for ${host} at ${place(relay)}`, ''),
    },
    inventories: (site, host) =>
      Promise.resolve(
        records.filter((one) => (site === '*' || one.site === site) && (host === '*' || one.host === host)),
      ),
    ask: (host, params: Connect) =>
      tryIt(`ask ${host} ${'relay' in params ? params.relay : params.address}`, ''),
    log: pino({ enabled: false }),
    now: () => nowMs,
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}

beforeEach(() => {
  tried = [];
  open = new Set();
  silent = new Set();
  connected = new Set();
  nowMs = 0;
  records = [
    inventory('ap2', 'there', { address: 'there:1' }),
    inventory('center', 'c1', { address: 'c1:1', relay: true }),
    // none of these is a relay of the center's
    inventory('center', 'c2', { address: 'c2:1' }),
    inventory('center', 'c3', { relay: true }),
    inventory('ap3', 'rogue', { address: 'rogue:1', relay: true }),
  ];
});

const mine = { host: 'me', port: 1 };
const meeting = ['ask there c1', 'dial c1:1 by c1'];

describe('the way to another host', () => {
  test('is the direct one where that works', async () => {
    open = new Set(['dial there:1']);
    await reach(mine).connect('there', signal);
    expect(tried).toEqual(['dial there:1']);
  });

  test('is the other way round where only the other can dial', async () => {
    open = new Set(['ask there me:1', 'wait for there']);
    await reach(mine).connect('there', signal);
    expect(tried).toEqual(['dial there:1', 'ask there me:1', 'wait for there']);
  });

  test('is a relay of the center’s where neither can', async () => {
    open = new Set(meeting);
    records[0] = inventory('ap2', 'there');
    await reach(undefined).connect('there', signal);
    expect(tried).toEqual(meeting);
  });

  test('is the next relay where a relay that does not answer was taken first', async () => {
    records.push(inventory('center', 'c4', { address: 'c4:1', relay: true }));
    open = new Set(['ask there c4', 'dial c4:1 by c4']);
    await reach(undefined).connect('there', signal);
    expect(tried.slice(-2)).toEqual(['ask there c4', 'dial c4:1 by c4']);
  });

  test('is none where none works: the error says why each failed', async () => {
    const failed = reach(mine).connect('there', signal);
    await expect(failed).rejects.toMatchObject({
      code: 'HOST_NO_ROUTE',
      message: expect.stringMatching(/dial there:1.*ask there me:1.*ask there c1/),
    });
    expect(tried.join()).not.toContain('rogue');
  });

  test('is none where none answers in time; it is looked for again when asked again', async () => {
    silent = new Set(['dial there:1']);
    const way = reach(mine, 20);
    const late = { code: 'HOST_NO_ROUTE', message: expect.stringContaining('no way within 20 ms') };
    await expect(way.connect('there', signal)).rejects.toMatchObject(late);
    expect(tried).toEqual(['dial there:1']);
    await expect(way.connect('there', AbortSignal.abort(new Error('it ends')))).rejects.toThrow('it ends');
    silent.clear();
    open = new Set(['dial there:1']);
    await way.connect('there', signal);
  });

  test('is not looked for twice at once, nor where there is a connection', async () => {
    open = new Set(['dial there:1']);
    const way = reach(mine);
    await Promise.all([way.connect('there', signal), way.connect('there', signal)]);
    await way.connect('there', signal);
    expect(tried).toEqual(['dial there:1']);
  });
});

test('two hosts that had to meet at a relay begin there the next time, and for ten minutes', async () => {
  open = new Set(meeting);
  const way = reach(mine);
  const again = async (): Promise<string[]> => {
    connected.clear();
    tried = [];
    await way.connect('there', signal);
    return tried;
  };
  expect(await again()).toEqual(['dial there:1', 'ask there me:1', ...meeting]);
  expect(await again()).toEqual(meeting);
  nowMs += DIRECT_RETRY_MS;
  open.add('dial there:1');
  expect(await again()).toEqual(['dial there:1']);
  expect(await again()).toEqual(['dial there:1']);
});

describe('asked by another host', () => {
  test('it waits at a relay of the center’s', async () => {
    open = new Set(['listen for other at c1:1 by c1']);
    await reach(undefined).asked({ host: 'other', relay: 'c1' }, signal);
    expect(tried).toEqual([...open]);
  });

  test.each(['rogue', 'c2', 'c3', 'nobody'])('it does not go to %s, which is none', async (relay) => {
    await expect(reach(undefined).asked({ host: 'other', relay }, signal)).rejects.toMatchObject({
      code: 'HOST_NO_ROUTE',
    });
    expect(tried).toEqual([]);
  });

  test('it dials an address, and takes nothing else for one', async () => {
    open = new Set(['dial other:5']);
    await reach(undefined).asked({ host: 'other', address: 'other:5' }, signal);
    await expect(reach(undefined).asked({ host: 'other', address: 'x' }, signal)).rejects.toMatchObject({
      code: 'HOST_NO_ROUTE',
    });
    expect(tried).toEqual(['dial other:5']);
  });
});
