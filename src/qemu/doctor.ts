/** What a site needs, looked at one by one. Nothing here throws for a need that is not met: that is the answer. */
import { statfs } from 'node:fs/promises';
import { asCloudapError, errorCode } from '../base/errors.ts';
import { run } from '../base/process.ts';
import type { QemuVersion } from './schemas.ts';
import { type Accelerator, chooseAccelerator } from './accelerator.ts';
import { MAX_SOCKET_PATH_BYTES, MIN_NODE_MAJOR, MIN_QEMU_VERSION } from './constants.ts';
import type { QemuMonitor } from './monitor.ts';
import { type ProbeOptions, probeQemu, tryKvm } from './probe.ts';
import type { QemuProcess } from './process.ts';

export interface Check {
  /** Short and stable: `qemu`, `feature postcopy-ram`, `userfaultfd`. */
  readonly name: string;
  readonly ok: boolean;
  /** What was found. */
  readonly detail: string;
  /** What to do if it is not ok. */
  readonly remedy?: string;
}

/** Migration capabilities and QMP commands that CloudAP cannot do without, and those that it only uses if they are there. */
const NEEDED_CAPABILITIES = ['events', 'return-path', 'postcopy-ram', 'pause-before-switchover'];
const WANTED_CAPABILITIES = ['postcopy-preempt'];
const NEEDED_COMMANDS = ['blockdev-reopen', 'block-commit', 'block-export-add', 'migrate-recover'];

const NEWER_QEMU = 'Install QEMU 7.2 or newer.';
const INSTALL_QEMU = 'Install it: `apt-get install qemu-system-x86 qemu-utils`.';

/** Everything about QEMU, from one or two short-lived QEMUs without a guest. */
export async function checkQemu(options: ProbeOptions = {}): Promise<Check[]> {
  try {
    const ask = async ({ qmp }: QemuProcess): Promise<Check[]> => {
      const { version } = qmp.greeting;
      const old = isOlder(version);
      const detail = versionText({ qemu: version, package: qmp.greeting.package });
      const qemu = { name: 'qemu', ok: !old, detail, ...(old ? { remedy: NEWER_QEMU } : {}) };
      return [qemu, ...(await checkFeatures(qmp))];
    };
    const checks = await probeQemu(['-machine', 'none'], ask, options);
    return [...checks, await checkUserfaultfd(options)];
  } catch (error) {
    const { message, remedy } = asCloudapError(error);
    return [{ name: 'qemu', ok: false, detail: message, remedy }];
  }
}

function versionText({ qemu, package: distribution }: QemuVersion): string {
  const number = `${qemu.major}.${qemu.minor}.${qemu.micro}`;
  return distribution === '' ? number : `${number} (${distribution})`;
}

function isOlder(version: { major: number; minor: number }): boolean {
  const { major, minor } = MIN_QEMU_VERSION;
  return version.major < major || (version.major === major && version.minor < minor);
}

async function checkFeatures(qmp: QemuMonitor): Promise<Check[]> {
  const capabilities = await qmp.queryMigrateCapabilities();
  const commands = await qmp.queryCommands();
  const check = (name: string, there: boolean, needed: boolean): Check => ({
    name: `feature ${name}`,
    ok: there || !needed,
    detail: there ? 'there' : needed ? 'missing' : 'missing, and can be done without',
    ...(there || !needed ? {} : { remedy: NEWER_QEMU }),
  });
  return [
    ...NEEDED_CAPABILITIES.map((name) => check(name, capabilities.has(name), true)),
    ...WANTED_CAPABILITIES.map((name) => check(name, capabilities.has(name), false)),
    ...NEEDED_COMMANDS.map((name) => check(name, commands.has(name), true)),
    check('out-of-band commands', qmp.greeting.capabilities.includes('oob'), true),
  ];
}

/** A QEMU that waits for a migration tries userfaultfd itself when post-copy is switched on (migration/postcopy-ram.c). */
export async function checkUserfaultfd(options: ProbeOptions = {}): Promise<Check> {
  const name = 'userfaultfd';
  try {
    const args = ['-machine', 'none', '-incoming', 'defer'];
    await probeQemu(args, ({ qmp }) => qmp.migrateSetCapabilities({ 'postcopy-ram': true }), options);
    return { name, ok: true, detail: 'a QEMU that waits for a migration can do post-copy' };
  } catch (error) {
    const { message } = asCloudapError(error);
    const refused = errorCode(error) === 'QMP_COMMAND_FAILED';
    const remedy = refused
      ? 'Run the site as root, or `sysctl vm.unprivileged_userfaultfd=1`, or give access to /dev/userfaultfd (QEMU 8.1).'
      : INSTALL_QEMU;
    return { name, ok: false, detail: message, remedy };
  }
}

export async function checkQemuImg(program = 'qemu-img'): Promise<Check> {
  try {
    const { stdout } = await run(program, ['--version'], { timeoutMs: 30_000 });
    const found = /version (\d+)\.(\d+)[^\n]*/.exec(stdout);
    const version = { major: Number(found?.[1]), minor: Number(found?.[2]) };
    const ok = found !== null && !isOlder(version);
    const detail = found?.[0] ?? stdout.slice(0, 100);
    return { name: 'qemu-img', ok, detail, ...(ok ? {} : { remedy: NEWER_QEMU }) };
  } catch (error) {
    return { name: 'qemu-img', ok: false, detail: asCloudapError(error).message, remedy: INSTALL_QEMU };
  }
}

/** Never a failure unless KVM is forced: TCG works everywhere, only slower. */
export async function checkAccelerator(
  wanted: Accelerator | 'auto' = 'auto',
  options: ProbeOptions = {},
): Promise<Check> {
  const name = 'accelerator';
  try {
    const { accelerator, reason } = await chooseAccelerator({ wanted, tryKvm: () => tryKvm(options) });
    return { name, ok: true, detail: `${accelerator}: ${reason}` };
  } catch (error) {
    const { message, remedy } = asCloudapError(error);
    return { name, ok: false, detail: message, remedy };
  }
}

export function checkNode(version = process.versions.node): Check {
  const ok = Number.parseInt(version, 10) >= MIN_NODE_MAJOR;
  const remedy = `Run \`npm run setup\`: it fetches Node ${MIN_NODE_MAJOR}.`;
  return { name: 'node', ok, detail: version, ...(ok ? {} : { remedy }) };
}

/** Space for this user on the file system of an existing path. */
export async function checkDiskSpace(path: string, neededBytes: number): Promise<Check> {
  const name = `disk space ${path}`;
  try {
    const { bavail, bsize } = await statfs(path);
    const freeBytes = bavail * bsize;
    const ok = freeBytes >= neededBytes;
    const detail = `${gib(freeBytes)} GiB free, ${gib(neededBytes)} GiB wanted`;
    return {
      name,
      ok,
      detail,
      ...(ok ? {} : { remedy: 'Free some space, or configure another directory.' }),
    };
  } catch (error) {
    const remedy = 'Create the directory, or configure another.';
    return { name, ok: false, detail: asCloudapError(error).message, remedy };
  }
}

function gib(bytes: number): string {
  return (bytes / 1024 ** 3).toFixed(1);
}

/** Whether sockets with names of up to `longestNameBytes` fit below the runtime directory. */
export function checkRuntimeDir(path: string, longestNameBytes: number): Check {
  const lengthBytes = Buffer.byteLength(path) + 1 + longestNameBytes;
  const ok = path.startsWith('/') && lengthBytes <= MAX_SOCKET_PATH_BYTES;
  const detail = `sockets below ${path} have up to ${lengthBytes} of ${MAX_SOCKET_PATH_BYTES} bytes`;
  const remedy = 'Configure a short, absolute runtime directory, e.g. /run/cloudap.';
  return { name: 'runtime directory', ok, detail, ...(ok ? {} : { remedy }) };
}
