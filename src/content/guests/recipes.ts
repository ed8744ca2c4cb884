import type { Recipe } from './recipe.ts';
import { ciRecipe } from './recipes/ci.ts';

/** Every guest that can be built, by name. */
export const recipes: ReadonlyMap<string, Recipe> = new Map(
  [ciRecipe].map((recipe) => [recipe.name, recipe]),
);
