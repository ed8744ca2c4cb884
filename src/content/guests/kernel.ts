import { copyFile, mkdir, readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { fail } from './errors.ts';
import { moduleClosure } from './modules.ts';
import type { PackageIndex, PackageVersion } from './packages.ts';
import { type BuildCall, runStep } from './steps.ts';

/** The kernel for virtual machines: small, virtio only; the package is a pointer to the current version. */
const KERNEL_META_PACKAGE = 'linux-image-cloud-amd64';

export interface Kernel {
  readonly path: string;
  /** Modules in load order, uncompressed, under the names that they get in the initial RAM disk. */
  readonly modules: readonly { readonly name: string; readonly data: Buffer }[];
}

/** The package that holds the current kernel image. @throws GUEST_PACKAGE */
export async function kernelPackage(index: PackageIndex, signal?: AbortSignal): Promise<PackageVersion> {
  const [meta] = await index.lookup([KERNEL_META_PACKAGE], signal);
  const name = /(linux-image-[0-9][a-z0-9.+-]*)/.exec(meta?.depends ?? '')?.[1];
  if (!name) throw fail('GUEST_PACKAGE', `${KERNEL_META_PACKAGE} names no kernel`);
  const [version] = await index.lookup([name], signal);
  if (!version) throw fail('GUEST_PACKAGE', name);
  return version;
}

/** Unpacks the kernel package below `scratch` and picks what a guest needs of it. @throws GUEST_MODULE, GUEST_STEP */
export async function unpackKernel(
  debPath: string,
  scratch: string,
  moduleNames: readonly string[],
  call: BuildCall,
): Promise<Kernel> {
  call.onProgress?.({ step: 'kernel', detail: basename(debPath) });
  const root = join(scratch, 'kernel-package');
  await mkdir(root, { recursive: true });
  await runStep('dpkg-deb', ['-x', debPath, root], { signal: call.signal });
  const image = (await readdir(join(root, 'boot'))).find((file) => file.startsWith('vmlinuz-'));
  // Debian moves /lib into /usr; both places are looked at.
  const roots = [root, join(root, 'usr')];
  for (const base of roots) {
    const [release] = await readdir(join(base, 'lib/modules')).catch(() => [] as string[]);
    if (!release || !image) continue;
    const folder = join(base, 'lib/modules', release);
    await runStep('depmod', ['-b', base, release], { signal: call.signal });
    const paths = moduleClosure(
      await readFile(join(folder, 'modules.dep'), 'utf8'),
      await readFile(join(folder, 'modules.builtin'), 'utf8'),
      moduleNames,
    );
    const modules = [];
    for (const path of paths) {
      const name = basename(path).replace(/\.(xz|zst|gz)$/, '');
      modules.push({ name, data: await readModule(join(folder, path), call.signal) });
    }
    const kernelPath = join(scratch, 'vmlinuz');
    await copyFile(join(root, 'boot', image), kernelPath);
    return { path: kernelPath, modules };
  }
  throw fail('GUEST_MODULE', `${basename(debPath)} holds no kernel`);
}

/** Newer Debian kernels compress their modules; busybox's insmod takes plain ones. */
async function readModule(path: string, signal: AbortSignal | undefined): Promise<Buffer> {
  if (path.endsWith('.xz')) {
    await runStep('xz', ['-d', '-k', path], { signal });
    return readFile(path.slice(0, -'.xz'.length));
  }
  const data = await readFile(path);
  if (path.endsWith('.zst')) return zstdDecompressSync(data);
  return path.endsWith('.gz') ? gunzipSync(data) : data;
}
