import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import type { MessageHandler } from '../../src/link/types.ts';
import { MemorySource, type MemorySourceOptions } from '../../src/migration/memory/source.ts';
import { MemoryTarget } from '../../src/migration/memory/target.ts';
import {
  MESSAGE_CONTENT_BYTES,
  MESSAGE_CONTENT_MISSING,
  MESSAGE_DECODED,
  MESSAGE_RETURN,
  MESSAGE_STREAM,
  MESSAGE_STREAM_END,
} from '../../src/migration/messages.ts';
import { References, type ReferencesOptions } from '../../src/migration/memory/references.ts';
import type { ContentLookup } from '../../src/wire/qemu-stream/content.ts';
import { FakeLink, type FakeLinkOptions } from '../migration/disk-link.ts';
import type { TempDir } from './tempdir.ts';

/** A Unix server that stands for the target's QEMU: keeps what each connection brings. */
export class FakeIncoming implements AsyncDisposable {
  readonly sockets: Socket[] = [];
  readonly #chunks: Buffer[][] = [];
  readonly #server = createServer({ allowHalfOpen: true }, (socket) => {
    const chunks: Buffer[] = [];
    this.#chunks.push(chunks);
    this.sockets.push(socket);
    socket.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length;
      if (this.keeps) chunks.push(chunk);
    });
    socket.on('error', () => undefined);
  });
  keeps = true;
  bytes = 0;

  static async listen(path: string): Promise<FakeIncoming> {
    const incoming = new FakeIncoming();
    incoming.#server.listen(path);
    await once(incoming.#server, 'listening');
    return incoming;
  }

  /** All that channel 0 or 1 has brought so far. */
  received(channel: 0 | 1 = 0): Buffer {
    return Buffer.concat(this.#chunks[channel] ?? []);
  }

  /** Resolves when the channel has been closed by its sender. */
  async ended(channel: 0 | 1 = 0): Promise<void> {
    const socket = this.sockets[channel];
    if (socket && !socket.readableEnded) await once(socket, 'end');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
  }
}

export interface MemoryPairOptions {
  down?: FakeLinkOptions;
  up?: FakeLinkOptions;
  codec?: MemorySourceOptions['codec'];
  zstdLevel?: number;
  /** As the movers set codec `content` up: pages of an image, and repeats. */
  content?: { lookup: ContentLookup; reader: ReferencesOptions['reader']; repeatPages: number };
  preempt?: boolean;
  /** The target's QEMU is not there yet: `target.connect()` is the test's. */
  late?: boolean;
  onTakeover?: MemorySourceOptions['onTakeover'];
}

/** Both ends of memory migration over a link in memory, between a source's QEMU and a target's that are played. */
export interface MemoryPair extends AsyncDisposable {
  source: MemorySource;
  target: MemoryTarget;
  incoming: FakeIncoming;
  down: FakeLink;
  /** The source QEMU's ends of its channels. */
  main: Socket;
  preempt: Socket | undefined;
  /** What the return path brought to the source's QEMU. */
  returned(): Buffer;
  /** Bytes that the target's QEMU had got on its main channel when ownership was taken. */
  takenAtBytes(): number | undefined;
}

let count = 0;

export async function memoryPair(dir: TempDir, options: MemoryPairOptions = {}): Promise<MemoryPair> {
  count += 1;
  const name = `${count}`;
  const incoming = await FakeIncoming.listen(dir.file(`in${name}`));
  const down = new FakeLink(options.down ?? {});
  const up = new FakeLink(options.up ?? {});
  const source = new MemorySource({
    socketPath: dir.file(`out${name}`),
    session: down,
    codec: options.codec ?? 'rle',
    zstdLevel: options.zstdLevel,
    onTakeover: options.onTakeover ?? (() => Promise.resolve()),
  });
  await source.listen();
  const { content } = options;
  if (content) source.useContent(content.lookup, content.repeatPages);
  let takenAtBytes: number | undefined;
  const references = new References({
    reader: content?.reader,
    send: (type, payload) => {
      void up.send('urgent', type, payload);
    },
  });
  const target = new MemoryTarget({
    socketPath: dir.file(`in${name}`),
    references,
    repeatPages: content?.repeatPages ?? 0,
    preempt: options.preempt ?? false,
    onTakeover: async () => {
      takenAtBytes = incoming.received().length;
    },
    onReturn: (bytes) => {
      void up.send('urgent', MESSAGE_RETURN, bytes);
    },
  });
  if (!options.late) await target.connect();
  const handler: MessageHandler = (type, payload, lane) => {
    if (type === MESSAGE_STREAM) return target.handle(payload, lane);
    if (type === MESSAGE_STREAM_END) return target.handleEnd(payload);
    if (type === MESSAGE_CONTENT_BYTES) return references.handleBytes(payload);
    throw new Error(`message ${type}`);
  };
  down.connect(handler);
  up.connect((type, payload) => {
    if (type === MESSAGE_DECODED) return source.handleDecoded(payload);
    if (type === MESSAGE_CONTENT_MISSING) return source.handleMissing(payload);
    return source.handleReturn(payload);
  });
  const main = connect(dir.file(`out${name}`));
  await once(main, 'connect');
  const returned: Buffer[] = [];
  main.on('data', (chunk: Buffer) => returned.push(chunk));
  main.on('error', () => undefined);
  let preempt: Socket | undefined;
  if (options.preempt) {
    preempt = connect(dir.file(`out${name}`));
    await once(preempt, 'connect');
    preempt.on('error', () => undefined);
  }
  return {
    source,
    target,
    incoming,
    down,
    main,
    preempt,
    returned: () => Buffer.concat(returned),
    takenAtBytes: () => takenAtBytes,
    async [Symbol.asyncDispose]() {
      main.destroy();
      preempt?.destroy();
      await source[Symbol.asyncDispose]();
      await target[Symbol.asyncDispose]();
      await incoming[Symbol.asyncDispose]();
    },
  };
}
