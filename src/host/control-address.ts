import type { ControlAddress } from '../control/connect.ts';
import { formatAddress } from '../site/config-text.ts';
import type { ControlConfig } from '../site/config.ts';
import type { TlsMaterial } from '../link/tls.ts';

/** Where and as whom an agent connects. */
export function controlAddress(control: ControlConfig, material: TlsMaterial): ControlAddress {
  const servers = control.servers.map(formatAddress);
  const { nats, center } = control;
  if (!nats) return { servers, tls: { material, server: center } };
  const { user, password, token } = nats;
  return {
    servers,
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(token === undefined ? {} : { token }),
  };
}
