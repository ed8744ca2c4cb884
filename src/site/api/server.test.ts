import { mkdir, writeFile } from 'node:fs/promises';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fakeConfig, FakeHost, startFakeSite } from '../../../test/kit/fakeSite.ts';
import { tempDir } from '../../../test/kit/tempdir.ts';
import type { Site } from '../site.ts';
import { apiErrorSchema, vmViewSchema, type VmView } from './messages.ts';

async function call(site: Site, method: 'GET' | 'POST' | 'DELETE', url: string, payload?: unknown) {
  const response = await site.api.inject({
    method,
    url,
    ...(payload === undefined ? {} : { payload: payload as object }),
  });
  const body: unknown = response.headers['content-type']?.toString().includes('json')
    ? response.json()
    : undefined;
  const code = response.statusCode >= 400 ? apiErrorSchema.parse(body).code : undefined;
  return { status: response.statusCode, body, code, raw: response.rawPayload };
}

async function create(site: Site, name = 'desk', extra: object = {}): Promise<VmView> {
  const { body, status } = await call(site, 'POST', '/vms', { name, image: 'fake', ...extra });
  expect(status).toBe(201);
  return vmViewSchema.parse(body);
}

describe('API of a site', () => {
  it('makes, starts, shows, stops and removes a VM', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    const vm = await create(site);
    expect(vm).toMatchObject({
      name: 'desk',
      status: 'stopped',
      owner: 'center',
      generation: 1,
      memoryMiB: 64,
      pid: null,
    });
    const started = await call(site, 'POST', '/vms/desk/start');
    expect(started.body).toMatchObject({ status: 'running', pid: host.qemu.identity.pid });
    expect((await call(site, 'GET', `/vms/${vm.id}/screenshot`)).raw.subarray(1, 4).toString()).toBe('PNG');
    host.qemu.state = 'paused';
    expect((await call(site, 'GET', '/vms/desk')).body).toMatchObject({ status: 'paused' });
    host.qemu.state = 'running';
    expect((await call(site, 'DELETE', '/vms/desk')).code).toBe('VM_RUNNING');
    expect((await call(site, 'POST', '/vms/desk/stop', {})).body).toMatchObject({ status: 'stopped' });
    expect(host.runningQemus).toBe(0);
    expect((await call(site, 'DELETE', '/vms/desk')).body).toEqual({ id: vm.id, removed: true });
    expect((await call(site, 'GET', '/vms')).body).toEqual([]);
  });

  it('switches off a guest that does not obey its power button', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    await create(site, 'deaf', { start: true });
    host.qemu.obeysPowerButton = false;
    expect((await call(site, 'POST', '/vms/deaf/stop', { graceMs: 10 })).body).toMatchObject({
      status: 'stopped',
    });
  });

  it('notices a guest that shuts down by itself', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    await create(site, 'desk', { start: true });
    host.qemu.end();
    await expect
      .poll(async () => (await call(site, 'GET', '/vms/desk')).body)
      .toMatchObject({ status: 'stopped' });
    expect((await call(site, 'POST', '/vms/desk/start')).status).toBe(200);
  });

  it('answers what cannot be with a status, a code and a remedy', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    await create(site);
    const cases: [string, 'GET' | 'POST' | 'DELETE', string, unknown, number][] = [
      ['VM_UNKNOWN', 'GET', '/vms/nobody', undefined, 404],
      ['VM_NAME_TAKEN', 'POST', '/vms', { name: 'desk', image: 'fake' }, 409],
      ['IMAGE_UNKNOWN', 'POST', '/vms', { name: 'other', image: 'none' }, 404],
      ['VM_NOT_RUNNING', 'POST', '/vms/desk/stop', {}, 409],
      ['VM_NOT_RUNNING', 'GET', '/vms/desk/screenshot', undefined, 409],
      ['VM_NOT_RUNNING', 'POST', '/migrations', { vm: 'desk', to: 'ap1' }, 409],
      ['VM_UNKNOWN', 'POST', '/migrations', { vm: 'nobody', to: 'ap1' }, 404],
      ['MIGRATE_UNKNOWN', 'GET', '/migrations/mig-000000000000', undefined, 404],
      ['MIGRATE_UNKNOWN', 'GET', '/migrations/mig-000000000000/events', undefined, 404],
      ['MIGRATE_UNKNOWN', 'DELETE', '/migrations/..%2F..%2Fetc', undefined, 404],
      ['API_NO_SUCH_ROUTE', 'GET', '/nothing', undefined, 404],
      ['API_NO_SUCH_ROUTE', 'POST', '/status', {}, 404],
      ['VM_CAPACITY', 'POST', '/vms', { name: 'big', image: 'fake', memoryMiB: 513, start: true }, 507],
    ];
    for (const [code, method, url, body, status] of cases) {
      expect(await call(site, method, url, body), `${method} ${url}`).toMatchObject({ code, status });
    }
  });

  it('starts no VM beyond its capacity, and says so when QEMU does not start', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    const config = await fakeConfig(dir);
    await using site = await startFakeSite({ ...config, capacity: { memoryMiB: 200, vms: 3 } }, host);
    for (const name of ['a', 'b', 'c']) await create(site, name, { memoryMiB: 90 });
    expect((await call(site, 'POST', '/vms', { name: 'd', image: 'fake' })).code).toBe('VM_CAPACITY');
    host.startFails = new Error('no');
    expect(await call(site, 'POST', '/vms/a/start')).toMatchObject({ code: 'VM_START_FAILED', status: 502 });
    host.startFails = undefined;
    const answers = await Promise.all(
      ['a', 'b', 'c'].map((name) => call(site, 'POST', `/vms/${name}/start`)),
    );
    expect(answers.map((a) => a.code ?? 'started').sort()).toEqual(['VM_CAPACITY', 'started', 'started']);
  });

  it('lets one operation at a VM at a time', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    await create(site);
    const answers = await Promise.all([1, 2, 3].map(() => call(site, 'POST', '/vms/desk/start')));
    expect(answers.filter((a) => a.status === 200)).toHaveLength(1);
    expect(answers.filter((a) => a.code === 'VM_BUSY')).toHaveLength(2);
    expect(host.runningQemus).toBe(1);
  });

  it('refuses bodies that are not what they should be, and names the fields', async () => {
    await using dir = await tempDir();
    await using site = await startFakeSite(await fakeConfig(dir), new FakeHost());
    const bad: [string, unknown, string][] = [
      ['/vms', {}, 'name'],
      ['/vms', { name: 'x', image: 'fake', path: '/etc/passwd' }, 'path'],
      ['/vms', { name: '../x', image: 'fake' }, 'name'],
      ['/vms', { name: 'x', image: 'fake', memoryMiB: 1e9 }, 'memoryMiB'],
      ['/vms', { name: 'x', image: 'fake', machineType: 'pc,accel=kvm' }, 'machineType'],
      ['/migrations', { vm: 'x', to: 'AP 1' }, 'to'],
      ['/migrations', { vm: 'x', to: 'ap1', scheme: 'magic' }, 'scheme'],
    ];
    for (const [url, body, field] of bad) {
      const answer = await call(site, 'POST', url, body);
      expect(answer).toMatchObject({ code: 'API_BAD_REQUEST', status: 400 });
      expect(JSON.stringify(answer.body)).toContain(`"field":"${field}"`);
    }
    const text = await site.api.inject({
      method: 'POST',
      url: '/vms',
      payload: '{"name":',
      headers: { 'content-type': 'application/json' },
    });
    expect(text.statusCode).toBe(400);
    const large = await site.api.inject({
      method: 'POST',
      url: '/vms',
      payload: { name: 'x'.repeat(100_000) },
    });
    expect(apiErrorSchema.parse(large.json()).code).toBe('API_BAD_REQUEST');
    const xml = await site.api.inject({
      method: 'POST',
      url: '/vms',
      payload: '<a/>',
      headers: { 'content-type': 'text/xml' },
    });
    expect(apiErrorSchema.parse(xml.json()).code).toBe('API_BAD_REQUEST');
  });

  it('survives any JSON at any of its doors', async () => {
    await using dir = await tempDir();
    await using site = await startFakeSite(await fakeConfig(dir), new FakeHost());
    await create(site);
    const doors = fc.constantFrom('/vms', '/vms/desk/stop', '/vms/desk/start', '/migrations');
    await fc.assert(
      fc.asyncProperty(doors, fc.jsonValue(), async (url, value) => {
        const payload = JSON.stringify(value);
        const response = await site.api.inject({
          method: 'POST',
          url,
          payload,
          headers: { 'content-type': 'application/json' },
        });
        expect(response.statusCode).toBeLessThan(500);
      }),
      { numRuns: 150 },
    );
  });

  it('knows itself', async () => {
    await using dir = await tempDir();
    await using site = await startFakeSite(await fakeConfig(dir), new FakeHost());
    expect((await call(site, 'GET', '/status')).body).toMatchObject({
      id: 'center',
      accelerator: 'tcg',
      capacity: { memoryMiB: 512 },
    });
    expect((await call(site, 'GET', '/sites')).body).toMatchObject([{ id: 'center', self: true }]);
  });
});

describe('an agent that is started again', () => {
  it('finds its VMs, adopts those that run and forgets those that ended', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    const config = await fakeConfig(dir);
    const first = await startFakeSite(config, host);
    await create(first, 'runs', { start: true });
    const { pid } = host.qemu.identity;
    await create(first, 'ends', { start: true });
    await create(first, 'rests');
    await first.stop();
    expect(host.runningQemus).toBe(2);
    host.qemu.ended = true;
    await using second = await startFakeSite(config, host);
    const { body } = await call(second, 'GET', '/vms');
    expect(body).toMatchObject([
      { name: 'runs', status: 'running', pid },
      { name: 'ends', status: 'stopped', pid: null },
      { name: 'rests', status: 'stopped' },
    ]);
    expect((await call(second, 'POST', '/vms/ends/start')).status).toBe(200);
  });

  it('stops VMs only when told to', async () => {
    await using dir = await tempDir();
    const host = new FakeHost();
    await using site = await startFakeSite(await fakeConfig(dir), host);
    await create(site, 'desk', { start: true });
    await site.stop({ stopVms: true });
    expect(host.runningQemus).toBe(0);
  });

  it('shares its data directory with no other', async () => {
    await using dir = await tempDir();
    const config = await fakeConfig(dir);
    await using _site = await startFakeSite(config, new FakeHost());
    await expect(startFakeSite(config, new FakeHost())).rejects.toMatchObject({ code: 'SITE_LOCKED' });
  });

  it('removes what was left of a VM that was never finished, and leaves alone what it cannot read', async () => {
    await using dir = await tempDir();
    const config = await fakeConfig(dir);
    await mkdir(`${config.dataDir}/vms/vm-000000000001`, { recursive: true });
    await writeFile(`${config.dataDir}/vms/vm-000000000001/overlay.qcow2`, 'x');
    await mkdir(`${config.dataDir}/vms/vm-000000000002`, { recursive: true });
    await writeFile(`${config.dataDir}/vms/vm-000000000002/vm.json`, 'garbage');
    await using site = await startFakeSite(config, new FakeHost());
    expect((await call(site, 'GET', '/vms')).body).toEqual([]);
    const { readdir } = await import('node:fs/promises');
    expect(await readdir(`${config.dataDir}/vms`)).toEqual(['vm-000000000002']);
  });
});

describe('certificates', () => {
  it('must be this site’s own', async () => {
    await using dir = await tempDir();
    const center = await fakeConfig(dir, 'center');
    const other = await fakeConfig(dir, 'other');
    const cases = [
      { ...center, tls: other.tls },
      { ...center, tls: { ...center.tls, key: other.tls.key } },
      { ...center, tls: { ...center.tls, ca: other.tls.ca } },
      { ...center, tls: { ...center.tls, cert: '/nowhere.pem' } },
    ];
    for (const config of cases) {
      await expect(startFakeSite(config, new FakeHost())).rejects.toMatchObject({ code: 'SITE_TLS' });
    }
    // nothing of the refused attempts is in the way
    await using _site = await startFakeSite(center, new FakeHost());
  });
});
