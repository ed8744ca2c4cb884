import { join } from 'node:path';
import { expect, test } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import { generateCa, issueSiteCertificate } from '../../src/link/pki.ts';
import { dialRpcTls, serveRpcTls } from '../../src/link/rpc-tls.ts';
import { linkLab } from '../kit/link.ts';

const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);

test('agents call each other over one connection that is dialled again after a loss', async () => {
  await using lab = await linkLab({ rttMs: 2 });
  await using server = await serveRpcTls({
    socketPath: join(lab.socketDir, 'agent.sock'),
    tls: lab.center,
    handlers: (site) => ({ who: async (params, context) => [site, context.peerSiteId, params] }),
  });
  let connects = 0;
  await using client = dialRpcTls({
    address: lab.address,
    route: 'agent',
    tls: lab.ap1,
    expectedPeer: 'center',
    handlers: { hello: async (_params, { peerSiteId }) => `hello ${peerSiteId}` },
    onConnect: () => (connects += 1),
  });
  const peer = await client.connected();
  await expect(client.call('who', 1)).resolves.toEqual(['ap1', 'ap1', 1]);
  await expect(server.peers()[0]?.call('hello')).resolves.toBe('hello center');
  lab.wan.drop();
  expect(errorCode(await peer.closed)).toBe('RPC_CLOSED');
  expect(await codeOf(client.call('who'))).toBe('RPC_CLOSED');
  await client.connected();
  await expect(client.call('who', 2)).resolves.toEqual(['ap1', 'ap1', 2]);
  expect(connects).toBe(2);
});

test('nobody of another CA, nobody who is another site; waiting for it can be given up', async () => {
  await using lab = await linkLab();
  await using server = await serveRpcTls({
    socketPath: join(lab.socketDir, 'agent.sock'),
    tls: lab.center,
    handlers: {},
  });
  const stranger = await issueSiteCertificate(await generateCa(), 'ap1');
  const cases = [
    { tls: { ...stranger, ca: lab.ca.cert }, expectedPeer: 'center', route: 'agent', code: 'LINK_TLS' },
    { tls: stranger, expectedPeer: 'center', route: 'agent', code: 'LINK_TLS' },
    { tls: lab.ap1, expectedPeer: 'ap2', route: 'agent', code: 'LINK_PEER_IDENTITY' },
    { tls: lab.ap1, expectedPeer: 'center', route: 'none', code: 'LINK_NO_ROUTE' },
  ];
  for (const { code, ...options } of cases) {
    const failed = Promise.withResolvers<Error>();
    await using client = dialRpcTls({ address: lab.address, ...options, onDisconnect: failed.resolve });
    expect(errorCode(await failed.promise)).toBe(code);
    expect(errorCode(client.lastError)).toBe(code);
    expect(await codeOf(client.call('x'))).toBe('RPC_CLOSED');
    await expect(client.connected(AbortSignal.timeout(20))).rejects.toMatchObject({ name: 'TimeoutError' });
  }
  expect(server.peers()).toEqual([]);
});
