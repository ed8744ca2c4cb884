import * as z from 'zod';
import type { Center } from './center.ts';
import { placedSchema, type VmRecord } from '../control/messages.ts';
import { request } from '../control/requests.ts';
import { hostSubject, siteSubject } from '../control/subjects.ts';
import { vmViewSchema, type VmView } from '../site/api/messages.ts';
import { newVmId } from '../site/ids.ts';
import { VM_CREATE_TIMEOUT_MS, VM_REQUEST_TIMEOUT_MS } from './constants.ts';
import { failCenter } from './errors.ts';

export interface NewVm {
  readonly name: string;
  readonly user: string;
  /** Where it is made, and where it is while its user is nowhere; by default the center. */
  readonly homeSite?: string | undefined;
  /** One of both. */
  readonly image?: string | undefined;
  readonly template?: string | undefined;
  readonly memoryMiB?: number | undefined;
  readonly cpus?: number | undefined;
  readonly follow?: boolean;
}

/** By id or name. @throws MOVE_VM_UNKNOWN */
export function findVm({ fleet }: Center, reference: string): VmRecord {
  const vm = fleet.findVm(reference);
  if (!vm) throw failCenter('MOVE_VM_UNKNOWN', reference);
  return vm;
}

/** @throws CONTROL_*, what the host answers */
export async function startVm({ plane }: Center, { vm, host }: VmRecord): Promise<VmView> {
  const subject = hostSubject(host, 'vm-start');
  return request(plane.connection, subject, { vm }, vmViewSchema, { timeoutMs: VM_REQUEST_TIMEOUT_MS });
}

/** @throws CONTROL_*, what the host answers */
export async function stopVm({ plane }: Center, { vm, host }: VmRecord, force: boolean): Promise<VmView> {
  const subject = hostSubject(host, 'vm-stop');
  return request(plane.connection, subject, { vm, force }, vmViewSchema, {
    timeoutMs: VM_REQUEST_TIMEOUT_MS,
  });
}

/** For good. @throws CONTROL_*, what the host answers */
export async function removeVm({ plane }: Center, { vm, host }: VmRecord): Promise<void> {
  await request(plane.connection, hostSubject(host, 'vm-remove'), { vm }, z.unknown());
  await plane.buckets.assignments.remove(vm);
}

/** Reserves a host of the home site, has the VM made there, and notes whose it is. */
export async function createVm({ config, fleet, plane }: Center, wanted: NewVm): Promise<VmView> {
  const { name, user, homeSite = config.id, follow = true, image, template, memoryMiB, cpus } = wanted;
  if (!fleet.site(homeSite)) throw failCenter('MOVE_SITE_UNKNOWN', homeSite);
  if (fleet.findVm(name)?.name === name) throw failCenter('VM_NAME_IN_USE', name);
  const vm = newVmId();
  // hosts know images by name and digest; what is to be reserved is known once it is resolved there
  const digest = image ?? template ?? '';
  const host = await placeNew({ fleet, plane }, homeSite, vm, digest, memoryMiB ?? 0, cpus ?? 1);
  try {
    const made = await request(
      plane.connection,
      hostSubject(host, 'vm-create'),
      {
        vm,
        name,
        ...(image === undefined ? {} : { image }),
        ...(template === undefined ? {} : { template }),
        ...(memoryMiB === undefined ? {} : { memoryMiB }),
        ...(cpus === undefined ? {} : { cpus }),
      },
      vmViewSchema,
      { id: vm, timeoutMs: VM_CREATE_TIMEOUT_MS },
    );
    const createdAtMs = Date.now();
    await plane.buckets.assignments.put(vm, { version: 1, vm, name, user, homeSite, follow, createdAtMs });
    return made;
  } finally {
    await request(plane.connection, siteSubject(homeSite, 'release'), { id: vm, host }, z.unknown()).catch(
      () => {},
    );
  }
}

async function placeNew(
  { fleet, plane }: Pick<Center, 'fleet' | 'plane'>,
  site: string,
  vm: string,
  image: string,
  memoryMiB: number,
  cpus: number,
): Promise<string> {
  const digest = /^[0-9a-f]{64}$/.test(image) ? image : undefined;
  if (digest === undefined) {
    // by name: any host that is alive and roomy; it says itself if it does not have the image
    const [host] = fleet
      .hosts(site)
      .filter(({ alive, draining }) => alive && !draining)
      .toSorted((a, b) => free(b) - free(a));
    if (!host) throw failCenter('SITE_HAS_NO_HOST', site);
    return host.host;
  }
  const place = { id: vm, vm, cpus, memoryMiB, diskMiB: 0, accelerator: null, image: digest };
  return (await request(plane.connection, siteSubject(site, 'place'), place, placedSchema)).host;
}

const free = ({
  heartbeat,
}: {
  heartbeat: { capacity: { memoryMiB: number }; used: { memoryMiB: number } };
}) => heartbeat.capacity.memoryMiB - heartbeat.used.memoryMiB;
