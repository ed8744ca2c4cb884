import { connect, type NatsConnection } from '@nats-io/transport-node';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { openControlPlane } from '../../src/control/plane.ts';
import { NatsServer } from '../../src/control/server.ts';
import { heartbeatSubject, hostSubject, siteSubject } from '../../src/control/subjects.ts';
import { keepPeersFile } from '../../src/host/peers-file.ts';
import {
  certificateFacts,
  issueSiteCertificate,
  natsUserOf,
  writeSiteCertificate,
} from '../../src/link/pki.ts';
import { dialRpcTls, serveRpcTls } from '../../src/link/rpc-tls.ts';
import { silent } from '../kit/nats.ts';
import { filesIn, RegistryLab } from '../kit/registryLab.ts';

let lab: RegistryLab;
beforeAll(async () => {
  lab = await RegistryLab.start({ requestsPerMinute: 10_000 });
  await lab.enrol('ap1-h1', 'ap1');
  await lab.enrol('ap2-h1', 'ap2');
  await lab.enrol('ap1', 'ap1', 'agent');
});
afterAll(() => lab?.[Symbol.asyncDispose]());

const until = async (what: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await what())) await sleep(20);
};

describe('on the control plane a node', () => {
  /** What the server says to a message on that subject. */
  async function mayPublish(node: string, subject: string): Promise<boolean> {
    const connection = await lab.connect(node);
    const refusals: string[] = [];
    void (async () => {
      for await (const status of connection.status())
        if (status.type === 'error') refusals.push(status.error.message);
    })();
    connection.publish(subject, '{}');
    await connection.flush();
    await connection.close();
    return refusals.length === 0;
  }

  async function maySubscribe(node: string, subject: string): Promise<boolean> {
    const connection = await lab.connect(node);
    let refused = false;
    connection.subscribe(subject, {
      callback: (error) => {
        refused ||= error !== null;
      },
    });
    await connection.flush();
    await connection.close();
    return !refused;
  }

  test.each([
    ['ap1-h1', heartbeatSubject('ap1', 'ap1-h1'), true],
    ['ap1-h1', '$KV.cloudap-vms.ap1.ap1-h1.vm-000000000000', true],
    ['ap1-h1', '$KV.cloudap-inventories.ap1.ap1-h1', true],
    ['ap1-h1', heartbeatSubject('ap2', 'ap2-h1'), false],
    ['ap1-h1', heartbeatSubject('ap1', 'ap1-h2'), false],
    ['ap1-h1', '$KV.cloudap-vms.ap2.ap2-h1.vm-000000000000', false],
    ['ap1-h1', '$KV.cloudap-nodes.ap1-h1', false],
    ['ap1-h1', '$KV.cloudap-enrolments.0000000000000000', false],
    ['ap1-h1', '$KV.cloudap-moves.mig-000000000000', false],
    ['ap1-h1', hostSubject('ap2-h1', 'vm-stop'), false],
    ['ap1-h1', hostSubject('ap2-h1', 'migrate'), false],
    ['ap1-h1', siteSubject('ap1', 'place'), false],
    ['ap1-h1', 'cloudap.v1.presence.ap1.phone', false],
    ['ap1', 'cloudap.v1.presence.ap1.phone', true],
    ['ap1', 'cloudap.v1.presence.ap2.phone', false],
    ['ap1', '$KV.cloudap-reservations.ap1.ap1-h1', true],
    ['ap1', '$KV.cloudap-reservations.ap2.ap2-h1', false],
    ['ap1', hostSubject('ap1-h1', 'vm-stop'), false],
    ['ap1', '$JS.API.STREAM.DELETE.KV_cloudap-vms', false],
    ['ap1', '$JS.API.STREAM.PURGE.KV_cloudap-vms', false],
    // a consumer may deliver to any subject: who may make one may speak in anybody's name
    ['ap1', '$JS.API.CONSUMER.CREATE.KV_cloudap-vms', false],
    ['ap1-h1', '$JS.API.CONSUMER.CREATE.KV_cloudap-vms.x.$KV.cloudap-vms.ap1.ap1-h1.*', false],
    ['ap1-h1', '$JS.API.DIRECT.GET.KV_cloudap-enrolments.$KV.cloudap-enrolments.0000000000000000', false],
    ['ap1-h1', '$JS.API.DIRECT.GET.KV_cloudap-vms.$KV.cloudap-vms.ap2.ap2-h1.vm-000000000000', false],
    ['ap1-h1', '$JS.API.STREAM.MSG.GET.KV_cloudap-vms', false],
  ])('%s may say %s: %s', async (node, subject, may) => {
    expect(await mayPublish(node, subject)).toBe(may);
  });

  test.each([
    ['ap1-h1', hostSubject('ap1-h1', '*'), true],
    ['ap1-h1', '$KV.cloudap-nodes.>', true],
    ['ap1-h1', hostSubject('ap2-h1', '*'), false],
    ['ap1-h1', '$KV.cloudap-vms.>', false],
    ['ap1-h1', '_INBOX_ap2-h1.>', false],
    ['ap1-h1', '>', false],
    ['ap1', siteSubject('ap1', '*'), true],
    ['ap1', siteSubject('ap2', '*'), false],
    ['ap1', 'cloudap.v1.heartbeat.ap1.*', true],
    ['ap1', 'cloudap.v1.heartbeat.*.*', false],
  ])('%s may hear %s: %s', async (node, subject, may) => {
    expect(await maySubscribe(node, subject)).toBe(may);
  });

  test('whom the CA knows and the registry does not is refused', async () => {
    await writeSiteCertificate(lab.dir.file('stranger'), await issueSiteCertificate(lab.ca, 'ap1-h1'));
    await expect(lab.connect('stranger')).rejects.toMatchObject({ code: 'CONTROL_REFUSED' });
    await expect(
      connect({ servers: `127.0.0.1:${lab.listen.port}`, tls: { ca: lab.ca.cert }, timeout: 5_000 }),
    ).rejects.toThrow();
  });

  test('reads its records without a consumer: those that are there, each change, and what it missed', async () => {
    const connection = await lab.connect('ap1-h1');
    const plane = await openControlPlane(connection, { log: silent });
    const stop = new AbortController();
    const seen = new Map<string, boolean>();
    let complete = false;
    const watching = (async () => {
      for await (const change of plane.buckets.nodes.watch(stop.signal)) {
        if (change.key !== '') seen.set(change.key, change.value?.revokedAtMs === null);
        complete ||= change.complete;
      }
    })();
    await until(() => complete);
    expect([...seen.keys()].toSorted()).toEqual(['ap1', 'ap1-h1', 'ap2-h1', 'center']);
    await lab.enrol('ap3-h1', 'ap3');
    await until(() => seen.get('ap3-h1') === true);
    await lab.registry.revoke({ node: 'ap3-h1' });
    await until(() => seen.get('ap3-h1') === false);
    // what changes while the connection is lost
    const { pid } = lab.nats;
    process.kill(pid, 'SIGKILL');
    await until(() => lab.nats.pid !== pid);
    await lab.enrol('ap3-h2', 'ap3');
    await until(() => seen.get('ap3-h2') === true);
    stop.abort();
    await watching;
    await connection.close();
  });
});

describe('revocation', () => {
  test('closes the node’s control connection at once, and lets it in no more', async () => {
    await lab.enrol('ap4-h1', 'ap4');
    const connection: NatsConnection = await lab.connect('ap4-h1');
    let lost = false;
    void (async () => {
      for await (const { type } of connection.status()) lost ||= type === 'disconnect' || type === 'error';
    })();
    await lab.registry.revoke({ node: 'ap4-h1' });
    await until(() => lost);
    await expect(lab.connect('ap4-h1')).rejects.toMatchObject({ code: 'CONTROL_REFUSED' });
    await connection.close();
    // enrolled again it is somebody else: the old certificate stays out
    const old = filesIn(lab.dir.file('ap4-h1'));
    const [ca, cert, key] = await Promise.all(
      [old.ca, old.cert, old.key].map((path) => readFile(path, 'utf8')),
    );
    await lab.enrol('ap4-h1', 'ap4');
    await (await lab.connect('ap4-h1')).close();
    await writeSiteCertificate(lab.dir.file('old'), { ca: ca ?? '', cert: cert ?? '', key: key ?? '' });
    await expect(lab.connect('old')).rejects.toMatchObject({ code: 'CONTROL_REFUSED' });
  });

  test('cuts its data connections, and refuses new ones', async () => {
    const { material } = await lab.enrol('ap5-h1', 'ap5');
    const { material: peer } = await lab.enrol('ap6-h1', 'ap6');
    const connection = await lab.connect('ap5-h1');
    const plane = await openControlPlane(connection, { log: silent });
    const stop = new AbortController();
    const file = lab.dir.file('peers.json');
    const keeping = keepPeersFile(file, plane, silent, stop.signal);
    await until(async () => (await readFile(file, 'utf8').catch(() => '')).includes('ap6-h1'));
    const refused: string[] = [];
    await using server = await serveRpcTls({
      socketPath: lab.dir.file('rpc'),
      tls: { ...material, peers: file },
      handlers: { ping: () => Promise.resolve('pong') },
      onRefused: (error) => refused.push(errorCode(error)),
    });
    const dial = () =>
      dialRpcTls({
        address: { path: lab.dir.file('rpc') },
        tls: peer,
        expectedPeer: 'ap5-h1',
        handlers: {},
        onConnect: () => (connected += 1),
        onDisconnect: () => (gone += 1),
      });
    let [connected, gone] = [0, 0];
    const client = dial();
    await until(() => connected === 1 && server.peers().length === 1);
    await lab.registry.revoke({ node: 'ap6-h1' });
    await until(() => gone >= 1 && server.peers().length === 0);
    await until(() => refused.includes('LINK_PEER_REVOKED'));
    await client[Symbol.asyncDispose]();
    stop.abort();
    await keeping;
    await connection.close();
  });

  test('of the center, or of a node that is none, is refused', async () => {
    await expect(lab.registry.revoke({ node: 'center' })).rejects.toMatchObject({ code: 'NODE_IS_CENTER' });
    await expect(lab.registry.revoke({ node: 'nobody' })).rejects.toMatchObject({ code: 'NODE_UNKNOWN' });
    await expect(lab.registry.revoke({ site: 'nowhere' })).rejects.toMatchObject({ code: 'NODE_UNKNOWN' });
  });
});

test('a center that starts again takes its nats-server up, with all who may be there', async () => {
  await lab.enrol('ap7-h1', 'ap7');
  const connection = await lab.connect('ap7-h1');
  const { serial } = certificateFacts(lab.material.cert);
  const again = await NatsServer.start({
    dataDir: lab.dir.file('nats'),
    listen: lab.listen,
    tls: filesIn(lab.dir.file('center')),
    users: [{ user: natsUserOf(serial) }],
  });
  expect(again.pid).toBe(lab.nats.pid);
  await connection.flush();
  await (await lab.connect('ap7-h1')).close();
  await connection.close();
});
