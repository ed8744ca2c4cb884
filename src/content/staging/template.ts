import { fail as failImage } from '../images/errors.ts';
import { inspectDisk } from '../images/inspect.ts';
import { templateDigest, type TemplateManifest, templateManifestSchema } from '../templates/manifest.ts';
import { contentOfTemplate, templateFiles } from '../templates/store.ts';
import type { Artefact, ArtefactKind } from './artefact.ts';
import { fail } from './errors.ts';

/** Only the site's user reads a template: it is somebody's memory. Modes as in content/templates/store.ts. */
const PRIVATE_FOLDER = 0o700;
const READ = 0o400;
/** QEMU before 8.2 opens the file of its memory for writing also where it maps it privately. */
const READ_WRITE = 0o600;

/** Templates (content/templates). */
export const templateKind: ArtefactKind = {
  folderMode: PRIVATE_FOLDER,

  parse(value) {
    const result = templateManifestSchema.safeParse(value);
    if (!result.success) throw fail('STAGE_MANIFEST', result.error.issues[0]?.message ?? '');
    const manifest = result.data;
    if (templateDigest(manifest) !== manifest.digest) throw fail('STAGE_MANIFEST', 'its digest is another');
    const { devices, overlay, ram } = manifest;
    return {
      digest: manifest.digest,
      name: manifest.name,
      manifest,
      requires: { kind: 'image', digest: manifest.image },
      files: [
        { name: 'devices', mode: READ, ...devices },
        { name: 'overlay.qcow2', mode: READ, ...overlay },
        { name: 'ram', mode: READ_WRITE, ...ram },
      ],
    };
  },

  /** What the overlay's header names as its backing file does not matter: a start sets it to the site's own image. */
  judge: async (folder, artefact) => {
    const { machine } = parsed(artefact);
    const { virtualSizeBytes } = await inspectDisk(templateFiles(folder).overlayPath, 'qcow2');
    if (virtualSizeBytes !== machine.diskBytes)
      throw failImage(
        'IMAGE_CORRUPT',
        `an overlay of ${virtualSizeBytes} instead of ${machine.diskBytes} bytes`,
      );
  },

  content: (folder) => contentOfTemplate(templateFiles(folder)),
};

function parsed({ manifest }: Artefact): TemplateManifest {
  return manifest as TemplateManifest;
}
