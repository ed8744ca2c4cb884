import { fail } from './errors.ts';
import type { PackageIndex } from './packages.ts';
import type { DebianRecipe } from './recipe.ts';
import type { BuildCall } from './steps.ts';

export async function buildDebianDisk(
  recipe: DebianRecipe,
  _index: PackageIndex,
  _paths: { readonly scratch: string; readonly workload: string; readonly disk: string },
  _call: BuildCall,
): Promise<void> {
  throw fail('GUEST_UNKNOWN', recipe.name);
}
