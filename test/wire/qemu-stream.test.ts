/** The stream of a real QEMU: a machine without a disk, in which SeaBIOS runs. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, connect, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, expect, test } from 'vitest';
import {
  COMMAND_POSTCOPY_ADVISE,
  COMMAND_POSTCOPY_RAM_DISCARD,
  PAGE_BYTES,
  ReturnPathParser,
  StreamDecoder,
  StreamEncoder,
  type StreamEncoderOptions,
} from '../../src/wire/qemu-stream/index.ts';
import { chunksOf, recode } from '../kit/qemuStream.ts';

const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of cleanup.splice(0).toReversed()) await step();
});

async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'cap-stream-'));
  cleanup.push(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** The least of QMP that these tests need. */
class Qmp {
  readonly events: { event: string; data?: { status?: string; pass?: number } }[] = [];
  readonly #socket: Socket;
  #answer: ((message: { return?: unknown; error?: unknown }) => void) | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    const lines = createInterface({ input: socket });
    // readline passes its input's errors on; QEMU is killed with bytes of ours unread
    lines.on('error', () => {});
    lines.on('line', (line) => {
      const message = JSON.parse(line) as { event?: string; QMP?: unknown };
      if (message.event !== undefined) this.events.push(message as { event: string });
      else if (message.QMP === undefined) this.#answer?.(message as object);
      this.#wake?.();
    });
  }

  async run<T>(execute: string, args: object = {}): Promise<T> {
    const answer = new Promise<{ return?: unknown; error?: unknown }>((resolve) => {
      this.#answer = resolve;
    });
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const message = await answer;
    if (message.error !== undefined) throw new Error(`${execute}: ${JSON.stringify(message.error)}`);
    return message.return as T;
  }

  async event(wanted: (event: Qmp['events'][number]) => boolean): Promise<void> {
    while (!this.events.some(wanted)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async migrationStatus(status: string): Promise<void> {
    await this.event((e) => e.event === 'MIGRATION' && e.data?.status === status);
  }
}

async function listen(path: string): Promise<Server> {
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  cleanup.push(() => server.close());
  return server;
}

async function machine(dir: string, name: string, ...more: string[]): Promise<Qmp> {
  const path = join(dir, `${name}.qmp`);
  // QEMU dials us: so there is no moment at which its socket is not there yet.
  const server = await listen(path);
  const child: ChildProcess = spawn(
    'qemu-system-x86_64',
    [
      '-M',
      'pc-i440fx-7.2',
      '-accel',
      'tcg',
      '-m',
      '64',
      '-nodefaults',
      '-display',
      'none',
      '-device',
      'VGA',
    ].concat('-chardev', `socket,id=q,path=${path}`, '-mon', 'chardev=q,mode=control', more),
    { stdio: ['ignore', 'inherit', 'inherit'] },
  );
  const exited = once(child, 'exit');
  cleanup.push(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const [socket] = (await once(server, 'connection')) as [Socket];
  socket.on('error', () => {});
  const qmp = new Qmp(socket);
  await qmp.run('qmp_capabilities');
  return qmp;
}

const capabilities = (...names: string[]) => ({
  capabilities: names.map((capability) => ({ capability, state: true })),
});

/** RAM as QEMU counts it, in pages: the sum of the blocks that migrate. */
async function totalPages(qmp: Qmp): Promise<number> {
  const { ram } = await qmp.run<{ ram: { total: number } }>('query-migrate');
  return ram.total / PAGE_BYTES;
}

test('a whole pre-copy migration into a file: understood and reproduced, with every codec', async () => {
  const dir = await folder();
  const qmp = await machine(dir, 'source');
  await qmp.run('migrate-set-capabilities', capabilities('events'));
  await qmp.run('migrate', { uri: `exec:cat > ${join(dir, 'stream')}` });
  await qmp.migrationStatus('completed');
  const stream = await readFile(join(dir, 'stream'));
  const pages = await totalPages(qmp);
  for (const codec of ['raw', 'rle', 'zstd'] as const) {
    const { output, encoder } = recode(chunksOf(stream, [65_536, 1, 4097, 30_000]), { codec, strict: true });
    expect(output.equals(stream)).toBe(true);
    const stats = encoder.stats();
    expect(stats).toMatchObject({
      pagesTotal: pages,
      pagesSeen: pages,
      stage: 'rest',
      restReason: 'devices',
    });
    expect(stats.blocks.map((block) => block.name)).toContain('pc.ram');
    expect(stats.memory.bytesEncoded).toBeLessThan(stats.memory.bytesRaw);
    // The devices come from the first FULL section on: some 10 KB, not a part of RAM that was not understood.
    expect(stats.device.bytesRaw).toBeLessThan(400_000);
  }
});

/** A source's connection, recoded byte for byte into the target's, and the return path back. */
function splice(source: Socket, target: Socket, options: StreamEncoderOptions): StreamEncoder {
  const decoder = new StreamDecoder();
  const encoder = new StreamEncoder(options, (frame) => target.write(decoder.push(frame.payload)));
  source.on('data', (chunk) => {
    encoder.push(chunk);
    encoder.flush();
  });
  source.on('end', () => {
    encoder.end();
    target.end();
  });
  target.on('data', (chunk) => source.write(chunk));
  target.on('end', () => source.end());
  for (const socket of [source, target]) {
    socket.on('error', () => {});
    cleanup.push(() => socket.destroy());
  }
  return encoder;
}

test.each([
  ['post-copy', ['events', 'return-path', 'postcopy-ram']],
  ['post-copy with preempt', ['events', 'return-path', 'postcopy-ram', 'postcopy-preempt']],
])('%s to a second QEMU through encoder and decoder: it runs there', async (_, names) => {
  const dir = await folder();
  const source = await machine(dir, 'source');
  const target = await machine(dir, 'target', '-incoming', 'defer');
  await source.run('migrate-set-capabilities', capabilities(...names));
  await target.run('migrate-set-capabilities', capabilities(...names));
  await target.run('migrate-incoming', { uri: `unix:${join(dir, 'in')}` });

  const commands: number[] = [];
  const encoders: StreamEncoder[] = [];
  const returnPath = new ReturnPathParser();
  let packageBytes = 0;
  const server = await listen(join(dir, 'out'));
  server.on('connection', (socket) => {
    const main = encoders.length === 0;
    const peer = connect(join(dir, 'in'));
    if (main) peer.on('data', (chunk) => returnPath.push(chunk));
    const encoder = splice(socket, peer, {
      mode: main ? 'main' : 'ram',
      strict: true,
      codec: main ? 'zstd' : 'rle',
      onCommand: (id) => commands.push(id),
      onPackagedStart: (lengthBytes) => {
        packageBytes = lengthBytes;
        encoder.mark();
      },
    });
    encoders.push(encoder);
  });

  // Slow, so that post-copy starts while there is still memory to send.
  await source.run('migrate-set-parameters', { 'max-bandwidth': 1_000_000, 'max-postcopy-bandwidth': 0 });
  await source.run('migrate', { uri: `unix:${join(dir, 'out')}` });
  await source.migrationStatus('active');
  if (names.includes('postcopy-preempt')) {
    // The second connection is made in the background; post-copy must not begin before it.
    const start = Date.now();
    while (encoders.length < 2 && Date.now() - start < 60_000) await source.run('query-status');
    expect(encoders.length).toBe(2);
  }
  await source.run('migrate-start-postcopy');
  await source.migrationStatus('completed');
  await target.event((e) => e.event === 'RESUME');
  await target.migrationStatus('completed');

  const stats = encoders[0]?.stats();
  const pages = await totalPages(source);
  const urgent = encoders[1]?.stats();
  expect(stats).toMatchObject({ pagesTotal: pages, restReason: 'eof' });
  expect(stats?.sinceMark.pagesSeen).toBeGreaterThan(0);
  // Each page crossed at least once, on one channel or the other.
  expect((stats?.pagesSeen ?? 0) + (urgent?.pagesSeen ?? 0)).toBeGreaterThanOrEqual(pages);
  expect(urgent?.stage ?? 'live').toBe('live');
  expect(commands).toEqual(expect.arrayContaining([COMMAND_POSTCOPY_ADVISE, COMMAND_POSTCOPY_RAM_DISCARD]));
  expect(returnPath.pendingBytes).toBe(0);
  expect(returnPath.stats().messages).toBeGreaterThan(0);
  expect(packageBytes).toBeGreaterThan(1000);
  expect((await target.run<{ status: string }>('query-status')).status).toBe('running');
});
