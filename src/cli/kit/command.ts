import { Command, Option } from 'commander';
import { loadConfig, type SiteConfig } from '../../site/config.ts';
import { sitePaths } from '../../site/paths.ts';
import { ApiClient } from '../../site/api/client.ts';
import { EXIT_OK } from './constants.ts';
import type { CliContext } from './context.ts';
import { failUsage, reportError } from './output.ts';

export type { CliContext } from './context.ts';

export interface SiteOptions {
  siteConfig?: string;
  socket?: string;
}

/** A command with an example in its help, and `--json`. */
export function command(name: string, summary: string, example: string): Command {
  return new Command(name)
    .description(summary)
    .option('--json', 'print JSON instead of text')
    .showHelpAfterError('`--help` behind the command lists its options.')
    .addHelpText('after', `\nExample:\n  ${example}`);
}

/** Adds the options that say which site's agent to talk to. */
export function withSite(cmd: Command): Command {
  return cmd
    .addOption(
      new Option('--site-config <file>', 'the site to talk to, by its configuration').env('CLOUDAP_CONFIG'),
    )
    .option('--socket <path>', 'the site to talk to, by its API socket');
}

/** Wraps the work of a command: its errors are printed once, with their remedy, and become the exit code. */
export function action<Args extends unknown[]>(
  context: CliContext,
  work: (...args: Args) => Promise<number | undefined | void>,
): (...args: Args) => Promise<void> {
  return async (...args) => {
    const cmd = args.at(-1) as Command;
    try {
      context.setExitCode((await work(...args)) ?? EXIT_OK);
    } catch (error) {
      context.setExitCode(
        reportError(context.output, error, cmd.opts<{ json?: boolean | string }>().json === true),
      );
    }
  };
}

/** @throws USAGE when nothing says which site, CONFIG_* */
export function apiClient(options: SiteOptions): ApiClient {
  if (options.socket !== undefined) return new ApiClient(options.socket);
  return new ApiClient(sitePaths(siteConfig(options)).apiSocket);
}

/** @throws USAGE, CONFIG_* */
export function siteConfig(options: SiteOptions): SiteConfig {
  if (options.siteConfig === undefined || options.siteConfig === '') {
    throw failUsage('USAGE', 'which site? Give --site-config FILE or --socket PATH, or set CLOUDAP_CONFIG');
  }
  return loadConfig(options.siteConfig);
}

/** A whole number within limits, for an option's value. @throws USAGE */
export function wholeNumber(option: string, minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum || value > maximum) {
      throw failUsage('USAGE', `${option} takes a whole number from ${minimum} to ${maximum}, not "${text}"`);
    }
    return value;
  };
}
