import { join } from 'node:path';
import type { Logger } from 'pino';
import type * as z from 'zod';
import type { presenceSchema } from '../config.ts';
import { dhcpSource } from './dhcp.ts';
import { hostapdSource } from './hostapd.ts';
import type { PresenceSource } from './source.ts';
import { webSource } from './web.ts';

type Address = { host: string; port: number };
export type PresenceConfig = z.output<ReturnType<typeof presenceSchema<z.ZodType<Address>>>>;

/** The sources that a CloudAP's configuration names. */
export function configuredSources(
  config: PresenceConfig,
  site: { dataDir: string; ca: string; center: string; log: Logger },
): PresenceSource[] {
  const dir = join(site.dataDir, 'presence');
  const { hostapd, dhcp, web } = config;
  return [
    ...hostapd.map((one) => hostapdSource({ dir, ...one })),
    ...(dhcp ? [dhcpSource({ dir, leases: dhcp.leases })] : []),
    ...(web
      ? [
          webSource({
            listen: web.listen,
            portal: web.portal ? { ca: site.ca, center: site.center } : undefined,
            mec: web.mec,
            log: site.log,
          }),
        ]
      : []),
  ];
}
