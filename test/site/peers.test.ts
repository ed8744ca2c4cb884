import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { freePort } from '../../src/lab/free-port.ts';
import { errorCode } from '../../src/base/errors.ts';
import { dialRpcTls } from '../../src/link/rpc-tls.ts';
import { issueSiteCertificate, loadCa } from '../../src/link/pki.ts';
import type { TlsMaterial } from '../../src/link/tls.ts';
import type { SiteConfig } from '../../src/site/config.ts';
import { loadConfig } from '../../src/site/config.ts';
import type { Prepare } from '../../src/site/migrate/messages.ts';
import { addSite } from '../../src/site/setup/init.ts';
import type { Site } from '../../src/site/site.ts';
import { vmDefinitionSchema } from '../../src/site/vm/definition.ts';
import { fakeConfig, fakeDigest, FakeHost, startFakeSite } from '../kit/fakeSite.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

/** A center that listens behind a real gateway; its processes otherwise are fakes. */
async function center(dir: TempDir): Promise<SiteConfig> {
  return fakeConfig(dir, 'center', `127.0.0.1:${await freePort()}`);
}

async function ap(dir: TempDir, id: string): Promise<SiteConfig> {
  const { config } = await addSite({
    id,
    dir: dir.file(id),
    ca: dir.file('center'),
    memoryMiB: 512,
    accelerator: 'tcg',
  });
  return { ...loadConfig(config), runtimeDir: dir.file(`r-${id}`) };
}

const connected = (site: Site, other: string) =>
  expect.poll(() => site.sites().find((s) => s.id === other)?.connected, { timeout: 20_000 }).toBe(true);

/** Another site, as far as the center can tell: it has a certificate, and says what the test wants. */
async function stranger(dir: TempDir, config: SiteConfig, id: string, tls?: TlsMaterial) {
  const material = tls ?? (await issueSiteCertificate(await loadCa(dir.file('center/ca')), id));
  const address = config.link.listen ?? { host: '', port: 0 };
  return dialRpcTls({ address, route: 'agent', tls: material, expectedPeer: 'center' });
}

function prepareRequest(
  change: Record<string, unknown> = {},
  machine: Record<string, unknown> = {},
): Prepare {
  const vm = vmDefinitionSchema.parse({
    version: 1,
    id: 'vm-0123456789ab',
    name: 'desk',
    createdAtMs: 1,
    image: fakeDigest,
    accelerator: 'tcg',
    machine: {
      machineType: 'pc-i440fx-7.2',
      cpuModel: 'qemu64',
      cpus: 1,
      memoryMiB: 64,
      diskBytes: 1024 ** 2,
      display: 'none',
      uuid: '0b5e7a1e-7d59-4c61-9d3a-0a8f2f3c5a10',
      ...machine,
    },
  });
  const id = randomBytes(6).toString('hex');
  return {
    version: 1,
    migrationId: `mig-${id}`,
    source: 'ap1',
    target: 'center',
    vm,
    generation: 1,
    qemuVersion: '7.2.22',
    overlayBytes: 196_616,
    sourceDials: true,
    linkLossTimeoutMs: 5000,
    ...change,
  };
}

async function leftovers(site: Site): Promise<string[]> {
  const { vmsDir, runtimeDir, linkDir } = site.paths;
  const lists = await Promise.all(
    [vmsDir, `${runtimeDir}/v`, `${runtimeDir}/m`, linkDir].map((path) => readdir(path)),
  );
  return lists.flat().filter((name) => name !== 'agent.sock');
}

describe('agents that know each other only through the gateway', () => {
  it('find each other, whoever is there first, and again after one was away', async () => {
    await using dir = await tempDir();
    const centerConfig = await center(dir);
    const apConfig = await ap(dir, 'ap1');
    await using ap1 = await startFakeSite(apConfig, new FakeHost());
    expect(ap1.sites()).toMatchObject([{ id: 'ap1' }, { id: 'center', connected: false }]);
    {
      await using first = await startFakeSite(centerConfig, new FakeHost());
      await Promise.all([connected(first, 'ap1'), connected(ap1, 'center')]);
      await expect
        .poll(() => first.sites()[1])
        .toMatchObject({ id: 'ap1', direction: 'accepted', qemuVersion: '7.2.22', accelerator: 'tcg' });
      await expect
        .poll(() => ap1.sites()[1])
        .toMatchObject({ id: 'center', direction: 'dialled', qemuVersion: '7.2.22' });
    }
    await expect.poll(() => ap1.sites()[1]?.connected).toBe(false);
    await using again = await startFakeSite(centerConfig, new FakeHost());
    await connected(again, 'ap1');
  });

  it('move a VM there and back: either side asks, over the one connection that the AP dialled', async () => {
    await using dir = await tempDir();
    const hosts = { center: new FakeHost(), ap1: new FakeHost() };
    await using site = await startFakeSite(await center(dir), hosts.center);
    await using ap1 = await startFakeSite(await ap(dir, 'ap1'), hosts.ap1);
    await connected(site, 'ap1');
    await site.vms.start(await site.vms.create({ name: 'desk', image: 'fake' }));
    for (const [from, to] of [
      ['center', 'ap1'],
      ['ap1', 'center'],
    ] as const) {
      const [source, target] = from === 'center' ? [site, ap1] : [ap1, site];
      const counts = [hosts[from].movers.length, hosts[to].movers.length];
      const { migrationId } = await source.migrations.start({ vm: 'desk', to });
      await expect
        .poll(() => [hosts[from].movers.length, hosts[to].movers.length], { timeout: 10_000 })
        .toEqual(counts.map((n) => n + 1));
      const arrived = target.vms.store.get('desk');
      const { generation } = await source.vms.requireOwned(source.vms.store.get('desk'));
      const { changeOwnership, readOwnership } = await import('../../src/migration/ownership.ts');
      const next = { owner: to, generation: generation + 1, state: 'owned', peer: null } as const;
      for (const vm of [arrived, source.vms.store.get('desk')]) {
        await changeOwnership(vm.paths.ownershipFile, await readOwnership(vm.paths.ownershipFile), next);
      }
      hosts[to].mover.finish({ state: 'completed' });
      hosts[from].mover.finish({ state: 'completed' });
      await expect
        .poll(async () => (await source.migrations.get(migrationId)).active, { timeout: 10_000 })
        .toBe(false);
      await expect
        .poll(async () => (await target.migrations.get(migrationId)).active, { timeout: 10_000 })
        .toBe(false);
      expect(await leftovers(source)).toEqual([]);
    }
  });
});

describe('migration.prepare from another site', () => {
  it('is refused with the code of its reason, before anything is touched', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    const config = await center(dir);
    await using site = await startFakeSite(config, host);
    await using peer = await stranger(dir, config, 'ap1');
    await peer.connected();
    const prepare = (request: unknown) =>
      peer.call('migration.prepare', request).then(() => 'yes', errorCode);
    await site.vms.create({ name: 'taken', image: 'fake' });
    const request = prepareRequest();
    const cases: [string, unknown][] = [
      ['PREPARE_NO_IMAGE', prepareRequest({ vm: { ...request.vm, image: 'c'.repeat(64) } })],
      ['PREPARE_MACHINE_UNKNOWN', prepareRequest({}, { machineType: 'pc-i440fx-99.0' })],
      ['PREPARE_CPU_UNKNOWN', prepareRequest({}, { cpuModel: 'Quantum-v1' })],
      ['PREPARE_QEMU_TOO_OLD', prepareRequest({ qemuVersion: '10.0.2' })],
      ['PREPARE_ACCELERATOR', prepareRequest({ vm: { ...request.vm, accelerator: 'kvm' } })],
      ['PREPARE_NO_MEMORY', prepareRequest({}, { memoryMiB: 513 })],
      ['PREPARE_NO_DISK', prepareRequest({ overlayBytes: 2 ** 50 })],
      ['PREPARE_NAME_TAKEN', prepareRequest({ vm: { ...request.vm, name: 'taken' } })],
      ['PREPARE_NOT_FOR_ME', prepareRequest({ source: 'ap2' })],
      ['PREPARE_NOT_FOR_ME', prepareRequest({ target: 'ap2' })],
      ['PREPARE_NO_ROUTE', prepareRequest({ sourceDials: false })],
      ['PREPARE_BAD_REQUEST', { ...request, surprise: true }],
      ['PREPARE_BAD_REQUEST', { ...request, vm: { ...request.vm, overlayPath: '/etc/passwd' } }],
      ['PREPARE_BAD_REQUEST', { ...request, migrationId: '../../../tmp/x' }],
      ['PREPARE_BAD_REQUEST', null],
      ['PREPARE_BAD_REQUEST', 'prepare!'],
    ];
    for (const [code, params] of cases) expect(await prepare(params), JSON.stringify(params)).toBe(code);
    expect(await peer.call('vm.rm', { vm: 'taken' }).catch(errorCode)).toBe('RPC_NO_METHOD');
    expect(host.movers).toHaveLength(0);
    expect(host.qemus).toHaveLength(0);
    expect(await leftovers(site)).toHaveLength(1);
    expect(await prepare(prepareRequest())).toBe('yes');
    expect(await prepare(prepareRequest())).toBe('PREPARE_VM_EXISTS');
  });

  it('lets only one of two take the last place', async () => {
    await using dir = await tempDir();
    const config = await center(dir);
    await using site = await startFakeSite(
      { ...config, capacity: { memoryMiB: 100, vms: 5 } },
      new FakeHost(),
    );
    await using peer = await stranger(dir, config, 'ap1');
    await peer.connected();
    const requests = ['a', 'b', 'c'].map((name, i) => {
      const request = prepareRequest();
      return { ...request, vm: { ...request.vm, name, id: `vm-00000000000${i}` } };
    });
    const answers = await Promise.all(
      requests.map((r) => peer.call('migration.prepare', r).then(() => 'yes', errorCode)),
    );
    expect(answers.sort()).toEqual(['PREPARE_NO_MEMORY', 'PREPARE_NO_MEMORY', 'yes']);
    expect(site.vms.memoryUsedMiB()).toBe(64);
  });

  it('is cleaned up when no source mover comes, when the source aborts, and when the source goes away meanwhile', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    const config = await center(dir);
    await using site = await startFakeSite(config, host, { sourceMoverMs: 300 });
    await using peer = await stranger(dir, config, 'ap1');
    await peer.connected();
    const alone = prepareRequest();
    await peer.call('migration.prepare', alone);
    expect(await leftovers(site)).not.toEqual([]);
    await expect.poll(() => leftovers(site)).toEqual([]);
    expect(await site.migrations.get(alone.migrationId)).toMatchObject({
      error: { code: 'PREPARE_ABANDONED' },
    });
    expect(host.qemu.ended).toBe(true);

    const aborted = prepareRequest();
    await peer.call('migration.prepare', aborted);
    await peer.call('migration.abort', { migrationId: aborted.migrationId, reason: 'changed my mind' });
    expect(await leftovers(site)).toEqual([]);
    expect(await peer.call('migration.outcome', { migrationId: aborted.migrationId })).toMatchObject({
      outcome: 'aborted',
    });

    const { promise, resolve } = Promise.withResolvers<void>();
    host.beforeMover = () => promise;
    await using leaving = await stranger(dir, config, 'ap2');
    await leaving.connected();
    const gone = prepareRequest({ source: 'ap2' });
    const asked = leaving.call('migration.prepare', gone).catch(errorCode);
    await expect.poll(async () => (await leftovers(site)).length).toBeGreaterThan(0);
    await leaving[Symbol.asyncDispose]();
    expect(await asked).toBe('RPC_CLOSED');
    await expect.poll(() => site.sites().some((s) => s.id === 'ap2' && s.connected)).toBe(false);
    resolve();
    await expect.poll(() => leftovers(site)).toEqual([]);
  });
});

describe('who is let in', () => {
  it('only sites with a certificate of the CA', async () => {
    await using dir = await tempDir();
    const config = await center(dir);
    await using site = await startFakeSite(config, new FakeHost());
    const { generateCa } = await import('../../src/link/pki.ts');
    const other = await issueSiteCertificate(await generateCa(), 'ap1');
    const ours = await loadCa(dir.file('center/ca'));
    await using forged = await stranger(dir, config, 'ap1', { ...other, ca: ours.cert });
    await expect
      .poll(() => (forged.lastError === undefined ? undefined : errorCode(forged.lastError)), {
        timeout: 10_000,
      })
      .toBe('LINK_TLS');
    expect(site.sites()).toHaveLength(1);
  });

  it('nobody by noise, and noise does not end it', async () => {
    await using dir = await tempDir();
    const config = await center(dir);
    await using site = await startFakeSite(config, new FakeHost());
    const { host = '', port = 0 } = config.link.listen ?? {};
    for (let i = 0; i < 5; i += 1) {
      const socket = connect(port, host);
      socket.on('error', () => {});
      await once(socket, 'connect');
      socket.resume().write(randomBytes(2000));
      await once(socket, 'close');
    }
    for (let i = 0; i < 5; i += 1) {
      const socket = connect(site.paths.linkSocket('agent'));
      socket.on('error', () => {});
      await once(socket, 'connect');
      socket.end(randomBytes(2000));
      await once(socket.resume(), 'close');
    }
    await using peer = await stranger(dir, config, 'ap1');
    await peer.connected();
    await connected(site, 'ap1');
  });
});

it('a gateway that dies is started again', async () => {
  await using dir = await tempDir();
  const config = await center(dir);
  const host = new FakeHost();
  await using site = await startFakeSite(config, host);
  const pid = async (): Promise<number> => (await site.status()).gatewayPid ?? 0;
  const first = await pid();
  process.kill(first, 'SIGKILL');
  await expect.poll(pid, { timeout: 20_000 }).not.toBe(first);
  await using peer = await stranger(dir, config, 'ap1');
  await peer.connected();
});

it('an address that is taken is said so', async () => {
  await using dir = await tempDir();
  await using other = await tempDir();
  const config = await center(dir);
  await using _site = await startFakeSite(config, new FakeHost());
  const { host = '', port = 0 } = config.link.listen ?? {};
  const second = await fakeConfig(other, 'center', `${host}:${port}`);
  await expect(startFakeSite(second, new FakeHost())).rejects.toMatchObject({ code: 'SITE_GATEWAY' });
});
