import { type ContentFile, contentOfDisk } from '../../content/pages/store.ts';
import { contentOfTemplate } from '../../content/templates/store.ts';
import type { VmDefinition } from '../vm/definition.ts';
import type { MigrateContext } from './context.ts';

/**
 * What this site holds of a VM that the other side of its migration may hold too: both list it, and the movers agree on
 * what is the same (by digests). What cannot be found costs bandwidth only.
 */
export async function contentOfVm(
  context: MigrateContext,
  vm: Pick<VmDefinition, 'id' | 'image' | 'template'>,
): Promise<ContentFile[]> {
  const { images, templates } = context.backends;
  const image = await images.find(vm.image).catch(() => undefined);
  const template = vm.template === undefined ? undefined : await templates.find(vm.template);
  return [
    ...(image ? [contentOfDisk(image.diskPath)] : []),
    ...(template ? contentOfTemplate(template) : []),
  ];
}
