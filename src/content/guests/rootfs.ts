import { chmod, copyFile, mkdir, readdir, rm, stat, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { assetPath } from './assets.ts';
import { GUEST_EPOCH_S } from './constants.ts';
import { fail } from './errors.ts';
import { makeExt4 } from './ext4.ts';
import type { PackageIndex } from './packages.ts';
import type { DebianRecipe } from './recipe.ts';
import { type BuildCall, runStep } from './steps.ts';

/** Lets Debian's /bin, /sbin and /lib be links into /usr from the start, whichever release it is. */
const MERGED_USR_HOOK = '/usr/share/mmdebstrap/hooks/maybe-merged-usr';

/** Files of packages that a guest with one application never opens (patterns of dpkg's path-exclude). */
const EXCLUDED_PATHS = [
  '/usr/share/doc/*',
  '/usr/share/man/*',
  '/usr/share/info/*',
  '/usr/share/locale/*',
  '/usr/share/lintian/*',
  '/usr/share/bug/*',
  '/usr/share/help/*',
  '/usr/share/gtk-doc/*',
  '/usr/share/gnome/help/*',
  '/usr/share/gir-1.0/*',
  '/usr/share/icons/Adwaita/cursors/*',
  '/usr/share/icons/Adwaita/[1-9]*x[1-9]*/*',
  '/usr/share/icons/Adwaita/scalable-up-to-32/*',
  '/usr/lib/x86_64-linux-gnu/libLLVM*',
  '/usr/lib/x86_64-linux-gnu/libz3.so*',
  '/usr/lib/x86_64-linux-gnu/dri/*',
  '/usr/lib/udev/hwdb.d/*',
];

/** Emptied or removed afterwards: what is particular to the build or the building machine, and what nobody reads. */
const EMPTIED_FOLDERS = [
  'dev',
  'var/cache/apt',
  'var/lib/apt/lists',
  'var/log',
  'etc/apt/sources.list.d',
  'tmp',
  'run',
];
const REMOVED = [
  'etc/apt/apt.conf.d/99mmdebstrap',
  'etc/apt/sources.list',
  'usr/lib/udev/hwdb.bin',
  'etc/hostname',
];

/**
 * Makes the raw disk of a Debian guest at `paths.disk`: the file system, then a tail of zeros for the workload.
 * @throws GUEST_UNPRIVILEGED, GUEST_STEP, GUEST_TOOL
 */
export async function buildDebianDisk(
  recipe: DebianRecipe,
  index: PackageIndex,
  paths: { readonly scratch: string; readonly workload: string; readonly disk: string },
  call: BuildCall,
): Promise<void> {
  const archive = join(paths.scratch, 'root.tar');
  const root = join(paths.scratch, 'root');
  await debootstrap(recipe, index, archive, paths.scratch, call);
  call.onProgress?.({ step: 'disk', detail: 'unpacking' });
  await mkdir(root);
  const unpack = ['-x', '-p', '--no-same-owner', '--exclude=./dev/*', '-C', root, '-f', archive];
  await runStep('tar', unpack, { signal: call.signal });
  await rm(archive);
  await tidy(root);
  for (const { asset, path, mode } of recipe.install) {
    await place(asset === 'workload' ? paths.workload : assetPath(asset), join(root, path), mode);
  }
  call.onProgress?.({ step: 'disk', detail: 'file system' });
  await makeExt4(root, paths.disk, recipe.filesystemBytes, call.signal);
  await truncate(paths.disk, recipe.filesystemBytes + recipe.tailBytes);
}

async function debootstrap(
  recipe: DebianRecipe,
  index: PackageIndex,
  target: string,
  scratch: string,
  call: BuildCall,
): Promise<void> {
  const isRoot = process.getuid?.() === 0;
  if (!isRoot) await checkUserNamespaces(call.signal);
  const aptOptions = [
    'APT::Install-Recommends "false"',
    'Acquire::Languages "none"',
    'Acquire::Retries "3"',
    ...index.transport,
  ];
  const args = [
    '--variant=essential',
    '--format=tar',
    '--verbose',
    `--mode=${isRoot ? 'root' : 'unshare'}`,
    `--hook-dir=${MERGED_USR_HOOK}`,
    `--include=${recipe.packages.join(',')}`,
    '--dpkgopt=force-unsafe-io',
    ...aptOptions.map((option) => `--aptopt=${option}`),
    ...EXCLUDED_PATHS.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
    index.codename,
    target,
    index.sourceFile,
  ];
  const progress = new InstallProgress(call);
  await runStep('mmdebstrap', args, {
    signal: call.signal,
    // In a user namespace its root is another user, who must be able to reach the folder: not below a private one.
    env: { SOURCE_DATE_EPOCH: String(GUEST_EPOCH_S), ...(isRoot ? { TMPDIR: scratch } : {}) },
    onLine: (line) => progress.hear(line),
  });
}

/** @throws GUEST_UNPRIVILEGED */
async function checkUserNamespaces(signal: AbortSignal | undefined): Promise<void> {
  try {
    await runStep('mmdebstrap', ['--unshare-helper', 'true'], { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw fail('GUEST_UNPRIVILEGED', '', { cause });
  }
}

/** Each package is fetched, unpacked and set up: apt's and dpkg's lines about these three make the fraction. */
class InstallProgress {
  readonly #call: BuildCall;
  #packages = 0;
  #events = 0;

  constructor(call: BuildCall) {
    this.#call = call;
  }

  hear(line: string): void {
    this.#packages += Number(/(\d+) newly installed/.exec(line)?.[1] ?? 0);
    if (!/^(Get:\d|Unpacking |Setting up )/.test(line)) return;
    this.#events += 1;
    const fraction = this.#packages > 0 ? Math.min(1, this.#events / (3 * this.#packages)) : 0;
    this.#call.onProgress?.({ step: 'rootfs', fraction, detail: line.slice(0, 100) });
  }
}

async function tidy(root: string): Promise<void> {
  for (const folder of EMPTIED_FOLDERS) {
    for (const entry of await readdir(join(root, folder)).catch(() => [] as string[])) {
      await rm(join(root, folder, entry), { recursive: true, force: true });
    }
  }
  for (const file of REMOVED) await rm(join(root, file), { force: true });
  const info = join(root, 'var/lib/dpkg/info');
  for (const file of await readdir(info)) if (file.endsWith('.md5sums')) await rm(join(info, file));
}

/** Copies a file into the tree. The parents exist in any Debian, or are made. */
async function place(from: string, to: string, mode: number): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  if (await stat(to).catch(() => undefined)) throw fail('GUEST_STEP', `${to} is there already`);
  await copyFile(from, to);
  await chmod(to, mode);
}
