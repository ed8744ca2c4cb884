import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type TempDir, tempDir } from '../../test/kit/tempdir.ts';
import {
  changeOwnership,
  commitStaged,
  type Ownership,
  readOwnership,
  stageOwnership,
  syncOwnership,
  writeOwnership,
} from './ownership.ts';

const before: Ownership = { version: 1, vmId: 'vm1', owner: 'a', generation: 4, state: 'owned', peer: null };
const offered = { owner: 'a', generation: 4, state: 'offered' as const, peer: 'b' };

let dir: TempDir;
let path: string;
beforeEach(async () => {
  dir = await tempDir();
  path = dir.file('ownership.json');
  await writeOwnership(path, before);
});
afterEach(() => dir[Symbol.asyncDispose]());

const conflict = expect.objectContaining({ code: 'OWNERSHIP_CONFLICT' }) as Error;
const unreadable = { code: 'OWNERSHIP_UNREADABLE' };

test('compare-and-swap: only what was expected is replaced', async () => {
  await changeOwnership(path, before, offered);
  expect(await readOwnership(path)).toEqual({ ...before, ...offered });
  for (const wrong of [
    before,
    { ...offered, owner: 'b' },
    { ...offered, generation: 5 },
    { ...offered, state: 'incoming' as const },
  ]) {
    await expect(changeOwnership(path, wrong, { ...offered, owner: 'c' })).rejects.toEqual(conflict);
  }
  expect(await readOwnership(path)).toEqual({ ...before, ...offered });
});

test('a staged ownership counts only once it is committed, and only over what was expected', async () => {
  const next: Ownership = { ...before, owner: 'b', generation: 5 };
  await stageOwnership(path, next);
  expect(await readOwnership(path)).toEqual(before);
  expect(() => commitStaged(path, { ...before, generation: 3 })).toThrow(conflict);
  expect(await readOwnership(path)).toEqual(before);
  commitStaged(path, before);
  expect(await readOwnership(path)).toEqual(next);
  await syncOwnership(path);
  // it is used up
  expect(() => commitStaged(path, next)).toThrow();
});

test('what a crash leaves behind changes nothing and is in nobody’s way', async () => {
  await writeFile(`${path}.next`, '{"version":1,"vm');
  await writeFile(`${path}.staged`, '');
  expect(await readOwnership(path)).toEqual(before);
  await changeOwnership(path, before, offered);
  expect(existsSync(`${path}.next`)).toBe(false);
  await stageOwnership(path, { ...before, owner: 'b' });
  commitStaged(path, { owner: 'a', generation: 4, state: 'offered' });
  expect((await readOwnership(path)).owner).toBe('b');
});

test('a file that is missing, cut short or of another kind is no ownership', async () => {
  const text = await readFile(path, 'utf8');
  await expect(readOwnership(dir.file('none'))).rejects.toMatchObject(unreadable);
  for (let length = 0; length < text.trim().length; length++) {
    await writeFile(path, text.slice(0, length));
    await expect(readOwnership(path)).rejects.toMatchObject(unreadable);
  }
  for (const change of [{ version: 2 }, { generation: 0 }, { generation: 1.5 }, { state: 'lost' }]) {
    await writeFile(path, JSON.stringify({ ...before, ...change }));
    await expect(readOwnership(path)).rejects.toMatchObject(unreadable);
    await expect(changeOwnership(path, before, offered)).rejects.toMatchObject(unreadable);
  }
});
