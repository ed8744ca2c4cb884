/**
 * `node --expose-gc memoryLoad.ts CODEC MIB`: pushes a stream of so many MiB through both halves; prints as JSON the peak
 * RSS, and what is still in use at the end, while both halves stand.
 */
import { writeFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { PageLookup } from '../../src/content/pages/lookup.ts';
import { ContentReader } from '../../src/content/pages/reader.ts';
import { loadPageIndex, makePageIndex } from '../../src/content/pages/store.ts';
import { peakRssMiB } from '../../src/migration/mover/rss.ts';
import type { CodecName } from '../../src/wire/codec.ts';
import { PAGE_BYTES, REPEAT_WINDOW_PAGES, SECTION_EOF } from '../../src/wire/qemu-stream/constants.ts';
import { StreamWriter } from '../../src/wire/qemu-stream/writer.ts';
import { memoryPair, type MemoryPairOptions } from './memoryPair.ts';
import { noisePage, RAM_ID } from './qemuStream.ts';
import { type TempDir, tempDir } from './tempdir.ts';

const [codec = 'rle', mib = '64'] = process.argv.slice(2);
const MIB = 1024 * 1024;
const WINDOW_BYTES = 4 * MIB;
/** Different pages with content, half of which stand in the image. */
const BODIES = 64;

await using stack = new AsyncDisposableStack();
const dir = stack.use(await tempDir());
const bodies = Array.from({ length: BODIES }, (_, i) =>
  i % 2 === 0 ? noisePage(i) : Buffer.alloc(PAGE_BYTES, 'text'),
);

async function content(folder: TempDir): Promise<NonNullable<MemoryPairOptions['content']>> {
  const file = { path: folder.file('disk'), indexPath: folder.file('pages.idx') };
  await writeFile(file.path, Buffer.concat(bodies.slice(0, BODIES / 2)));
  await makePageIndex(file);
  const index = await loadPageIndex(file);
  const reader = stack.use(
    await ContentReader.open([file], (error) => {
      throw error;
    }),
  );
  reader.agree([index.digest]);
  return { lookup: new PageLookup([index]), reader, repeatPages: REPEAT_WINDOW_PAGES };
}

const options: MemoryPairOptions =
  codec === 'content' ? { codec: 'zstd', content: await content(dir) } : { codec: codec as CodecName };
const pair = stack.use(await memoryPair(dir, { ...options, down: { windowBytes: WINDOW_BYTES } }));
pair.incoming.keeps = false;
const write = (bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    pair.main.write(bytes, () => resolve());
  });

const head = new StreamWriter().fileHeader().configuration('pc').sectionStart(RAM_ID);
head.memSize([{ name: 'pc.ram', lengthBytes: Number(mib) * MIB, hugePageBytes: undefined }]);
await write(head.eos().footer(RAM_ID).sectionPart(RAM_ID).take());
let page = 0;
for (let sent = 0; sent < Number(mib); sent++) {
  const writer = new StreamWriter();
  for (let i = 0; i < MIB / PAGE_BYTES; i++, page++) {
    const block = i === 0 ? 'pc.ram' : undefined;
    const body = bodies[(page * 7) % bodies.length];
    // with references and repeats little would be left to pack: a page in four is one that was never there before
    if (body && codec === 'content' && page % 4 === 0) body.writeUInt32LE(page, 16);
    if (body && page % 5 !== 0) writer.dataPage(page, body, block);
    else writer.zeroPage(page, block);
  }
  await write(writer.take());
}
await write(new StreamWriter().eos().footer(RAM_ID).bytes([SECTION_EOF]).take());
pair.main.end();
await pair.source.finished;
// the target may still be at its last frames, and what backs a buffer goes a turn after the buffer
for (let turn = 0; turn < 8; turn++) {
  globalThis.gc?.();
  await setTimeout(25);
}
const { heapUsed, external } = process.memoryUsage();
const { pagesReferenced, pagesDuplicate, pagesSent, pagesResent } = pair.source.stats();
process.stdout.write(
  JSON.stringify({
    peakRssMiB: peakRssMiB(),
    liveMiB: (heapUsed + external) / MIB,
    pages: page,
    pagesReferenced,
    pagesDuplicate,
    pagesSent,
    pagesResent,
  }),
);
