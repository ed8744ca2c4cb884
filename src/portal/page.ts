import * as z from 'zod';
import { PAGE_ITEMS, PAGE_ITEMS_MAX } from './constants.ts';

/** `?limit=&cursor=` of every list. */
export const pageQuerySchema = z.object({
  limit: z.coerce.number().int().min(1).max(PAGE_ITEMS_MAX).default(PAGE_ITEMS),
  /** `next` of the answer before. */
  cursor: z.base64url().max(512).optional(),
});

export const pageOf = <S extends z.ZodType>(item: S) =>
  z.object({ items: z.array(item), next: z.string().nullable() });

/** One page of items in the order of their keys; what comes and goes meanwhile moves nothing else. */
export function page<T>(
  all: Iterable<T>,
  keyOf: (item: T) => string,
  { limit, cursor }: z.infer<typeof pageQuerySchema>,
): { items: T[]; next: string | null } {
  const after = cursor === undefined ? undefined : Buffer.from(cursor, 'base64url').toString('utf8');
  const sorted = [...all]
    .map((item) => ({ item, key: keyOf(item) }))
    .filter(({ key }) => after === undefined || key > after)
    .sort((a, b) => (a.key < b.key ? -1 : 1));
  const some = sorted.slice(0, limit);
  const last = some.at(-1);
  const next =
    sorted.length > some.length && last ? Buffer.from(last.key, 'utf8').toString('base64url') : null;
  return { items: some.map(({ item }) => item), next };
}
