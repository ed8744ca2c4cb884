import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '../../src/base/async.ts';
import { ownershipSchema } from '../../src/migration/ownership.ts';

/** A processor of a guest that ran for less than this in a window stood still: a frozen one does nothing at all. */
const RAN_NS = 1_000_000;
const WINDOW_MS = 60;
const PAUSE_MS = 100;

/** Where the hosts of a `TwoTier` keep their VMs. */
interface WatchedSystem {
  readonly dir: string;
  readonly files: { readonly hosts: ReadonlyMap<string, string> };
}

interface Owner {
  readonly host: string;
  readonly generation: number;
}

interface Qemu {
  readonly vm: string;
  readonly host: string;
  readonly pid: number;
}

/**
 * Looks all the time, past every agent, at what lies on disk and what runs: that no VM is owned by two hosts, and that no two
 * QEMUs run the same VM. Both are decided without a clock: looks that follow each other can only all agree if it was so at once.
 */
export class OwnerWatch implements AsyncDisposable {
  readonly violations: string[] = [];
  /** Times that all VMs were looked at; that one of them had two QEMUs; and that one of these was seen to run. */
  looks = 0;
  pairs = 0;
  ran = 0;
  readonly #dir: string;
  readonly #hosts: readonly string[];
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  private constructor(system: WatchedSystem) {
    this.#dir = system.dir;
    this.#hosts = [...system.files.hosts.keys()];
    this.#running = this.#watch();
  }

  static start(system: WatchedSystem): OwnerWatch {
    return new OwnerWatch(system);
  }

  async #watch(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await this.#owners();
      await this.#qemus();
      this.looks += 1;
      await sleep(PAUSE_MS, this.#stop.signal).catch(() => {});
    }
  }

  /** The hosts that own each VM now, one read after the other. */
  async owners(): Promise<Map<string, Owner[]>> {
    const found = new Map<string, Owner[]>();
    for (const host of this.#hosts) {
      const vms = join(this.#dir, host, 'data', 'vms');
      for (const vm of await readdir(vms).catch(() => [])) {
        const text = await readFile(join(vms, vm, 'ownership.json'), 'utf8').catch(() => '');
        const ownership = ownershipSchema.safeParse(tryJson(text)).data;
        if (ownership?.state !== 'owned' || ownership.owner !== host) continue;
        found.set(vm, [...(found.get(vm) ?? []), { host, generation: ownership.generation }]);
      }
    }
    return found;
  }

  async #owners(): Promise<void> {
    const first = [...(await this.owners())].filter(([, owners]) => owners.length > 1);
    if (first.length === 0) return;
    // who owned it before the other one did, and still does, owned it at the same time: generations only grow
    const second = await this.owners();
    for (const [vm, owners] of first) {
      const still = owners.filter((owner) =>
        second
          .get(vm)
          ?.some(({ host, generation }) => host === owner.host && generation === owner.generation),
      );
      if (still.length > 1) this.violations.push(`${vm} is owned by ${JSON.stringify(still)}`);
    }
  }

  /** All QEMUs of the system that have a disk of a VM. */
  async qemus(): Promise<Qemu[]> {
    const found: Qemu[] = [];
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      const command = await readFile(`/proc/${name}/cmdline`, 'latin1').catch(() => '');
      if (!command.startsWith('qemu-system') && !/^[^\0]*\/qemu-system/.test(command)) continue;
      const at = command.indexOf(`${this.#dir}/`);
      const [, host, vm] =
        /^\/([^/]+)\/data\/vms\/(vm-[^/]+)\//.exec(command.slice(at + this.#dir.length)) ?? [];
      if (at >= 0 && host !== undefined && vm !== undefined) found.push({ vm, host, pid: Number(name) });
    }
    return found;
  }

  async #qemus(): Promise<void> {
    const all = Map.groupBy(await this.qemus(), ({ vm }) => vm);
    for (const [vm, qemus] of all) {
      if (qemus.length < 2) continue;
      this.pairs += 1;
      const first = await ranIn(qemus);
      if (first > 0) this.ran += 1;
      // a VM changes its place within one window: then each ran in a part of it. In two in a row both ran at once.
      if (first < 2 || (await ranIn(qemus)) < 2) continue;
      this.violations.push(`${vm} runs at ${qemus.map(({ host }) => host).join(' and ')}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

/** How many of them ran guest code within a window. */
async function ranIn(qemus: readonly Qemu[]): Promise<number> {
  const before = await Promise.all(qemus.map(guestNs));
  await sleep(WINDOW_MS);
  const after = await Promise.all(qemus.map(guestNs));
  return after.filter((ns, i) => ns - (before[i] ?? ns) > RAN_NS).length;
}

/** Time that a QEMU's virtual processors have run for, in ns. */
async function guestNs({ pid }: Qemu): Promise<number> {
  let sum = 0;
  for (const task of await readdir(`/proc/${pid}/task`).catch(() => [])) {
    const at = `/proc/${pid}/task/${task}`;
    const name = await readFile(`${at}/comm`, 'utf8').catch(() => '');
    if (!name.startsWith('CPU ')) continue;
    const [ns = '0'] = (await readFile(`${at}/schedstat`, 'utf8').catch(() => '0')).split(' ');
    sum += Number(ns);
  }
  return sum;
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
