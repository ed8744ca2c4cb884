import * as z from 'zod';
import type { VmRecord } from '../../control/messages.ts';
import { createVm, findVm, removeVm, startVm, stopVm } from '../../center/vms.ts';
import { failCenter } from '../../center/errors.ts';
import { vmViewSchema } from '../../site/api/messages.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import { mayAs, owns, type Principal } from '../auth/principal.ts';
import {
  centerVmSchema,
  createCenterVmSchema,
  removedSchema,
  taskViewSchema,
  type CenterVm,
} from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';
import { Tasks } from '../tasks.ts';

export const byReference = z.strictObject({ id: z.string().min(1).max(128) });

/** The VM, if it is the asker's; others' are not there at all. @throws MOVE_VM_UNKNOWN */
export function ownVm({ center }: Portal, principal: Principal, reference: string): VmRecord {
  const vm = findVm(center, reference);
  if (!owns(principal, center.fleet.assignment(vm.vm)?.user)) throw failCenter('MOVE_VM_UNKNOWN', reference);
  return vm;
}

export function vmRoutes(app: App, portal: Portal): void {
  const { center, tasks } = portal;
  const { fleet, follow } = center;
  const view = (vm: VmRecord): CenterVm => ({
    vm,
    assignment: fleet.assignment(vm.vm) ?? null,
    decision: follow.decision(vm.vm) ?? null,
  });
  app.get(
    `${API_PREFIX}/vms`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'One’s own VMs; of an operator all.',
        querystring: pageQuerySchema,
        response: { 200: pageOf(centerVmSchema) },
      },
    },
    ({ principal, query }) => {
      const all = mayAs(principal, 'operator')
        ? fleet.vms()
        : fleet
            .assignedTo(principal.user)
            .map((id) => fleet.vm(id))
            .filter((vm) => vm !== undefined);
      const { items, next } = page(all, ({ vm }) => vm, query);
      return { items: items.map(view), next };
    },
  );
  app.get(
    `${API_PREFIX}/vms/:id`,
    { config: { allow: 'user' }, schema: { params: byReference, response: { 200: centerVmSchema } } },
    ({ principal, params: { id } }) => view(ownVm(portal, principal, id)),
  );
  app.post(
    `${API_PREFIX}/vms`,
    {
      config: { allow: 'operator' },
      schema: {
        description:
          'A task that makes a VM, starts it and assigns it. The same `task` again is the same VM.',
        body: createCenterVmSchema,
        response: { 202: taskViewSchema },
      },
    },
    async (request, reply) => {
      const { task: id = Tasks.newId(), ...wanted } = request.body;
      const task = tasks.start({ id, kind: 'vm', user: request.principal.user }, async (progress) => {
        progress('a host makes it');
        return createVm(center, wanted);
      });
      return reply.code(202).header('location', `${API_PREFIX}/tasks/${id}`).send(task);
    },
  );
  app.post(
    `${API_PREFIX}/vms/:id/start`,
    { config: { allow: 'user' }, schema: { params: byReference, response: { 200: vmViewSchema } } },
    ({ principal, params: { id } }) => startVm(center, ownVm(portal, principal, id)),
  );
  app.post(
    `${API_PREFIX}/vms/:id/stop`,
    {
      config: { allow: 'user' },
      schema: {
        params: byReference,
        body: z.strictObject({ force: z.boolean().default(false) }).nullish(),
        response: { 200: vmViewSchema },
      },
    },
    ({ principal, params: { id }, body }) =>
      stopVm(center, ownVm(portal, principal, id), body?.force ?? false),
  );
  app.delete(
    `${API_PREFIX}/vms/:id`,
    {
      config: { allow: 'operator' },
      schema: { description: 'For good.', params: byReference, response: { 200: removedSchema } },
    },
    async ({ params: { id } }) => {
      const vm = findVm(center, id);
      await removeVm(center, vm);
      return { id: vm.vm, removed: true as const };
    },
  );
}
