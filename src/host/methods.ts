import { method, type Method } from '../control/requests.ts';
import { asCloudapError } from '../base/errors.ts';
import type { Site } from '../site/site.ts';
import {
  connectSchema,
  type Connect,
  migrateSchema,
  migrationSchema,
  type screenshotSchema,
  vmCreateSchema,
  vmRequestSchema,
  vmStopSchema,
  type VmCreate,
} from './messages.ts';
import type * as z from 'zod';

/** What a host does when asked over the control plane. `changed` is called when its VMs may look different. */
export function hostMethods(
  site: Site,
  reach: { connect: (host: string) => Promise<void>; asked: (ask: Connect) => Promise<void> },
  changed: () => void,
): Readonly<Record<string, Method>> {
  const view = async (id: string): Promise<unknown> => site.view(site.vms.store.get(id));
  const afterwards = async <T>(work: Promise<T>): Promise<T> => work.finally(changed);
  return {
    'vm-create': method(vmCreateSchema, (params) => afterwards(createVm(site, params))),
    'vm-get': method(vmRequestSchema, ({ vm }) => view(vm)),
    'vm-start': method(vmRequestSchema, async ({ vm }) => {
      const stored = site.vms.store.get(vm);
      // asked for a second time it runs already, which is what was asked for
      if (!site.vms.qemu(stored)) await afterwards(site.vms.start(stored));
      return view(vm);
    }),
    'vm-stop': method(vmStopSchema, async ({ vm, force }) => {
      const stored = site.vms.store.get(vm);
      if (site.vms.qemu(stored)) await afterwards(site.vms.stop(stored, { force }));
      return view(vm);
    }),
    'vm-remove': method(vmRequestSchema, async ({ vm }) => {
      if (site.vms.store.has(vm)) await afterwards(site.vms.remove(site.vms.store.get(vm)));
      return { removed: true };
    }),
    'vm-screenshot': method(vmRequestSchema, async ({ vm }): Promise<z.infer<typeof screenshotSchema>> => {
      const png = await site.vms.screenshot(site.vms.store.get(vm));
      return { png: png.toString('base64') };
    }),
    migrate: method(migrateSchema, async ({ move, vm, to, initiatedAtMs }) => {
      const known = await site.migrations.get(move).catch(() => undefined);
      if (known) return known;
      await reach.connect(to);
      return afterwards(site.migrations.start({ vm, to }, { initiatedAtMs, migrationId: move }));
    }),
    connect: method(connectSchema, async (ask) => {
      await reach.asked(ask);
      return { done: true };
    }),
    migration: method(migrationSchema, ({ move }) => site.migrations.get(move)),
    'migration-cancel': method(migrationSchema, async ({ move }) => {
      try {
        return await afterwards(site.migrations.cancel(move));
      } catch (error) {
        if (asCloudapError(error).code !== 'MIGRATE_ENDED') throw error;
        return site.migrations.get(move);
      }
    }),
  };
}

async function createVm(site: Site, params: VmCreate): Promise<unknown> {
  const { vm: id, name, image, template, ...machine } = params;
  const { vms } = site;
  if (!vms.store.has(id)) {
    if (template === undefined) await vms.create({ ...machine, id, name, image: image ?? '' });
    else await vms.createFromTemplate(name, template, id);
  }
  const stored = vms.store.get(id);
  if (!vms.qemu(stored)) await vms.start(stored);
  return site.view(stored);
}
