/**
 * Our NBD server against `qemu-nbd`: the same raw file, the same client (`qemu-img bench`, which is QEMU's own NBD
 * driver, in a process of its own), runs interleaved, medians. Usage: see HELP.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { sleep } from '../base/async.ts';
import { asCloudapError, errorCatalogue } from '../base/errors.ts';
import { run } from '../base/process.ts';
import { listNbdExports } from '../nbd/connect.ts';
import { FileBackend } from '../nbd/file-backend.ts';
import { startNbdServer } from '../nbd/server.ts';

const HELP = `npm run bench:nbd -- [--seconds N] [--rounds N] [--size-mib N] [--json FILE]

Reads a raw file through our NBD server and through qemu-nbd, in turns, with the same client.
  --seconds N    how long one run lasts (2)
  --rounds N     runs of each case and server; the median counts (5)
  --size-mib N   size of the file, a power of two; it stays in the page cache (256)
  --json FILE    writes rows {case, metric, value, peer, peerValue, ratio}; ratio above 1: ours is faster
  --help         this text
`;

const fail = errorCatalogue({
  BENCH_USAGE: {
    summary: 'the benchmark was called wrongly',
    remedy: '`npm run bench:nbd -- --help` lists the options.',
  },
  BENCH_SERVER: {
    summary: 'a server under test did not start',
    remedy: 'Check that qemu-utils is installed: `npm run setup`.',
  },
  BENCH_OUTPUT: {
    summary: 'qemu-img bench said something unexpected',
    remedy: 'Check its version; 7.2 and newer are known to work.',
  },
});

const MIB = 1024 * 1024;
const PEER = 'qemu-nbd';
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

interface Row {
  readonly case: string;
  readonly metric: string;
  readonly value: number;
  readonly peer: string;
  readonly peerValue: number;
  readonly ratio: number;
}

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
          throw fail('BENCH_SERVER', program, { cause: error });
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
  const ratio = Math.round((100 * value) / peerValue) / 100;
  return { case: c.name, metric: c.metric, value, peer: PEER, peerValue, ratio };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low, high] = [sorted[sorted.length - 1 - middle] ?? 0, sorted[middle] ?? 0];
  return (low + high) / 2;
}

function table(rows: readonly Row[]): string {
  const lines = [['case', 'metric', 'cloudap', PEER, 'ratio']];
  for (const r of rows) lines.push([r.case, r.metric, `${r.value}`, `${r.peerValue}`, r.ratio.toFixed(2)]);
  const widths = [20, 8, 10, 10, 8];
  return lines
    .map((l) =>
      l.map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join(''),
    )
    .join('\n');
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

function positive(text: string, name: string): number {
  const value = Number(text);
  if (!(value > 0)) throw fail('BENCH_USAGE', `--${name} ${text}`);
  return value;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '2' },
      rounds: { type: 'string', default: '5' },
      'size-mib': { type: 'string', default: '256' },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
      serve: { type: 'string', multiple: true },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const [file, socket] = values.serve ?? [];
  if (file !== undefined && socket !== undefined) {
    await serve(file, socket);
    return;
  }
  const seconds = positive(values.seconds, 'seconds');
  const rounds = Math.ceil(positive(values.rounds, 'rounds'));
  const sizeMib = positive(values['size-mib'], 'size-mib');
  if (!Number.isInteger(Math.log2(sizeMib))) throw fail('BENCH_USAGE', '--size-mib must be a power of two');

  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort(fail('BENCH_USAGE', 'interrupted')));
  const dir = await mkdtemp(join(tmpdir(), 'cap-bench-'));
  try {
    const image = join(dir, 'disk.raw');
    await writeSample(image, sizeMib);
    const [ours, theirs] = [join(dir, 'ours.sock'), join(dir, 'peer.sock')];
    const self = fileURLToPath(import.meta.url);
    const peerArgs = ['--read-only', '--persistent', '--shared=8', '--format=raw', `--socket=${theirs}`];
    await using server = await Server.start(ours, process.execPath, [
      self,
      '--serve',
      image,
      '--serve',
      ours,
    ]);
    await using peer = await Server.start(theirs, PEER, [...peerArgs, image]);
    const options = { seconds, rounds, sizeBytes: sizeMib * MIB };
    const rows: Row[] = [];
    for (const c of CASES) rows.push(await measure([server, peer], c, options, interrupted.signal));
    process.stdout.write(`${table(rows)}\n`);
    if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(rows, undefined, 2)}\n`);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    const { code, message, remedy } = asCloudapError(error);
    process.stderr.write(`nbd bench: ${code}: ${message}\n${remedy}\n`);
    process.exitCode = 1;
  }
}
