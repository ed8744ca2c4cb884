import type { Command } from 'commander';
import * as z from 'zod';
import { CloudapError, errorCode } from '../../base/errors.ts';
import { fail } from '../../content/staging/errors.ts';
import type { ApiClient } from '../../site/api/client.ts';
import { type Push, type PushView, pushViewSchema } from '../../site/api/push-messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from './command.ts';
import { EXIT_OK } from './constants.ts';
import { failUsage, formatBytes, formatMs, printJson, table } from './output.ts';
import { bar, ProgressLine } from './progress.ts';

const WORDS: Readonly<Record<PushView['state'], string>> = {
  preparing: 'asking the target',
  connecting: 'connecting',
  sending: 'sending',
  verifying: 'verifying',
  completed: 'there',
  cancelled: 'cancelled',
  failed: 'failed',
};

interface Options extends SiteOptions {
  to?: string;
  ls?: boolean;
  json?: boolean;
}

/** `push` of one kind of artefact. */
export function pushCommand(
  context: CliContext,
  about: { kind: Push['kind']; summary: string; example: string },
): Command {
  const { kind, summary, example } = about;
  return withSite(command('push', summary, example))
    .argument(`[${kind}]`, `name, digest or beginning of a digest of one of this site`)
    .option('--to <site>', 'the site to bring it to, as `cloudap site ls` names it')
    .option('--ls', 'list the pushes of this site, running and past')
    .action(
      action(context, async (what: string | undefined, options: Options) => {
        const api = apiClient(options);
        if (options.ls) return listPushes(context, api, kind, options);
        if (what === undefined || options.to === undefined)
          throw failUsage('USAGE', `${kind} push needs its name and --to SITE (or --ls)`);
        return push(context, api, { kind, what, to: options.to }, options);
      }),
    );
}

/** Starts a push and shows it until it ends. Ctrl-C cancels it; what has arrived stays, for the next attempt. */
async function push(
  context: CliContext,
  api: ApiClient,
  request: Push,
  options: { json?: boolean },
): Promise<number> {
  const { output } = context;
  const started = await api.json('POST', '/pushes', pushViewSchema, { body: request });
  const path = `/pushes/${encodeURIComponent(started.pushId)}`;
  const line = new ProgressLine(output);
  const onSignal = (): void => {
    line.update('cancelling …');
    api.json('DELETE', path, pushViewSchema).catch((error: unknown) => {
      if (errorCode(error) !== 'STAGE_ENDED') line.done((error as Error).message);
    });
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  let last = started;
  try {
    for await (const view of api.lines(`${path}/events`, pushViewSchema)) {
      last = view;
      if (view.active) line.update(progressText(view));
    }
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    line.clear();
  }
  if (last.active) throw fail('STAGE_PROCESS', 'the agent ended; push again, it goes on where it was');
  if (options.json) printJson(output, last);
  const { error } = last;
  if (error) throw new CloudapError(error.code, error.message, error.remedy, { fields: error.fields });
  if (!options.json) output.out(summaryText(last));
  return EXIT_OK;
}

async function listPushes(
  context: CliContext,
  api: ApiClient,
  kind: PushView['kind'],
  options: { json?: boolean },
): Promise<number> {
  const views = (await api.json('GET', '/pushes', z.array(pushViewSchema))).filter(
    (view) => view.kind === kind,
  );
  if (options.json) {
    printJson(context.output, views);
    return EXIT_OK;
  }
  const rows = views.map((view) => [
    view.pushId,
    view.name,
    view.role === 'source' ? `to ${view.peer}` : `from ${view.peer}`,
    view.error ? `${view.state} (${view.error.code})` : view.state,
    `${Math.floor(100 * fraction(view))} %`,
    new Date(view.startedAtMs).toISOString(),
  ]);
  context.output.out(table(['PUSH', 'NAME', 'PEER', 'STATE', 'DONE', 'STARTED'], rows));
  return EXIT_OK;
}

function fraction({ progress, state }: PushView): number {
  if (state === 'completed') return 1;
  return progress ? progress.doneBytes / Math.max(1, progress.totalBytes) : 0;
}

function progressText(view: PushView): string {
  const { progress } = view;
  const held = progress?.paused ? 'waits for a migration' : undefined;
  const state = view.link === 'cut' ? 'link is cut' : (held ?? WORDS[view.state]);
  if (!progress) return `${view.name}: ${state}`;
  const rate = progress.rateMbit === null ? '' : ` ${progress.rateMbit.toFixed(0)} Mbit/s`;
  const bytes = `${formatBytes(progress.doneBytes)} of ${formatBytes(progress.totalBytes)}`;
  return `${view.name}: ${state} ${bar(fraction(view))} ${bytes}, ${formatBytes(progress.wireBytes)} sent${rate}`;
}

function summaryText({ name, digest, peer, present, progress, startedAtMs, endedAtMs }: PushView): string {
  const what = `${name} ${digest.slice(0, 16)}`;
  if (present || !progress) return `${what} is at ${peer} already\n`;
  const { totalBytes, resumedBytes, wireBytes } = progress;
  const before = resumedBytes > 0 ? `, ${formatBytes(resumedBytes)} of it was there` : '';
  const took = formatMs((endedAtMs ?? startedAtMs) - startedAtMs);
  return `${what} is at ${peer}: ${formatBytes(totalBytes)}${before}, ${formatBytes(wireBytes)} sent in ${took}\n`;
}
