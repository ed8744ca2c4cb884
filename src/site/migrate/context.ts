import type { Logger } from 'pino';
import type { ResidueStore } from '../../content/residue/store.ts';
import type { SiteConfig } from '../config.ts';
import type { SitePaths } from '../paths.ts';
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
  /** Where this site can dial the other's gateway, if it can. */
  dialAddress(site: string): { host: string; port: number } | undefined;
  /** A migration has begun or ended here. */
  onActivity?: () => void;
  /** Aborted when this agent ends: movers then run on, and their end is no longer its business. */
  closing: AbortSignal;
  timeouts: { sourceMoverMs: number; prepareMs: number; callMs: number };
}

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
  const address = dials ? context.dialAddress(peer) : undefined;
  return {
    migrationId,
    vmId,
    siteId: config.id,
    peerSiteId: peer,
    rpcSocket: migration.rpcSocket,
    logPath: migration.logFile,
    recordPath: migration.recordFile,
    link: address
      ? { mode: 'dial' as const, address: { host: address.host, port: address.port }, route: migrationId }
      : { mode: 'listen' as const, socketPath: migration.linkSocket },
    tls: moverTls(config),
    qmpSocket: vm.moverQmp,
    streamSocket: migration.streamSocket,
    ownershipPath: vm.ownershipFile,
    overlayPath: vm.overlay,
  };
}
