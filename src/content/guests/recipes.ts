import type { Recipe } from './recipe.ts';
import { abiwordRecipe } from './recipes/abiword.ts';
import { ciRecipe } from './recipes/ci.ts';

/** Every guest that can be built, by name. */
export const recipes: ReadonlyMap<string, Recipe> = new Map(
  [ciRecipe, abiwordRecipe].map((recipe): [string, Recipe] => [recipe.name, recipe]),
);
