import type { DebianRecipe } from '../recipe.ts';
import { desktop } from './desktop.ts';

/** A word processor on a desktop of its own: the paper's kind of workload. */
export const abiwordRecipe: DebianRecipe = desktop({
  name: 'abiword',
  title: 'AbiWord on X',
  packages: ['abiword'],
  filesystemMiB: 448,
  application: 'abiword',
  focus: { x: 500, y: 300 },
  // Freed pages become zeros, which travel for nothing. (Good for this application; a browser would suffer.)
  kernelOptions: 'init_on_free=1',
});
