import * as z from 'zod';
import { nodeIdSchema } from '../control/messages.ts';
import { TOKEN_MAX_CHARS } from './constants.ts';
import { failRegistry } from './errors.ts';

/** What a token holds: whom it lets in, where, the secret, and by which CA the one who answers there is known. */
const tokenSchema = z.strictObject({
  v: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{16}$/),
  secret: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
  node: nodeIdSchema,
  role: z.enum(['agent', 'host']),
  site: nodeIdSchema,
  /** The center's node id, and host:port of its enrolment service. */
  center: nodeIdSchema,
  address: z.string().max(300),
  /** SHA-256 of the CA's certificate (DER), hexadecimal. */
  ca: z.string().regex(/^[0-9a-f]{64}$/),
});
export type Token = z.infer<typeof tokenSchema>;

const PREFIX = 'cloudap-enrol-';

/** One line, safe in shells and URLs. */
export function encodeToken(token: Token): string {
  return PREFIX + Buffer.from(JSON.stringify(token), 'utf8').toString('base64url');
}

/** @throws ENROL_TOKEN */
export function decodeToken(text: string): Token {
  const line = text.trim();
  if (!line.startsWith(PREFIX) || line.length > TOKEN_MAX_CHARS) throw failRegistry('ENROL_TOKEN');
  try {
    const raw: unknown = JSON.parse(Buffer.from(line.slice(PREFIX.length), 'base64url').toString('utf8'));
    return tokenSchema.parse(raw);
  } catch (cause) {
    throw failRegistry('ENROL_TOKEN', 'it is damaged', { cause });
  }
}
