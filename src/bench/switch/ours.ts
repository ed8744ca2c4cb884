import { loadavg } from 'node:os';
import { z } from 'zod';
import { sleep } from '../../base/async.ts';
import type { Image } from '../../content/images/store.ts';
import type { MigrationRecord } from '../../migration/record.ts';
import type { LabSite, TwoSites } from '../../lab/two-sites.ts';
import {
  type MigrationView,
  migrationViewSchema,
  removedSchema,
  statusSchema,
  type VmView,
  vmViewSchema,
} from '../../site/api/messages.ts';
import { failBench } from '../kit/errors.ts';
import { checkArrived, type Load, makeReady } from './guest.ts';
import { ServiceProbe } from './probe.ts';
import type { BenchCase, BenchCodec, SwitchRun } from './run.ts';
import type { MachineFacts } from './stock.ts';
import { type Limit, UseSampler } from './use.ts';
import { useFor } from './work.ts';

const VM = 'bench';
/** The source's agent removes what it kept a moment after the record is there. */
const GONE_TIMEOUT_MS = 30_000;
/** The probe asks before and after, so that the gap has two sides. */
const PROBE_SETTLE_MS = 1_000;

/** What machine a site makes of the image, so that stock QEMU gets the same. */
export async function machineFacts({ center }: TwoSites, image: Image): Promise<MachineFacts> {
  const body = { name: VM, image: image.manifest.digest };
  const { accelerator, machineType, cpuModel } = await center.api.json('POST', '/vms', vmViewSchema, {
    body,
  });
  await center.api.json('DELETE', `/vms/${VM}`, removedSchema);
  return { accelerator: accelerator === 'kvm' ? 'kvm' : 'tcg', machineType, cpuModel };
}

export interface JourneyOptions {
  readonly codec: BenchCodec;
  readonly run: number;
  /** What is measured, in this order of a VM's life: cold or busy (the way there), then home (the way back). */
  readonly cases: readonly BenchCase[];
  readonly load: Load;
  /** How long the VM is used before it goes home, or after it was started from the template. */
  readonly useMs: number;
  /** Name of the template, where there is one. */
  readonly template: string | undefined;
  readonly switchBudgetMs: number | null | undefined;
  /** Of the link, as far as it is known. */
  readonly rateMbit: number | undefined;
}

/**
 * Moves VMs as users would, checks them where they arrive and removes them. When that fails or is interrupted, its VMs
 * are ended at once: a site that stops gives guests time to shut down.
 */
export async function* runOurs(
  lab: TwoSites,
  image: Image,
  options: JourneyOptions,
  signal: AbortSignal,
): AsyncGenerator<SwitchRun> {
  try {
    yield* journeys(lab, image, options, signal);
  } catch (error) {
    for (const { api } of [lab.center, lab.ap]) {
      const body = { force: true };
      await api.json('POST', `/vms/${VM}/stop`, vmViewSchema, { body }).catch(() => {});
    }
    throw error;
  }
}

async function* journeys(
  lab: TwoSites,
  image: Image,
  options: JourneyOptions,
  signal: AbortSignal,
): AsyncGenerator<SwitchRun> {
  const { cases, load, useMs, template } = options;
  const { center, ap } = lab;
  const wants = (name: BenchCase): boolean => cases.includes(name);
  if (wants('cold') || wants('home')) {
    await create(center, { image: image.manifest.digest, start: true }, signal);
    await makeReady(image, socketsOf(await view(center)), undefined, signal);
    const there = await move(lab, 'center', 'cold', options, signal);
    if (wants('cold')) yield there;
    if (wants('home')) {
      await useFor(image, socketsOf(await view(ap)), useMs, signal);
      yield await move(lab, 'ap', 'home', options, signal);
    }
    await remove(wants('home') ? center : ap);
    await gone(wants('home') ? ap : center, signal);
  }
  if (wants('busy')) {
    await create(center, { image: image.manifest.digest, start: true }, signal);
    await makeReady(image, socketsOf(await view(center)), load, signal);
    yield await move(lab, 'center', 'busy', options, signal);
    await remove(ap);
    await gone(center, signal);
  }
  if (wants('template') && template !== undefined) {
    await create(center, { template }, signal);
    await useFor(image, socketsOf(await view(center)), useMs, signal);
    yield await move(lab, 'center', 'template', options, signal);
    await remove(ap);
    await gone(center, signal);
  }
}

async function create(site: LabSite, what: Record<string, unknown>, signal: AbortSignal): Promise<void> {
  await site.api.json('POST', '/vms', vmViewSchema, { body: { name: VM, ...what }, signal });
}

async function remove({ api }: LabSite): Promise<void> {
  await api.json('POST', `/vms/${VM}/stop`, vmViewSchema, { body: { force: true } });
  await api.json('DELETE', `/vms/${VM}`, removedSchema);
}

/** One migration, watched from outside. */
async function move(
  lab: TwoSites,
  from: 'center' | 'ap',
  name: BenchCase,
  options: JourneyOptions,
  signal: AbortSignal,
): Promise<SwitchRun> {
  const { codec, load, run } = options;
  const { wan } = lab;
  const [source, target] = from === 'center' ? [lab.center, lab.ap] : [lab.ap, lab.center];
  const here = socketsOf(await view(source)).serial1Socket;
  const [runtimeHere, runtimeThere] = await Promise.all([runtimeDirOf(source), runtimeDirOf(target)]);
  const loadAverage = loadavg()[0] ?? 0;
  const before = await wan.bytes();
  let moved: MigrationView;
  let serviceGapMs: number;
  const agents = new Map([
    [await agentOf(source), 'source'],
    [await agentOf(target), 'target'],
  ]);
  using use = new UseSampler(agents);
  {
    using probe = new ServiceProbe([here, here.replace(runtimeHere, runtimeThere)]);
    await sleep(PROBE_SETTLE_MS, signal);
    moved = await migrate(source, target.id, options, signal);
    await sleep(PROBE_SETTLE_MS, signal);
    serviceGapMs = probe.gapMs;
    await probe.settle();
  }
  const after = await wan.bytes();
  const { record, error } = moved;
  if (
    !record?.ok ||
    record.switchTimeMs === null ||
    record.downtimeMs === null ||
    record.totalTimeMs === null
  ) {
    throw failBench('BENCH_RUN', `${error?.code ?? 'no record'}: ${error?.message ?? moved.state}`);
  }
  const limit = limitOfRoundOne(use, record, options.rateMbit);
  await checkArrived(socketsOf(await view(target)), name === 'busy' ? load : undefined);
  const { bytes, rawBytes, pages, blocks, pullLatencyMs, link, peakRssMiB, integrity, vm } = record;
  return {
    scheme: codec,
    case: name,
    run,
    switchTimeMs: record.switchTimeMs,
    downtimeMs: record.downtimeMs,
    totalTimeMs: record.totalTimeMs,
    migratedBytes: bytes.total,
    linkBytes: after.towardsAp + after.towardsCenter - before.towardsAp - before.towardsCenter,
    serviceGapMs,
    ...(link.rttMs === null ? {} : { oneWayDelayMs: link.rttMs / 2 }),
    completedAsPrecopy: record.completedAsPrecopy,
    phases: record.phases,
    pulls: pullLatencyMs,
    overlayBytes: vm.overlayBytes,
    ...(limit ? { limit } : {}),
    loadAverage,
    details: { bytes, rawBytes, pages, blocks, link, peakRssMiB, integrity },
  };
}

/** Round one lasts until all of it has arrived. */
function limitOfRoundOne(
  use: UseSampler,
  { initiatedAtMs, phases, bytes }: MigrationRecord,
  rateMbit: number | undefined,
): Limit | undefined {
  const [first, last] = ['memory pre-copy', 'drain'].map((name) =>
    phases.find((phase) => phase.name === name),
  );
  if (!first || !last) return undefined;
  return use.limit(initiatedAtMs + first.startMs, initiatedAtMs + last.endMs, {
    rateMbit,
    bytes: bytes.roundOne,
  });
}

async function migrate(
  { api }: LabSite,
  to: string,
  { codec, switchBudgetMs }: JourneyOptions,
  signal: AbortSignal,
): Promise<MigrationView> {
  const budget = switchBudgetMs === undefined ? {} : { switchBudgetMs };
  const body = { vm: VM, to, memoryCodec: codec, diskCodec: codec, ...budget };
  let last = await api.json('POST', '/migrations', migrationViewSchema, { body, signal });
  const id = last.migrationId;
  const cancel = (): void => void api.json('DELETE', `/migrations/${id}`, z.unknown()).catch(() => {});
  signal.addEventListener('abort', cancel, { once: true });
  try {
    for await (const next of api.lines(`/migrations/${id}/events`, migrationViewSchema)) last = next;
  } finally {
    signal.removeEventListener('abort', cancel);
  }
  signal.throwIfAborted();
  return last;
}

async function agentOf({ api }: LabSite): Promise<number> {
  return (await api.json('GET', '/status', statusSchema)).pid;
}

async function runtimeDirOf({ api }: LabSite): Promise<string> {
  return (await api.json('GET', '/status', statusSchema)).runtimeDir;
}

const view = (site: LabSite): Promise<VmView> => site.api.json('GET', `/vms/${VM}`, vmViewSchema);

function socketsOf(vm: VmView): { vncSocket: string | undefined; serial1Socket: string } {
  return { vncSocket: vm.vncSocket ?? undefined, serial1Socket: vm.serial1Socket ?? '' };
}

async function gone(site: LabSite, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + GONE_TIMEOUT_MS;
  for (;;) {
    const vms = await site.api.json('GET', '/vms', z.array(vmViewSchema));
    if (!vms.some((vm) => vm.name === VM)) return;
    if (performance.now() > deadlineMs) throw failBench('BENCH_RUN', `the VM is still at ${site.id}`);
    await sleep(100, signal);
  }
}
