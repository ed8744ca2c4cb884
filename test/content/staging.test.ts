import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import { run } from '../../src/base/process.ts';
import { hashFile } from '../../src/content/images/files.ts';
import { imageDigest } from '../../src/content/images/manifest.ts';
import { ImageStore } from '../../src/content/images/store.ts';
import type { Artefact, ArtefactKind } from '../../src/content/staging/artefact.ts';
import { PARTS_MAX, PARTS_MAX_AGE_MS } from '../../src/content/staging/constants.ts';
import { imageKind } from '../../src/content/staging/image.ts';
import { decodeStageControl } from '../../src/content/staging/messages.ts';
import { partFolder, sweepParts } from '../../src/content/staging/part.ts';
import { StageReceiver } from '../../src/content/staging/receive.ts';
import { StageSender } from '../../src/content/staging/send.ts';
import { STAGE_CONTROL, STAGE_DATA, STAGE_END } from '../../src/wire/stage/constants.ts';
import { encodeStageData, encodeStageEnd, encodeStageZeros } from '../../src/wire/stage/frames.ts';
import { tempDir } from '../kit/tempdir.ts';
import { FakeLink, seeded } from '../migration/disk-link.ts';

const KIB = 1024;

/** Anything in a folder. */
const anyKind: ArtefactKind = {
  folderMode: 0o700,
  parse: (manifest) => manifest as Artefact,
  judge: () => Promise.resolve(),
  content: () => [],
};

async function artefactOf(folder: string, files: Readonly<Record<string, Buffer>>): Promise<Artefact> {
  await mkdir(folder, { recursive: true });
  const listed = Object.entries(files).map(([name, data]) => ({
    name,
    sha256: createHash('sha256').update(data).digest('hex'),
    fileBytes: data.length,
    mode: 0o400,
  }));
  for (const [name, data] of Object.entries(files)) await writeFile(join(folder, name), data);
  const digest = createHash('sha256').update(JSON.stringify(listed)).digest('hex');
  return { digest, name: 'it', manifest: { digest }, files: listed };
}

function content(lengthBytes: number, random: () => number): Buffer {
  const data = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes; at += 64 * KIB) {
    const kind = random();
    if (kind < 0.4) continue;
    const part = data.subarray(at, at + 64 * KIB);
    if (kind < 0.6) part.fill('text that compresses ');
    else for (let i = 0; i < part.length; i++) part[i] = Math.floor(random() * 256);
  }
  return data;
}

interface Attempt {
  sender: StageSender;
  receiver: StageReceiver;
  down: FakeLink;
  sent: Promise<void>;
  received: Promise<void>;
}

/** One attempt of a push over a link in memory. */
function attempt(artefact: Artefact, folder: string, store: string, signal: AbortSignal): Attempt {
  const down = new FakeLink({ oneAtATime: true, windowBytes: 300 * KIB });
  const up = new FakeLink({ oneAtATime: true });
  const sender = new StageSender(artefact, folder);
  const receiver = new StageReceiver(anyKind, artefact, store);
  down.connect((type, payload) => receiver.handle(type, payload));
  up.connect((type, payload) => sender.handle(type, payload));
  void down.closed.then(() => up.close());
  void up.closed.then(() => down.close());
  const sent = sender.run(down, signal);
  const received = receiver.run(up, signal);
  sent.catch(() => {});
  received.catch(() => {});
  return { sender, receiver, down, sent, received };
}

const never = new AbortController().signal;

describe('a push', () => {
  it('brings any files over, however often it is interrupted', async () => {
    await using dir = await tempDir();
    for (let seed = 1; seed <= 12; seed++) {
      const random = seeded(seed);
      const files: Record<string, Buffer> = {};
      for (let i = 0; i <= random() * 3; i++)
        files[`file${i}`] = content(Math.floor(random() * 1.5 * 1024 * KIB), random);
      files['empty'] = Buffer.alloc(0);
      const artefact = await artefactOf(dir.file(`source${seed}`), files);
      const store = dir.file(`store${seed}`);
      for (let interruptions = Math.floor(random() * 4); interruptions > 0; interruptions--) {
        const stop = new AbortController();
        const tried = attempt(artefact, dir.file(`source${seed}`), store, stop.signal);
        let messages = Math.floor(random() * 20);
        const deliver = tried.receiver.handle.bind(tried.receiver);
        tried.down.connect(async (type, payload) => {
          if (messages-- === 0) stop.abort(new Error('stopped'));
          await deliver(type, payload);
        });
        await Promise.allSettled([tried.sent, tried.received]);
      }
      const last = attempt(artefact, dir.file(`source${seed}`), store, never);
      await Promise.allSettled([last.sent, last.received]);
      const there = join(store, artefact.digest);
      expect((await readdir(there)).sort()).toEqual([...Object.keys(files), 'manifest.json'].sort());
      for (const [name, data] of Object.entries(files))
        expect((await readFile(join(there, name))).equals(data)).toBe(true);
      expect(await readdir(store)).toEqual([artefact.digest]);
      const { doneBytes, totalBytes } = last.receiver.progress();
      expect(doneBytes).toBe(totalBytes);
    }
  });

  it('leaves holes, and sends text in few bytes', async () => {
    await using dir = await tempDir();
    const artefact = await artefactOf(dir.file('source'), {
      holes: Buffer.alloc(4096 * KIB),
      text: Buffer.alloc(1024 * KIB, 'the same again '),
    });
    const { down, sent, received } = attempt(artefact, dir.file('source'), dir.file('store'), never);
    await Promise.all([sent, received]);
    expect(down.log.filter(({ lane }) => lane === 'urgent')).toEqual([]);
    expect(down.log.length).toBe(1 + 4 + 2);
    expect((await stat(join(dir.file('store'), artefact.digest, 'holes'))).blocks).toBe(0);
  });

  it('sends nothing while a migration is under way at either site', async () => {
    await using dir = await tempDir();
    for (const where of ['sender', 'receiver'] as const) {
      const artefact = await artefactOf(dir.file(where), { one: content(3072 * KIB, seeded(8)) });
      const tried = attempt(artefact, dir.file(where), dir.file('store'), never);
      let data = 0;
      const deliver = tried.receiver.handle.bind(tried.receiver);
      tried.down.connect(async (type, payload) => {
        if (type === STAGE_DATA && ++data === 3) tried[where].pause(true);
        await deliver(type, payload);
      });
      while (!tried.sender.progress().paused) await tick();
      await tried.down.drained('bulk');
      for (let i = 0; i < 50; i++) await tick();
      await tried.down.drained('bulk');
      const before = data;
      expect(before).toBeLessThan(9);
      for (let i = 0; i < 100; i++) await tick();
      expect(data).toBe(before);
      tried[where].pause(false);
      await Promise.all([tried.sent, tried.received]);
      expect(tried.sender.progress().paused).toBe(false);
    }
  });

  it('ends with a code whatever the source sends, and goes on soundly from what is there', async () => {
    await using dir = await tempDir();
    const data = content(300 * KIB, seeded(3));
    data.fill(7, 0, 100);
    const artefact = await artefactOf(dir.file('source'), { one: data, two: Buffer.alloc(5, 1) });
    const first = data.subarray(0, 100 * KIB);
    const attacks: [string, number, Buffer][] = [
      ['STAGE_PROTOCOL', STAGE_DATA, encodeStageData(1, 0, Buffer.alloc(5, 1))],
      ['STAGE_PROTOCOL', STAGE_DATA, encodeStageData(0, 4096, first)],
      ['STAGE_FRAME_INVALID', STAGE_DATA, encodeStageZeros(0, 0, data.length + 1)],
      ['STAGE_FRAME_INVALID', STAGE_DATA, Buffer.from([9, 9])],
      ['CODEC_CORRUPT', STAGE_DATA, encodeStageData(0, 0, first).subarray(0, 500)],
      ['STAGE_PROTOCOL', STAGE_END, encodeStageEnd(1)],
      ['STAGE_DAMAGED', STAGE_END, encodeStageEnd(0)],
      ['STAGE_PROTOCOL', 77, Buffer.alloc(3)],
      ['STAGE_PROTOCOL', STAGE_CONTROL, Buffer.from('{"kind":"done"}')],
      ['STAGE_PROTOCOL', STAGE_CONTROL, Buffer.from('{"kind":')],
      ['STAGE_PROTOCOL', STAGE_CONTROL, Buffer.alloc(100_000, 32)],
    ];
    for (const [code, type, message] of attacks) {
      const up = new FakeLink({});
      const receiver = new StageReceiver(anyKind, artefact, dir.file('store'));
      const said: string[] = [];
      up.connect((_, payload) => {
        const control = decodeStageControl(payload);
        said.push(control.kind === 'failed' ? control.error.code : control.kind);
        if (control.kind === 'want') void receiver.handle(type, message);
      });
      expect(errorCode(await receiver.run(up, never).catch((error: unknown) => error))).toBe(code);
      await up.drained('urgent');
      expect(said).toEqual(['want', code]);
    }
    const { sent, received } = attempt(artefact, dir.file('source'), dir.file('store'), never);
    await Promise.all([sent, received]);
    expect((await readFile(join(dir.file('store'), artefact.digest, 'one'))).equals(data)).toBe(true);
  });

  it('does not bring what the source lacks, nor ask it for what is not in the list', async () => {
    await using dir = await tempDir();
    const artefact = await artefactOf(dir.file('source'), { one: Buffer.alloc(100 * KIB, 1) });
    for (const want of [
      '{"kind":"want","file":1,"offsetBytes":0}',
      '{"kind":"want","file":0,"offsetBytes":200000}',
    ]) {
      const down = new FakeLink({});
      const sender = new StageSender(artefact, dir.file('source'));
      const ended = sender.run(down, never);
      await sender.handle(STAGE_CONTROL, Buffer.from(want));
      await expect(ended).rejects.toMatchObject({ code: 'STAGE_PROTOCOL' });
    }
    await truncate(dir.file('source/one'), 5);
    const { sent, received } = attempt(artefact, dir.file('source'), dir.file('store'), never);
    await expect(sent).rejects.toMatchObject({ code: 'STAGE_SOURCE' });
    await expect(received).rejects.toMatchObject({ code: 'STAGE_SOURCE' });
    expect(await readdir(dir.file('store'))).not.toContain(artefact.digest);
  });

  it('of one artefact runs once at a time in a store', async () => {
    await using dir = await tempDir();
    const artefact = await artefactOf(dir.file('source'), { one: Buffer.alloc(100 * KIB, 1) });
    const folder = partFolder(dir.file('store'), artefact.digest);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'owner.pid'), `${process.ppid}\n`);
    const { received } = attempt(artefact, dir.file('source'), dir.file('store'), never);
    await expect(received).rejects.toMatchObject({ code: 'STAGE_BUSY' });
    expect(await readFile(join(folder, 'owner.pid'), 'utf8')).toBe(`${process.ppid}\n`);
  });
});

describe('an image that another site sends', () => {
  it('is judged like one that is imported', async () => {
    await using dir = await tempDir();
    await run('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-F',
      'raw',
      '-b',
      '/etc/hostname',
      dir.file('disk.qcow2'),
      '1M',
    ]);
    const disk = {
      format: 'qcow2' as const,
      virtualSizeBytes: 2 ** 20,
      ...(await hashFile(dir.file('disk.qcow2'))),
    };
    const described = {
      version: 1 as const,
      disk,
      defaults: { memoryMiB: 128, cpus: 1, display: 'none' as const, input: 'none' as const },
    };
    const manifest = {
      ...described,
      digest: imageDigest(described),
      name: 'evil',
      createdAt: new Date().toISOString(),
    };
    const artefact = imageKind.parse(manifest);
    await expect(imageKind.judge(dir.path, artefact, never)).rejects.toMatchObject({
      code: 'IMAGE_HAS_BACKING',
    });
    expect(() => imageKind.parse({ ...manifest, digest: 'f'.repeat(64) })).toThrow(
      expect.objectContaining({ code: 'STAGE_MANIFEST' }),
    );
    expect(() => imageKind.parse({ ...manifest, disk: { ...disk, format: '../../x' } })).toThrow(
      expect.objectContaining({ code: 'STAGE_MANIFEST' }),
    );
  });
});

describe('parts that never became whole', () => {
  it('are removed when they are old or too many, unless somebody works on them', async () => {
    await using dir = await tempDir();
    const store = dir.file('store');
    const nowMs = Date.now();
    const made: string[] = [];
    for (let i = 0; i < PARTS_MAX + 4; i++) {
      const digest = i.toString(16).padStart(64, '0');
      await mkdir(partFolder(store, digest), { recursive: true });
      // the last one is too old, and so is the one before, which has an owner
      const ageMs = i >= PARTS_MAX + 2 ? PARTS_MAX_AGE_MS + 60_000 : i * 60_000;
      if (i === PARTS_MAX + 2)
        await writeFile(join(partFolder(store, digest), 'owner.pid'), `${process.ppid}`);
      await utimes(partFolder(store, digest), new Date(nowMs - ageMs), new Date(nowMs - ageMs));
      made.push(`.part-${digest}`);
    }
    await mkdir(join(store, '.part-of-somebody-else'));
    await ImageStore.open(store);
    await sweepParts(store, nowMs);
    const kept = [...made.slice(0, PARTS_MAX), made[PARTS_MAX + 2], '.part-of-somebody-else'];
    expect(new Set(await readdir(store))).toEqual(new Set(kept));
    await sweepParts(dir.file('nowhere'));
  });
});
