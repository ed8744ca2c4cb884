import * as z from 'zod';
import { nodeIdSchema } from '../control/messages.ts';

const pem = z.string().min(1).max(8_192);

/** POST /v1/enrol */
export const enrolRequestSchema = z.strictObject({
  id: z.string().regex(/^[0-9a-f]{16}$/),
  secret: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
  /** PKCS #10, PEM. */
  request: pem,
});

/** POST /v1/renew, over a connection with the present certificate. */
export const renewRequestSchema = z.strictObject({ request: pem });

/** What a node needs. */
export const enrolAnswerSchema = z.object({
  node: nodeIdSchema,
  role: z.enum(['center', 'agent', 'host']),
  site: nodeIdSchema,
  center: nodeIdSchema,
  cert: pem,
  /** host:port of the control plane. */
  servers: z.array(z.string().max(300)).min(1).max(16),
});
export type EnrolAnswer = z.infer<typeof enrolAnswerSchema>;

/** GET /v1/ca */
export const caAnswerSchema = z.object({ ca: pem });
