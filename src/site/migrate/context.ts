import type { Logger } from 'pino';
import type * as z from 'zod';
import type { ResidueStore } from '../../content/residue/store.ts';
import type { RelayAddress } from '../../link/relay/listen.ts';
import type { linkConfigSchema } from '../../migration/mover/config.ts';
import type { SiteConfig } from '../config.ts';
import type { SitePaths } from '../paths.ts';
import type { PeerAddress } from '../peers.ts';
import type { PeerRpc, SiteBackends } from '../ports.ts';
import { moverTls } from '../tls.ts';
import type { VmManager } from '../vm/manager.ts';

/** What both sides of a migration need of their site. */
export interface MigrateContext {
  config: SiteConfig;
  paths: SitePaths;
  backends: SiteBackends;
  vms: VmManager;
  residue: ResidueStore;
  log: Logger;
  /** The agent of another site. @throws SITE_UNKNOWN, SITE_NOT_CONNECTED */
  peer(site: string): PeerRpc;
  /** What this site dials to reach the other, if it can: the other's gateway, or one that relays. */
  dialAddress(site: string): PeerAddress | undefined;
  /** The gateway through which the other reaches this site, if it cannot reach ours. */
  relayFor(site: string): RelayAddress | undefined;
  /** A migration has begun or ended here. */
  onActivity?: () => void;
  /** Aborted when this agent ends: movers then run on, and their end is no longer its business. */
  closing: AbortSignal;
  timeouts: { sourceMoverMs: number; prepareMs: number; callMs: number };
}

/** How a process of this site has its link to one of another site. */
export function linkTo(
  context: Pick<MigrateContext, 'dialAddress' | 'relayFor'>,
  peer: string,
  dials: boolean,
  { route, socketPath }: { route: string; socketPath: string },
): z.infer<typeof linkConfigSchema> {
  const address = dials ? context.dialAddress(peer) : undefined;
  if (address) return { mode: 'dial', address, route };
  return { mode: 'listen', socketPath, relay: context.relayFor(peer) };
}

/** Whether this site's processes can be reached by those of the other, if they do not dial them. */
export const canListenFor = (context: Pick<MigrateContext, 'config' | 'relayFor'>, peer: string): boolean =>
  context.config.link.listen !== undefined || context.relayFor(peer) !== undefined;

/** The fields that both movers' configurations share. */
export function commonMoverConfig(
  context: MigrateContext,
  migrationId: string,
  vmId: string,
  peer: string,
  dials: boolean,
) {
  const { config } = context;
  const migration = context.paths.migration(migrationId);
  const vm = context.paths.vm(vmId);
  return {
    migrationId,
    vmId,
    siteId: config.id,
    peerSiteId: peer,
    rpcSocket: migration.rpcSocket,
    logPath: migration.logFile,
    recordPath: migration.recordFile,
    link: linkTo(context, peer, dials, { route: migrationId, socketPath: migration.linkSocket }),
    tls: moverTls(config),
    qmpSocket: vm.moverQmp,
    streamSocket: migration.streamSocket,
    ownershipPath: vm.ownershipFile,
    overlayPath: vm.overlay,
  };
}
