import * as z from 'zod';
import { failCenter } from '../../center/errors.ts';
import { sendLines } from '../../site/api/ndjson.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import { mayAs, owns, type Principal } from '../auth/principal.ts';
import { followMove } from '../follow-move.ts';
import { createMoveSchema, moveViewSchema, type MoveAnswer } from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';
import { ownVm } from './vms.ts';

const params = z.strictObject({ id: z.string().regex(/^mig-[0-9a-f]{12}$/) });

/** Moves are tasks of their own: they survive the center, have progress, and can be aborted before their switch. */
export function moveRoutes(app: App, portal: Portal): void {
  const { moves } = portal.center;
  const own = (principal: Principal, id: string): MoveAnswer => {
    const { record, migration } = moves.get(id);
    if (!owns(principal, record.user)) throw failCenter('MOVE_UNKNOWN', id);
    return { record, migration: migration ?? null };
  };
  app.get(
    `${API_PREFIX}/moves`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'The latest first. One’s own VMs’; of an operator all.',
        querystring: pageQuerySchema.extend({ vm: z.string().max(64).optional() }),
        response: { 200: pageOf(moveViewSchema) },
      },
    },
    ({ principal, query }) => {
      const mine = moves
        .list()
        .filter(({ record }) => mayAs(principal, 'operator') || owns(principal, record.user))
        .filter(({ record }) => query.vm === undefined || record.vm === query.vm || record.name === query.vm);
      // the latest first, and as text
      const keyOf = ({ record }: (typeof mine)[number]): string =>
        `${String(1e15 - Math.round(record.requestedAtMs)).padStart(16, '0')} ${record.move}`;
      const { items, next } = page(mine, keyOf, query);
      return {
        items: items.map(({ record, migration }) => ({ record, migration: migration ?? null })),
        next,
      };
    },
  );
  app.get(
    `${API_PREFIX}/moves/:id`,
    { config: { allow: 'user' }, schema: { params, response: { 200: moveViewSchema } } },
    ({ principal, params: { id } }) => own(principal, id),
  );
  app.get(
    `${API_PREFIX}/moves/:id/events`,
    {
      config: { allow: 'user' },
      schema: { description: 'NDJSON: the move at each change, until it has ended.', params },
    },
    (request, reply) => {
      const { id } = request.params;
      own(request.principal, id);
      return sendLines(request, reply, (signal) => followMove(moves, id, signal));
    },
  );
  app.post(
    `${API_PREFIX}/moves`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'Asks for a move. The same `move` again is the same move.',
        body: createMoveSchema,
        response: { 202: moveViewSchema },
      },
    },
    async ({ principal, body }, reply) => {
      const { vm, toSite, toHost, move } = body;
      const found = ownVm(portal, principal, vm);
      const record = await moves.request({
        ...(move === undefined ? {} : { move }),
        vm: found.vm,
        toSite,
        ...(toHost === undefined ? {} : { toHost }),
        user: portal.center.fleet.assignment(found.vm)?.user ?? null,
        cause: 'request',
        reason: `asked for by ${principal.user}`,
      });
      return reply
        .code(202)
        .header('location', `${API_PREFIX}/moves/${record.move}`)
        .send({ record, migration: null });
    },
  );
  app.delete(
    `${API_PREFIX}/moves/:id`,
    {
      config: { allow: 'user' },
      schema: { description: 'Aborts it, before its switch.', params, response: { 200: moveViewSchema } },
    },
    async ({ principal, params: { id } }) => {
      own(principal, id);
      await moves.abort(id, `asked for by ${principal.user}`);
      return own(principal, id);
    },
  );
}
