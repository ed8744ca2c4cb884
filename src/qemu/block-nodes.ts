import { NBD_OPEN_TIMEOUT_S, NBD_RECONNECT_DELAY_S } from './constants.ts';
import type { BlockdevOptions } from './monitor.ts';
import { checkPath, checkSocketPath } from './socket-path.ts';

/**
 * Node names of a VM's disk. A VM that runs where it is at home:
 *
 *     disk0 -> cow (qcow2) -> cow-file
 *               `-backing-> base (raw | qcow2) -> base-file
 *
 * A VM that has arrived and still synchronises:
 *
 *     disk0 -> top (qcow2) -> top-file
 *               `-backing-> cow (qcow2, read-only) -> cow-nbd (the mover's NBD server)
 *                            `-backing-> base -> base-file
 *
 * The NBD node has a name of its own, so that after pivot and commit names and shape are those of the first picture,
 * and the next migration starts as the first one did.
 */
export const NODE = {
  base: 'base',
  baseFile: 'base-file',
  cow: 'cow',
  cowFile: 'cow-file',
  cowNbd: 'cow-nbd',
  top: 'top',
  topFile: 'top-file',
} as const;

/** The device that the guest's disk hangs on (`-device id=`). */
export const DISK_DEVICE = 'disk0';

export interface BaseImage {
  readonly path: string;
  readonly format: 'raw' | 'qcow2';
}

/**
 * `drop-cache: false`: otherwise QEMU, when it activates images at the switch, drops the page cache of every file,
 * which was 33 of 42 ms of downtime (DESIGN 3.1).
 */
function fileNode(name: string, path: string, extra: Readonly<Record<string, unknown>>): BlockdevOptions {
  return { driver: 'file', 'node-name': name, filename: checkPath(path), 'drop-cache': false, ...extra };
}

/** `backing: null` and no `data-file`: an image cannot lead QEMU to other files of the host by what its header says. */
export function baseNodes(base: BaseImage): BlockdevOptions[] {
  return [
    fileNode(NODE.baseFile, base.path, { 'read-only': true }),
    {
      driver: base.format,
      'node-name': NODE.base,
      file: NODE.baseFile,
      'read-only': true,
      ...(base.format === 'qcow2' ? { backing: null } : {}),
    },
  ];
}

/** The writable overlay of a VM at home, on `base`, or alone if it has none. */
export function cowNodes(path: string, hasBase: boolean): BlockdevOptions[] {
  return [
    fileNode(NODE.cowFile, path, { discard: 'unmap' }),
    {
      driver: 'qcow2',
      'node-name': NODE.cow,
      file: NODE.cowFile,
      backing: hasBase ? NODE.base : null,
      discard: 'unmap',
    },
  ];
}

/** The local file that takes the NBD node's place. It turns writable by itself when the commit needs it. */
export function arrivedFileNode(path: string): BlockdevOptions {
  return fileNode(NODE.cowFile, path, { discard: 'unmap', 'auto-read-only': true });
}

/** `cow` of a target, read-only, over the given file node. For `-blockdev` and for `blockdev-reopen` alike. */
export function arrivingCowNode(file: string, hasBase: boolean): BlockdevOptions {
  return {
    driver: 'qcow2',
    'node-name': NODE.cow,
    file,
    backing: hasBase ? NODE.base : null,
    discard: 'unmap',
    'read-only': true,
    'auto-read-only': true,
  };
}

export interface NbdOverlay {
  readonly socketPath: string;
  readonly exportName?: string;
  /** How long reads wait for a server that went away. Default: NBD_RECONNECT_DELAY_S. */
  readonly reconnectDelayS?: number;
}

/** `cow` over the mover's NBD server and `top` that takes the guest's writes. */
export function incomingNodes(nbd: NbdOverlay, topPath: string, hasBase: boolean): BlockdevOptions[] {
  return [
    {
      driver: 'nbd',
      'node-name': NODE.cowNbd,
      server: { type: 'unix', path: checkSocketPath(nbd.socketPath) },
      export: nbd.exportName ?? '',
      'read-only': true,
      'reconnect-delay': nbd.reconnectDelayS ?? NBD_RECONNECT_DELAY_S,
      'open-timeout': NBD_OPEN_TIMEOUT_S,
    },
    arrivingCowNode(NODE.cowNbd, hasBase),
    fileNode(NODE.topFile, topPath, { discard: 'unmap' }),
    { driver: 'qcow2', 'node-name': NODE.top, file: NODE.topFile, backing: NODE.cow, discard: 'unmap' },
  ];
}
