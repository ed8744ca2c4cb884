import { randomUUID } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../base/async.ts';
import { run } from '../../base/process.ts';
import type { Image } from '../../content/images/store.ts';
import type { LabSide, Wan } from '../../lab/wan.ts';
import { NODE } from '../../qemu/block-nodes.ts';
import { type MachineSpec, parseMachineSpec } from '../../qemu/machine-spec.ts';
import type { QemuMonitor } from '../../qemu/monitor.ts';
import { QEMU_PROGRAM, QemuProcess } from '../../qemu/process.ts';
import type { QmpMark } from '../../qemu/qmp-events.ts';
import { failBench } from '../kit/errors.ts';
import { checkArrived, type GuestSockets, type Load, makeReady } from './guest.ts';
import { ServiceProbe } from './probe.ts';
import type { SwitchRun } from './run.ts';

/** As in our scheme: no limit but the link's, and no completion as pre-copy unless next to nothing is left. */
const PARAMETERS = {
  'max-bandwidth': 4 * 1024 ** 3,
  'max-postcopy-bandwidth': 0,
  'downtime-limit': 1,
} as const;
const EXPORT = 'overlay';
const MIRROR = 'mirror';
const MIRROR_NODE = 'mirror-target';
/** The probe asks before and after, so that the gap has two sides. */
const PROBE_SETTLE_MS = 1_000;

export interface MachineFacts {
  readonly accelerator: 'tcg' | 'kvm';
  readonly machineType: string;
  readonly cpuModel: string;
}

export interface StockOptions {
  dir: string;
  /** What a site makes of this image. */
  machine: MachineFacts;
  load: Load;
  run: number;
  /**
   * `mirror`: the overlay goes by blockdev-mirror (sync=top) to the target QEMU's NBD export before the memory, and is
   * kept in step until the switch, as libvirt's storage migration does. `shared`: both QEMUs have one file.
   */
  disk: 'mirror' | 'shared';
}

/** QEMU's own hybrid: one round of pre-copy, then post-copy, over TCP from QEMU to QEMU through the same link. */
export async function runStock(
  wan: Wan,
  image: Image,
  options: StockOptions,
  signal: AbortSignal,
): Promise<SwitchRun> {
  const { dir, load } = options;
  await rm(dir, { recursive: true, force: true });
  const [sourceDir, targetDir] = [join(dir, 's'), join(dir, 't')];
  for (const path of [sourceDir, targetDir]) await mkdir(path, { recursive: true, mode: 0o700 });
  const overlay = (at: string): Promise<string> => createOverlay(join(at, 'overlay.qcow2'), image);
  const sourceOverlay = await overlay(sourceDir);
  const targetOverlay = options.disk === 'shared' ? sourceOverlay : await overlay(targetDir);
  const { accelerator } = options.machine;
  const spec = machineOf(image, options.machine);

  await using source = await startQemu(wan, 'center', image, spec, {
    dir: sourceDir,
    overlay: sourceOverlay,
    accelerator,
  });
  await makeReady(image, socketsOf(image, sourceDir), load, signal);
  const loadAverage = loadavg()[0] ?? 0;
  await using target = await startQemu(wan, 'ap', image, spec, {
    dir: targetDir,
    overlay: targetOverlay,
    accelerator,
    incoming: true,
  });

  const host = wan.listenHost('ap');
  const port = await wan.freePort('ap');
  for (const { qmp } of [source, target]) {
    await qmp.migrateSetCapabilities({
      events: true,
      'return-path': true,
      'postcopy-ram': true,
      'pause-before-switchover': options.disk === 'mirror',
    });
  }
  await source.qmp.migrateSetParameters(PARAMETERS);
  await target.qmp.migrateIncoming(`tcp:${host}:${port}`);
  const door = await wan.reach('ap', port);
  const marks = { source: source.qmp.mark(), target: target.qmp.mark() };

  const before = sum(await wan.bytes());
  const startMs = Date.now();
  if (options.disk === 'mirror') await mirrorOverlay(wan, source.qmp, target.qmp, signal);
  const mirrored = sum(await wan.bytes());
  const ports = [sourceDir, targetDir].map((at) => socketsOf(image, at).serial1Socket);
  using probe = new ServiceProbe(ports);
  await sleep(PROBE_SETTLE_MS, signal);
  const migrateMs = Date.now();
  await source.qmp.migrate(`tcp:${door.host}:${door.port}`);
  const times = await switchOver(source.qmp, target.qmp, marks, options.disk === 'mirror', signal);
  const after = sum(await wan.bytes());
  await sleep(PROBE_SETTLE_MS, signal);
  const serviceGapMs = probe.gapMs;
  await probe.settle();
  probe[Symbol.dispose]();
  await checkArrived(socketsOf(image, targetDir), load);
  const info = await source.qmp.queryMigrate();

  const { passMs, stopMs, resumeMs, completedMs, pausedForMirrorMs } = times;
  const phase = (name: string, from: number, to: number) => ({
    name,
    startMs: from - startMs,
    endMs: to - startMs,
  });
  return {
    scheme: 'stock',
    case: load ? 'busy' : 'cold',
    run: options.run,
    switchTimeMs: resumeMs - migrateMs,
    downtimeMs: resumeMs - stopMs - pausedForMirrorMs,
    totalTimeMs: completedMs - startMs,
    migratedBytes: after - before,
    linkBytes: after - before,
    serviceGapMs,
    completedAsPrecopy: times.completedAsPrecopy,
    phases: [
      ...(options.disk === 'mirror' ? [phase('mirror', startMs, migrateMs)] : []),
      phase('memory pre-copy', migrateMs, passMs),
      phase('freeze-and-copy', stopMs, resumeMs),
      phase('memory post-copy', resumeMs, completedMs),
    ],
    loadAverage,
    details: {
      disk: options.disk,
      mirrorBytes: mirrored - before,
      memoryBytes: after - mirrored,
      pausedForMirrorMs,
      stopToResumeMs: resumeMs - stopMs,
      ram: info.ram ?? null,
    },
  };
}

/** Copies the overlay and returns when the mirror keeps both in step. */
async function mirrorOverlay(
  wan: Wan,
  source: QemuMonitor,
  target: QemuMonitor,
  signal: AbortSignal,
): Promise<void> {
  const port = await wan.freePort('ap');
  const data = { host: wan.listenHost('ap'), port: String(port) };
  await target.execute('nbd-server-start', { addr: { type: 'inet', data }, 'max-connections': 2 });
  await target.blockExportAdd({ id: EXPORT, nodeName: NODE.cow, name: EXPORT, writable: true });
  const door = await wan.reach('ap', port);
  await source.blockdevAdd({
    driver: 'nbd',
    'node-name': MIRROR_NODE,
    server: { type: 'inet', host: door.host, port: String(door.port) },
    export: EXPORT,
  });
  const since = source.mark();
  const job = { 'job-id': MIRROR, device: NODE.cow, target: MIRROR_NODE, sync: 'top' };
  await source.execute('blockdev-mirror', job);
  const failed = source
    .waitEvent('BLOCK_JOB_COMPLETED', undefined, { since, signal, timeoutMs: Number.POSITIVE_INFINITY })
    .then(() => Promise.reject(failBench('BENCH_RUN', 'the mirror ended by itself')));
  failed.catch(() => {});
  const ready = source.waitEvent('BLOCK_JOB_READY', undefined, {
    since,
    signal,
    timeoutMs: Number.POSITIVE_INFINITY,
  });
  await Promise.race([ready, failed]);
}

interface StockTimes {
  passMs: number;
  stopMs: number;
  resumeMs: number;
  completedMs: number;
  pausedForMirrorMs: number;
  completedAsPrecopy: boolean;
}

/** From `migrate` to the end, all times from QEMU's events (one clock: both sides run here). */
async function switchOver(
  source: QemuMonitor,
  target: QemuMonitor,
  marks: { source: QmpMark; target: QmpMark },
  hasMirror: boolean,
  signal: AbortSignal,
): Promise<StockTimes> {
  const timeoutMs = Number.POSITIVE_INFINITY;
  const over = { since: marks.source, signal, timeoutMs };
  const there = { since: marks.target, signal, timeoutMs };
  const status = (wanted: string) => (event: { data: Readonly<Record<string, unknown>> }) =>
    event.data['status'] === wanted;
  const failed = source
    .waitEvent('MIGRATION', status('failed'), over)
    .then(() => Promise.reject(failBench('BENCH_RUN', 'stock QEMU gave the migration up')));
  failed.catch(() => {});
  const atOf = async (promise: ReturnType<QemuMonitor['waitEvent']>): Promise<number> => {
    const event = await Promise.race([promise, failed]);
    return event.timestampMs ?? Date.now();
  };
  const stopped = atOf(source.waitEvent('STOP', undefined, over));
  const resumed = atOf(target.waitEvent('RESUME', undefined, there));
  const paused = source.waitEvent('MIGRATION', status('pre-switchover'), over);
  const pass = atOf(source.waitEvent('MIGRATION_PASS', (event) => Number(event.data['pass']) >= 2, over));
  for (const promise of [stopped, resumed, paused, pass]) promise.catch(() => {});

  const passMs = await Promise.race([pass, stopped]);
  await source.migrateStartPostcopy().catch(() => {
    // it has completed by itself at this very moment: the events will tell
  });
  const stopMs = await stopped;
  let pausedForMirrorMs = 0;
  if (hasMirror) {
    const pausedMs = await atOf(paused);
    const done = source.waitEvent('BLOCK_JOB_COMPLETED', undefined, over);
    await source.blockJobCancel(MIRROR);
    await Promise.race([done, failed]);
    await target.nbdServerStop();
    await source.migrateContinue('pre-switchover');
    const goesOn = (event: { data: Readonly<Record<string, unknown>> }): boolean =>
      ['postcopy-active', 'device'].includes(String(event.data['status']));
    pausedForMirrorMs = (await atOf(source.waitEvent('MIGRATION', goesOn, over))) - pausedMs;
  }
  const resumeMs = await resumed;
  const completedMs = Math.max(
    await atOf(source.waitEvent('MIGRATION', status('completed'), over)),
    await atOf(target.waitEvent('MIGRATION', status('completed'), there)),
  );
  const postcopied = source.eventsSince(marks.source).some(status('postcopy-active'));
  return { passMs, stopMs, resumeMs, completedMs, pausedForMirrorMs, completedAsPrecopy: !postcopied };
}

async function createOverlay(path: string, image: Image): Promise<string> {
  const base = ['-b', image.diskPath, '-F', image.manifest.disk.format];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...base, path]);
  return path;
}

/** The machine that a site makes of this image. */
function machineOf({ manifest, kernelPath, initrdPath }: Image, facts: MachineFacts): MachineSpec {
  const { memoryMiB, cpus, display, input } = manifest.defaults;
  return parseMachineSpec({
    machineType: facts.machineType,
    cpuModel: facts.cpuModel,
    cpus,
    memoryMiB,
    diskBytes: manifest.disk.virtualSizeBytes,
    display,
    input,
    serialPorts: 2,
    ...(kernelPath === undefined
      ? {}
      : {
          directBoot: {
            kernel: 'kernel',
            ...(initrdPath === undefined ? {} : { initrd: 'initrd' }),
            commandLine: manifest.commandLine ?? '',
          },
        }),
    uuid: randomUUID(),
  });
}

function socketsOf(image: Image, dir: string): GuestSockets {
  const hasScreen = image.manifest.defaults.display === 'vga';
  return {
    vncSocket: hasScreen ? join(dir, 'vnc.sock') : undefined,
    serial1Socket: join(dir, 'serial1.sock'),
  };
}

async function startQemu(
  wan: Wan,
  side: LabSide,
  image: Image,
  spec: MachineSpec,
  options: { dir: string; overlay: string; accelerator: 'tcg' | 'kvm'; incoming?: boolean },
): Promise<QemuProcess> {
  const { dir, overlay, accelerator, incoming } = options;
  return QemuProcess.start({
    spec,
    name: `stock-${side}`,
    accelerator,
    program: await programAt(wan, side, dir),
    logPath: join(dir, 'qemu.log'),
    paths: {
      qmpSocket: join(dir, 'qmp.sock'),
      moverSocket: join(dir, 'mover.sock'),
      serialLog: join(dir, 'serial.log'),
      kernel: image.kernelPath,
      initrd: image.initrdPath,
      ...socketsOf(image, dir),
    },
    disk: {
      mode: 'normal',
      base: { path: image.diskPath, format: image.manifest.disk.format },
      overlayPath: overlay,
    },
    ...(incoming ? { incoming } : {}),
  });
}

/** QEMU itself, or a script that becomes QEMU inside the side's network namespace. */
async function programAt(wan: Wan, side: LabSide, dir: string): Promise<string> {
  const prefix = wan.prefix[side];
  if (prefix.length === 0) return QEMU_PROGRAM;
  const path = join(dir, 'qemu.sh');
  await writeFile(path, `#!/bin/sh\nexec ${prefix.join(' ')} ${QEMU_PROGRAM} "$@"\n`, { mode: 0o700 });
  return path;
}

const sum = ({ towardsAp, towardsCenter }: { towardsAp: number; towardsCenter: number }): number =>
  towardsAp + towardsCenter;
