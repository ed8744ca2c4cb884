import type { ControlAddress } from '../control/connect.ts';
import { formatAddress } from '../site/config-text.ts';
import type { ControlConfig } from '../site/config.ts';

/** Where and as whom an agent connects. */
export function controlAddress(
  control: ControlConfig,
  files: { ca: string; cert: string; key: string },
): ControlAddress {
  const servers = control.servers.map(formatAddress);
  const { nats, center } = control;
  if (!nats) return { servers, tls: { files, server: center } };
  const { user, password, token } = nats;
  return {
    servers,
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(token === undefined ? {} : { token }),
  };
}
