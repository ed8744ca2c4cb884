import type * as z from 'zod';
import { failSite } from '../errors.ts';

/** @throws API_BAD_REQUEST, its `fields.problems` a list of {field, problem} */
export function check<T>(schema: z.ZodType<T>, value: unknown, place = 'body'): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.slice(0, 16).flatMap((issue) => {
    const at = issue.path.map(String).join('.');
    if (issue.code !== 'unrecognized_keys') return [{ field: at || place, problem: issue.message }];
    return issue.keys
      .slice(0, 8)
      .map((key) => ({ field: at ? `${at}.${key}` : key, problem: 'is not known' }));
  });
  const text = problems.map(({ field, problem }) => `${field}: ${problem}`).join('; ');
  throw failSite('API_BAD_REQUEST', text.slice(0, 1000), { fields: { problems } });
}
