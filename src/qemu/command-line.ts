import {
  type BaseImage,
  baseNodes,
  cowNodes,
  DISK_DEVICE,
  incomingNodes,
  NODE,
  type NbdOverlay,
} from './block-nodes.ts';
import { TCG_TB_SIZE_MIB } from './constants.ts';
import { fail } from './errors.ts';
import { diskGeometry, type MachineSpec } from './machine-spec.ts';
import type { BlockdevOptions } from './monitor.ts';
import { checkPath, checkSocketPath } from './socket-path.ts';

/** Places of one VM at this site. All absolute; sockets lie in a directory of mode 0700. */
export interface QemuPaths {
  /** QMP monitor of the site agent. */
  readonly qmpSocket: string;
  /** QMP monitor of a migration's mover. */
  readonly moverSocket: string;
  /** Needed with `display: 'vga'`. */
  readonly vncSocket?: string | undefined;
  readonly pidFile?: string | undefined;
  /** First serial port: what the guest prints goes to a log file, a socket, or both. */
  readonly serialLog?: string | undefined;
  readonly serialSocket?: string | undefined;
  /** Second serial port's socket; without it the port, if the guest has one, leads nowhere. */
  readonly serial1Socket?: string | undefined;
  readonly kernel?: string | undefined;
  readonly initrd?: string | undefined;
}

export type QemuDisk =
  | { readonly mode: 'normal'; readonly base: BaseImage | undefined; readonly overlayPath: string }
  | {
      readonly mode: 'incoming';
      readonly base: BaseImage | undefined;
      readonly overlay: NbdOverlay;
      readonly topPath: string;
    };

/** A file that is the guest's memory. It is made if it is not there; otherwise its length must be the memory's. */
export interface MemoryFile {
  readonly path: string;
  /**
   * True: what the guest writes goes to the file. False: the file is only read, pages that the guest writes are its
   * own (copy-on-write), and all that it does not write is in memory once for all VMs of this file.
   */
  readonly shared: boolean;
}

export interface QemuOptions {
  readonly spec: MachineSpec;
  /** Shown in process lists. */
  readonly name: string;
  readonly paths: QemuPaths;
  readonly accelerator: 'kvm' | 'tcg';
  /** Must be there if and only if the spec has a disk. */
  readonly disk?: QemuDisk | undefined;
  /** Map the guest's memory from this file instead of making it anonymous. */
  readonly memoryFile?: MemoryFile | undefined;
  /** Wait for a migration (`-incoming defer`) instead of starting the guest. Implied by an incoming disk. */
  readonly incoming?: boolean | undefined;
  /** Do not start the guest before `cont`. */
  readonly paused?: boolean | undefined;
  /** seccomp filter: no new privileges, no other programs. Default: true. */
  readonly sandbox?: boolean | undefined;
  readonly tbSizeMiB?: number | undefined;
  /** For experiments only (`-trace`, `-d`): not part of the machine. */
  readonly extraArgs?: readonly string[] | undefined;
}

/** One `head,key=value,…` option (the head may be empty); QEMU wants a comma inside a value doubled (util/qemu-option.c). */
export function optionText(
  head: string,
  values: Readonly<Record<string, string | number | boolean | undefined>>,
): string {
  const parts = head === '' ? [] : [escapeComma(head)];
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const text = typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value);
    parts.push(`${key}=${escapeComma(text)}`);
  }
  return parts.join(',');
}

function escapeComma(text: string): string {
  return text.replaceAll(',', ',,');
}

/**
 * QEMU's arguments for a VM. Everything that the guest can see comes from the spec, with fixed PCI addresses, so
 * that every site builds the same machine.
 * @throws QEMU_SPEC_INVALID (spec and paths do not fit), QEMU_BAD_PATH, QEMU_SOCKET_PATH_TOO_LONG
 */
export function qemuArguments(options: QemuOptions): string[] {
  const { spec, paths, disk } = options;
  const incoming = options.incoming === true || disk?.mode === 'incoming';
  return [
    '-no-user-config',
    '-nodefaults',
    '-name',
    // its threads say in process lists which of them are the guest's processors
    optionText('', { guest: options.name, 'debug-threads': 'on' }),
    ...(options.sandbox === false
      ? []
      : ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny']),
    ...machine(options),
    ...monitor('qmp', paths.qmpSocket),
    ...monitor('mover', paths.moverSocket),
    ...serialPorts(spec, paths),
    ...display(spec, paths),
    ...directBoot(spec, paths),
    ...diskArguments(spec, disk),
    ...(paths.pidFile === undefined ? [] : ['-pidfile', checkPath(paths.pidFile)]),
    ...(incoming ? ['-incoming', 'defer'] : []),
    ...(options.paused ? ['-S'] : []),
    ...(options.extraArgs ?? []),
  ];
}

/**
 * The block of memory has the same name, the object's id, whatever it is made of: so a VM whose memory began as a file
 * moves to a target with anonymous memory. The target's must be that, for userfaultfd knows no private mapping of a file.
 */
function memory({ spec, memoryFile }: QemuOptions): string {
  const common = { id: 'ram', size: `${spec.memoryMiB}M` };
  if (!memoryFile) return optionText('memory-backend-ram', common);
  const { path, shared } = memoryFile;
  return optionText('memory-backend-file', { ...common, 'mem-path': checkPath(path), share: shared });
}

function machine(options: QemuOptions): string[] {
  const { spec, accelerator, tbSizeMiB = TCG_TB_SIZE_MIB } = options;
  const accel = accelerator === 'tcg' ? optionText('tcg', { 'tb-size': tbSizeMiB }) : 'kvm';
  return [
    ['-object', memory(options)],
    ['-machine', optionText(spec.machineType, { 'memory-backend': 'ram' })],
    ['-accel', accel],
    // The model's commas separate its flags; the schema lets nothing else through. Without `enforce` QEMU would
    // leave out what this host lacks, and the guest would find another CPU after a migration.
    ['-cpu', `${spec.cpuModel},enforce`],
    ['-smp', String(spec.cpus)],
    ['-m', `${spec.memoryMiB}M`],
    ['-uuid', spec.uuid],
  ].flat();
}

function socketChardev(id: string, path: string, log?: string): string[] {
  return [
    '-chardev',
    optionText('socket', {
      id,
      path: checkSocketPath(path),
      server: true,
      wait: false,
      ...(log === undefined ? {} : { logfile: checkPath(log), logappend: true }),
    }),
  ];
}

function monitor(id: string, path: string): string[] {
  return [...socketChardev(id, path), '-mon', optionText('', { chardev: id, mode: 'control' })];
}

function serialPorts(spec: MachineSpec, paths: QemuPaths): string[] {
  const first = paths.serialSocket
    ? socketChardev('serial0', paths.serialSocket, paths.serialLog)
    : paths.serialLog
      ? ['-chardev', optionText('file', { id: 'serial0', path: checkPath(paths.serialLog), append: true })]
      : ['-chardev', 'null,id=serial0'];
  const args = [...first, '-serial', 'chardev:serial0'];
  if (spec.serialPorts === 1) return args;
  const second = paths.serial1Socket
    ? socketChardev('serial1', paths.serial1Socket)
    : ['-chardev', 'null,id=serial1'];
  return [...args, ...second, '-serial', 'chardev:serial1'];
}

function display(spec: MachineSpec, paths: QemuPaths): string[] {
  const args = ['-display', 'none'];
  if (spec.input === 'tablet') args.push('-device', 'virtio-tablet-pci,id=tablet0,addr=0x4');
  if (spec.display === 'none') return args;
  if (paths.vncSocket === undefined) throw fail('QEMU_SPEC_INVALID', 'a display needs a VNC socket');
  args.push('-device', 'VGA,id=vga0,addr=0x2,vgamem_mb=16');
  args.push('-vnc', optionText(`unix:${checkSocketPath(paths.vncSocket)}`, {}));
  return args;
}

function directBoot(spec: MachineSpec, paths: QemuPaths): string[] {
  const boot = spec.directBoot;
  if (!boot) return [];
  if (paths.kernel === undefined) throw fail('QEMU_SPEC_INVALID', `no path for the kernel ${boot.kernel}`);
  const args = ['-kernel', checkPath(paths.kernel)];
  if (boot.initrd !== undefined) {
    if (paths.initrd === undefined) throw fail('QEMU_SPEC_INVALID', `no path for the initrd ${boot.initrd}`);
    args.push('-initrd', checkPath(paths.initrd));
  }
  return boot.commandLine === '' ? args : [...args, '-append', boot.commandLine];
}

function diskArguments(spec: MachineSpec, disk: QemuDisk | undefined): string[] {
  if (spec.diskBytes === null) {
    if (disk) throw fail('QEMU_SPEC_INVALID', 'a disk for a machine that has none');
    return [];
  }
  if (!disk) throw fail('QEMU_SPEC_INVALID', 'no disk for a machine that has one');
  const hasBase = disk.base !== undefined;
  const nodes: BlockdevOptions[] = [
    ...(disk.base ? baseNodes(disk.base) : []),
    ...(disk.mode === 'normal'
      ? cowNodes(disk.overlayPath, hasBase)
      : incomingNodes(disk.overlay, disk.topPath, hasBase)),
  ];
  const { cylinders, heads, sectors } = diskGeometry(spec.diskBytes);
  const device = optionText('virtio-blk-pci', {
    id: DISK_DEVICE,
    addr: '0x3',
    drive: disk.mode === 'normal' ? NODE.cow : NODE.top,
    cyls: cylinders,
    heads,
    secs: sectors,
    bootindex: 1,
    // A guest never sees an error of the way its data takes: it stops, and goes on when that is mended.
    rerror: 'stop',
    werror: 'stop',
  });
  return [...nodes.flatMap((node) => ['-blockdev', JSON.stringify(node)]), '-device', device];
}
