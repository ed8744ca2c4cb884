import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { processAlive } from '../../base/process.ts';
import { canonicalJson } from '../images/manifest.ts';
import type { Image, ImageStore } from '../images/store.ts';
import { readAsset } from './assets.ts';
import { GUEST_EPOCH_S } from './constants.ts';
import { fail } from './errors.ts';
import { readBusybox, writeInitramfs } from './initramfs.ts';
import { kernelPackage, unpackKernel } from './kernel.ts';
import { lockFile } from './lock.ts';
import { PackageIndex } from './packages.ts';
import { COMMON_COMMAND_LINE, type Recipe } from './recipe.ts';
import { recipes } from './recipes.ts';
import { buildDebianDisk } from './rootfs.ts';
import type { BuildCall } from './steps.ts';
import { compileWorkload, fillDisk } from './workload.ts';

/** Raised when the builder itself changes what it makes. */
const BUILDER_VERSION = 1;

/**
 * Builds a guest from Debian packages, or finds it in the store when nothing that goes into it has changed.
 * Needs no root for `ci`; takes seconds for `ci` and about a minute for a graphical guest.
 *
 * @param name a recipe's name (`recipeNames`)
 * @param cacheDir keeps package lists and downloaded packages between builds; scratch files live there while it runs
 * @throws GUEST_*, IMAGE_*, or the signal's reason; in each case nothing of the build is left behind
 */
export async function buildGuest(
  name: string,
  store: ImageStore,
  cacheDir: string,
  call: BuildCall & { readonly packageListMaxAgeMs?: number } = {},
): Promise<Image> {
  const recipe = recipes.get(name);
  if (!recipe) throw fail('GUEST_UNKNOWN', name);
  await using _lock = await lockFile(join(cacheDir, 'build.lock'), {
    signal: call.signal,
    onWait: (pid) =>
      call.onProgress?.({ step: 'packages', detail: `waiting for process ${pid}, which builds a guest` }),
  });
  await sweep(cacheDir);
  try {
    return await buildOnce(recipe, store, cacheDir, call, call.packageListMaxAgeMs);
  } catch (error) {
    if (errorCode(error) !== 'GUEST_DOWNLOAD' || call.packageListMaxAgeMs === 0) throw error;
    // The archive has newer packages than our lists say, and no longer the old ones.
    return await buildOnce(recipe, store, cacheDir, call, 0);
  }
}

async function buildOnce(
  recipe: Recipe,
  store: ImageStore,
  cacheDir: string,
  call: BuildCall,
  maxAgeMs: number | undefined,
): Promise<Image> {
  const { signal, onProgress } = call;
  const { name } = recipe;
  const maxAge = maxAgeMs === undefined ? {} : { maxAgeMs };
  const index = await PackageIndex.open(join(cacheDir, 'apt'), { ...call, ...maxAge });
  const kernelVersion = await kernelPackage(index, signal);
  const busybox = await readBusybox();
  const hash = await recipeHash(recipe, {
    suite: index.codename,
    kernel: `${kernelVersion.name} ${kernelVersion.version}`,
    busybox: createHash('sha256').update(busybox).digest('hex'),
    packages:
      recipe.kind === 'debian'
        ? (await index.lookup(recipe.packages, signal)).map((p) => `${p.name} ${p.version}`)
        : [],
  });
  const present = await store.findByRecipe(name, hash);
  if (present) return present;

  const scratch = await mkdtemp(join(cacheDir, `build-${process.pid}-`));
  try {
    const deb = await index.download(kernelVersion, join(cacheDir, 'packages'), call);
    const kernel = await unpackKernel(deb, scratch, recipe.modules, call);
    onProgress?.({ step: 'workload' });
    const workload = join(scratch, 'workload');
    await compileWorkload(workload, signal);
    onProgress?.({ step: 'initramfs' });
    const initrd = join(scratch, 'initrd');
    const init = await readAsset(recipe.init);
    const disk = join(scratch, 'disk.raw');
    if (recipe.kind === 'memory') {
      const data = await readFile(workload);
      const extra = [{ kind: 'file', path: recipe.workloadPath, data, mode: 0o755 } as const];
      await writeInitramfs(initrd, { busybox, applets: recipe.applets, kernel, init, extra });
      onProgress?.({ step: 'disk' });
      await fillDisk(workload, disk, recipe.diskBytes, signal);
    } else {
      await writeInitramfs(initrd, { busybox, applets: recipe.applets, kernel, init });
      await buildDebianDisk(recipe, index, { scratch, workload, disk }, call);
    }
    return await store.add(
      {
        name,
        disk: { path: disk, format: 'raw' },
        kernel: kernel.path,
        initrd,
        commandLine: `${COMMON_COMMAND_LINE} ${recipe.commandLine}`,
        defaults: recipe.defaults,
        guest: recipe.guest,
        recipe: { name, hash },
      },
      {
        signal,
        onProgress: ({ step, doneBytes, totalBytes }) =>
          onProgress?.({ step: 'store', detail: step, fraction: doneBytes / Math.max(1, totalBytes) }),
      },
    );
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** All that decides what the guest will be: recipe, assets, builder, suite and the versions of what goes in. */
async function recipeHash(recipe: Recipe, inputs: Readonly<Record<string, unknown>>): Promise<string> {
  const assets: Record<string, string> = {};
  for (const name of recipe.assets) {
    assets[name] = createHash('sha256')
      .update(await readAsset(name))
      .digest('hex');
  }
  const all = {
    builder: BUILDER_VERSION,
    epoch: GUEST_EPOCH_S,
    line: COMMON_COMMAND_LINE,
    recipe,
    assets,
    inputs,
  };
  return createHash('sha256').update(canonicalJson(all)).digest('hex');
}

/** Scratch folders of builders that were killed. */
async function sweep(cacheDir: string): Promise<void> {
  for (const entry of await readdir(cacheDir)) {
    const pid = /^build-(\d+)-/.exec(entry)?.[1];
    if (pid && !processAlive(Number(pid))) await rm(join(cacheDir, entry), { recursive: true, force: true });
  }
}
