import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { delimiter, join } from 'node:path';
import { asCloudapError } from '../../base/errors.ts';
import {
  checkAccelerator,
  checkDiskSpace,
  checkNode,
  checkQemu,
  checkQemuImg,
  checkRuntimeDir,
  type Check,
} from '../../qemu/doctor.ts';
import { checkMachine } from '../../qemu/probe.ts';
import { DEFAULT_CPU_MODEL, DEFAULT_MACHINE_TYPE, SOCKET_SUFFIX_MAX_BYTES } from '../../site/constants.ts';
import { defaultRuntimeDir } from '../../site/paths.ts';
import { formatBytes } from './output.ts';

/** A line of `doctor`: what is not `ok` and not `needed` only warns. */
export interface Finding extends Check {
  readonly needed: boolean;
}

/** Room for a guest, its overlay and the files of a build. */
const WANTED_DISK_BYTES = 2 * 1024 ** 3;
/** The demo runs a 512 MiB guest at two sites. */
const WANTED_MEMORY_BYTES = 2 * 1024 ** 3;
/** What builds guests, with the Debian package of each; a site that only imports images does without. */
const builders: readonly (readonly [program: string, debianPackage: string])[] = [
  ['mmdebstrap', 'mmdebstrap'],
  ['busybox', 'busybox-static'],
  ['tcc', 'tcc'],
  ['mke2fs', 'e2fsprogs'],
  ['depmod', 'kmod'],
];

/** One line and, where something is wrong, one remedy each. Starts QEMU a few times without a guest, changes nothing. */
export async function diagnose(directory: string): Promise<Finding[]> {
  const need = (check: Check): Finding => ({ ...check, needed: true });
  const want = (check: Check): Finding => ({ ...check, needed: false });
  const qemu = (await checkQemu()).map(need);
  const machine = await checkDefaultMachine();
  const accelerator = await checkAccelerator();
  const others = await Promise.all([
    checkQemuImg().then(need),
    ...builders.map((entry) => checkProgram(...entry).then(want)),
    checkDiskSpace(directory, WANTED_DISK_BYTES).then(need),
  ]);
  const runtime = checkRuntimeDir(defaultRuntimeDir(directory), SOCKET_SUFFIX_MAX_BYTES);
  return [
    need(checkNode()),
    ...qemu,
    need(machine),
    need(accelerator),
    ...others,
    need(runtime),
    want(memory()),
  ];
}

async function checkDefaultMachine(): Promise<Check> {
  const detail = `${DEFAULT_MACHINE_TYPE} with ${DEFAULT_CPU_MODEL}`;
  try {
    await checkMachine({ machineType: DEFAULT_MACHINE_TYPE, cpuModel: DEFAULT_CPU_MODEL, cpus: 1 }, 'tcg');
    return { name: 'machine', ok: true, detail };
  } catch (error) {
    const remedy = 'Create VMs with a --machine and --cpu that this QEMU knows.';
    return { name: 'machine', ok: false, detail: asCloudapError(error).message, remedy };
  }
}

async function checkProgram(program: string, debianPackage: string): Promise<Check> {
  // a user's PATH lacks the system folders
  const path = `${process.env['PATH'] ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`;
  for (const folder of path.split(delimiter)) {
    try {
      await access(join(folder, program), constants.X_OK);
      return { name: program, ok: true, detail: `${join(folder, program)} (builds guests)` };
    } catch {
      // the next folder
    }
  }
  const remedy = `apt-get install -y --no-install-recommends ${debianPackage}`;
  return { name: program, ok: false, detail: 'missing; guests cannot be built', remedy };
}

function memory(): Check {
  const detail = `${formatBytes(totalmem())}, ${availableParallelism()} CPUs`;
  if (totalmem() >= WANTED_MEMORY_BYTES) return { name: 'memory', ok: true, detail };
  const remedy = 'The demo runs a 512 MiB guest at two sites: close other programs.';
  return { name: 'memory', ok: false, detail, remedy };
}
