import { access, readdir, readFile, writeFile } from 'node:fs/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { processAlive } from '../../src/base/process.ts';
import { migrationViewSchema, type VmView } from '../../src/site/api/messages.ts';
import { ApiClient } from '../../src/site/api/client.ts';
import { cli, SiteProcess } from '../kit/siteProcess.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

/** A site that nobody dials, with a blank disk as image: its BIOS finds nothing to boot and shows that. */
async function blankSite(dir: TempDir): Promise<SiteProcess> {
  const made = await cli(
    [
      'site',
      'init',
      '--id',
      'solo',
      '--dir',
      'solo',
      '--listen',
      'none',
      '--memory',
      '256',
      '--accelerator',
      'tcg',
    ],
    { cwd: dir.path },
  );
  expect(made).toMatchObject({ code: 0, stderr: '' });
  await writeFile(dir.file('blank.raw'), Buffer.alloc(1024 * 1024));
  const site = new SiteProcess(dir.file('solo/site.yaml'));
  const imported = await site.cli(
    'image',
    'import',
    dir.file('blank.raw'),
    '--name',
    'blank',
    '--memory',
    '32',
  );
  expect(imported.code).toBe(0);
  return site;
}

describe('a site with a real QEMU, by its command line', () => {
  it('runs a VM through crashes and restarts of its agent, and leaves nothing of it in the end', async () => {
    await using dir = await tempDir();
    await using site = await blankSite(dir);
    expect(await site.cli('vm', 'ls')).toMatchObject({ code: 3, stdout: '' });
    await site.start();
    const vm = await site.json<VmView>('vm', 'create', 'desk', '--image', 'blank', '--start');
    expect(vm).toMatchObject({ status: 'running', imageName: 'blank', owner: 'solo', generation: 1 });
    expect(processAlive(vm.pid ?? 0)).toBe(true);

    const png = dir.file('screen.png');
    expect(await site.cli('vm', 'screenshot', 'desk', '--out', png)).toMatchObject({ code: 0 });
    expect((await readFile(png)).subarray(0, 8)).toEqual(Buffer.from('\u0089PNG\r\n\u001A\n', 'latin1'));

    await site.end('SIGKILL');
    await site.start();
    expect(await site.json<VmView[]>('vm', 'ls')).toMatchObject([{ status: 'running', pid: vm.pid }]);
    await site.end('SIGTERM');
    expect(processAlive(vm.pid ?? 0)).toBe(true);
    await site.start();
    expect(await site.json<VmView[]>('vm', 'ls')).toMatchObject([{ status: 'running', pid: vm.pid }]);
    expect(await site.log()).toContain('QEMU adopted');

    expect(await site.cli('vm', 'rm', 'desk')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^VM_RUNNING: .*\n {2}Stop it first/) as string,
    });
    expect(await site.json<VmView>('vm', 'stop', 'desk', '--grace', '0')).toMatchObject({
      status: 'stopped',
      pid: null,
    });
    expect(processAlive(vm.pid ?? 0)).toBe(false);
    expect(await readdir(`${site.paths.runtimeDir}/v`)).toEqual([]);
    expect(await site.json<VmView>('vm', 'start', 'desk')).toMatchObject({ status: 'running' });
    await site.json('vm', 'stop', 'desk', '--force');
    await expect(site.cli('image', 'rm', 'blank')).resolves.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('IMAGE_IN_USE') as string,
    });
    await site.json('vm', 'rm', vm.id);
    await site.json('image', 'rm', 'blank');
    expect(await readdir(site.paths.vmsDir)).toEqual([]);
    await site.end();
    await expect(access(site.paths.runtimeDir)).rejects.toThrow('ENOENT');
  });

  it('adopts nothing when the VM ended while no agent looked', async () => {
    await using dir = await tempDir();
    await using site = await blankSite(dir);
    await site.start();
    const vm = await site.json<VmView>('vm', 'create', 'desk', '--image', 'blank', '--start');
    await site.end('SIGKILL');
    process.kill(vm.pid ?? 0, 'SIGKILL');
    await site.start();
    expect(await site.json<VmView[]>('vm', 'ls')).toMatchObject([{ status: 'stopped', pid: null }]);
    await site.json('vm', 'start', 'desk');
  });

  it('shares its data with no other agent', async () => {
    await using dir = await tempDir();
    await using site = await blankSite(dir);
    await site.start();
    const vm = await site.json<VmView>('vm', 'create', 'desk', '--image', 'blank', '--start');
    const second = await cli(['site', '--config', site.config]);
    expect(second).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(
        `SITE_LOCKED: another agent is using this data directory: ${site.paths.dataDir} (by process ${site.pid})`,
      ) as string,
    });
    expect(processAlive(vm.pid ?? 0)).toBe(true);
  });

  it('speaks HTTP on its socket, and closes it when it ends', async () => {
    await using dir = await tempDir();
    await using site = await blankSite(dir);
    await site.start();
    const api = new ApiClient(site.paths.apiSocket);
    const ask = api.json('POST', '/migrations', migrationViewSchema, { body: { vm: 'nobody', to: 'ap1' } });
    await expect(ask).rejects.toMatchObject({ code: 'VM_UNKNOWN' });
    await site.end();
    await expect(access(site.paths.apiSocket)).rejects.toThrow('ENOENT');
    await expect(api.bytes('GET', '/vms')).rejects.toMatchObject({ code: 'SITE_UNREACHABLE' });
  });
});

describe('command lines', () => {
  let results: Map<string, Awaited<ReturnType<typeof cli>>>;
  const lines = [
    '--nope',
    'vm ls --nope',
    'vm create',
    'vm create x --socket /nowhere.sock',
    'nothing',
    '',
    'vm ls',
    'vm ls --site-config /nowhere.yaml',
    'vm stop x --grace soon',
    'site',
    'migrate --socket /nowhere.sock',
    'migrate --help',
    '--version',
  ];
  beforeAll(async () => {
    results = new Map(
      await Promise.all(
        lines.map(async (line) => [line, await cli(line.split(' ').filter(Boolean))] as const),
      ),
    );
  });

  it.each([
    ['--nope', 2, 'unknown option'],
    ['vm ls --nope', 2, 'unknown option'],
    ['vm create', 2, "missing required argument 'name'"],
    ['vm create x --socket /nowhere.sock', 2, 'either --image or --template'],
    ['nothing', 2, 'USAGE'],
    ['', 2, 'Usage'],
    ['vm ls', 2, 'USAGE'],
    ['vm ls --site-config /nowhere.yaml', 1, 'CONFIG_UNREADABLE'],
    ['vm stop x --grace soon', 2, 'USAGE'],
    ['site', 2, 'USAGE'],
    ['migrate --socket /nowhere.sock', 2, 'USAGE'],
  ])('cloudap %s: exit %i', (line, code, text) => {
    const result = results.get(line);
    expect(result?.code).toBe(code);
    expect(`${result?.stderr}`).toContain(text);
  });

  it('helps with an example', () => {
    expect(results.get('migrate --help')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('Example:\n  cloudap migrate') as string,
    });
    expect(results.get('--version')).toMatchObject({ code: 0, stdout: '0.1.0\n' });
  });
});
