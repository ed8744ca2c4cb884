import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { imageDigest } from '../../content/images/manifest.ts';
import { templateDigest } from '../../content/templates/manifest.ts';
import { parseMachineSpec } from '../../qemu/machine-spec.ts';
import { failSite } from '../errors.ts';
import { sitePaths } from '../paths.ts';
import { PUSHES_MAX } from '../constants.ts';
import { PushManager, type StageContext } from './manager.ts';
import type { StagePrepare } from './messages.ts';
import type { StageProcess } from './process.ts';
import type { StageConfig, StageStatus } from './process-config.ts';

const MIB = 2 ** 20;

function manifestOf(name: string, fileBytes = MIB) {
  const content = {
    version: 1 as const,
    disk: { format: 'raw' as const, virtualSizeBytes: fileBytes, fileBytes, sha256: 'a'.repeat(64) },
    commandLine: name,
    defaults: { memoryMiB: 128, cpus: 1, display: 'none' as const, input: 'none' as const },
  };
  return { ...content, digest: imageDigest(content), name, createdAt: new Date(0).toISOString() };
}

/** A process that does nothing until it is told how it ended. */
class FakeProcess implements StageProcess {
  readonly pid = 1;
  readonly said = 'broken';
  readonly ready = Promise.resolve();
  readonly ended: Promise<StageStatus | undefined>;
  readonly config: StageConfig;
  cancelled = false;
  paused: boolean | undefined;
  readonly end: (status: StageStatus | undefined) => void;

  constructor(config: StageConfig) {
    this.config = config;
    const { promise, resolve } = Promise.withResolvers<StageStatus | undefined>();
    this.ended = promise;
    this.end = resolve;
  }

  cancel(): void {
    this.cancelled = true;
    this.end(status('cancelled', 'STAGE_CANCELLED'));
  }

  pause(paused: boolean): void {
    this.paused = paused;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end(undefined);
  }
}

function status(state: StageStatus['state'], code?: string): StageStatus {
  const error = code === undefined ? null : { code, message: 'why', remedy: 'what' };
  return {
    state,
    doneBytes: 5,
    totalBytes: 10,
    resumedBytes: 0,
    wireBytes: 6,
    rateMbit: 1,
    paused: false,
    link: 'open',
    error,
  };
}

let folder: string;
let processes: FakeProcess[];
let calls: { site: string; method: string; params: unknown }[];
let answer: () => Promise<unknown>;
let present: Set<string>;
let pushes: PushManager;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cloudap-push-'));
  await writeFile(join(folder, 'disk.raw'), '');
  processes = [];
  calls = [];
  answer = () => Promise.resolve({ pushId: `psh-${'0'.repeat(12)}`, present: false });
  present = new Set();
  const config = {
    id: 'here',
    link: { listen: undefined, dial: [] },
    tls: { ca: 'ca', cert: 'cert', key: 'key' },
  } as unknown as StageContext['config'];
  pushes = new PushManager({
    config,
    paths: sitePaths({ dataDir: folder, runtimeDir: folder, imageDir: folder }),
    log: pino({ enabled: false }),
    dialAddress: () => ({ host: 'there', port: 7411 }),
    relayFor: () => undefined,
    peer: (site) => {
      if (site === 'nowhere') throw failSite('SITE_UNKNOWN', site);
      return {
        call: async (method, params) => {
          calls.push({ site, method, params });
          return method === 'stage.prepare' ? answer() : { aborted: true };
        },
      };
    },
    stores: {
      image: {
        folder,
        get: (name) => Promise.resolve({ folder, manifest: manifestOf(name) }),
        has: (digest) => Promise.resolve(present.has(digest)),
      },
      template: { folder, get: () => Promise.reject(new Error('none')), has: () => Promise.resolve(false) },
    },
    prepareTimeoutMs: 1000,
    startProcess: (config) => {
      const child = new FakeProcess(config);
      processes.push(child);
      return child;
    },
  });
});

afterEach(async () => {
  await pushes.close();
  await rm(folder, { recursive: true, force: true });
});

let ids = 0;
function request(name: string, change: Partial<StagePrepare> = {}): StagePrepare {
  return {
    version: 1,
    pushId: `psh-${(ids++).toString(16).padStart(12, '0')}`,
    source: 'there',
    target: 'here',
    kind: 'image',
    manifest: manifestOf(name),
    allocatedBytes: 1000,
    sourceDials: true,
    linkLossTimeoutMs: 1000,
    ...change,
  };
}

/** A template of an image. */
function templateOf(image: string) {
  const file = { sha256: 'b'.repeat(64), fileBytes: 4096 };
  const content = {
    version: 1 as const,
    image,
    machine: parseMachineSpec({
      machineType: 'pc-i440fx-7.2',
      cpuModel: 'qemu64',
      cpus: 1,
      memoryMiB: 128,
      diskBytes: MIB,
      display: 'none',
      serialPorts: 1,
      uuid: '4a1f2c6e-7d0b-4c55-9d8e-2f3f6f0a9b10',
    }),
    accelerator: 'tcg' as const,
    qemuVersion: '7.2.22',
    overlay: file,
    ram: file,
    devices: file,
  };
  const { uuid: _, ...machine } = content.machine;
  const described = { ...content, machine };
  return {
    ...described,
    digest: templateDigest(described),
    name: 'desk',
    createdAt: new Date(0).toISOString(),
  };
}

const push = (what: string, to = 'there') => pushes.start({ kind: 'image', what, to });

describe('pushes of a site', () => {
  it('ask, start a process, and end as it does', async () => {
    const { pushId, state } = await push('one');
    expect(state).toBe('preparing');
    await expect.poll(() => processes.length).toBe(1);
    expect(processes[0]?.config).toMatchObject({
      role: 'source',
      pushId,
      link: { mode: 'dial', route: pushId },
    });
    await expect(push('one')).rejects.toMatchObject({ code: 'STAGE_BUSY' });
    processes[0]?.end(status('completed'));
    await expect.poll(() => pushes.get(pushId)).toMatchObject({ state: 'completed', active: false });
    await expect(pushes.cancel(pushId)).rejects.toMatchObject({ code: 'STAGE_ENDED' });
    expect(calls.map(({ method }) => method)).toEqual(['stage.prepare']);
    expect(pushes.list()).toHaveLength(1);
  });

  it('start no process for what is there, or is refused', async () => {
    answer = () => Promise.resolve({ pushId: `psh-${'0'.repeat(12)}`, present: true });
    const there = await push('one');
    await expect.poll(() => pushes.get(there.pushId)).toMatchObject({ state: 'completed', present: true });
    answer = () => Promise.reject(failSite('SITE_NOT_CONNECTED', 'there'));
    const refused = await push('two');
    await expect
      .poll(() => pushes.get(refused.pushId))
      .toMatchObject({ error: { code: 'SITE_NOT_CONNECTED' } });
    expect(processes).toEqual([]);
    await expect(push('one', 'here')).rejects.toMatchObject({ code: 'STAGE_TO_SELF' });
    await expect(push('one', 'nowhere')).rejects.toMatchObject({ code: 'SITE_UNKNOWN' });
    expect(() => pushes.get('psh-1')).toThrow(expect.objectContaining({ code: 'STAGE_UNKNOWN' }));
  });

  it('tell the other site when their process is lost, and say what it told', async () => {
    const lost = await push('one');
    await expect.poll(() => processes.length).toBe(1);
    processes[0]?.end(undefined);
    await expect.poll(() => pushes.get(lost.pushId)).toMatchObject({ error: { code: 'STAGE_PROCESS' } });
    await expect
      .poll(() => calls.at(-1))
      .toMatchObject({
        method: 'stage.abort',
        params: { pushId: lost.pushId, error: { code: 'STAGE_PROCESS' } },
      });
    const told = await push('one');
    await expect.poll(() => processes.length).toBe(2);
    const error = { code: 'STAGE_NO_SPACE', message: 'full', remedy: '' };
    expect(await pushes.abort('elsewhere', { pushId: told.pushId, error })).toEqual({ aborted: false });
    expect(await pushes.abort('there', { pushId: told.pushId, error })).toEqual({ aborted: true });
    expect(pushes.get(told.pushId)).toMatchObject({ state: 'failed', error: { code: 'STAGE_NO_SPACE' } });
    expect(calls.filter(({ method }) => method === 'stage.abort')).toHaveLength(1);
  });

  it('wait while a migration is under way', async () => {
    await push('one');
    await expect.poll(() => processes.length).toBe(1);
    expect(processes[0]?.config.paused).toBe(false);
    pushes.pause(true);
    pushes.pause(true);
    expect(processes[0]?.paused).toBe(true);
    await push('two');
    await expect.poll(() => processes.length).toBe(2);
    expect(processes[1]?.config.paused).toBe(true);
    pushes.pause(false);
    expect(processes.map(({ paused }) => paused)).toEqual([false, false]);
  });

  it('are not more than so many', async () => {
    for (let i = 0; i < PUSHES_MAX; i++) await push(`p${i}`);
    await expect(push('one-more')).rejects.toMatchObject({ code: 'STAGE_TOO_MANY' });
    await expect(pushes.prepare('there', request('incoming'))).rejects.toMatchObject({
      code: 'STAGE_TOO_MANY',
    });
  });
});

describe('a push into a site', () => {
  it('is refused with a code before anything is made', async () => {
    const refused = (change: Partial<StagePrepare>, caller = 'there') =>
      pushes.prepare(caller, request('one', change));
    await expect(refused({}, 'elsewhere')).rejects.toMatchObject({ code: 'STAGE_PROTOCOL' });
    await expect(refused({ target: 'elsewhere' })).rejects.toMatchObject({ code: 'STAGE_PROTOCOL' });
    await expect(refused({ manifest: { name: 'no image' } })).rejects.toMatchObject({
      code: 'STAGE_MANIFEST',
    });
    const huge = { manifest: manifestOf('huge', 2 ** 41), allocatedBytes: 2 ** 52 };
    await expect(refused(huge)).rejects.toMatchObject({ code: 'STAGE_NO_SPACE' });
    await expect(pushes.prepare('there', { nonsense: true })).rejects.toMatchObject({
      code: 'PREPARE_BAD_REQUEST',
    });
    expect(processes).toEqual([]);
    // holes need no space
    await expect(refused({ ...huge, allocatedBytes: 4096 })).resolves.toMatchObject({ present: false });
  });

  it('needs what it is based on', async () => {
    const { digest } = manifestOf('base');
    const pushed = request('', { kind: 'template', manifest: templateOf(digest) });
    await expect(pushes.prepare('there', pushed)).rejects.toMatchObject({
      code: 'STAGE_REQUIRES',
      fields: { kind: 'image', digest },
    });
    present.add(digest);
    expect(await pushes.prepare('there', pushed)).toMatchObject({ present: false });
  });

  it('begins its process, is one of its kind, and is replaced when its source begins anew', async () => {
    const first = request('one');
    expect(await pushes.prepare('there', first)).toEqual({ pushId: first.pushId, present: false });
    expect(processes[0]?.config).toMatchObject({
      role: 'target',
      peerSiteId: 'there',
      link: { mode: 'listen' },
    });
    await expect(pushes.prepare('third', request('one', { source: 'third' }))).rejects.toMatchObject({
      code: 'STAGE_BUSY',
    });
    const second = request('one');
    expect(await pushes.prepare('there', second)).toMatchObject({ present: false });
    expect(processes[0]?.cancelled).toBe(true);
    processes[1]?.end(status('completed'));
    await expect.poll(() => pushes.get(second.pushId).state).toBe('completed');
    present.add(manifestOf('one').digest);
    expect(await pushes.prepare('there', request('one'))).toMatchObject({ present: true });
    expect(processes).toHaveLength(2);
  });
});
