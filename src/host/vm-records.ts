import { MIB } from './units.ts';
import type { ControlPlane } from '../control/plane.ts';
import type { VmRecord } from '../control/messages.ts';
import type { Site } from '../site/site.ts';

/**
 * Keeps this host's keys of bucket `vms` equal to what the host has: writes what differs from what was written last. A
 * write that fails is made up for by the next scan.
 */
export class VmRecords {
  readonly #site: Site;
  readonly #siteId: string;
  readonly #plane: ControlPlane;
  /** What the bucket holds, as text without the time. */
  readonly #written = new Map<string, string>();
  #loaded = false;
  #scanning: Promise<void> | undefined;
  #again = false;

  constructor(site: Site, siteId: string, plane: ControlPlane) {
    this.#site = site;
    this.#siteId = siteId;
    this.#plane = plane;
  }

  /** Calls that come while one is under way lead to one more. */
  async scan(): Promise<void> {
    if (this.#scanning) {
      this.#again = true;
      return this.#scanning;
    }
    this.#scanning = (async () => {
      do {
        this.#again = false;
        await this.#scanOnce();
      } while (this.#again);
    })().finally(() => (this.#scanning = undefined));
    return this.#scanning;
  }

  async #scanOnce(): Promise<void> {
    const { vms } = this.#plane.buckets;
    const prefix = `${this.#siteId}.${this.#site.config.id}`;
    if (!this.#loaded) {
      // those of an earlier life that are gone meanwhile
      for (const key of await vms.keys(`${prefix}.>`)) this.#written.set(key, '');
      this.#loaded = true;
    }
    const there = new Set<string>();
    for (const stored of this.#site.vms.store.list()) {
      const record = await this.#record(stored.definition.id).catch(() => undefined);
      if (!record) continue;
      const key = `${prefix}.${record.vm}`;
      there.add(key);
      const text = JSON.stringify(record);
      if (this.#written.get(key) === text) continue;
      await vms.put(key, { ...record, updatedAtMs: Date.now() });
      this.#written.set(key, text);
    }
    for (const key of this.#written.keys()) {
      if (there.has(key)) continue;
      await vms.remove(key);
      this.#written.delete(key);
    }
  }

  async #record(id: string): Promise<Omit<VmRecord, 'updatedAtMs'> | undefined> {
    if (!this.#site.vms.store.has(id)) return undefined;
    const stored = this.#site.vms.store.get(id);
    const [view, disk] = await Promise.all([this.#site.view(stored), this.#site.diskBytes(stored)]);
    return {
      version: 1,
      vm: view.id,
      name: view.name,
      host: this.#site.config.id,
      site: this.#siteId,
      status: view.status,
      generation: view.generation,
      ownership: view.ownership,
      image: view.image,
      template: view.template,
      cpus: view.cpus,
      memoryMiB: view.memoryMiB,
      // rounded: a guest that writes is no news each second
      diskMiB: Math.ceil(disk / MIB / 16) * 16,
      accelerator: view.accelerator === 'kvm' ? 'kvm' : 'tcg',
      machineType: view.machineType,
      cpuModel: view.cpuModel,
      migration: view.migrationId,
    };
  }
}
