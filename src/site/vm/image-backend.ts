import { errorCode } from '../../base/errors.ts';
import { ImageStore, type Image } from '../../content/images/store.ts';
import type { BaseImage, ImageBackend } from '../ports.ts';

/** The site's image store. It may grow while the agent runs: the command line adds images by itself. */
export async function imageBackend(folder: string): Promise<ImageBackend> {
  const store = await ImageStore.open(folder);
  return {
    get: async (reference) => toBaseImage(await store.get(reference)),
    find: async (digest) => {
      try {
        return toBaseImage(await store.get(digest));
      } catch (error) {
        if (errorCode(error) === 'IMAGE_UNKNOWN') return undefined;
        throw error;
      }
    },
  };
}

function toBaseImage({ manifest, diskPath, kernelPath, initrdPath }: Image): BaseImage {
  return {
    digest: manifest.digest,
    name: manifest.name,
    format: manifest.disk.format,
    virtualBytes: manifest.disk.virtualSizeBytes,
    diskPath,
    kernelPath,
    initrdPath,
    commandLine: manifest.commandLine ?? '',
    defaults: manifest.defaults,
    serialPorts: (manifest.guest?.workload?.serialPort ?? 0) > 0 ? 2 : 1,
    guest: manifest.guest,
  };
}
