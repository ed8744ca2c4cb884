import type { GuestInfo, ImageDefaults } from '../images/manifest.ts';
import type { CpioEntry } from './cpio.ts';

/** The part of the kernel command line that every guest has. `panic=-1` makes a crash end QEMU under `-no-reboot`. */
export const COMMON_COMMAND_LINE = 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr';

interface RecipeBase {
  readonly name: string;
  readonly title: string;
  /** Kernel modules that the initial RAM disk loads. */
  readonly modules: readonly string[];
  /** busybox applets in the initial RAM disk. */
  readonly applets: readonly string[];
  /** Asset that is `/init`. */
  readonly init: string;
  /** Added to COMMON_COMMAND_LINE. Never a `mem=`: the kernel takes that for itself. */
  readonly commandLine: string;
  readonly defaults: ImageDefaults;
  readonly guest: GuestInfo;
  /** All assets whose bytes go into the guest; they are part of the recipe's hash. */
  readonly assets: readonly string[];
}

/** Everything in the initial RAM disk; the disk holds the workload's blocks only. */
export interface MemoryRecipe extends RecipeBase {
  readonly kind: 'memory';
  readonly diskBytes: number;
  /** Adds the workload program at this path. */
  readonly workloadPath: CpioEntry['path'];
}

/** A Debian root file system on the disk, made of packages. */
export interface DebianRecipe extends RecipeBase {
  readonly kind: 'debian';
  readonly packages: readonly string[];
  /** The file system's size; the disk has `tailBytes` more behind it. */
  readonly filesystemBytes: number;
  readonly tailBytes: number;
  /** Assets that are installed: name, path in the guest, mode. */
  readonly install: readonly { readonly asset: string; readonly path: string; readonly mode: number }[];
}

export type Recipe = MemoryRecipe | DebianRecipe;
