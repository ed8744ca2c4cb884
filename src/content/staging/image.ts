import { join } from 'node:path';
import { judgeStagedDisk } from '../images/import.ts';
import { imageDigest, type ImageManifest, manifestSchema } from '../images/manifest.ts';
import { contentOfDisk } from '../pages/store.ts';
import type { Artefact, ArtefactKind } from './artefact.ts';
import { fail } from './errors.ts';

/** An image's files are read-only, for everybody. */
const READ = 0o444;

function diskName(manifest: ImageManifest): string {
  return `disk.${manifest.disk.format}`;
}

function parsed({ manifest }: Artefact): ImageManifest {
  return manifest as ImageManifest;
}

/** Base images (content/images). */
export const imageKind: ArtefactKind = {
  folderMode: 0o755,

  parse(value) {
    const result = manifestSchema.safeParse(value);
    if (!result.success) throw fail('STAGE_MANIFEST', result.error.issues[0]?.message ?? '');
    const manifest = result.data;
    if (imageDigest(manifest) !== manifest.digest) throw fail('STAGE_MANIFEST', 'its digest is another');
    const { disk, kernel, initrd } = manifest;
    return {
      digest: manifest.digest,
      name: manifest.name,
      manifest,
      files: [
        // small ones first: what is wrong with them shows early
        ...(kernel ? [{ name: 'kernel', mode: READ, ...kernel }] : []),
        ...(initrd ? [{ name: 'initrd', mode: READ, ...initrd }] : []),
        { name: diskName(manifest), sha256: disk.sha256, fileBytes: disk.fileBytes, mode: READ },
      ],
    };
  },

  judge: async (folder, artefact, signal) => {
    const manifest = parsed(artefact);
    await judgeStagedDisk(join(folder, diskName(manifest)), manifest.disk, { signal });
  },

  content: (folder, artefact) => [contentOfDisk(join(folder, diskName(parsed(artefact))))],
};
