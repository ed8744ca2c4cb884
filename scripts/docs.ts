/** `npm run docs`: writes the documents that are made from the sources; with --check only says whether they are current. */
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { generatedDocuments } from './docs/generate.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
for (const [path, text] of await generatedDocuments(root)) {
  const current = readText(join(root, path)) === text;
  if (!current && process.argv.includes('--check')) process.exitCode = 1;
  else if (!current) writeFileSync(join(root, path), text);
  process.stdout.write(
    `${path} ${current ? 'is current' : process.exitCode ? 'is NOT current' : 'written'}\n`,
  );
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
