/**
 * Measures the page index of an image as a mover uses it: time to load it and to make its table, and the memory that
 * both take. The image is the worst of its size: no page repeats, none is zero.
 */
import { randomFillSync } from 'node:crypto';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HASH_BYTES, PAGE_BYTES } from '../content/pages/constants.ts';
import { PageLookup } from '../content/pages/lookup.ts';
import { encodePageIndex } from '../content/pages/page-index.ts';
import { loadPageIndex } from '../content/pages/store.ts';
import { benchCommand, benchMain, count, say } from './kit/main.ts';
import { makeRow, rowsTable } from './kit/rows.ts';
import { median } from './kit/stats.ts';

const MIB = 2 ** 20;

const command = benchCommand('content', 'the page index of an image: time to load, and memory')
  .option('--mib <n>', 'size of the image', count, 2048)
  .option('--runs <n>', 'the median counts', count, 5);

await benchMain(command, async (signal) => {
  const { mib, runs } = command.opts<{ mib: number; runs: number }>();
  const entries = (mib * MIB) / PAGE_BYTES;
  const dir = await mkdtemp(join(tmpdir(), 'cb-'));
  try {
    const file = { path: join(dir, 'disk'), indexPath: join(dir, 'pages.idx') };
    {
      await using disk = await open(file.path, 'w');
      await disk.truncate(mib * MIB);
    }
    const pages = Uint32Array.from({ length: entries }, (_, page) => page);
    const columns = {
      entries,
      pages,
      crcs: randomFillSync(new Uint32Array(entries)),
      hashes: randomFillSync(Buffer.alloc(entries * HASH_BYTES)),
    };
    await writeFile(file.indexPath, encodePageIndex(columns, Buffer.alloc(32), mib * MIB));
    const loadMs: number[] = [];
    let heldBytes = 0;
    for (let run = 1; run <= runs; run += 1) {
      signal.throwIfAborted();
      const startMs = performance.now();
      const lookup = new PageLookup([await loadPageIndex(file)]);
      loadMs.push(performance.now() - startMs);
      heldBytes = lookup.byteLength;
      say(`${run}/${runs} ${loadMs.at(-1)?.toFixed(0)} ms`);
    }
    const name = `index of ${mib} MiB`;
    const rows = [
      makeRow(name, 'loadMs', median(loadMs), { peer: { name: 'bar', value: 1000 } }),
      makeRow(name, 'heldMiB', heldBytes / MIB, { peer: { name: 'bar', value: 64 } }),
    ];
    return { rows, text: rowsTable(rows), details: { entries, loadMs } };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
