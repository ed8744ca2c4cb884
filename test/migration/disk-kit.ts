import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DiskSource, type DiskSourceOptions, DiskTarget } from '../../src/migration/disk/index.ts';
import type { FakeContent } from './disk-content.ts';
import { FakeLink, type FakeLinkOptions } from './disk-link.ts';

export interface Pair extends AsyncDisposable {
  source: DiskSource;
  target: DiskTarget;
  /** Source to target, and back. */
  down: FakeLink;
  up: FakeLink;
  targetPath: string;
}

export interface PairOptions {
  down?: FakeLinkOptions;
  up?: FakeLinkOptions;
  source?: Partial<DiskSourceOptions>;
  announcedSizeBytes?: number;
  /** What the target's file holds before the freeze. */
  before?: Buffer;
  targetPath?: string;
  /** What both sides have agreed on. */
  content?: FakeContent | undefined;
}

export async function tempFolder(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'cloudap-disk-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** A source mover's and a target mover's half, joined by a link in memory. */
export async function diskPair(folder: string, sourcePath: string, options: PairOptions = {}): Promise<Pair> {
  const targetPath = options.targetPath ?? join(folder, `target-${process.hrtime.bigint()}`);
  if (!options.targetPath) await writeFile(targetPath, options.before ?? Buffer.alloc(0));
  const down = new FakeLink(options.down ?? {});
  const up = new FakeLink(options.up ?? {});
  const source = await DiskSource.open({ path: sourcePath, link: down, ...options.source });
  const target = await DiskTarget.open({
    path: targetPath,
    link: up,
    announcedSizeBytes: options.announcedSizeBytes ?? 2 ** 30,
  });
  source.useContent(options.content);
  target.useContent(options.content);
  down.connect((type, payload, lane) => target.handle(type, payload, lane));
  up.connect((type, payload, lane) => source.handle(type, payload, lane));
  return {
    source,
    target,
    down,
    up,
    targetPath,
    async [Symbol.asyncDispose]() {
      await source.close();
      await target.close();
      if (!options.targetPath) await rm(targetPath, { force: true });
    },
  };
}

/** `length` bytes, some sectors random, some repeating, some zero. */
export function mixedContent(lengthBytes: number, random: () => number): Buffer {
  const data = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes; at += 4096) {
    const sector = data.subarray(at, at + 4096);
    const kind = random();
    if (kind < 0.3) continue;
    if (kind < 0.6) sector.fill(Math.floor(random() * 256));
    else for (let i = 0; i < sector.length; i++) sector[i] = Math.floor(random() * 256);
  }
  return data;
}
