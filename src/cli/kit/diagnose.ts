import { constants } from 'node:fs';
import { access, readFile, statfs } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { delimiter, join } from 'node:path';
import { asCloudapError } from '../../base/errors.ts';
import { DEFAULT_CPU_MODEL, DEFAULT_MACHINE_TYPE } from '../../site/constants.ts';
import { compareVersions } from '../../site/migrate/checks.ts';
import { probeQemu } from '../../site/vm/qemu-facts.ts';
import { formatBytes } from './output.ts';

export interface Finding {
  name: string;
  level: 'ok' | 'warning' | 'problem';
  text: string;
  remedy?: string;
}

const MINIMUM_QEMU = '7.2.0';
const MINIMUM_FREE_BYTES = 2 * 1024 ** 3;
const MINIMUM_MEMORY_BYTES = 2 * 1024 ** 3;
/** Programs beside QEMU, with the Debian package of each. */
const programs: readonly (readonly [program: string, pkg: string, what: string])[] = [
  ['qemu-img', 'qemu-utils', 'disks'],
  ['mmdebstrap', 'mmdebstrap', 'building guests'],
  ['busybox', 'busybox-static', 'building guests'],
  ['tcc', 'tcc', 'building guests'],
  ['mke2fs', 'e2fsprogs', 'building guests'],
  ['depmod', 'kmod', 'building guests'],
];

/** One finding a line, each problem with one remedy. Starts QEMU a few times with `-help`, changes nothing. */
export async function diagnose(directory: string): Promise<Finding[]> {
  const [qemu, tools, faults, disk] = await Promise.all([
    qemuFindings(),
    Promise.all(programs.map(programFinding)),
    userfaultfd(),
    diskSpace(directory),
  ]);
  return [node(), ...qemu, ...tools, faults, disk, machine()];
}

function node(): Finding {
  const text = `Node ${process.version}`;
  const [major = 0] = process.versions.node.split('.').map(Number);
  if (major >= 24) return { name: 'node', level: 'ok', text };
  return {
    name: 'node',
    level: 'problem',
    text,
    remedy: 'Start it as ./cloudap: that installs and uses the pinned Node.',
  };
}

async function qemuFindings(): Promise<Finding[]> {
  try {
    const facts = await probeQemu('auto');
    const { version, accelerator, acceleratorReason } = facts;
    const machine =
      facts.machineTypes.has(DEFAULT_MACHINE_TYPE) &&
      facts.cpuModels.has(DEFAULT_CPU_MODEL.split(',')[0] ?? '');
    return [
      compareVersions(version, MINIMUM_QEMU) >= 0
        ? { name: 'qemu', level: 'ok', text: `QEMU ${version}` }
        : {
            name: 'qemu',
            level: 'problem',
            text: `QEMU ${version} is older than 7.2`,
            remedy: 'Use Debian 12 or newer, or install a newer QEMU.',
          },
      machine
        ? { name: 'machine', level: 'ok', text: `${DEFAULT_MACHINE_TYPE} with ${DEFAULT_CPU_MODEL}` }
        : {
            name: 'machine',
            level: 'problem',
            text: `no ${DEFAULT_MACHINE_TYPE} or ${DEFAULT_CPU_MODEL}`,
            remedy: 'Create VMs with --machine and --cpu that this QEMU knows.',
          },
      accelerator === 'kvm'
        ? { name: 'accelerator', level: 'ok', text: `kvm: ${acceleratorReason}` }
        : {
            name: 'accelerator',
            level: 'warning',
            text: `tcg: ${acceleratorReason}`,
            remedy: 'Works, only slower; on hardware with virtualisation: modprobe kvm_intel or kvm_amd.',
          },
    ];
  } catch (error) {
    const { message } = asCloudapError(error);
    return [
      {
        name: 'qemu',
        level: 'problem',
        text: message,
        remedy: 'apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils',
      },
    ];
  }
}

async function programFinding([program, pkg, what]: readonly [string, string, string]): Promise<Finding> {
  const path = `${process.env['PATH'] ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`;
  for (const folder of path.split(delimiter)) {
    try {
      await access(join(folder, program), constants.X_OK);
      return { name: program, level: 'ok', text: `${join(folder, program)} (${what})` };
    } catch {
      // the next folder
    }
  }
  const level = what === 'disks' ? 'problem' : 'warning';
  return {
    name: program,
    level,
    text: `missing (${what})`,
    remedy: `apt-get install -y --no-install-recommends ${pkg}`,
  };
}

/** Post-copy needs it: QEMU learns of a missing page through userfaultfd(2). */
async function userfaultfd(): Promise<Finding> {
  const name = 'userfaultfd';
  const remedy = 'sysctl -w vm.unprivileged_userfaultfd=1, or run the site as root.';
  if (process.getuid?.() === 0) return { name, level: 'ok', text: 'usable (root)' };
  const setting = await readFile('/proc/sys/vm/unprivileged_userfaultfd', 'utf8').catch(() => '');
  if (setting.trim() === '1') return { name, level: 'ok', text: 'usable (vm.unprivileged_userfaultfd = 1)' };
  const device = await access('/dev/userfaultfd', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (device)
    return {
      name,
      level: 'warning',
      text: 'only through /dev/userfaultfd, which QEMU 7.2 does not use',
      remedy,
    };
  return { name, level: 'problem', text: 'not usable by this user: no post-copy into this site', remedy };
}

async function diskSpace(directory: string): Promise<Finding> {
  const { bavail, bsize } = await statfs(directory);
  const text = `${formatBytes(bavail * bsize)} free in ${directory}`;
  if (bavail * bsize >= MINIMUM_FREE_BYTES) return { name: 'disk', level: 'ok', text };
  return {
    name: 'disk',
    level: 'problem',
    text,
    remedy: 'Free some space: a guest, its overlay and build files need 2 GiB.',
  };
}

function machine(): Finding {
  const text = `${formatBytes(totalmem())}, ${availableParallelism()} CPUs`;
  if (totalmem() >= MINIMUM_MEMORY_BYTES) return { name: 'memory', level: 'ok', text };
  return {
    name: 'memory',
    level: 'warning',
    text,
    remedy: 'The demo runs a 512 MiB guest at two sites: close other programs.',
  };
}
