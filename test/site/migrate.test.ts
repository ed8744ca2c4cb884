import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import * as z from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { run } from '../../src/base/process.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { Emulator } from '../../src/link/emulator.ts';
import { pidFileOf } from '../../src/migration/mover/spawn.ts';
import { migrationRecordSchema, type MigrationRecord } from '../../src/migration/record.ts';
import { ApiClient } from '../../src/site/api/client.ts';
import { migrationViewSchema, type MigrationView, type VmView } from '../../src/site/api/messages.ts';
import { cli, SiteProcess, startCli } from '../kit/siteProcess.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

/** A center with a running CI guest and an AP that reaches it over an emulated link, all as a user would start them. */
class TwoSites implements AsyncDisposable {
  readonly center: SiteProcess;
  readonly ap1: SiteProcess;
  readonly link: Emulator;

  private constructor(dir: TempDir, link: Emulator) {
    this.center = new SiteProcess(dir.file('center/site.yaml'));
    this.ap1 = new SiteProcess(dir.file('ap1/site.yaml'));
    this.link = link;
  }

  static async start(dir: TempDir, rateMbit: number): Promise<TwoSites> {
    const port = await freePort();
    const link = await Emulator.listen({
      listen: { host: '127.0.0.1', port: 0 },
      forward: { host: '127.0.0.1', port },
      rateMbit,
      rttMs: 4,
    });
    const common = ['--memory', '1024', '--accelerator', 'tcg'];
    const made = [
      await cli(
        ['site', 'init', '--id', 'center', '--dir', 'center', '--listen', `127.0.0.1:${port}`, ...common],
        { cwd: dir.path },
      ),
    ];
    const dial = `center=127.0.0.1:${'port' in link.address ? link.address.port : 0}`;
    made.push(
      await cli(['site', 'add', '--ca', 'center', '--id', 'ap1', '--dir', 'ap1', '--dial', dial, ...common], {
        cwd: dir.path,
      }),
    );
    for (const { code, stderr } of made) if (code !== 0) throw new Error(stderr);
    const sites = new TwoSites(dir, link);
    try {
      await sites.#run();
      return sites;
    } catch (error) {
      await sites[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #run(): Promise<void> {
    const { center, ap1 } = this;
    await Promise.all([center.start(), ap1.start()]);
    await Promise.all([center.connected('ap1'), ap1.connected('center')]);
    for (const site of [center, ap1]) await site.json('image', 'build', 'ci');
    await center.json('vm', 'create', 'desk', '--image', 'ci', '--start');
    // a host that was busy with all this may have lost the other for a moment
    await Promise.all([center.connected('ap1'), ap1.connected('center')]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.center[Symbol.asyncDispose]();
    await this.ap1[Symbol.asyncDispose]();
    await this.link[Symbol.asyncDispose]();
  }
}

const theVm = async (site: SiteProcess): Promise<VmView> => {
  const [vm] = await site.json<VmView[]>('vm', 'ls');
  if (!vm) throw new Error('there is no VM');
  return vm;
};

async function workload(site: SiteProcess): Promise<WorkloadClient> {
  return WorkloadClient.connect((await theVm(site)).serial1Socket ?? '');
}

/** The guest's own check of every block and page that it wrote. */
async function verified(site: SiteProcess): Promise<string> {
  using work = await workload(site);
  return (await work.command('verify')).line;
}

/** Nothing of a VM, a mover or a migration under way. */
async function residue(site: SiteProcess): Promise<string[]> {
  const { vmsDir, runtimeDir, migrationsDir } = site.paths;
  const lists = await Promise.all(
    [vmsDir, `${runtimeDir}/v`, `${runtimeDir}/m`, `${runtimeDir}/link`].map((path) => readdir(path)),
  );
  const active = (await readdir(migrationsDir)).filter((name) => name.endsWith('.active.json'));
  return [...lists.flat(), ...active].filter((name) => name !== 'agent.sock');
}

async function latest(site: SiteProcess): Promise<MigrationView | undefined> {
  return (await site.json<MigrationView[]>('migrate', '--ls'))[0];
}

/**
 * Starts `cloudap migrate` and waits until the migration is in its first round, asking the agent itself: starting a
 * command line for each look would take longer than the round.
 */
async function inRoundOne(
  site: SiteProcess,
): Promise<{ process: ChildProcess; exit: Promise<unknown[]>; migrationId: string }> {
  const api = new ApiClient(site.paths.apiSocket);
  const list = () => api.json('GET', '/migrations', z.array(migrationViewSchema));
  const before = new Set((await list()).map((view) => view.migrationId));
  // all of it: a round that is left early is over before anything can happen in it
  const process = startCli(['migrate', 'desk', '--to', 'ap1', '--switch-budget', 'none'], site.config);
  const exit = once(process, 'exit');
  let said = '';
  process.stderr?.on('data', (text: Buffer) => (said += text.toString()));
  for (;;) {
    const view = (await list()).find((v) => !before.has(v.migrationId));
    if (view?.state === 'precopy') return { process, exit, migrationId: view.migrationId };
    if (view && !['preparing', 'connecting'].includes(view.state)) throw new Error(`too late: ${view.state}`);
    if (process.exitCode !== null) throw new Error(`the command ended: ${said}`);
    await sleep(20);
  }
}

describe('two sites as a user runs them', () => {
  it('move a working VM there and back', async () => {
    await using dir = await tempDir();
    await using sites = await TwoSites.start(dir, 200);
    const { center, ap1 } = sites;
    {
      using work = await workload(center);
      await work.ready();
      expect(await work.command('start disk=200 mem=200')).toMatchObject({ ok: true });
    }
    for (const [from, to, name] of [
      [center, ap1, 'ap1'],
      [ap1, center, 'center'],
    ] as const) {
      const file = dir.file(`${name}.json`);
      const moved = await from.cli('migrate', 'desk', '--to', name, '--json', file);
      expect(moved).toMatchObject({ code: 0, stdout: expect.stringContaining('downtime') as string });
      expect(moved.stderr).toContain('memory pre-copy');
      const record: MigrationRecord = migrationRecordSchema.parse(
        JSON.parse((await run('cat', [file])).stdout),
      );
      expect(record).toMatchObject({
        ok: true,
        source: from === center ? 'center' : 'ap1',
        target: name,
        integrity: { bad: 0 },
      });
      expect(await residue(from)).toEqual([]);
      const vm = await theVm(to);
      expect(vm).toMatchObject({ status: 'running', owner: name, ownership: 'owned' });
      expect(await readdir(vm.dir)).not.toContain('top.qcow2');
    }
    {
      using work = await workload(center);
      expect(await work.command('stop')).toMatchObject({ ok: true });
    }
    expect(await verified(center)).toMatch(/^verify ok .*disk_bad=0 .*mem_bad=0/);
    const { dir: vmDir, generation } = await theVm(center);
    expect(generation).toBe(3);
    await center.json('vm', 'stop', 'desk', '--force');
    await run('qemu-img', ['check', '-q', `${vmDir}/overlay.qcow2`]);
    const { stdout } = await run('qemu-img', [
      'info',
      '--backing-chain',
      '--output=json',
      `${vmDir}/overlay.qcow2`,
    ]);
    expect(JSON.parse(stdout)).toMatchObject([{ format: 'qcow2' }, { format: 'raw' }]);
    // and it starts as any other VM
    await center.json('vm', 'start', 'desk');
  });

  it('keep the VM at the source when Ctrl-C, a cut link or a dead target mover ends the attempt', async () => {
    await using dir = await tempDir();
    await using sites = await TwoSites.start(dir, 20);
    const { center, ap1 } = sites;
    const untouched = async () => {
      expect(await theVm(center)).toMatchObject({
        status: 'running',
        owner: 'center',
        generation: 1,
        ownership: 'owned',
      });
      await expect.poll(() => residue(ap1), { timeout: 60_000, interval: 500 }).toEqual([]);
    };

    const cancelled = await inRoundOne(center);
    cancelled.process.kill('SIGINT');
    expect(await cancelled.exit).toEqual([130, null]);
    expect(await latest(center)).toMatchObject({ state: 'cancelled', error: { code: 'MIGRATE_CANCELLED' } });
    await untouched();

    const { exit, migrationId } = await inRoundOne(center);
    const moverPid = pidFileOf(ap1.paths.migration(migrationId).rpcSocket);
    const { pid } = JSON.parse(await readFile(moverPid, 'utf8')) as { pid: number };
    process.kill(pid, 'SIGKILL');
    expect(await exit).toEqual([1, null]);
    await untouched();

    const cut = await inRoundOne(center);
    sites.link.cut();
    expect(await cut.exit).toEqual([1, null]);
    // the movers' session, or the agents' while the target still prepares
    expect(await latest(center)).toMatchObject({
      state: 'failed',
      error: { code: expect.stringMatching(/^LINK_(LOST|CONNECTION_LOST)$/) as string },
    });
    sites.link.restore();
    await untouched();

    expect(await center.cli('migrate', 'desk', '--to', 'nowhere')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('SITE_UNKNOWN') as string,
    });
  });

  it('finish a migration whose agents crash in the middle', async () => {
    await using dir = await tempDir();
    await using sites = await TwoSites.start(dir, 40);
    const { center, ap1 } = sites;
    const { exit, migrationId } = await inRoundOne(center);
    // before it has one the target's agent is needed
    await expect.poll(async () => (await theVm(ap1)).pid, { timeout: 60_000 }).not.toBeNull();
    await center.end('SIGKILL');
    await ap1.end('SIGKILL');
    expect((await exit)[0]).not.toBe(0);
    await Promise.all([center.start(), ap1.start()]);
    expect(await center.log()).toContain('mover adopted');
    expect(await center.log()).toContain('gateway adopted');
    const followed = await center.cli('migrate', '--follow', migrationId);
    expect(followed).toMatchObject({ code: 0 });
    expect(await theVm(ap1)).toMatchObject({ status: 'running', owner: 'ap1', generation: 2 });
    expect(await residue(center)).toEqual([]);
  });
});
