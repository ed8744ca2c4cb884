import { type ContentFile, contentOfDisk } from '../../content/pages/store.ts';
import type { VmDefinition } from '../vm/definition.ts';
import type { MigrateContext } from './context.ts';

/**
 * What this site holds of a VM that the other side of its migration may hold too: both list it, and the movers agree on
 * what is the same (by digests). What cannot be found costs bandwidth only.
 */
export async function contentOfVm(
  context: MigrateContext,
  vm: Pick<VmDefinition, 'id' | 'image'>,
): Promise<ContentFile[]> {
  const image = await context.backends.images.find(vm.image).catch(() => undefined);
  return image ? [contentOfDisk(image.diskPath)] : [];
}
