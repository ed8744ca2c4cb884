import { loadavg } from 'node:os';
import { z } from 'zod';
import { sleep } from '../../base/async.ts';
import type { Image } from '../../content/images/store.ts';
import type { LabSite, TwoSites } from '../../lab/two-sites.ts';
import {
  type MigrationView,
  migrationViewSchema,
  removedSchema,
  type VmView,
  vmViewSchema,
} from '../../site/api/messages.ts';
import { failBench } from '../kit/errors.ts';
import { checkArrived, type Load, makeReady } from './guest.ts';
import type { BenchCodec, SwitchRun } from './run.ts';
import type { MachineFacts } from './stock.ts';

const VM = 'bench';
/** The source's agent removes what it kept a moment after the record is there. */
const GONE_TIMEOUT_MS = 30_000;

/** What machine a site makes of the image, so that stock QEMU gets the same. */
export async function machineFacts({ center }: TwoSites, image: Image): Promise<MachineFacts> {
  const body = { name: VM, image: image.manifest.digest };
  const { accelerator, machineType, cpuModel } = await center.api.json('POST', '/vms', vmViewSchema, {
    body,
  });
  await center.api.json('DELETE', `/vms/${VM}`, removedSchema);
  return { accelerator: accelerator === 'kvm' ? 'kvm' : 'tcg', machineType, cpuModel };
}

/**
 * Boots a VM at the center, moves it to the CloudAP as a user would, checks it there and removes it. When that fails or
 * is interrupted, its VMs are ended at once: a site that stops gives guests time to shut down.
 */
export async function runOurs(
  lab: TwoSites,
  image: Image,
  options: { codec: BenchCodec; load: Load; run: number },
  signal: AbortSignal,
): Promise<SwitchRun> {
  try {
    return await bootAndMove(lab, image, options, signal);
  } catch (error) {
    for (const { api } of [lab.center, lab.ap]) {
      const body = { force: true };
      await api.json('POST', `/vms/${VM}/stop`, vmViewSchema, { body }).catch(() => {});
    }
    throw error;
  }
}

async function bootAndMove(
  lab: TwoSites,
  image: Image,
  options: { codec: BenchCodec; load: Load; run: number },
  signal: AbortSignal,
): Promise<SwitchRun> {
  const { codec, load, run } = options;
  const { center, ap, wan } = lab;
  const body = { name: VM, image: image.manifest.digest, start: true };
  await center.api.json('POST', '/vms', vmViewSchema, { body, signal });
  await makeReady(image, socketsOf(await view(center)), load, signal);
  const loadAverage = loadavg()[0] ?? 0;
  const before = await wan.bytes();
  const moved = await migrate(lab, codec, signal);
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
  await checkArrived(socketsOf(await view(ap)), load);
  await ap.api.json('POST', `/vms/${VM}/stop`, vmViewSchema, { body: { force: true } });
  await ap.api.json('DELETE', `/vms/${VM}`, removedSchema);
  await gone(center, signal);
  const { bytes, rawBytes, pages, blocks, pullLatencyMs, link, peakRssMiB, integrity, vm } = record;
  return {
    scheme: codec,
    load: load ? 'busy' : 'idle',
    run,
    switchTimeMs: record.switchTimeMs,
    downtimeMs: record.downtimeMs,
    totalTimeMs: record.totalTimeMs,
    migratedBytes: bytes.total,
    linkBytes: after.towardsAp + after.towardsCenter - before.towardsAp - before.towardsCenter,
    completedAsPrecopy: record.completedAsPrecopy,
    phases: record.phases,
    pulls: pullLatencyMs,
    overlayBytes: vm.overlayBytes,
    loadAverage,
    details: { bytes, rawBytes, pages, blocks, link, peakRssMiB, integrity },
  };
}

async function migrate(lab: TwoSites, codec: string, signal: AbortSignal): Promise<MigrationView> {
  const { api } = lab.center;
  const body = { vm: VM, to: lab.ap.id, memoryCodec: codec, diskCodec: codec };
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
