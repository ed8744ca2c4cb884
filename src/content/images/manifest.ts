import { createHash } from 'node:crypto';
import { z } from 'zod';
import { MAX_COMMAND_LINE_LENGTH, MAX_IMAGE_NAME_LENGTH, MAX_VIRTUAL_SIZE_BYTES } from './constants.ts';

/** Lower-case hexadecimal SHA-256. */
export const sha256Schema = z.string().regex(/^[0-9a-f]{64}$/);

/** Begins with a letter and is never 64 hexadecimal digits, so a name is never taken for a digest. */
export const imageNameSchema = z
  .string()
  .max(MAX_IMAGE_NAME_LENGTH)
  .regex(/^[A-Za-z][A-Za-z0-9._-]*$/)
  .refine((name) => !sha256Schema.safeParse(name).success);

/** Printable ASCII on one line: what a boot loader hands to a kernel. */
export const commandLineSchema = z
  .string()
  .max(MAX_COMMAND_LINE_LENGTH)
  .regex(/^[ -~]*$/);

const bytes = z.number().int().nonnegative();
/** One file of a folder. */
export const fileSchema = z.object({ sha256: sha256Schema, fileBytes: bytes });

export const imageDefaultsSchema = z.object({
  memoryMiB: z
    .number()
    .int()
    .min(16)
    .max(1024 * 1024),
  cpus: z.number().int().min(1).max(256),
  /** `vga` is QEMU's standard VGA; `none` has only serial ports. */
  display: z.enum(['vga', 'none']),
  /** `tablet` is a virtio tablet (absolute pointer; no capture of the mouse). */
  input: z.enum(['tablet', 'none']),
});
export type ImageDefaults = z.infer<typeof imageDefaultsSchema>;

/** How a program (a test, a benchmark, a demonstration) uses the guest inside. */
export const guestInfoSchema = z.object({
  screen: z.object({ width: z.number().int(), height: z.number().int() }).optional(),
  /** Where to click so that typed text arrives in the application. */
  focus: z.object({ x: z.number().int(), y: z.number().int() }).optional(),
  /**
   * The application is ready when the screen has its size, this share of it is not black, and no update of so many
   * pixels came for this long (small ones are a blinking caret).
   */
  ready: z
    .object({
      litPercent: z.number().min(0).max(100),
      updatePixels: z.number().int(),
      quietMs: z.number().int(),
    })
    .optional(),
  /** Lines that appear on the first serial port, in order. */
  bootMarks: z.array(z.string().max(100)).max(16).optional(),
  /** The self-checking workload: its serial port (0 is ttyS0) and the part of the disk that it writes. */
  workload: z
    .object({ serialPort: z.number().int().min(0).max(3), offsetBytes: bytes, lengthBytes: bytes })
    .optional(),
});
export type GuestInfo = z.infer<typeof guestInfoSchema>;

const contentShape = {
  version: z.literal(1),
  disk: z.object({
    format: z.enum(['raw', 'qcow2']),
    virtualSizeBytes: bytes.max(MAX_VIRTUAL_SIZE_BYTES),
    fileBytes: bytes,
    sha256: sha256Schema,
  }),
  kernel: fileSchema.optional(),
  initrd: fileSchema.optional(),
  commandLine: commandLineSchema.optional(),
  defaults: imageDefaultsSchema,
};
const contentSchema = z.object(contentShape);
export type ImageContent = z.infer<typeof contentSchema>;

/** `manifest.json` of an image. The digest covers what the guest is (`ImageContent`), not what it is called. */
export const manifestSchema = z.object({
  ...contentShape,
  digest: sha256Schema,
  name: imageNameSchema,
  createdAt: z.iso.datetime(),
  guest: guestInfoSchema.optional(),
  /** Set when built from a recipe: its name, and the hash over all that went into the build. */
  recipe: z.object({ name: z.string().max(64), hash: sha256Schema }).optional(),
});
export type ImageManifest = z.infer<typeof manifestSchema>;

/** JSON with sorted keys and no optional spaces, so that equal values have equal bytes. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const fields = Object.entries(value)
      .filter(([, v]) => v !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${fields.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

/** SHA-256 over the canonical JSON, hex: how what a manifest says becomes a name. */
export function canonicalDigest(value: unknown): string {
  return createHash('sha256').update(canonicalJson(value)).digest('hex');
}

/** The image's identity at every site: the digest of its content part. */
export function imageDigest(content: ImageContent): string {
  return canonicalDigest(contentSchema.parse(content));
}
