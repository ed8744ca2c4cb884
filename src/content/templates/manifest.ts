import { z } from 'zod';
import { machineSpecSchema } from '../../qemu/machine-spec.ts';
import { canonicalDigest, fileSchema, imageNameSchema, sha256Schema } from '../images/manifest.ts';

const contentShape = {
  version: z.literal(1),
  /** Digest of the base image that the overlay lies on. */
  image: sha256Schema,
  /** All that the saved state depends on; what a VM has for itself (its UUID) is not part of it. */
  machine: machineSpecSchema.omit({ uuid: true }),
  accelerator: z.enum(['tcg', 'kvm']),
  /** Of the QEMU that saved the state: older ones cannot read it. */
  qemuVersion: z.string().regex(/^\d{1,3}\.\d{1,3}\.\d{1,3}$/),
  overlay: fileSchema,
  ram: fileSchema,
  devices: fileSchema,
};
const contentSchema = z.object(contentShape);
export type TemplateContent = z.infer<typeof contentSchema>;

/** `manifest.json` of a template (docs/TEMPLATES.md). The digest covers what it is, not what it is called. */
export const templateManifestSchema = z.object({
  ...contentShape,
  digest: sha256Schema,
  name: imageNameSchema,
  createdAt: z.iso.datetime(),
});
export type TemplateManifest = z.infer<typeof templateManifestSchema>;

/** The template's identity at every site. */
export function templateDigest(content: TemplateContent): string {
  return canonicalDigest(contentSchema.parse(content));
}
