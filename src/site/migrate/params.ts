import type * as z from 'zod';
import { failPrepare } from '../errors.ts';

/** Parameters of another agent, checked. @throws PREPARE_BAD_REQUEST with the fields named */
export function parseParams<T>(schema: z.ZodType<T>, params: unknown): T {
  const parsed = schema.safeParse(params);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.slice(0, 8).map((issue) => {
    const keys = issue.code === 'unrecognized_keys' ? issue.keys.slice(0, 8) : [];
    return `${[...issue.path.map(String), ...keys].join('.') || 'it'}: ${issue.message}`.slice(0, 200);
  });
  throw failPrepare('PREPARE_BAD_REQUEST', problems.join('; '), { fields: { problems } });
}
