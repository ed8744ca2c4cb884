import { readFileSync, renameSync } from 'node:fs';
import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import * as z from 'zod';
import { errorCatalogue } from '../base/errors.ts';

const fail = errorCatalogue({
  OWNERSHIP_CONFLICT: {
    summary: 'another site owns this VM, or its ownership has changed meanwhile',
    remedy: 'Look where the VM runs with `cloudap vm ls` at each site, and repeat the command there.',
  },
  OWNERSHIP_UNREADABLE: {
    summary: 'the ownership file of the VM cannot be read',
    remedy:
      'Do not run the VM before you know who owns it: ownership.json of the site with the higher generation is right.',
  },
});

/**
 * Who may run a VM. `owned` with owner = this site is the only state in which a site starts or resumes it.
 * The source writes `offered` before it freezes the VM: from then on it does not run the VM again until the target is
 * known not to have taken over. The generation grows by one with each hand-over, and both sides check it.
 */
export const ownershipSchema = z.object({
  version: z.literal(1),
  vmId: z.string(),
  owner: z.string(),
  generation: z.number().int().positive(),
  state: z.enum(['owned', 'offered', 'incoming']),
  /** The other site of a hand-over under way. */
  peer: z.string().nullable(),
});
export type Ownership = z.infer<typeof ownershipSchema>;

export async function readOwnership(path: string): Promise<Ownership> {
  try {
    return parseOwnership(path, await readFile(path, 'utf8'));
  } catch (error) {
    throw fail('OWNERSHIP_UNREADABLE', path, { cause: error });
  }
}

function parseOwnership(path: string, text: string): Ownership {
  try {
    return ownershipSchema.parse(JSON.parse(text));
  } catch (error) {
    throw fail('OWNERSHIP_UNREADABLE', path, { cause: error });
  }
}

/** Writes the file atomically. `durable` also waits for the disk; without it the file survives a killed process only. */
export async function writeOwnership(path: string, next: Ownership, durable = true): Promise<void> {
  const temporary = `${path}.next`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(ownershipSchema.parse(next))}\n`);
    if (durable) await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  if (durable) await syncDirectory(dirname(path));
}

/**
 * Writes the next ownership beside the present one, safe on disk; `commitStaged` then only has to rename it, which is
 * all that a takeover can afford while the VM stands still.
 */
export async function stageOwnership(path: string, next: Ownership): Promise<void> {
  const file = await open(stagedPath(path), 'w', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(ownershipSchema.parse(next))}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes the staged ownership the present one, if that is still `expected`. @throws OWNERSHIP_CONFLICT */
export function commitStaged(path: string, expected: Expected): void {
  checkExpected(parseOwnership(path, readFileSync(path, 'utf8')), expected);
  renameSync(stagedPath(path), path);
}

const stagedPath = (path: string): string => `${path}.staged`;

/** Makes the last `writeOwnership(…, false)` survive a power loss too. */
export async function syncOwnership(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
  await syncDirectory(dirname(path));
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * Compare-and-swap: replaces the ownership if it is still `expected` (owner, generation and state).
 * @throws OWNERSHIP_CONFLICT
 */
export async function changeOwnership(
  path: string,
  expected: Expected,
  next: Omit<Ownership, 'version' | 'vmId'>,
  durable = true,
): Promise<Ownership> {
  const found = await readOwnership(path);
  checkExpected(found, expected);
  const written: Ownership = { ...found, ...next };
  await writeOwnership(path, written, durable);
  return written;
}

type Expected = Pick<Ownership, 'owner' | 'generation' | 'state'>;

function checkExpected(found: Ownership, expected: Expected): void {
  if (
    found.owner !== expected.owner ||
    found.generation !== expected.generation ||
    found.state !== expected.state
  ) {
    throw fail(
      'OWNERSHIP_CONFLICT',
      `expected ${expected.state} by ${expected.owner} at generation ${expected.generation}, ` +
        `found ${found.state} by ${found.owner} at ${found.generation}`,
      { fields: { expected, found } },
    );
  }
}
