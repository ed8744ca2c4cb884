import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { failSite } from './errors.ts';

/**
 * Keeps a data directory for one agent. The lock is SQLite's: a lock of the kernel on a file, so it ends with the
 * process whatever ends it, needs no guess about stale pids, and holds between network and pid namespaces.
 * @throws SITE_LOCKED, with the other agent's pid where it is known
 */
export function lockDataDir(dataDir: string): Disposable {
  const database = new DatabaseSync(join(dataDir, 'agent.lock'), { timeout: 0 });
  const note = join(dataDir, 'agent.pid');
  try {
    database.exec('PRAGMA journal_mode = OFF; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    throw failSite('SITE_LOCKED', `${dataDir}${holder(note)}`, { cause: error, fields: { dataDir } });
  }
  writeFileSync(note, `${process.pid}\n`, { mode: 0o600 });
  let open = true;
  return {
    [Symbol.dispose]() {
      if (open) database.close();
      open = false;
    },
  };
}

function holder(note: string): string {
  try {
    return ` (by process ${Number(readFileSync(note, 'utf8'))})`;
  } catch {
    return '';
  }
}
