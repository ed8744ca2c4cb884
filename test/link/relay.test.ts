import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { access } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import { sleep } from '../../src/base/async.ts';
import { writeAllowedPeers } from '../../src/link/allowed-peers.ts';
import { RELAY_ROUTES_MAX, RELAY_TICKETS_MAX } from '../../src/link/constants.ts';
import { certificateFacts, generateCa, issueSiteCertificate } from '../../src/link/pki.ts';
import { dialPeer } from '../../src/link/relay/dial.ts';
import { openRelayedRoute } from '../../src/link/relay/listen.ts';
import { newTicket, ticketFile } from '../../src/link/relay/ticket.ts';
import { dialRpcTls, serveRpcTls } from '../../src/link/rpc-tls.ts';
import { encodePreamble, GATEWAY_STATUS } from '../../src/wire/link/preamble.ts';
import { relayedPair, relayLab, wiretap, type RelayLab } from '../kit/relay.ts';

const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);

/** Says its preamble; the first byte of the answer, and the socket. */
async function show(lab: RelayLab, ticket: string): Promise<{ socket: Socket; status: Promise<number> }> {
  const socket = connect(lab.gateway.port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(encodePreamble(ticket));
  const status = once(socket, 'data').then(([data]) => (data as Buffer)[0] ?? 0);
  await once(socket, 'connect');
  return { socket, status };
}

/** A client of the relay's control route, as some site. */
const asSite = (lab: RelayLab, tls = lab.ap1, handlers = {}) =>
  dialRpcTls({ address: lab.address, route: 'relay', tls, expectedPeer: 'center', handlers });

test('two sites that reach only the relay have a session, both lanes, both ways', async () => {
  await using lab = await relayLab();
  const arrived: string[] = [];
  const hear = (at: string) => (type: number, payload: Buffer, lane: string) =>
    void arrived.push(`${at} ${type} ${lane} ${payload.length}`);
  await using pair = await relayedPair(lab, { onNear: hear('near'), onFar: hear('far') });
  expect([pair.near.peerSiteId, pair.far.peerSiteId]).toEqual(['ap2', 'ap1']);
  await Promise.all([
    pair.near.send('urgent', 1, Buffer.alloc(10)),
    pair.near.send('bulk', 2, Buffer.alloc(1_000_000)),
    pair.far.send('urgent', 3, Buffer.alloc(20)),
    pair.far.send('bulk', 4, Buffer.alloc(2_000_000)),
  ]);
  for (const end of [pair.near, pair.far])
    for (const lane of ['urgent', 'bulk'] as const) await end.drained(lane);
  expect(arrived.toSorted()).toEqual([
    'far 1 urgent 10',
    'far 2 bulk 1000000',
    'near 3 urgent 20',
    'near 4 bulk 2000000',
  ]);
  expect(lab.relayed).toEqual(['ap1 ap2 m2', 'ap1 ap2 m2']);
  expect(lab.gateway.stats().relayed).toBe(2);
});

test('nothing that the relay passes on is in the clear', async () => {
  await using lab = await relayLab();
  await using tap = await wiretap(lab.gateway.port);
  const secret = randomBytes(4096);
  const heard = Promise.withResolvers<Buffer>();
  const relayAddress = { host: '127.0.0.1', port: tap.port, relay: 'center' };
  await using pair = await relayedPair(
    { ...lab, relayAddress },
    { onFar: (_type, payload) => heard.resolve(payload) },
  );
  await pair.near.send('urgent', 1, secret);
  expect((await heard.promise).equals(secret)).toBe(true);
  const passed = tap.heard();
  // the preamble is there, so the tap does hear
  expect(passed.includes('CAPG')).toBe(true);
  for (let at = 0; at < secret.length; at += 64)
    expect(passed.includes(secret.subarray(at, at + 16))).toBe(false);
});

test('who dials first waits at the relay for the other; many at once get one connection each', async () => {
  await using lab = await relayLab();
  await using server = await serveRpcTls({ socketPath: `${lab.dir}/ap2.sock`, tls: lab.ap2, handlers: {} });
  const dial = () => dialPeer({ address: lab.relayAddress, route: 'm', tls: lab.ap1, expectedPeer: 'ap2' });
  const early = [dial(), dial(), dial()];
  await using route = openRelayedRoute({
    address: lab.relayAddress,
    route: 'm',
    tls: lab.ap2,
    onSocket: (socket) => server.take(socket),
  });
  await route.opened();
  for (const socket of await Promise.all(early)) socket.destroy();
  expect(lab.relayed).toEqual(Array.from({ length: 3 }, () => 'ap1 ap2 m'));
});

test('connections that are cut are made again through it; the relay’s agent may be restarted under a session', async () => {
  await using lab = await relayLab();
  let last = 0;
  await using pair = await relayedPair(lab, { onFar: (type) => void (last = type) });
  await lab.restartRelay();
  await pair.near.send('bulk', 1, Buffer.alloc(100_000));
  await pair.near.drained('bulk');
  expect(pair.near.stats().cuts).toBe(0);
  lab.wan.drop();
  await pair.near.send('bulk', 2, Buffer.alloc(100_000));
  await pair.near.drained('bulk');
  expect(last).toBe(2);
  expect(pair.near.stats().cuts).toBeGreaterThan(0);
});

test('a ticket that was not given is good for nothing, and one that was is good once', async () => {
  await using lab = await relayLab();
  const { status: forged } = await show(lab, newTicket());
  expect(await forged).toBe(GATEWAY_STATUS.NO_ROUTE);
  const tickets: string[] = [];
  await using listening = asSite(lab, lab.ap2, {
    'relay.call': ({ ticket }: { ticket: string }) => Promise.resolve(tickets.push(ticket)),
  });
  await (await listening.connected()).call('relay.open', { route: 'r' });
  await using client = asSite(lab);
  await client.connected();
  const { ticket } = (await client.call('relay.dial', { site: 'ap2', route: 'r' })) as { ticket: string };
  while (tickets.length === 0) await sleep(1);
  expect(tickets).toEqual([ticket]);
  const [one, other] = await Promise.all([show(lab, ticket), show(lab, ticket)]);
  expect(await Promise.all([one.status, other.status])).toEqual([GATEWAY_STATUS.OK, GATEWAY_STATUS.OK]);
  one.socket.write('ping');
  expect((await once(other.socket, 'data'))[0]).toEqual(Buffer.from('ping'));
  const { status: third } = await show(lab, ticket);
  expect(await third).toBe(GATEWAY_STATUS.NO_ROUTE);
  one.socket.destroy();
  await once(other.socket, 'close');
});

test('a ticket that nobody meets at ends by itself', { timeout: 15_000 }, async () => {
  await using lab = await relayLab();
  await using listening = asSite(lab, lab.ap2);
  await (await listening.connected()).call('relay.open', { route: 'r' });
  await using client = asSite(lab);
  await client.connected();
  const { ticket } = (await client.call('relay.dial', { site: 'ap2', route: 'r' })) as { ticket: string };
  const { status } = await show(lab, ticket);
  expect(await status).toBe(GATEWAY_STATUS.NO_ROUTE);
  const there = async (): Promise<boolean> =>
    access(ticketFile(lab.socketDir, ticket)).then(
      () => true,
      () => false,
    );
  while (await there()) await sleep(20);
});

test('nobody gets in without a certificate of the CA, for another site, or where nobody waits', async () => {
  await using lab = await relayLab();
  const stranger = await issueSiteCertificate(await generateCa(), 'ap2');
  const dial = (options: { tls?: typeof stranger; to?: string; relay?: string; route?: string }) =>
    codeOf(
      dialPeer({
        address: { ...lab.relayAddress, relay: options.relay ?? 'center' },
        route: options.route ?? 'm',
        tls: options.tls ?? lab.ap1,
        expectedPeer: options.to ?? 'ap2',
      }),
    );
  expect(await dial({})).toBe('LINK_RELAY_UNKNOWN');
  expect(await dial({ tls: { ...stranger, ca: lab.ca.cert } })).toBe('LINK_TLS');
  expect(await dial({ relay: 'other' })).toBe('LINK_PEER_IDENTITY');
  expect(lab.refused.map(errorCode)).toContain('LINK_TLS');
  expect(lab.relayed).toEqual([]);

  // ap3 waits under that name, but as itself: ap2's connections do not come to it
  const ap3 = await issueSiteCertificate(lab.ca, 'ap3');
  await using route = openRelayedRoute({
    address: lab.relayAddress,
    route: 'm',
    tls: ap3,
    onSocket: (socket) => socket.destroy(),
  });
  await route.opened();
  expect(await dial({})).toBe('LINK_RELAY_UNKNOWN');
  expect(await dial({ to: 'ap3' })).toBe('LINK_CONNECTION_LOST');
});

test('a relay that brings the wrong site together gets neither of them to talk', async () => {
  await using lab = await relayLab();
  const ap3 = await issueSiteCertificate(lab.ca, 'ap3');
  await using impostor = await serveRpcTls({ socketPath: `${lab.dir}/ap3.sock`, tls: ap3, handlers: {} });
  // as if the relay had given ap2's place to ap3
  await using route = openRelayedRoute({
    address: lab.relayAddress,
    route: 'm',
    tls: lab.ap2,
    onSocket: (socket) => impostor.take(socket),
  });
  await route.opened();
  expect(
    await codeOf(dialPeer({ address: lab.relayAddress, route: 'm', tls: lab.ap1, expectedPeer: 'ap2' })),
  ).toBe('LINK_PEER_IDENTITY');
});

test('a revoked site has no way through a relay, and the sessions that it has end', async () => {
  await using lab = await relayLab();
  const peers = join(lab.dir, 'peers.json');
  const good = (...certs: string[]): Promise<void> =>
    writeAllowedPeers(
      peers,
      new Map(certs.map(certificateFacts).map(({ site, fingerprint }) => [site, [fingerprint]])),
    );
  // the list is the relay's and ap2's: they have it from the center
  Object.assign(lab.center, { peers });
  Object.assign(lab.ap2, { peers });
  await good(lab.ap1.cert, lab.ap2.cert, lab.center.cert);
  await lab.restartRelay();
  await using pair = await relayedPair(lab);
  const ended = codeOf(pair.near.closed);
  await good(lab.ap2.cert, lab.center.cert);
  expect(await ended).toBe('LINK_PEER_REVOKED');
  const again = dialPeer({ address: lab.relayAddress, route: 'm2', tls: lab.ap1, expectedPeer: 'ap2' });
  expect(await codeOf(again)).toBe('LINK_PEER_REVOKED');
  expect(lab.refused.map(errorCode)).toContain('LINK_PEER_REVOKED');
});

test('routes and tickets of one site are limited; requests of another shape are refused', async () => {
  await using lab = await relayLab();
  await using listening = asSite(lab, lab.ap2);
  const there = await listening.connected();
  for (let i = 0; i < RELAY_ROUTES_MAX; i += 1) await there.call('relay.open', { route: `r${i}` });
  expect(await codeOf(there.call('relay.open', { route: 'more' }))).toBe('LINK_RELAY_BUSY');
  // one that it has it may open again
  await there.call('relay.open', { route: 'r0' });
  await using client = asSite(lab);
  const peer = await client.connected();
  for (let i = 0; i < RELAY_TICKETS_MAX; i += 1) await peer.call('relay.dial', { site: 'ap2', route: 'r0' });
  expect(await codeOf(peer.call('relay.dial', { site: 'ap2', route: 'r0' }))).toBe('LINK_RELAY_BUSY');
  for (const [method, params] of [
    ['relay.open', { route: '../x' }],
    ['relay.open', {}],
    ['relay.dial', { site: 'ap2' }],
    ['relay.dial', { site: '*', route: 'r0' }],
    ['relay.dial', { site: 'ap2', route: 'r0', as: 'ap3' }],
  ] as const)
    expect(await codeOf(peer.call(method, params))).toBe('RPC_BAD_MESSAGE');
});
