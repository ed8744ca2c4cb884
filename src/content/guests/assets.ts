import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Path of a file that goes into guests, or makes something that does. */
export function assetPath(name: string): string {
  return join(import.meta.dirname, 'assets', name);
}

export function readAsset(name: string): Promise<Buffer> {
  return readFile(assetPath(name));
}
