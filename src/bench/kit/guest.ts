import { resolve } from 'node:path';
import { buildGuest } from '../../content/guests/build.ts';
import { type Image, ImageStore } from '../../content/images/store.ts';
import { say } from './main.ts';

/** The guest, built or found where the command line and the tests keep theirs. */
export async function benchGuest(name: 'ci' | 'abiword', signal: AbortSignal): Promise<Image> {
  const cache = process.env['CLOUDAP_CACHE'] || resolve(import.meta.dirname, '../../../.cache');
  let step = '';
  return buildGuest(name, await ImageStore.open(`${cache}/images`), cache, {
    signal,
    onProgress: (progress) => {
      if (progress.step !== step) say(`guest ${name}: ${progress.step}`);
      step = progress.step;
    },
  });
}
