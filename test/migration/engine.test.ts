import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { processAlive, run } from '../../src/base/process.ts';
import type { MoverHandle } from '../../src/migration/mover/handle.ts';
import { MOVER_RSS_LIMIT_MIB } from '../../src/migration/mover/limits.ts';
import type { MigrationState } from '../../src/migration/state.ts';
import { readOwnership } from '../../src/migration/ownership.ts';
import { describeChain } from '../../src/qemu/block-chain.ts';
import { MoverLab, type Place } from '../kit/moverLab.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

/** Resolves when the mover has reached the state, or a later one. */
async function reached(mover: MoverHandle, state: MigrationState): Promise<void> {
  while (mover.status?.state !== state) {
    if (mover.status?.error) throw new Error(JSON.stringify(mover.status.error));
    await sleep(20);
  }
}

async function verified(place: Place): Promise<void> {
  const answer = await place.workload.command('verify');
  expect(answer.line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(Number(answer.fields.get('disk_checked'))).toBeGreaterThan(1000);
}

let dir: TempDir;
let lab: MoverLab;
let place: Place;

beforeAll(async () => {
  dir = await tempDir();
  lab = await MoverLab.create(dir);
  place = await lab.boot('center');
  await place.workload.command('start disk=60 mem=400');
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

describe('a VM under a writing, discarding and verifying workload', () => {
  test.each(['rle', 'zstd', 'raw', 'content'] as const)('moves there and back twice (%s)', async (codec) => {
    const boot = (await place.workload.command('stat')).fields.get('boot');
    const from = place;
    const migration = await lab.migrate(place, {
      change: { memoryCodec: codec, diskCodec: codec },
    });
    const { place: arrived, record } = await migration.finish();
    place = arrived;
    expect((await place.workload.command('stat')).fields.get('boot')).toBe(boot);
    await verified(place);

    expect(record.ok).toBe(true);
    expect(record.integrity).toMatchObject({ bad: 0 });
    expect(record.integrity.checked).toBeGreaterThan(100);
    expect(record.blocks.pushed + record.blocks.pulled + record.blocks.skipped).toBe(record.blocks.total);
    expect(record.pages.sent).toBeGreaterThan(0);
    expect(record.downtimeMs).toBeLessThanOrEqual(record.switchTimeMs ?? 0);
    expect(record.switchTimeMs).toBeLessThanOrEqual(record.totalTimeMs ?? 0);
    for (const peakMiB of Object.values(record.peakRssMiB)) expect(peakMiB).toBeLessThan(MOVER_RSS_LIMIT_MIB);
    expect(record.bytes.total).toBeGreaterThan(record.bytes.memory + record.bytes.disk + record.bytes.device);

    // one owner, one generation further; base <- overlay, and nothing of the migration is left at either side
    expect(await readOwnership(place.ownershipPath)).toMatchObject({
      owner: place.site,
      generation: from.generation + 1,
      state: 'owned',
      peer: null,
    });
    expect(await readOwnership(from.ownershipPath)).toMatchObject({ owner: place.site, state: 'owned' });
    expect((await describeChain(place.vm.qmp)).stage).toBe('home');
    for (const name of ['nbd.sock', 'alloc.sock', 'stream.sock', 'rpc.sock', 'link.sock', 'top.qcow2']) {
      expect(existsSync(`${place.dir}/${name}`), name).toBe(false);
      expect(existsSync(`${from.dir}/${name}`), name).toBe(false);
    }
    expect(processAlive(migration.source.pid)).toBe(false);
    expect(processAlive(migration.target.pid)).toBe(false);
    // a stopped VM has flushed its images
    await place.vm.qmp.stop();
    await run('qemu-img', ['check', '-U', '-q', place.overlayPath]);
    await place.vm.qmp.cont();
  });
});

test('with a budget round one is cut short, and the rest is post-copied', async () => {
  const migration = await lab.migrate(place, {
    change: { switchBudgetMs: 400, memoryCodec: 'rle' },
    link: { rateMbit: 50, rttMs: 4 },
  });
  const { place: arrived, record } = await migration.finish();
  place = arrived;
  await verified(place);
  expect(record).toMatchObject({ ok: true, switchBudgetMs: 400, integrity: { bad: 0 } });
  // far more than what became dirty meanwhile
  expect(record.pages.postCopied).toBeGreaterThan(record.vm.memoryMiB * 64);
});

test('after the switch a cut link pauses what needs the source and resumes with it', async () => {
  const migration = await lab.migrate(place, { link: { rateMbit: 150, rttMs: 10 } });
  await reached(migration.target, 'postcopy');
  migration.emulator?.cut();
  // longer than the loss timeout that holds before the switch
  await sleep(6000);
  expect(migration.target.status).toMatchObject({ state: 'postcopy', link: 'cut', error: null });
  migration.emulator?.restore();
  const { place: arrived, record } = await migration.finish();
  place = arrived;
  expect(record.link.cuts).toBeGreaterThan(0);
  await verified(place);
});
