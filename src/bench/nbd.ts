/**
 * Our NBD server against `qemu-nbd`: the same raw file, the same client (`qemu-img bench`, which is QEMU's own NBD
 * driver, in a process of its own), runs interleaved, medians.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '../base/async.ts';
import { run } from '../base/process.ts';
import { listNbdExports } from '../nbd/connect.ts';
import { FileBackend } from '../nbd/file-backend.ts';
import { startNbdServer } from '../nbd/server.ts';
import { failBench as fail } from './kit/errors.ts';
import { benchCommand, benchMain, count, type Outcome, positive } from './kit/main.ts';
import { makeRow, type Row, rowsTable } from './kit/rows.ts';
import { median } from './kit/stats.ts';

const HELP = `
Reads a raw file through our NBD server and through qemu-nbd, in turns, with the same client.
A ratio above 1: ours is faster.`;

const MIB = 1024 * 1024;
const PEER = 'qemu-nbd';
const SERVE = 'serve';
const START_TIMEOUT_MS = 10_000;

interface Case {
  readonly name: string;
  readonly metric: 'IOPS' | 'MiB/s';
  readonly blockBytes: number;
  readonly depth: number;
  /** From one request to the next, in blocks: odd, so that every block is read before one comes again. */
  readonly strideBlocks: (blocks: number) => number;
}

/** The golden section of the file: each read lands far from all those shortly before it. */
const scattered = (blocks: number) => Math.floor(blocks * 0.618) | 1;
const CASES: readonly Case[] = [
  { name: 'random-4k-qd1', metric: 'IOPS', blockBytes: 4096, depth: 1, strideBlocks: scattered },
  { name: 'random-4k-qd16', metric: 'IOPS', blockBytes: 4096, depth: 16, strideBlocks: scattered },
  { name: 'sequential-1m-qd1', metric: 'MiB/s', blockBytes: MIB, depth: 1, strideBlocks: () => 1 },
];

/** A server under test, in a process of its own; ends with its scope. */
class Server implements AsyncDisposable {
  readonly path: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;

  private constructor(path: string, child: ChildProcess) {
    this.path = path;
    this.#child = child;
    this.#exited = Promise.race([once(child, 'exit'), once(child, 'error')]);
  }

  static async start(path: string, program: string, args: readonly string[]): Promise<Server> {
    const server = new Server(path, spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] }));
    const deadline = performance.now() + START_TIMEOUT_MS;
    for (;;) {
      try {
        await listNbdExports({ path });
        return server;
      } catch (error) {
        if (performance.now() > deadline || server.#child.exitCode !== null) {
          await server[Symbol.asyncDispose]();
          throw fail('BENCH_PROCESS', program, { cause: error });
        }
        await sleep(20);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null) this.#child.kill('SIGTERM');
    await this.#exited;
  }
}

/** One run of `qemu-img bench`; the result is requests per second. */
async function load(
  path: string,
  c: Case,
  sizeBytes: number,
  count: number,
  signal: AbortSignal,
): Promise<number> {
  const stride = c.strideBlocks(sizeBytes / c.blockBytes) * c.blockBytes;
  const args = ['bench', '-f', 'raw', '-c', `${count}`, '-d', `${c.depth}`, '-s', `${c.blockBytes}`];
  const uri = `nbd+unix:///?socket=${path}`;
  const { stdout } = await run('qemu-img', [...args, '-S', `${stride}`, uri], { signal });
  const seconds = Number(/Run completed in ([\d.]+) seconds/.exec(stdout)?.[1]);
  if (!(seconds > 0)) throw fail('BENCH_OUTPUT', stdout.trim());
  return count / seconds;
}

async function measure(
  servers: readonly [Server, Server],
  c: Case,
  options: { seconds: number; rounds: number; sizeBytes: number },
  signal: AbortSignal,
): Promise<Row> {
  const results: [number[], number[]] = [[], []];
  // a short run each, to warm up and to learn how many requests fill the time
  const counts: number[] = [];
  for (const server of servers) {
    const rate = await load(server.path, c, options.sizeBytes, c.depth * 100, signal);
    counts.push(Math.max(c.depth * 100, Math.round(rate * options.seconds)));
  }
  for (let round = 0; round < options.rounds; round += 1) {
    // who goes first changes each round
    for (const i of round % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      results[i].push(await load(servers[i].path, c, options.sizeBytes, counts[i] ?? 1, signal));
    }
  }
  const scale = c.metric === 'MiB/s' ? c.blockBytes / MIB : 1;
  const [value, peerValue] = results.map((r) => Math.round(median(r) * scale)) as [number, number];
  return makeRow(c.name, c.metric, value, { peer: { name: PEER, value: peerValue } });
}

/** Random content, so that neither server finds holes to skip. */
async function writeSample(path: string, sizeMib: number): Promise<void> {
  const piece = randomBytes(MIB);
  await using file = await open(path, 'w');
  for (let i = 0; i < sizeMib; i += 1) await file.write(piece);
}

/** The child process with our server. */
async function serve(file: string, path: string): Promise<void> {
  using backend = new FileBackend(file, { readOnly: true });
  await using _server = await startNbdServer({ listen: { path }, exports: [{ name: '', backend }] });
  // signals do not keep a process alive, but the server's socket does
  await once(process, 'SIGTERM');
}

const command = benchCommand('nbd', 'our NBD server beside qemu-nbd: random and sequential reads')
  .option('--seconds <n>', 'how long one run lasts', positive, 2)
  .option('--rounds <n>', 'runs of each case and server; the median counts', count, 5)
  .option('--size-mib <n>', 'of the file, a power of two; it stays in the page cache', count, 256)
  .addHelpText('after', HELP);

interface Options {
  seconds: number;
  rounds: number;
  sizeMib: number;
}

async function compare({ seconds, rounds, sizeMib }: Options, signal: AbortSignal): Promise<Outcome> {
  if (!Number.isInteger(Math.log2(sizeMib))) throw fail('BENCH_USAGE', '--size-mib must be a power of two');
  const dir = await mkdtemp(join(tmpdir(), 'cap-bench-'));
  try {
    const image = join(dir, 'disk.raw');
    await writeSample(image, sizeMib);
    const [ours, theirs] = [join(dir, 'ours.sock'), join(dir, 'peer.sock')];
    const self = fileURLToPath(import.meta.url);
    const peerArgs = ['--read-only', '--persistent', '--shared=8', '--format=raw', `--socket=${theirs}`];
    await using server = await Server.start(ours, process.execPath, [self, SERVE, image, ours]);
    await using peer = await Server.start(theirs, PEER, [...peerArgs, image]);
    const options = { seconds, rounds, sizeBytes: sizeMib * MIB };
    const rows: Row[] = [];
    for (const c of CASES) rows.push(await measure([server, peer], c, options, signal));
    return { rows, text: rowsTable(rows) };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const [mode, file = '', socket = ''] = process.argv.slice(2);
if (mode === SERVE) await serve(file, socket);
else await benchMain(command, (signal) => compare(command.opts<Options>(), signal));
