import { open, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { abortable } from '../../base/async.ts';
import { LabChild } from '../../lab/child.ts';
import { generateCa, issueSiteCertificate } from '../../link/pki.ts';
import { SECTOR_BYTES } from '../../wire/disk/index.ts';
import { failBench } from '../kit/errors.ts';
import { seededRandom } from '../kit/random.ts';
import type { EndConfig, LinkKind, ReadResult } from './end.ts';

const END = fileURLToPath(new URL('./end.ts', import.meta.url));
const EMULATOR = fileURLToPath(new URL('../../link/emulator-main.ts', import.meta.url));
const PIECE_BYTES = 1024 * 1024;

/** Incompressible bytes, so that the link is what limits; each block begins with its number modulo 251. */
export async function writeOverlay(path: string, sizeBytes: number): Promise<void> {
  const random = seededRandom(1);
  const noise = Buffer.allocUnsafe(PIECE_BYTES);
  for (let at = 0; at < noise.length; at += 4) noise.writeUInt32LE(random() * 2 ** 32, at);
  await using file = await open(path, 'w');
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
    for (let block = 0; block < PIECE_BYTES; block += SECTOR_BYTES) {
      noise[block] = ((at + block) / SECTOR_BYTES) % 251;
    }
    await file.write(noise);
  }
}

export interface PullCase extends ReadResult {
  kind: LinkKind;
  pushMbit: number;
}

/** Source, target and link, each a process of its own; the overlay goes over while the target reads at random. */
export async function runCase(
  options: { dir: string; overlay: string; sizeBytes: number; kind: LinkKind; link: string },
  signal: AbortSignal,
): Promise<PullCase> {
  const { dir, overlay, sizeBytes, kind, link } = options;
  await using stack = new AsyncDisposableStack();
  const start = async (file: string, config: object): Promise<LabChild> =>
    stack.use(await LabChild.start([file, JSON.stringify(config)]));
  const ca = await generateCa();
  const local = join(dir, `${kind}.raw`);
  await writeFile(local, '');
  await truncate(local, sizeBytes);
  const socketPath = join(dir, 'link.sock');
  const common = { kind, sizeBytes, socketPath };
  const targetConfig: EndConfig = {
    ...common,
    role: 'target',
    path: local,
    tls: await issueSiteCertificate(ca, 'target'),
  };
  const target = await start(END, targetConfig);
  const { port } = target.ready as { port?: number };
  const forward = port === undefined ? { path: socketPath } : { host: '127.0.0.1', port };
  const emulator = await start(EMULATOR, { listen: { host: '127.0.0.1', port: 0 }, forward, link });
  const { address } = emulator.ready as { address: { host: string; port: number } };
  const sourceConfig: EndConfig = {
    ...common,
    role: 'source',
    path: overlay,
    tls: await issueSiteCertificate(ca, 'source'),
    address,
  };
  const source = await start(END, sourceConfig);
  const read = target.ask('read');
  const [found] = await abortable(Promise.all([read, source.ask('push')]), signal);
  const result = found as ReadResult;
  if (result.wrong > 0) throw failBench('BENCH_RUN', `${result.wrong} blocks of ${kind} were wrong`);
  const bytes = result.pushedBytes + result.pulledBytes;
  return { ...result, kind, pushMbit: (bytes * 8) / 1000 / result.elapsedMs };
}
