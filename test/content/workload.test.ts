import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { isStaticElf } from '../../src/content/guests/initramfs.ts';
import { compileWorkload, fillDisk } from '../../src/content/guests/workload.ts';

const MIB = 1024 * 1024;
let folder: string;
let program: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cloudap-workload-'));
  program = join(folder, 'workload');
  await compileWorkload(program);
});
afterAll(() => rm(folder, { recursive: true }));

/** The workload on this machine, over a file, with its commands on stdin and stdout. */
class Running implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(disk: string, parameters: readonly string[]) {
    this.#child = spawn(program, ['run', `dev=${disk}`, ...parameters], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    if (!this.#child.stdout) throw new Error('no stdout');
    this.#answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  async command(line: string): Promise<string> {
    this.#child.stdin?.write(`${line}\n`);
    for (;;) {
      const { value, done } = await this.#answers.next();
      if (done) throw new Error('the workload has ended');
      if (!value.startsWith('ready') && !value.startsWith('tick')) return value;
    }
  }

  async counter(name: string): Promise<number> {
    return Number(new RegExp(` ${name}=(\\d+)`).exec(await this.command('stat'))?.[1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin?.end();
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}

async function newDisk(name: string): Promise<string> {
  const disk = join(folder, name);
  await fillDisk(program, disk, 8 * MIB);
  return disk;
}

async function corrupt(disk: string, offset: number, bytes: Buffer): Promise<void> {
  const file = await open(disk, 'r+');
  await file.write(bytes, 0, bytes.length, offset);
  await file.close();
}

it('compiles to the same program, which needs nothing else', async () => {
  await compileWorkload(join(folder, 'again'));
  const bytes = await readFile(program);
  expect(bytes.equals(await readFile(join(folder, 'again')))).toBe(true);
  expect(isStaticElf(bytes)).toBe(true);
  expect(isStaticElf(await readFile('/bin/sh'))).toBe(false);
});

it('checks all it wrote, discarded and read, and finds nothing', async () => {
  const disk = await newDisk('good');
  await using work = new Running(disk, ['off=4M', 'below=1', 'ram=4M']);
  expect(await work.command('start disk=max mem=max')).toMatch(/^start ok/);
  await expect.poll(() => work.counter('disk_discarded'), { timeout: 20_000 }).toBeGreaterThan(1000);
  await expect.poll(() => work.counter('mem_written'), { timeout: 20_000 }).toBeGreaterThan(5000);
  expect(await work.command('verify')).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(await work.command('stop')).toMatch(/^stop ok/);
  expect(await work.command('verify')).toMatch(/^verify ok/);
  expect(await work.command('bad')).toBe('bad ok');
  expect(await work.command('nonsense')).toBe('error unknown command');
  expect(await work.command('rate disk=7 mem=8')).toBe('rate ok disk=7 mem=8');
});

it('finds what was lost, replaced by zeros, misplaced or put back to an older version', async () => {
  const disk = await newDisk('bad');
  const original = await readFile(disk);
  await using work = new Running(disk, ['off=4M', 'below=1', 'ram=0', 'discard=0', 'write=100']);
  await work.command('start disk=max');
  await expect.poll(() => work.counter('disk_written'), { timeout: 20_000 }).toBeGreaterThan(20_000);
  await work.command('stop');
  expect(await work.command('verify')).toMatch(/^verify ok/);
  const block = (n: number) => original.subarray(n * 4096, (n + 1) * 4096);
  await corrupt(disk, 100 * 4096, Buffer.alloc(4096)); // below: zeros
  await corrupt(disk, 1100 * 4096, block(1100)); // region: the first version again
  await corrupt(disk, 1200 * 4096, Buffer.alloc(4096)); // region: zeros, never discarded
  await corrupt(disk, 1300 * 4096, (await readFile(disk)).subarray(1301 * 4096, 1302 * 4096)); // another block's bytes
  await corrupt(disk, 1400 * 4096 + 4000, Buffer.from([1])); // one byte, if it was another
  expect(await work.command('verify')).toMatch(/^verify bad .*disk_bad=[45] /);
  const bad = await work.command('bad');
  for (const n of [100, 1100, 1200, 1300]) expect(bad).toContain(` disk:${n}:`);
  // A block of the region is counted once; the one below it, which nobody may write, each time.
  expect(await work.command('verify')).toMatch(/^verify bad .*disk_bad=[56] /);
});

it('learns what an earlier boot left, and expects zeros where told', async () => {
  const disk = await newDisk('boot');
  const run = async (parameters: string[]) => {
    await using work = new Running(disk, ['off=4M', 'ram=0', ...parameters]);
    await work.command('start disk=max');
    await expect.poll(() => work.counter('disk_ops'), { timeout: 20_000 }).toBeGreaterThan(3000);
    await work.command('stop');
    return await work.command('verify');
  };
  // Most of the region is discarded, also what is around the block that marks a first boot.
  expect(await run(['discard=70', 'write=20'])).toMatch(/^verify ok/);
  expect(await run([])).toMatch(/^verify ok/);
  await corrupt(disk, 4 * MIB, Buffer.alloc(4 * MIB));
  expect(await run(['zero=1'])).toMatch(/^verify ok/);
});

it('answers while the disk is slow to open, and says what is wrong with its parameters', async () => {
  await using missing = new Running(join(folder, 'none'), ['ram=0']);
  await missing.command('start');
  expect(await missing.command('ping')).toMatch(/^ping ok boot=\d+ up_ms=\d+$/);
  expect(await missing.command('verify')).toMatch(/^verify error a worker has died/);
});
