import type { Command } from 'commander';
import { sleep } from '../../base/async.ts';
import {
  drainViewSchema,
  moveViewSchema,
  rebalancedSchema,
  type DrainAnswer,
  type MoveAnswer,
} from '../../portal/messages.ts';
import { centerClient, type CenterOptions } from '../kit/center-client.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { EXIT_FAILED, EXIT_OK } from '../kit/constants.ts';
import { failUsage, printJson, table } from '../kit/output.ts';

/** A drain that is waited for is looked at this often. */
const DRAIN_POLL_MS = 500;

export function moves(context: CliContext): Command {
  return command('moves', 'moves under way, then the latest; or all of one', 'cloudap center moves')
    .argument('[move]', 'its id')
    .action(
      action(context, async (id: string | undefined, options: CenterOptions) => {
        const client = await centerClient(options);
        if (id !== undefined) {
          const one = await client.json('GET', `/moves/${encodeURIComponent(id)}`, moveViewSchema);
          if (options.json) return printJson(context.output, one);
          context.output.out(table(['move', one.record.move], described(one)));
          return EXIT_OK;
        }
        const all = await client.all('/moves', moveViewSchema);
        if (options.json) return printJson(context.output, all);
        const lines = all.map(({ record: r }) => [
          r.move,
          r.name,
          r.from.host,
          r.to.host ?? r.to.site,
          r.state,
          r.figures ? `${Math.round(r.figures.switchTimeMs)}` : '',
          r.error ? `${r.reason}; ${r.error.message}` : r.reason,
        ]);
        context.output.out(table(['move', 'vm', 'from', 'to', 'state', 'switch ms', 'why'], lines));
        return EXIT_OK;
      }),
    );
}

function described({ record: r, migration }: MoveAnswer): string[][] {
  const time = (ms: number | null): string => (ms === null ? '' : new Date(ms).toISOString());
  const ms = (value: number | undefined): string => (value === undefined ? '' : `${Math.round(value)} ms`);
  const lines = [
    ['vm', r.name],
    ['user', r.user ?? ''],
    ['from', `${r.from.site}/${r.from.host}`],
    ['to', `${r.to.site}/${r.to.host ?? ''}`],
    ['state', migration?.active ? `${r.state}, ${migration.state}` : r.state],
    ['cause', r.cause],
    ['why there', r.reason],
    ['why that host', r.hostReason ?? ''],
    ['asked for', time(r.requestedAtMs)],
    ['begun', time(r.startedAtMs)],
    ['ended', time(r.endedAtMs)],
    ['switch time', ms(r.figures?.switchTimeMs)],
    ['of it before its host was told', ms(r.figures?.overheadMs ?? undefined)],
    ['downtime', ms(r.figures?.downtimeMs)],
    ['total time', ms(r.figures?.totalTimeMs)],
    ['error', r.error ? `${r.error.code}: ${r.error.message}` : ''],
    ['remedy', r.error?.remedy ?? ''],
  ];
  return lines.filter(([, value]) => value !== '');
}

export function rebalance(context: CliContext): Command {
  return command(
    'rebalance',
    'even out the hosts of a site by moving VMs between them',
    'cloudap center rebalance ap1 --dry-run',
  )
    .argument('<site>', 'its id')
    .option('--dry-run', 'only say what would be moved')
    .action(
      action(context, async (site: string, options: CenterOptions & { dryRun?: boolean }) => {
        const body = { dryRun: options.dryRun === true };
        const path = `/sites/${encodeURIComponent(site)}/rebalance`;
        const plan = await (await centerClient(options)).json('POST', path, rebalancedSchema, { body });
        if (options.json) return printJson(context.output, plan);
        if (plan.length === 0) context.output.out(`${site}: nothing would gain by a move\n`);
        else {
          const lines = plan.map(({ name, from, to, move, problem, reason }) => [
            name,
            from,
            to,
            move?.move ?? problem ?? '',
            reason,
          ]);
          context.output.out(table(['vm', 'from', 'to', 'move', 'why'], lines));
        }
        return plan.some(({ problem }) => problem !== null) ? EXIT_FAILED : EXIT_OK;
      }),
    );
}

export function drain(context: CliContext): Command {
  return command(
    'drain',
    'give a host no VM any more, and have those that it has leave; waits until they have',
    'cloudap center drain ap1/ap1-h1',
  )
    .argument('<site/host>', 'the host')
    .option('--no-wait', 'return at once')
    .action(
      action(context, async (host: string, options: CenterOptions & { wait: boolean }) => {
        const client = await centerClient(options);
        const path = drainPath(host);
        let view = await client.json('PUT', path, drainViewSchema);
        let said = '';
        while (options.wait && view.draining && view.left.some(({ status }) => status !== 'stopped')) {
          const text = remaining(view);
          if (text !== said && !options.json) context.output.out(text);
          said = text;
          await sleep(DRAIN_POLL_MS);
          view = await client.json('GET', path, drainViewSchema);
        }
        if (options.json) return printJson(context.output, view);
        context.output.out(view.left.length === 0 ? `${view.host} is empty\n` : remaining(view));
        return EXIT_OK;
      }),
    );
}

export function undrain(context: CliContext): Command {
  return command('undrain', 'let a host take VMs again', 'cloudap center undrain ap1/ap1-h1')
    .argument('<site/host>', 'the host')
    .action(
      action(context, async (host: string, options: CenterOptions) => {
        const view = await (await centerClient(options)).json('DELETE', drainPath(host), drainViewSchema);
        if (options.json) return printJson(context.output, view);
        context.output.out(`${view.host} takes VMs\n`);
        return EXIT_OK;
      }),
    );
}

/** @throws USAGE */
function drainPath(text: string): string {
  const [site = '', host = '', ...rest] = text.split('/');
  if (site === '' || host === '' || rest.length > 0)
    throw failUsage('USAGE', `${text} is not SITE/HOST, e.g. ap1/ap1-h1`);
  return `/sites/${encodeURIComponent(site)}/hosts/${encodeURIComponent(host)}/drain`;
}

const remaining = ({ host, left }: DrainAnswer): string =>
  `${host} has ${left.length}: ${left.map(({ name, move, why }) => `${name} (${move ?? why ?? ''})`).join(', ')}\n`;
