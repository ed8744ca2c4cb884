/** `node memoryLoad.ts CODEC MIB`: pushes a stream of so many MiB through both halves; prints the peak RSS as JSON. */
import { peakRssMiB } from '../../src/migration/mover/rss.ts';
import type { CodecName } from '../../src/wire/codec.ts';
import { PAGE_BYTES, SECTION_EOF } from '../../src/wire/qemu-stream/constants.ts';
import { StreamWriter } from '../../src/wire/qemu-stream/writer.ts';
import { memoryPair } from './memoryPair.ts';
import { noisePage, RAM_ID } from './qemuStream.ts';
import { tempDir } from './tempdir.ts';

const [codec = 'rle', mib = '64'] = process.argv.slice(2);
const MIB = 1024 * 1024;
const WINDOW_BYTES = 4 * MIB;

await using dir = await tempDir();
await using pair = await memoryPair(dir, { codec: codec as CodecName, down: { windowBytes: WINDOW_BYTES } });
pair.incoming.keeps = false;
const write = (bytes: Buffer): Promise<void> =>
  new Promise((resolve) => {
    pair.main.write(bytes, () => resolve());
  });

const head = new StreamWriter().fileHeader().configuration('pc').sectionStart(RAM_ID);
head.memSize([{ name: 'pc.ram', lengthBytes: Number(mib) * MIB, hugePageBytes: undefined }]);
await write(head.eos().footer(RAM_ID).sectionPart(RAM_ID).take());
const bodies = Array.from({ length: 64 }, (_, i) =>
  i % 2 === 0 ? noisePage(i) : Buffer.alloc(PAGE_BYTES, 'text'),
);
let page = 0;
for (let sent = 0; sent < Number(mib); sent++) {
  const writer = new StreamWriter();
  for (let i = 0; i < MIB / PAGE_BYTES; i++, page++) {
    const block = i === 0 ? 'pc.ram' : undefined;
    const body = bodies[(page * 7) % bodies.length];
    if (body && page % 5 !== 0) writer.dataPage(page, body, block);
    else writer.zeroPage(page, block);
  }
  await write(writer.take());
}
await write(new StreamWriter().eos().footer(RAM_ID).bytes([SECTION_EOF]).take());
pair.main.end();
await pair.source.finished;
process.stdout.write(JSON.stringify({ peakRssMiB: peakRssMiB(), pages: page }));
