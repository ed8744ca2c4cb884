import { writeFile } from 'node:fs/promises';
import { Option, type Command } from 'commander';
import * as z from 'zod';
import { CloudapError, errorCode } from '../base/errors.ts';
import { failMigrate } from '../site/errors.ts';
import { migrationViewSchema, type Migrate, type MigrationView } from '../site/api/messages.ts';
import type { ApiClient } from '../site/api/client.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { budgetOf, parseBudgetMs } from './kit/duration.ts';
import { MigrationDisplay, summary } from './kit/migration-display.ts';
import { failUsage, formatMs, printJson, table } from './kit/output.ts';

interface Options extends SiteOptions {
  to?: string;
  scheme: 'hybrid';
  memoryCodec?: 'raw' | 'rle' | 'zstd' | 'content';
  diskCodec?: 'raw' | 'rle' | 'zstd' | 'content';
  switchBudget?: number | 'none';
  cancel?: string;
  takeBack?: string;
  follow?: string;
  ls?: boolean;
  json?: boolean | string;
}

const codecs = ['raw', 'rle', 'zstd', 'content'];

export default function migrate(context: CliContext): Command {
  const cmd = withSite(
    command(
      'migrate',
      'move a running VM to another site, while it runs',
      'cloudap migrate desk --to ap1 --site-config center/site.yaml',
    ),
  );
  // here --json takes a file for the record; without one it goes to stdout
  const options = cmd.options as Option[];
  options.splice(
    options.findIndex((option) => option.long === '--json'),
    1,
  );
  return cmd
    .argument('[vm]', 'name or id of a VM that runs at this site')
    .option('--to <site>', 'the site to move it to, as `cloudap site ls` names it')
    .addOption(
      new Option('--scheme <scheme>', 'hybrid: memory once ahead, the rest and the disk afterwards')
        .choices(['hybrid'])
        .default('hybrid'),
    )
    .addOption(
      new Option(
        '--memory-codec <codec>',
        'how pages travel (default: as the site’s configuration says)',
      ).choices(codecs),
    )
    .addOption(
      new Option(
        '--disk-codec <codec>',
        'how disk blocks travel (default: as the site’s configuration says)',
      ).choices(codecs),
    )
    .option(
      '--switch-budget <time>',
      'switch after about this long (500ms, 2s), whatever of the memory has gone: the rest follows, and the VM waits where it needs it; `none`: send all of it first (default: as soon as the VM would wait for little, which depends on the link)',
      parseBudgetMs,
    )
    .option('--follow <id>', 'show a migration that is under way, by its id')
    .option('--cancel <id>', 'cancel a migration that has not switched yet')
    .option(
      '--take-back <id>',
      'the target is lost after the switch: the VM goes on here as it was when it was stopped (what it did there is lost)',
    )
    .option('--ls', 'list the migrations of this site, running and past')
    .option('--json [file]', 'write the migration record as JSON (to stdout without a file)')
    .action(
      action(context, async (vm: string | undefined, options: Options) => {
        const api = apiClient(options);
        if (options.ls) return list(context, api, options);
        if (options.cancel !== undefined) return cancel(context, api, options.cancel, options);
        if (options.takeBack !== undefined) return takeBack(context, api, options.takeBack, options);
        if (options.follow !== undefined) return follow(context, api, options.follow, options);
        if (vm === undefined || options.to === undefined) {
          throw failUsage(
            'USAGE',
            'migrate needs a VM and --to SITE (or --follow, --cancel, --take-back, --ls)',
          );
        }
        const body: Migrate = {
          vm,
          to: options.to,
          scheme: options.scheme,
          ...(options.memoryCodec ? { memoryCodec: options.memoryCodec } : {}),
          ...(options.diskCodec ? { diskCodec: options.diskCodec } : {}),
          ...budgetOf(options.switchBudget),
        };
        const { migrationId } = await api.json('POST', '/migrations', migrationViewSchema, { body });
        return follow(context, api, migrationId, options);
      }),
    );
}

/** Shows a migration until it ends. Ctrl-C cancels it while that can be; afterwards only the display ends. */
async function follow(context: CliContext, api: ApiClient, id: string, options: Options): Promise<number> {
  const { output } = context;
  const display = new MigrationDisplay(output);
  const detach = new AbortController();
  const onSignal = (): void => void interrupt(api, id, display, detach);
  process.on('SIGINT', onSignal);
  let last: MigrationView | undefined;
  try {
    for await (const view of api.lines(
      `/migrations/${encodeURIComponent(id)}/events`,
      migrationViewSchema,
      detach.signal,
    )) {
      last = view;
      display.show(view);
    }
  } catch (error) {
    if (!detach.signal.aborted) throw error;
  } finally {
    process.off('SIGINT', onSignal);
    display.close();
  }
  if (detach.signal.aborted) return EXIT_OK;
  return conclude(context, last, options);
}

async function interrupt(
  api: ApiClient,
  id: string,
  display: MigrationDisplay,
  detach: AbortController,
): Promise<void> {
  display.note('cancelling …');
  try {
    await api.json('DELETE', `/migrations/${encodeURIComponent(id)}`, migrationViewSchema);
  } catch (error) {
    const why =
      errorCode(error) === 'MIGRATE_TOO_LATE'
        ? 'the VM runs at the target already'
        : (error as Error).message;
    if (errorCode(error) === 'MIGRATE_ENDED') return;
    display.note(`${why}; the migration goes on without this display: cloudap migrate --follow ${id}`);
    detach.abort();
  }
}

async function conclude(
  context: CliContext,
  view: MigrationView | undefined,
  options: Options,
): Promise<number> {
  if (!view) throw failMigrate('MIGRATE_FAILED', 'the agent ended without telling the result');
  const { record, error } = view;
  if (record && typeof options.json === 'string')
    await writeFile(options.json, `${JSON.stringify(record, null, 2)}\n`);
  else if (options.json === true) printJson(context.output, record ?? view);
  if (error) throw new CloudapError(error.code, error.message, error.remedy, { fields: error.fields });
  if (options.json !== true) context.output.out(record ? summary(record) : `${view.vmName}: ${view.state}\n`);
  return EXIT_OK;
}

async function cancel(context: CliContext, api: ApiClient, id: string, options: Options): Promise<number> {
  const view = await api.json('DELETE', `/migrations/${encodeURIComponent(id)}`, migrationViewSchema);
  if (options.json === true) printJson(context.output, view);
  else context.output.out(`${id} ${view.state}: ${view.vmName} goes on at the source\n`);
  return EXIT_OK;
}

async function takeBack(context: CliContext, api: ApiClient, id: string, options: Options): Promise<number> {
  const path = `/migrations/${encodeURIComponent(id)}/take-back`;
  const view = await api.json('POST', path, migrationViewSchema);
  if (options.json === true) printJson(context.output, view);
  else
    context.output.out(
      `${view.vmName} goes on here; make sure that it does not run at ${view.peer} any more\n`,
    );
  return EXIT_OK;
}

async function list(context: CliContext, api: ApiClient, options: Options): Promise<number> {
  const views = await api.json('GET', '/migrations', z.array(migrationViewSchema));
  if (options.json === true) {
    printJson(context.output, views);
    return EXIT_OK;
  }
  const rows = views.map((view) => [
    view.migrationId,
    view.vmName,
    view.role === 'source' ? `to ${view.peer}` : `from ${view.peer}`,
    view.error ? `${view.state} (${view.error.code})` : view.state,
    new Date(view.initiatedAtMs).toISOString(),
    formatMs(view.record?.downtimeMs ?? null),
    formatMs(view.record?.totalTimeMs ?? null),
  ]);
  context.output.out(table(['MIGRATION', 'VM', 'PEER', 'STATE', 'STARTED', 'DOWNTIME', 'TOTAL'], rows));
  return EXIT_OK;
}
