import { createHash } from 'node:crypto';
import { constants, accessSync, chmodSync, lstatSync, mkdirSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { SOCKET_PATH_MAX_BYTES, SOCKET_SUFFIX_MAX_BYTES } from './constants.ts';
import { failSite } from './errors.ts';

/** Where sockets go when the configuration does not say: short, and always the same for one data directory. */
export function defaultRuntimeDir(dataDir: string): string {
  const hash = createHash('sha256').update(dataDir).digest('hex').slice(0, 10);
  const uid = process.getuid?.() ?? 0;
  if (uid === 0 && isWritable('/run')) return join('/run/cloudap', hash);
  return join(tmpdir(), `cloudap-${uid}-${hash}`);
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** @throws CONFIG_PATH_TOO_LONG */
export function checkRuntimeDir(runtimeDir: string): void {
  const room = SOCKET_PATH_MAX_BYTES - SOCKET_SUFFIX_MAX_BYTES;
  const bytes = Buffer.byteLength(runtimeDir);
  if (bytes > room) {
    throw failSite('CONFIG_PATH_TOO_LONG', `${runtimeDir} has ${bytes} bytes, ${room} fit`, {
      fields: { runtimeDir, bytes, maximumBytes: room },
    });
  }
}

/**
 * Makes the runtime directory, or checks the one that is there: whoever could write to it could speak to every
 * QEMU of the site. @throws SITE_RUNTIME_DIR
 */
export function makeRuntimeDir(runtimeDir: string): void {
  try {
    mkdirSync(dirname(runtimeDir), { recursive: true });
    mkdirSync(runtimeDir, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
      throw failSite('SITE_RUNTIME_DIR', `${runtimeDir}: ${(error as Error).message}`, { cause: error });
    }
  }
  const found = lstatSync(runtimeDir);
  if (!found.isDirectory()) throw failSite('SITE_RUNTIME_DIR', `${runtimeDir} is not a directory`);
  if (found.uid !== process.getuid?.()) {
    throw failSite('SITE_RUNTIME_DIR', `${runtimeDir} belongs to user ${found.uid}`);
  }
  if ((found.mode & 0o777) !== 0o700) chmodSync(runtimeDir, 0o700);
  for (const name of ['link', 'v', 'm']) mkdirSync(join(runtimeDir, name), { recursive: true, mode: 0o700 });
}

/** Removes the runtime directory if nothing of the site lives there any more: no VM, no migration. */
export function removeRuntimeDir(runtimeDir: string): void {
  for (const name of ['link', 'v', 'm', '']) {
    try {
      rmdirSync(join(runtimeDir, name));
    } catch {
      // it is in use
    }
  }
}

/** Only its user may look in: it holds disks of users and the logs of their guests. */
export function makeDataDir(dataDir: string): void {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
}

/** Every file and socket of a site has its place here and nowhere else. */
export function sitePaths(config: { dataDir: string; runtimeDir: string; imageDir: string }) {
  const { dataDir, runtimeDir, imageDir } = config;
  return {
    dataDir,
    runtimeDir,
    imageDir,
    vmsDir: join(dataDir, 'vms'),
    migrationsDir: join(dataDir, 'migrations'),
    residueDir: join(dataDir, 'residue'),
    templatesDir: join(dataDir, 'templates'),
    /** Sockets of the VM that is being made a template; there is one at a time. */
    templateSockets: join(runtimeDir, 'v', 'template'),
    apiSocket: join(runtimeDir, 'api.sock'),
    /** The gateway splices route NAME to `<linkDir>/NAME.sock`. */
    linkDir: join(runtimeDir, 'link'),
    linkSocket: (route: string) => join(runtimeDir, 'link', `${route}.sock`),
    gatewayLog: join(dataDir, 'gateway.log'),
    vm: (vmId: string) => vmPaths(join(dataDir, 'vms', vmId), join(runtimeDir, 'v', vmId)),
    migration: (migrationId: string) => {
      const files = join(dataDir, 'migrations', migrationId);
      const sockets = join(runtimeDir, 'm', migrationId);
      return {
        /** Present while the migration is under way or needs attention; a restarted agent takes it up from here. */
        activeFile: `${files}.active.json`,
        recordFile: `${files}.json`,
        outcomeFile: `${files}.outcome.json`,
        logFile: `${files}.log`,
        socketDir: sockets,
        rpcSocket: join(sockets, 'rpc.sock'),
        streamSocket: join(sockets, 'stream.sock'),
        nbdSocket: join(sockets, 'nbd.sock'),
        allocationSocket: join(sockets, 'alloc.sock'),
        linkSocket: join(runtimeDir, 'link', `${migrationId}.sock`),
      };
    },
  };
}

export type SitePaths = ReturnType<typeof sitePaths>;
export type VmPaths = ReturnType<typeof vmPaths>;
export type MigrationPaths = ReturnType<SitePaths['migration']>;

/** Files and sockets of one VM. */
export function vmPaths(dir: string, socketDir: string) {
  return {
    dir,
    socketDir,
    vmFile: join(dir, 'vm.json'),
    ownershipFile: join(dir, 'ownership.json'),
    qemuFile: join(dir, 'qemu.json'),
    overlay: join(dir, 'overlay.qcow2'),
    /** Exists only while a migration into this site is under way. */
    top: join(dir, 'top.qcow2'),
    serialLog: join(dir, 'serial.log'),
    qemuLog: join(dir, 'qemu.log'),
    /** Monitor of the agent, and of the mover of a migration. */
    agentQmp: join(socketDir, 'agent.qmp'),
    moverQmp: join(socketDir, 'mover.qmp'),
    vncSocket: join(socketDir, 'vnc.sock'),
    /** First serial port (also logged), and the second, where the guest has one. */
    serialSocket: join(socketDir, 'serial.sock'),
    serial1Socket: join(socketDir, 'serial1.sock'),
    /** What a template saves of the VM, or the VM takes from its template. */
    stateSocket: join(socketDir, 'state.sock'),
  };
}
