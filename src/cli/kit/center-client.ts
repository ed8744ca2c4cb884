import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { loadCenterConfig } from '../../center/config.ts';
import { ApiClient } from '../../site/api/client.ts';
import { failUsage } from './output.ts';

export interface CenterOptions {
  centerConfig?: string;
  json?: boolean;
}

/** Adds the option that says which center to talk to. */
export function withCenter(cmd: Command): Command {
  return cmd.addOption(
    new Option('--center-config <file>', 'the center to talk to, by its configuration').env('CLOUDAP_CENTER'),
  );
}

/** @throws USAGE, CONFIG_* */
export function centerClient(options: CenterOptions): ApiClient {
  if (!options.centerConfig)
    throw failUsage('USAGE', 'which center? Give --center-config FILE, or set CLOUDAP_CENTER');
  return new ApiClient(centerSocket(loadCenterConfig(options.centerConfig).runtimeDir));
}

export const centerSocket = (runtimeDir: string): string => join(runtimeDir, 'center.sock');
