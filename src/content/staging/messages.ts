import * as z from 'zod';
import { type CloudapError } from '../../base/errors.ts';
import { ARTEFACT_FILES_MAX, MAX_STAGE_CONTROL_BYTES } from './constants.ts';
import { fail } from './errors.ts';

const text = z.string().max(1000);

const controlSchema = z.discriminatedUnion('kind', [
  /** Target: send this file from there on. */
  z.object({
    kind: z.literal('want'),
    file: z.int().min(0).max(ARTEFACT_FILES_MAX),
    offsetBytes: z.int().nonnegative(),
  }),
  /** Target: a migration is under way here, or no longer; it has the link to itself. */
  z.object({ kind: z.literal('pause'), paused: z.boolean() }),
  /** Target: every file is here and sound, and is being taken into the store. */
  z.object({ kind: z.literal('verifying') }),
  z.object({ kind: z.literal('done') }),
  z.object({ kind: z.literal('failed'), error: z.object({ code: text, message: text, remedy: text }) }),
]);
export type StageControl = z.infer<typeof controlSchema>;

export function encodeStageControl(message: StageControl): Buffer {
  return Buffer.from(JSON.stringify(message));
}

/** @throws STAGE_PROTOCOL */
export function decodeStageControl(payload: Buffer): StageControl {
  if (payload.length > MAX_STAGE_CONTROL_BYTES) throw fail('STAGE_PROTOCOL', `${payload.length} bytes`);
  try {
    return controlSchema.parse(JSON.parse(payload.toString('utf8')));
  } catch (cause) {
    throw fail('STAGE_PROTOCOL', 'control message', { cause });
  }
}

export function failedControl({ code, message, remedy }: CloudapError): Buffer {
  const error = { code: code.slice(0, 1000), message: message.slice(0, 1000), remedy: remedy.slice(0, 1000) };
  return encodeStageControl({ kind: 'failed', error });
}
