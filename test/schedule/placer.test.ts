import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { Fleet } from '../../src/control/fleet.ts';
import { placedSchema, type Place, type VmRecord } from '../../src/control/messages.ts';
import type { ControlPlane } from '../../src/control/plane.ts';
import { request } from '../../src/control/requests.ts';
import { siteSubject } from '../../src/control/subjects.ts';
import { SiteAgent } from '../../src/host/site-agent.ts';
import { RESERVATION_MS } from '../../src/schedule/constants.ts';
import { SitePlacer } from '../../src/schedule/placer.ts';
import { heartbeat, IMAGE, inventory, vmRecord } from '../kit/hosts.ts';
import { silent, testNats, type TestNats } from '../kit/nats.ts';

let nats: TestNats;
let plane: ControlPlane;

beforeAll(async () => {
  nats = await testNats();
  plane = await nats.plane('host');
});
afterAll(() => nats[Symbol.asyncDispose]());

/** A site with one host that has room for so many VMs, and a view of it. */
async function site(id: string, room: number): Promise<Fleet & AsyncDisposable> {
  await plane.buckets.inventories.put(`${id}.${id}-h1`, inventory(id, `${id}-h1`));
  const other = await nats.plane(`agent-${id}`);
  const fleet = await Fleet.open(other, silent, { site: id });
  const capacity = { cpus: 64, memoryMiB: 512 * room, diskMiB: 100_000, vms: 64 };
  const beat = heartbeat(id, `${id}-h1`, { capacity });
  for (let seq = 1; !fleet.alive(`${id}-h1`); seq++) {
    plane.publishHeartbeat({ ...beat, seq });
    await sleep(10);
  }
  return Object.assign(fleet, { [Symbol.asyncDispose]: () => fleet.close() });
}

const wanted = (n: number): Place => ({
  id: `mig-${n.toString(16).padStart(12, '0')}`,
  vm: `vm-${n.toString(16).padStart(12, '0')}`,
  cpus: 1,
  memoryMiB: 512,
  diskMiB: 10,
  accelerator: 'tcg',
  image: IMAGE,
});

test('ten that want the last place, asked for at two agents at once: one gets it, nine are told why', async () => {
  await using fleet = await site('race', 1);
  const second = await nats.plane('second');
  await using other = Object.assign(await Fleet.open(second, silent, { site: 'race' }), {
    async [Symbol.asyncDispose](): Promise<void> {
      await other.close();
    },
  });
  while (!other.alive('race-h1')) {
    plane.publishHeartbeat(
      heartbeat('race', 'race-h1', {
        startedAtMs: 2,
        seq: Date.now() % 1e6,
        capacity: { cpus: 64, memoryMiB: 512, diskMiB: 100_000, vms: 64 },
      }),
    );
    await sleep(10);
  }
  const placers = [
    new SitePlacer({ plane, fleet, site: 'race' }),
    new SitePlacer({ plane: second, fleet: other, site: 'race' }),
  ];
  const asked = await Promise.allSettled(
    Array.from({ length: 10 }, (_, n) => (placers[n % 2] as SitePlacer).place({ ...wanted(n), not: [] })),
  );
  const codes = asked.map((one) => (one.status === 'fulfilled' ? 'placed' : errorCode(one.reason)));
  expect(codes.filter((code) => code === 'placed')).toHaveLength(1);
  expect(codes.filter((code) => code === 'PLACE_NO_ROOM')).toHaveLength(9);
});

test('asked again it is the same place; released, or when it has ended, it is another’s', async () => {
  await using fleet = await site('again', 1);
  let nowMs = 1_000_000;
  const placer = new SitePlacer({ plane, fleet, site: 'again', now: () => nowMs });
  const first = await placer.place({ ...wanted(1), not: [] });
  expect(await placer.place({ ...wanted(1), not: [] })).toMatchObject({
    host: first.host,
    expiresAtMs: first.expiresAtMs,
  });
  await expect(placer.place({ ...wanted(2), not: [] })).rejects.toMatchObject({ code: 'PLACE_NO_ROOM' });
  expect(await placer.release(wanted(1).id, first.host)).toEqual({ released: true });
  expect(await placer.release(wanted(1).id, first.host)).toEqual({ released: false });
  await placer.place({ ...wanted(3), not: [] });
  // whoever reserved it was killed: nobody has to clean up
  nowMs += RESERVATION_MS;
  expect((await placer.place({ ...wanted(4), not: [] })).host).toBe('again-h1');
});

test('a VM that begins to count by itself while reservations are read counts all the same', async () => {
  await using fleet = await site('meanwhile', 1);
  const [first, second] = [wanted(1), wanted(2)];
  await new SitePlacer({ plane, fleet, site: 'meanwhile' }).place({ ...first, not: [] });
  const { reservations } = plane.buckets;
  /** It arrives just after the reservations have been read. */
  const arrives = async (): Promise<void> => {
    const record: VmRecord = {
      ...vmRecord(first.vm),
      site: 'meanwhile',
      host: 'meanwhile-h1',
      updatedAtMs: 100,
    };
    await plane.buckets.vms.put(`meanwhile.meanwhile-h1.${first.vm}`, record);
    const capacity = { cpus: 64, memoryMiB: 512, diskMiB: 100_000, vms: 64 };
    const used = { cpus: 1, memoryMiB: 512, diskMiB: 10, vms: 1 };
    for (let seq = 1000; !fleet.countedBy('meanwhile-h1').has(first.vm); seq++) {
      plane.publishHeartbeat(heartbeat('meanwhile', 'meanwhile-h1', { capacity, used, seq, atMs: 200 }));
      await sleep(10);
    }
  };
  const slow = {
    get: async (key: string) => {
      const found = await reservations.get(key);
      await arrives();
      return found;
    },
    create: reservations.create.bind(reservations),
    update: reservations.update.bind(reservations),
  } as unknown as typeof reservations;
  const slowPlane = { ...plane, buckets: { ...plane.buckets, reservations: slow } };
  const placer = new SitePlacer({ plane: slowPlane, fleet, site: 'meanwhile' });
  await expect(placer.place({ ...second, not: [] })).rejects.toMatchObject({ code: 'PLACE_NO_ROOM' });
});

test('over the control plane: the site’s agent answers, with its reason', async () => {
  await using fleet = await site('wire', 2);
  const agent = await nats.plane('wire');
  using _served = SiteAgent.serve(agent, fleet, 'wire', silent);
  await agent.connection.flush();
  const ask = (n: number) =>
    request(plane.connection, siteSubject('wire', 'place'), wanted(n), placedSchema, { id: wanted(n).id });
  expect((await ask(1)).reason).toContain('least-loaded');
  await ask(2);
  await expect(ask(3)).rejects.toMatchObject({ code: 'PLACE_NO_ROOM' });
});
