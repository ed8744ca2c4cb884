import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { fail } from './errors.ts';

export type Accelerator = 'kvm' | 'tcg';

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** Why, in words for the user. */
  readonly reason: string;
}

export interface AcceleratorProbeOptions {
  /** What the user wants; `auto` takes KVM where it is known to work. */
  readonly wanted?: Accelerator | 'auto' | undefined;
  /** Starts a guest under KVM to be sure; called only if everything else speaks for KVM. Rejects if it does not work. */
  readonly tryKvm?: (() => Promise<void>) | undefined;
  /** Root of the file system to look at; tests give their own. */
  readonly root?: string | undefined;
}

/**
 * Which accelerator to use, and why. `/dev/kvm` alone proves nothing: a nested para-virtual KVM (`kvm_pvm`) offers
 * it too, and stock 64-bit kernels hang on that (DESIGN 3). So KVM needs the module of Intel's or AMD's hardware.
 * A forced `kvm` skips the look at modules, not that at the device.
 * @throws QEMU_KVM_UNUSABLE only if KVM was forced
 */
export async function chooseAccelerator(options: AcceleratorProbeOptions = {}): Promise<AcceleratorChoice> {
  const { wanted = 'auto', tryKvm, root = '' } = options;
  if (wanted === 'tcg') return { accelerator: 'tcg', reason: 'TCG was asked for' };
  const obstacle = await kvmObstacle(wanted === 'kvm', root, tryKvm);
  if (obstacle !== undefined && wanted === 'kvm') throw fail('QEMU_KVM_UNUSABLE', obstacle);
  if (obstacle !== undefined) return { accelerator: 'tcg', reason: `no KVM: ${obstacle}` };
  return {
    accelerator: 'kvm',
    reason: wanted === 'kvm' ? 'KVM was asked for' : 'KVM is there, on hardware virtualisation',
  };
}

async function kvmObstacle(
  forced: boolean,
  root: string,
  tryKvm: (() => Promise<void>) | undefined,
): Promise<string | undefined> {
  try {
    await access(`${root}/dev/kvm`, constants.R_OK | constants.W_OK);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    return missing ? 'there is no /dev/kvm' : 'this user may not use /dev/kvm';
  }
  if (!forced && !(await hardwareModule(root))) {
    return 'neither kvm_intel nor kvm_amd is loaded, though there is a /dev/kvm';
  }
  try {
    await tryKvm?.();
    return undefined;
  } catch (error) {
    return `a trial start failed (${error instanceof Error ? error.message : String(error)})`;
  }
}

/** `/sys/module` has loaded modules and those built into the kernel alike; /proc/modules only the former. */
async function hardwareModule(root: string): Promise<boolean> {
  for (const module of ['kvm_intel', 'kvm_amd']) {
    try {
      await access(`${root}/sys/module/${module}`);
      return true;
    } catch {
      // Look for the next.
    }
  }
  return false;
}
