import { type Content, contentOfDisk } from '../../content/pages/store.ts';
import type { SourceMoverConfig } from '../../migration/mover/config.ts';
import { contentOfTemplate } from '../../content/templates/store.ts';
import type { VmDefinition } from '../vm/definition.ts';
import type { MigrateContext } from './context.ts';
import type { MigrationEntry } from './entry.ts';

/**
 * What this site holds of a VM that the other side of its migration may hold too: both list it, and the movers agree on
 * what is the same (by digests). What cannot be found costs bandwidth only.
 */
export async function contentOfVm(
  context: MigrateContext,
  vm: Pick<VmDefinition, 'id' | 'image' | 'template'>,
  { role, peer }: Pick<MigrationEntry['info'], 'role' | 'peer'>,
): Promise<Content[]> {
  const { images, templates } = context.backends;
  const image = await images.find(vm.image).catch(() => undefined);
  const template = vm.template === undefined ? undefined : await templates.find(vm.template);
  const residue = await residueOfVm(context, vm.id, role, peer).catch(() => undefined);
  return [
    ...(image ? [contentOfDisk(image.diskPath)] : []),
    ...(template ? contentOfTemplate(template).map((file) => ({ kind: 'template' as const, ...file })) : []),
    ...(residue ? [residue] : []),
  ];
}

/** Of this very VM only: the target's own residue, of which the source knows the index. */
async function residueOfVm(
  { residue }: MigrateContext,
  vmId: string,
  role: 'source' | 'target',
  peer: string,
): Promise<Content | undefined> {
  if (role === 'target') {
    const own = await residue.find(vmId);
    return own && { kind: 'residue', ...own };
  }
  const indexPath = await residue.heldBy(peer, vmId);
  return indexPath === undefined ? undefined : { kind: 'residue', indexPath };
}

/** Where the mover logs what travels; undefined where this site keeps no residue. */
export async function contentLogFor(
  { residue, log }: MigrateContext,
  entry: MigrationEntry,
): Promise<SourceMoverConfig['contentLog']> {
  try {
    return await residue.logFor(entry.id);
  } catch (err) {
    log.warn({ err, migration: entry.id }, 'what travels is not kept');
    return undefined;
  }
}

/**
 * The migration has ended, and its movers with it: what they logged becomes residue at the source, and at the target the
 * index of it, with which the VM finds its way home. Nothing waits for that, and nothing depends on it. Never rejects.
 */
export async function keepWhatTravelled(context: MigrateContext, entry: MigrationEntry): Promise<void> {
  const { residue, vms } = context;
  const { role, peer, vmId, vmName } = entry.info;
  const log = context.log.child({ migration: entry.id, vm: vmId });
  try {
    if (entry.view().state !== 'completed') return await residue.dropLog(entry.id);
    if (role === 'source') {
      if (!vms.store.has(vmId)) await residue.dropIndexes(vmId);
      const kept = await residue.keep(entry.id, { id: vmId, name: vmName, leftTo: peer });
      if (kept) log.info({ to: peer }, 'residue kept');
    } else if (vms.store.has(vmId)) await residue.keepIndex(entry.id, vmId, peer);
    else await residue.dropLog(entry.id);
  } catch (err) {
    log.warn({ err }, 'residue');
  }
}
