/** The cells of docs/FAILURES.md that a test can provoke, on real QEMU. Each test names its cell: phase, what dies. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { processAlive } from '../../src/base/process.ts';
import type { MoverStatus } from '../../src/migration/mover/config.ts';
import type { MoverHandle } from '../../src/migration/mover/handle.ts';
import { endOutgoing, stayHere, takeBack } from '../../src/migration/outgoing.ts';
import { readOwnership } from '../../src/migration/ownership.ts';
import type { MigrationState } from '../../src/migration/state.ts';
import { MoverLab, type Place, type Run } from '../kit/moverLab.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

vi.setConfig({ testTimeout: 300_000 });

let dir: TempDir;
let lab: MoverLab;
let place: Place;

/** A QEMU that has not tried to migrate yet: only such a one uses its second channel, see mayPreempt. */
async function boot(): Promise<void> {
  await (place as Place | undefined)?.vm.kill();
  place = await lab.boot('center');
  await place.workload.command('start disk=60 mem=200');
}

beforeAll(async () => {
  dir = await tempDir();
  lab = await MoverLab.create(dir);
  await boot();
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

const LINK = { rateMbit: 150, rttMs: 4 };
const start = (): Promise<Run> => lab.migrate(place, { link: LINK, change: { linkLossTimeoutMs: 1500 } });

async function until(mover: MoverHandle, matches: (status: MoverStatus) => boolean): Promise<MoverStatus> {
  for (;;) {
    const { status } = mover;
    if (status && matches(status)) return status;
    if (!processAlive(mover.pid)) throw new Error(`the mover has ended: ${JSON.stringify(status)}`);
    await sleep(10);
  }
}
const reached = (mover: MoverHandle, state: MigrationState): Promise<MoverStatus> =>
  until(mover, (status) => status.state === state);

/** The VM has been stopped, and the package with its state is on its way for a second. */
async function frozen(run: Run): Promise<void> {
  const { qmp } = place.vm;
  const since = qmp.mark();
  const wait = { since, timeoutMs: Number.POSITIVE_INFINITY };
  await qmp.waitEvent('MIGRATION_PASS', (event) => Number(event.data['pass']) >= 2, wait);
  run.emulator?.setDelay(2000);
  await qmp.waitEvent('STOP', undefined, wait);
  await sleep(300);
  expect(run.target.status?.state).toBe('precopy');
}

/** The target runs the VM, and the line is dead: a good part of memory and disk has not arrived. */
async function halfWay(run: Run): Promise<void> {
  await reached(run.target, 'postcopy');
  run.emulator?.setRate(1);
  await reached(run.source, 'postcopy');
  run.emulator?.cut();
}

async function verified(): Promise<void> {
  const answer = await place.workload.command('verify');
  expect(answer.line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
}

/** The VM runs at the source as if nothing had been, and can be migrated again. */
async function staysHere(generation: number): Promise<void> {
  expect(await place.vm.qmp.queryStatus()).toMatchObject({ running: true });
  expect(await readOwnership(place.ownershipPath)).toMatchObject({
    owner: 'center',
    state: 'owned',
    generation,
    peer: null,
  });
  place = { ...place, generation };
}

/** And it was stopped meanwhile, so that its memory and disk are worth a look. */
async function goesOnHere(generation: number): Promise<void> {
  await staysHere(generation);
  await verified();
}

async function sourceSays(run: Run, code: string): Promise<void> {
  const ended = await run.source.exited;
  expect(ended?.error?.code).toBe(code);
  const record: unknown = JSON.parse(await readFile(run.recordPath, 'utf8'));
  expect(record).toMatchObject({ ok: false, error: { code } });
}

async function targetIsClean(run: Run, code?: string): Promise<void> {
  const ended = await run.target.exited;
  const log = await readFile(`${run.targetDir}/mover.log`, 'utf8');
  expect(ended?.state, log).toMatch(/failed|cancelled/);
  if (code !== undefined) expect(ended?.error?.code).toBe(code);
  await run.targetVm.exited;
  for (const name of ['nbd.sock', 'stream.sock', 'rpc.sock', 'rpc.sock.json', 'link.sock']) {
    expect(existsSync(`${run.targetDir}/${name}`), name).toBe(false);
  }
  expect(await readOwnership(`${run.targetDir}/ownership.json`)).toMatchObject({ state: 'incoming' });
}

/** What an agent, or its operator, tells a QEMU whose mover has gone. */
const here = () => ({
  siteId: 'center',
  ownershipPath: place.ownershipPath,
  streamSocket: `${place.dir}/again.sock`,
});

/** The operator takes the VM back from the target, which must not run it any more. */
async function takeBackByHand(run: Run): Promise<void> {
  await run.target.kill();
  await run.targetVm.kill();
  const { generation } = place;
  await takeBack(place.vm.qmp, { ...here(), generation });
  await goesOnHere(generation + 2);
}

describe('connecting', () => {
  test('cancel, while the other site does not answer', async () => {
    const run = await lab.migrate(place, { link: LINK, cut: true });
    await run.source.cancel('never mind');
    await sourceSays(run, 'MOVER_CANCELLED');
    await run.target.cancel('never mind');
    await targetIsClean(run, 'MOVER_CANCELLED');
    await staysHere(place.generation);
  });

  test('source mover', async () => {
    const run = await lab.migrate(place, { link: LINK, cut: true });
    await run.source.kill();
    await run.target.cancel('the agent has heard of it');
    await targetIsClean(run);
    await staysHere(place.generation);
  });

  test('target QEMU', async () => {
    const run = await lab.migrate(place, { link: LINK, cut: true });
    process.kill(run.targetVm.pid, 'SIGKILL');
    await targetIsClean(run, 'MOVER_QEMU_TARGET');
    await run.source.cancel('the agent has heard of it');
    await sourceSays(run, 'MOVER_CANCELLED');
    await staysHere(place.generation);
  });
});

describe('precopy', () => {
  test('cancel', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    await run.source.cancel('changed my mind');
    await sourceSays(run, 'MOVER_CANCELLED');
    await targetIsClean(run, 'MOVER_PEER_FAILED');
    await staysHere(place.generation);
  });

  test('SIGTERM to the source mover is a cancel', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    process.kill(run.source.pid, 'SIGTERM');
    await sourceSays(run, 'MOVER_CANCELLED');
    await targetIsClean(run, 'MOVER_PEER_FAILED');
    await staysHere(place.generation);
  });

  test('link, for longer than allowed', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    run.emulator?.cut();
    await sourceSays(run, 'LINK_LOST');
    await targetIsClean(run, 'LINK_LOST');
    await staysHere(place.generation);
  });

  test('target QEMU', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    process.kill(run.targetVm.pid, 'SIGKILL');
    await sourceSays(run, 'MOVER_PEER_FAILED');
    await targetIsClean(run, 'MOVER_QEMU_TARGET');
    await staysHere(place.generation);
  });

  test('target mover', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    await run.target.kill();
    await sourceSays(run, 'LINK_LOST');
    await staysHere(place.generation);
    await run.targetVm.kill();
  });

  test('source mover', async () => {
    const run = await start();
    await reached(run.source, 'precopy');
    await run.source.kill();
    await targetIsClean(run, 'LINK_LOST');
    await goesOnHere(place.generation);
  });
});

describe('switching, the VM stands still and the target has not taken over', () => {
  beforeAll(boot);

  test('target QEMU: by the target’s word the VM goes on at the source', async () => {
    const run = await start();
    await frozen(run);
    process.kill(run.targetVm.pid, 'SIGKILL');
    await sourceSays(run, 'MOVER_PEER_FAILED');
    await targetIsClean(run, 'MOVER_QEMU_TARGET');
    await goesOnHere(place.generation);
  });

  test('target mover: only the operator can say that the target is dead', async () => {
    const run = await start();
    await frozen(run);
    await run.target.kill();
    await until(run.source, (status) => status.link === 'cut');
    expect(await place.vm.qmp.queryStatus()).toMatchObject({ running: false });
    expect(run.source.status).toMatchObject({ state: 'switching', error: null });
    await run.targetVm.kill();
    const { generation } = place;
    await run.source.takeBack();
    await sourceSays(run, 'MOVER_TAKEN_BACK');
    await goesOnHere(generation + 2);
  });

  test('source mover, with what it sent lost: the agent asks the target and lets the VM go on', async () => {
    const run = await start();
    await frozen(run);
    run.emulator?.cut();
    await run.source.kill();
    await targetIsClean(run, 'LINK_LOST');
    // QEMU 7.2 cannot cancel in this state
    expect(await place.vm.qmp.queryMigrate()).toMatchObject({ status: 'postcopy-paused' });
    expect(await readOwnership(place.ownershipPath)).toMatchObject({ owner: 'center', state: 'offered' });
    await stayHere(place.vm.qmp, here());
    await goesOnHere(place.generation);
  });

  test('cancel is too late; a link that was cut goes on', async () => {
    const run = await start();
    await frozen(run);
    run.emulator?.cut();
    await expect(run.source.cancel('too late')).rejects.toMatchObject({ code: 'MOVER_TOO_LATE' });
    await sleep(1800);
    run.emulator?.setDelay(LINK.rttMs);
    run.emulator?.restore();
    const { place: there } = await run.finish();
    place = there;
    await verified();
    // and home again for the tests to come
    place = (await (await lab.migrate(place)).finish()).place;
    await verified();
  });
});

describe('postcopy', () => {
  beforeAll(boot);

  test('source mover: the VM waits where it misses something; the operator takes it back', async () => {
    const run = await start();
    await halfWay(run);
    await run.source.kill();
    await until(run.target, (status) => status.link === 'cut');
    await sleep(1600);
    expect(run.target.status).toMatchObject({ state: 'postcopy', link: 'cut' });
    expect(processAlive(run.target.pid)).toBe(true);
    expect(processAlive(run.targetVm.pid)).toBe(true);
    // a signal that would cancel does not harm a VM that is here
    process.kill(run.target.pid, 'SIGTERM');
    await takeBackByHand(run);
  });

  test('target QEMU: reported, and the operator takes the frozen VM back', async () => {
    const run = await start();
    await reached(run.target, 'postcopy');
    run.emulator?.setRate(1);
    process.kill(run.targetVm.pid, 'SIGKILL');
    await sourceSays(run, 'MOVER_PEER_FAILED');
    expect(run.target.status).toMatchObject({ state: 'failed', error: { code: 'MOVER_QEMU_TARGET' } });
    expect(await place.vm.qmp.queryStatus()).toMatchObject({ running: false });
    expect(await readOwnership(place.ownershipPath)).not.toMatchObject({ state: 'owned', owner: 'center' });
    await takeBackByHand(run);
  });

  test('target mover: the VM waits; the operator takes it back', async () => {
    const run = await start();
    await halfWay(run);
    await expect(run.source.cancel('too late')).rejects.toMatchObject({ code: 'MOVER_TOO_LATE' });
    await run.target.kill();
    await until(run.source, (status) => status.link === 'cut');
    expect(run.source.status).toMatchObject({ state: 'postcopy', error: null });
    await run.targetVm.kill();
    const { generation } = place;
    await run.source.takeBack();
    await sourceSays(run, 'MOVER_TAKEN_BACK');
    await goesOnHere(generation + 2);
  });

  test('nothing is taken back from a target that can be reached', async () => {
    const run = await start();
    await reached(run.source, 'postcopy');
    const refused = await run.source.takeBack().then(
      () => 'done',
      (error: unknown) => errorCode(error),
    );
    expect(refused).toMatch(/MOVER_TARGET_ALIVE|MOVER_TOO_LATE/);
    const { place: there } = await run.finish();
    place = there;
    await verified();
  });
});

describe('finalizing', () => {
  test('source mover: the target needs it no more', async () => {
    const run = await start();
    await reached(run.target, 'finalizing');
    await run.source.kill();
    await until(run.target, (status) => status.state === 'completed');
    expect(await readOwnership(`${run.targetDir}/ownership.json`)).toMatchObject({
      state: 'owned',
      peer: null,
    });
    await endOutgoing(place.vm.qmp, here());
    expect(await place.vm.qmp.queryStatus()).toMatchObject({ running: false });
    expect(await run.targetVm.qmp.queryStatus()).toMatchObject({ running: true });
  });
});

describe('source QEMU', () => {
  beforeAll(boot);

  test('in postcopy: the target says what it misses, and keeps what it has', async () => {
    const run = await start();
    await halfWay(run);
    process.kill(place.vm.pid, 'SIGKILL');
    run.emulator?.restore();
    await sourceSays(run, 'MOVER_QEMU_SOURCE');
    const status = await until(run.target, ({ error }) => error !== null);
    expect(status).toMatchObject({ state: 'postcopy', error: { code: 'MOVER_SOURCE_LOST' } });
    expect(processAlive(run.targetVm.pid)).toBe(true);
    // the operator gives it up
    process.kill(run.targetVm.pid, 'SIGKILL');
    expect(await run.target.exited).toMatchObject({ state: 'failed', error: { code: 'MOVER_QEMU_TARGET' } });
  });

  test('in precopy: the VM has gone, and both sides say so', async () => {
    await boot();
    const run = await start();
    await reached(run.source, 'precopy');
    process.kill(place.vm.pid, 'SIGKILL');
    await sourceSays(run, 'MOVER_QEMU_SOURCE');
    await targetIsClean(run, 'MOVER_PEER_FAILED');
    expect(await readOwnership(place.ownershipPath)).toMatchObject({ owner: 'center', state: 'owned' });
  });
});
