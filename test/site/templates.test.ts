import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, open, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { processAlive } from '../../src/base/process.ts';
import type { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { ImageStore } from '../../src/content/images/store.ts';
import { stageImage } from '../../src/content/images/stage.ts';
import { stageTemplate } from '../../src/content/templates/stage.ts';
import { type Template, TemplateStore } from '../../src/content/templates/store.ts';
import { migrationRecordSchema, type MigrationRecord } from '../../src/migration/record.ts';
import { ApiClient } from '../../src/site/api/client.ts';
import type { VmView } from '../../src/site/api/messages.ts';
import { buildViewSchema, type BuildView, type TemplateView } from '../../src/site/api/template-messages.ts';
import { builtGuest, connectSerial } from '../content/launcher.ts';
import { cli, SiteProcess, startCli } from '../kit/siteProcess.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

let dir: TempDir;
let center: SiteProcess;
let ap1: SiteProcess;

async function make(...args: string[]): Promise<void> {
  const common = ['--memory', '1024', '--accelerator', 'tcg'];
  const { code, stderr } = await cli(['site', ...args, ...common], { cwd: dir.path });
  if (code !== 0) throw new Error(stderr);
}

beforeAll(async () => {
  dir = await tempDir();
  const listen = `127.0.0.1:${await freePort()}`;
  await make('init', '--id', 'center', '--dir', 'center', '--listen', listen);
  await make('add', '--ca', 'center', '--id', 'ap1', '--dir', 'ap1', '--dial', `center=${listen}`);
  center = new SiteProcess(dir.file('center/site.yaml'));
  ap1 = new SiteProcess(dir.file('ap1/site.yaml'));
  const image = await builtGuest('ci');
  for (const site of [center, ap1]) await stageImage(image, await ImageStore.open(site.paths.imageDir));
  await Promise.all([center.start(), ap1.start()]);
  await center.connected('ap1');
});
afterAll(async () => {
  await center?.[Symbol.asyncDispose]();
  await ap1?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

const storeOf = (site: SiteProcess): Promise<TemplateStore> => TemplateStore.open(site.paths.templatesDir);
const build = (name: string, ...options: string[]): Promise<BuildView> =>
  center.json<BuildView>('template', 'build', '--image', 'ci', '--name', name, ...options);
const create = (name: string, template: string): Promise<VmView> =>
  center.json<VmView>('vm', 'create', name, '--template', template);
const off = (site: SiteProcess, ...names: string[]): Promise<unknown> =>
  Promise.all(
    names.map(async (name) => {
      await site.cli('vm', 'stop', name, '--force');
      await site.cli('vm', 'rm', name);
    }),
  );

async function vmAt(site: SiteProcess, name: string): Promise<VmView> {
  const vm = (await site.json<VmView[]>('vm', 'ls')).find((v) => v.name === name);
  if (!vm) throw new Error(`no ${name} at this site`);
  return vm;
}

async function workload(site: SiteProcess, name: string): Promise<WorkloadClient> {
  const client = await connectSerial((await vmAt(site, name)).serial1Socket ?? '');
  await client.ready();
  return client;
}

async function verify(site: SiteProcess, name: string): Promise<void> {
  using work = await workload(site, name);
  expect((await work.command('verify')).line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
}

async function move(name: string, from: SiteProcess, to: string): Promise<MigrationRecord> {
  const file = dir.file('record.json');
  const moved = await from.cli('migrate', name, '--to', to, '--json', file);
  expect(moved).toMatchObject({ code: 0 });
  const record = migrationRecordSchema.parse(JSON.parse(await readFile(file, 'utf8')));
  expect(record).toMatchObject({ ok: true, completedAsPrecopy: false, integrity: { bad: 0 } });
  return record;
}

/** The pages of a file that a process maps, in KiB. */
async function mapped(pid: number | null, path: string): Promise<{ shared: number; private: number }> {
  const smaps = await readFile(`/proc/${pid}/smaps`, 'latin1');
  const part = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).find((text) => text.includes(` ${path}\n`)) ?? '';
  const kib = (key: string): number => Number(new RegExp(`^${key}: +(\\d+) kB`, 'm').exec(part)?.[1] ?? 0);
  return {
    shared: kib('Shared_Clean') + kib('Shared_Dirty'),
    private: kib('Private_Clean') + kib('Private_Dirty'),
  };
}

const sha256 = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

describe('a template of a VM that runs', () => {
  it('is the VM as it is, which goes on; VMs of it go on from there', async () => {
    const image = ['--image', 'ci', '--start'];
    await center.json<VmView>('vm', 'create', 'model', ...image);
    {
      using work = await workload(center, 'model');
      expect(await work.command('start disk=50 mem=200')).toMatchObject({ ok: true });
      await sleep(500);
    }
    const built = await center.json<BuildView>('template', 'build', '--vm', 'model', '--name', 'models');
    expect(built).toMatchObject({ state: 'completed', error: null });
    expect(built.stoodStillMs).toBeGreaterThan(0);
    expect(await vmAt(center, 'model')).toMatchObject({ status: 'running' });
    await verify(center, 'model');
    await create('copy', 'models');
    // its disk and its memory are of one moment: the guest finds all that it knows to have written
    for (const name of ['copy', 'model']) await verify(center, name);
    await center.json('template', 'verify', 'models');
    await move('model', center, 'ap1');
    await verify(ap1, 'model');
    await off(ap1, 'model');
    await off(center, 'copy');
    expect(await center.cli('template', 'build', '--vm', 'model', '--name', 'none')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^VM_UNKNOWN/) as string,
    });
    expect(await center.cli('template', 'rm', 'models')).toMatchObject({ code: 0 });
  });
});

describe('VMs of a template', () => {
  let template: Template;

  beforeAll(async () => {
    const built = await build('desk');
    expect(built).toMatchObject({ state: 'completed', error: null });
    template = await (await storeOf(center)).get(built.template ?? '');
  });

  it('run at once, each on its own, and share the memory that they do not write', async () => {
    const [a, b] = [await create('a', 'desk'), await create('b', template.manifest.digest.slice(0, 12))];
    for (const vm of [a, b])
      expect(vm).toMatchObject({ status: 'running', template: template.manifest.digest });
    expect(a.startedMs).toBeGreaterThan(0);
    for (const name of ['a', 'b']) {
      using work = await workload(center, name);
      expect(await work.command('start disk=50 mem=200')).toMatchObject({ ok: true });
    }
    for (const name of ['a', 'b']) await verify(center, name);

    for (const vm of [a, b]) {
      const { shared, private: own } = await mapped(vm.pid, template.ramPath);
      expect(shared, 'pages that both have').toBeGreaterThan(4 * 1024);
      expect(own, 'pages that this one has written').toBeGreaterThan(0);
      expect(own).toBeLessThan(128 * 1024);
    }
    expect(await sha256(template.ramPath)).toBe(template.manifest.ram.sha256);
    await center.json('template', 'verify', 'desk');

    const [listed] = await center.json<TemplateView[]>('template', 'ls');
    expect(listed).toMatchObject({ name: 'desk', usedBy: ['a', 'b'], ramBytes: 128 * 1024 ** 2 });
    expect(await center.cli('template', 'rm', 'desk')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^TEMPLATE_IN_USE: .*a, b/) as string,
    });
  });

  it('move to a site without the template; where both sites have it, its memory is not sent', async () => {
    const there = await move('a', center, 'ap1');
    await verify(ap1, 'a');
    expect(await vmAt(ap1, 'a')).toMatchObject({ template: template.manifest.digest });

    await stageTemplate(template, await storeOf(ap1));
    const back = await move('a', ap1, 'center');
    expect(back.pages.referenced).toBeGreaterThan(back.pages.sent);
    expect(back.pages.referenced).toBeGreaterThan(3 * there.pages.referenced);
    expect(back.bytes.memory).toBeLessThan(there.bytes.memory / 2);
    await verify(center, 'a');

    // this one's memory is still the template's file
    const other = await move('b', center, 'ap1');
    expect(other.pages).toMatchObject({ resent: 0 });
    expect(other.pages.referenced).toBeGreaterThan(other.pages.sent);
    await move('b', ap1, 'center');
    await verify(center, 'b');
    expect(await sha256(template.ramPath)).toBe(template.manifest.ram.sha256);
  });

  it('boot from their disk when they are started again, and do not need the template then', async () => {
    await center.json('vm', 'stop', 'a', '--force');
    expect(await center.json('vm', 'start', 'a')).toMatchObject({ status: 'running' });
    using work = await workload(center, 'a');
    expect(await work.command('start disk=20 mem=20')).toMatchObject({ ok: true });
    await off(center, 'a', 'b');
    expect(await center.json('template', 'rm', 'desk')).toMatchObject({ removed: true });
    expect(await readdir(center.paths.templatesDir)).toEqual([]);
  });
});

describe('a template that is not whole', () => {
  const refused = async (code: string): Promise<void> => {
    expect(await center.cli('vm', 'create', 'c', '--template', 'bad')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(new RegExp(`^${code}: `, 'm')) as string,
    });
    expect(await readdir(center.paths.vmsDir)).toEqual([]);
    expect(await readdir(`${center.paths.runtimeDir}/v`)).toEqual([]);
  };

  it('is noticed: other bytes, a short file, a missing one', async () => {
    await build('bad', '--after', '1');
    const { manifest, devicesPath, overlayPath, ramPath } = await (await storeOf(center)).get('bad');
    await chmod(devicesPath, 0o600);
    {
      await using file = await open(devicesPath, 'r+');
      await file.write(Buffer.alloc(64, 0xa5), 0, 64, 0);
    }
    await refused('VM_START_FAILED');
    expect(await center.cli('template', 'verify', 'bad')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^TEMPLATE_CORRUPT: .*devices/m) as string,
    });
    await chmod(overlayPath, 0o600);
    await truncate(overlayPath, 65_536);
    await refused('TEMPLATE_CORRUPT');
    await truncate(ramPath, 4096);
    await refused('TEMPLATE_CORRUPT');
    const { digest } = manifest;
    expect(await center.json('template', 'rm', 'bad')).toMatchObject({ digest, removed: true });
    await refused('TEMPLATE_UNKNOWN');
  });
});

describe('a build', () => {
  const nothing = async (): Promise<void> => {
    expect(await readdir(center.paths.templatesDir)).toEqual([]);
    expect(await readdir(`${center.paths.runtimeDir}/v`)).toEqual([]);
    expect(await center.json<TemplateView[]>('template', 'ls')).toEqual([]);
  };
  const api = (): ApiClient => new ApiClient(center.paths.apiSocket);

  async function booting(): Promise<BuildView> {
    for (;;) {
      const views = await api().json('GET', '/templates/builds', z.array(buildViewSchema));
      const view = views.find(({ active }) => active);
      if (view && view.state !== 'starting') return view;
      await sleep(20);
    }
  }

  async function qemuOfBuild(): Promise<number> {
    const [folder = ''] = await readdir(center.paths.templatesDir);
    const note = await readFile(`${center.paths.templatesDir}/${folder}/qemu.json`, 'utf8');
    return z.object({ pid: z.number() }).parse(JSON.parse(note)).pid;
  }

  it('that is interrupted leaves nothing', async () => {
    const command = startCli(
      ['template', 'build', '--image', 'ci', '--name', 'x', '--after', '60'],
      center.config,
    );
    const exit = once(command, 'exit');
    await booting();
    expect(await center.cli('template', 'build', '--image', 'ci', '--name', 'y')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^TEMPLATE_BUSY: /) as string,
    });
    command.kill('SIGINT');
    expect(await exit).toEqual([130, null]);
    await nothing();
  });

  it('whose agent is killed leaves nothing when there is an agent again', async () => {
    const body = { image: 'ci', name: 'x', afterS: 60 };
    await api().json('POST', '/templates', buildViewSchema, { body });
    await booting();
    const pid = await qemuOfBuild();
    await center.end('SIGKILL');
    expect(processAlive(pid)).toBe(true);
    await center.start();
    await expect.poll(() => processAlive(pid)).toBe(false);
    await nothing();
    await api().json('POST', '/templates', buildViewSchema, { body });
    await booting();
    await center.end('SIGTERM');
    await center.start();
    await nothing();
  });

  it('whose guest ends before it is ready leaves nothing', async () => {
    const command = startCli(
      ['template', 'build', '--image', 'ci', '--name', 'x', '--after', '60'],
      center.config,
    );
    const exit = once(command, 'exit');
    const { buildId } = await booting();
    process.kill(await qemuOfBuild(), 'SIGKILL');
    expect(await exit).toEqual([1, null]);
    const view = await api().json('GET', `/templates/builds/${buildId}`, buildViewSchema);
    expect(view).toMatchObject({ state: 'failed', template: null, error: { code: 'TEMPLATE_GUEST_ENDED' } });
    await nothing();
  });

  it('is refused before anything is made', async () => {
    await writeFile(dir.file('blank.raw'), Buffer.alloc(1024 * 1024));
    await center.json('image', 'import', dir.file('blank.raw'), '--name', 'blank', '--memory', '32');
    const refused = async (code: string, ...args: string[]): Promise<void> => {
      expect(await center.cli('template', 'build', ...args)).toMatchObject({
        stderr: expect.stringMatching(new RegExp(`^${code}: `, 'm')) as string,
      });
    };
    await refused('IMAGE_UNKNOWN', '--image', 'none', '--name', 'x');
    await refused('TEMPLATE_NOT_READY', '--image', 'blank', '--name', 'x');
    await refused('VM_CAPACITY', '--image', 'ci', '--name', 'x', '--memory', '4096');
    await nothing();
  });
});
