/**
 * One end of a disk post-copy in a process of its own: `node end.ts '{"role":"target",…}'`. Says `{"ready":true,…}`.
 * The source answers `push` when the target has everything; the target answers `read` with the latencies of reads that
 * had to wait.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { dialLink } from '../../link/dial.ts';
import { acceptLink } from '../../link/listener.ts';
import type { TlsMaterial } from '../../link/tls.ts';
import type { LinkStats, MessageHandler } from '../../link/types.ts';
import { type DiskLink, DiskSource, DiskTarget } from '../../migration/disk/index.ts';
import { CODEC_RAW } from '../../wire/codec.ts';
import { SECTOR_BYTES } from '../../wire/disk/index.ts';
import { seededRandom } from '../kit/random.ts';
import { asBulk, fromBulk } from './one-lane.ts';
import { FifoLink } from './fifo-link.ts';

export const linkKinds = ['lanes', 'bulk', 'fifo'] as const;
/** `lanes`: ours. `bulk`: ours without the urgent lane. `fifo`: one plain TCP connection. */
export type LinkKind = (typeof linkKinds)[number];

export interface EndConfig {
  role: 'source' | 'target';
  kind: LinkKind;
  path: string;
  sizeBytes: number;
  tls: TlsMaterial;
  /** Where the target listens with lanes. */
  socketPath: string;
  /** What the source dials. */
  address?: { host: string; port: number };
}

export interface ReadResult {
  latenciesMs: number[];
  /** Reads of blocks that had arrived already. */
  local: number;
  elapsedMs: number;
  pushedBytes: number;
  pulledBytes: number;
  /** The first byte of every block is its number, modulo 251. */
  wrong: number;
}

const SEED = 20_26;

async function source(config: EndConfig, answers: Answers): Promise<void> {
  let disk: DiskSource | undefined;
  const onMessage: MessageHandler = (type, payload, lane) => disk?.handle(type, payload, lane);
  const { link, stats } = await dialTarget(config, onMessage);
  disk = await DiskSource.open({ path: config.path, link, format: 'raw', codec: CODEC_RAW });
  const opened = disk;
  answers.on('push', async () => {
    await opened.freeze();
    opened.startPush();
    await opened.complete;
    return { ...opened.stats(), link: stats() };
  });
}

async function dialTarget(
  config: EndConfig,
  onMessage: MessageHandler,
): Promise<{ link: DiskLink; stats: () => LinkStats | null }> {
  const { address, kind, tls } = config;
  if (!address) throw new Error('no address');
  if (kind === 'fifo') {
    const socket = connect(address);
    await once(socket, 'connect');
    return { link: new FifoLink(socket, onMessage), stats: () => null };
  }
  const session = dialLink({ sessionId: 'pull', address, tls, expectedPeer: 'target', onMessage });
  await session.opened();
  return { link: kind === 'bulk' ? asBulk(session) : session, stats: () => session.stats() };
}

async function target(config: EndConfig, answers: Answers): Promise<number | undefined> {
  let disk: DiskTarget | undefined;
  const onMessage: MessageHandler = (type, payload, lane) => disk?.handle(type, payload, lane);
  const { kind, tls, socketPath, path, sizeBytes } = config;
  let port: number | undefined;
  let link: DiskLink;
  if (kind === 'fifo') {
    const connected = Promise.withResolvers<DiskLink>();
    const server = createServer((socket: Socket) => connected.resolve(new FifoLink(socket, onMessage)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
    link = { send: async (...message) => (await connected.promise).send(...message) };
  } else {
    const handler = kind === 'bulk' ? fromBulk(onMessage) : onMessage;
    link = await acceptLink({
      socketPath,
      tls,
      sessionId: 'pull',
      expectedPeer: 'source',
      onMessage: handler,
    });
  }
  disk = await DiskTarget.open({ path, link, announcedSizeBytes: sizeBytes });
  const opened = disk;
  answers.on('read', () => readRandomly(opened, sizeBytes));
  return port;
}

/** Random reads of 4 KiB, one at a time, until everything has arrived. */
async function readRandomly(disk: DiskTarget, sizeBytes: number): Promise<ReadResult> {
  await disk.frozen;
  const startMs = performance.now();
  const random = seededRandom(SEED);
  const blocks = sizeBytes / SECTOR_BYTES;
  const result = { latenciesMs: [] as number[], local: 0, wrong: 0 };
  const complete = new AbortController();
  const done = disk.complete.then(() => complete.abort());
  while (!complete.signal.aborted) {
    const block = Math.floor(random() * blocks);
    const beganMs = performance.now();
    const data = disk.read(block * SECTOR_BYTES, SECTOR_BYTES);
    if (data instanceof Promise) {
      const bytes = await data;
      result.latenciesMs.push(performance.now() - beganMs);
      if (bytes[0] !== block % 251) result.wrong += 1;
    } else {
      result.local += 1;
      if (data[0] !== block % 251) result.wrong += 1;
      // so many are there already that only looking for one that is not would keep the others from arriving
      if (result.local % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }
  await done;
  const { pushed, pulled } = disk.stats().blocks;
  return {
    ...result,
    elapsedMs: performance.now() - startMs,
    pushedBytes: pushed * SECTOR_BYTES,
    pulledBytes: pulled * SECTOR_BYTES,
  };
}

/** Commands on standard input, one answer a line. */
class Answers {
  readonly #handlers = new Map<string, () => Promise<object>>();

  on(command: string, handler: () => Promise<object>): void {
    this.#handlers.set(command, handler);
  }

  listen(): void {
    const lines = createInterface({ input: process.stdin });
    lines.on('close', () => process.exit(0));
    lines.on('line', (line) => {
      const handler = this.#handlers.get(line);
      void handler?.().then((answer) => process.stdout.write(`${JSON.stringify(answer)}\n`));
    });
  }
}

const argument = process.argv[2] ?? '';
if (argument.startsWith('{')) {
  const config = JSON.parse(argument) as EndConfig;
  const answers = new Answers();
  const port = config.role === 'source' ? await source(config, answers) : await target(config, answers);
  answers.listen();
  process.stdout.write(`${JSON.stringify({ ready: true, port })}\n`);
}
