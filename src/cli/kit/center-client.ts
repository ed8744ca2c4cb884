import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { loadCenterConfig } from '../../center/config.ts';
import { localPortal, remotePortal } from '../../portal/client.ts';
import type { ApiClient } from '../../site/api/client.ts';
import { readLogin } from './login-file.ts';
import { failUsage } from './output.ts';

export interface CenterOptions {
  centerConfig?: string;
  json?: boolean;
}

/** Adds the option that says which center to talk to. */
export function withCenter(cmd: Command): Command {
  return cmd.addOption(
    new Option(
      '--center-config <file>',
      'the center to talk to, by its configuration, on its machine (default: where `cloudap login` was)',
    ).env('CLOUDAP_CENTER'),
  );
}

/** @throws USAGE, CONFIG_* */
export async function centerClient(options: CenterOptions): Promise<ApiClient> {
  if (options.centerConfig)
    return localPortal(centerSocket(loadCenterConfig(options.centerConfig).runtimeDir));
  const login = await readLogin();
  if (!login)
    throw failUsage(
      'USAGE',
      'which center? Give --center-config FILE, set CLOUDAP_CENTER, or log in (`cloudap login`)',
    );
  return remotePortal(login);
}

export const centerSocket = (runtimeDir: string): string => join(runtimeDir, 'center.sock');
