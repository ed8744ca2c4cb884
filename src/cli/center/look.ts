import type { Command } from 'commander';
import * as z from 'zod';
import {
  centerStatusSchema,
  centerVmSchema,
  deviceViewSchema,
  hostViewSchema,
  moveViewSchema,
  userListSchema,
} from '../../center/api/messages.ts';
import { siteRecordSchema } from '../../control/messages.ts';
import { centerClient, type CenterOptions } from '../kit/center-client.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { printJson, table } from '../kit/output.ts';

/** A command that asks for something and prints it: as JSON, or as a table of `rows`. */
function look<T>(
  name: string,
  summary: string,
  path: string,
  schema: z.ZodType<T>,
  rows: (answer: T) => string[][],
): (context: CliContext) => Command {
  return (context) =>
    command(name, summary, `cloudap center ${name}`).action(
      action(context, async (options: CenterOptions) => {
        const answer = await centerClient(options).json('GET', path, schema);
        if (options.json) return printJson(context.output, answer);
        const [head = [], ...lines] = rows(answer);
        context.output.out(table(head, lines));
        return EXIT_OK;
      }),
    );
}

export const status = look('status', 'what the center has and does', '/status', centerStatusSchema, (s) => [
  ['center', 'sites', 'hosts', 'vms', 'moves'],
  [s.id, `${s.sites}`, `${s.hosts.alive} of ${s.hosts.alive + s.hosts.silent}`, `${s.vms}`, `${s.moves}`],
]);

export const hosts = look('hosts', 'the hosts of all sites', '/hosts', z.array(hostViewSchema), (all) => [
  ['host', 'site', 'state', 'vms', 'memory MiB', 'cpu', 'images'],
  ...all.map(({ host, site: at, alive, heartbeat: { capacity, used, cpuLoad }, inventory }) => [
    host,
    at,
    alive ? 'alive' : 'silent',
    `${used.vms}/${capacity.vms}`,
    `${used.memoryMiB}/${capacity.memoryMiB}`,
    `${Math.round(100 * cpuLoad)} %`,
    `${inventory?.images.length ?? 0}`,
  ]),
]);

export const sites = look('sites', 'the sites', '/sites', z.array(siteRecordSchema), (all) => [
  ['site', 'tier', 'placement', 'label'],
  ...all.map(({ site: id, tier, strategy, label }) => [id, tier, strategy, label]),
]);

export const vms = look('vms', 'where each VM is, and why', '/vms', z.array(centerVmSchema), (all) => [
  ['vm', 'user', 'site', 'host', 'status', 'why'],
  ...all.map(({ vm: { name, site: at, host, status: state }, assignment, decision }) => [
    name,
    assignment?.user ?? '',
    at,
    host,
    state,
    decision?.reason ?? '',
  ]),
]);

export const devices = look(
  'devices',
  'devices and their users',
  '/devices',
  z.array(deviceViewSchema),
  (all) => [['device', 'user'], ...all.map(({ device: id, user }) => [id, user])],
);

export const users = look('users', 'where users are', '/users', userListSchema, (all) => [
  ['user', 'site', 'device', 'since'],
  ...all.map(({ user, site: at, device: id, sinceMs }) => [
    user,
    at ?? 'nowhere',
    id,
    new Date(sinceMs).toISOString(),
  ]),
]);

export const moves = look(
  'moves',
  'moves under way, then the latest',
  '/moves',
  z.array(moveViewSchema),
  (all) => [
    ['move', 'vm', 'from', 'to', 'state', 'switch ms', 'of it before', 'why'],
    ...all.map(({ record: r }) => [
      r.move,
      r.name,
      r.from.host,
      r.to.host ?? r.to.site,
      r.state,
      r.figures ? `${Math.round(r.figures.switchTimeMs)}` : '',
      `${r.figures?.overheadMs ?? ''}`,
      r.error?.message ?? r.reason,
    ]),
  ],
);
