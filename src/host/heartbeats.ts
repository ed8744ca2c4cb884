import { cpus } from 'node:os';
import { HEARTBEAT_MS, LIST_MAX } from '../control/constants.ts';
import type { Heartbeat, Inventory } from '../control/messages.ts';
import type { ControlPlane } from '../control/plane.ts';
import type { ImageStore } from '../content/images/store.ts';
import { formatAddress } from '../site/config-text.ts';
import type { Site } from '../site/site.ts';
import { VERSION } from '../site/version.ts';
import { LINK_PROBE_MS } from './constants.ts';
import { CpuLoad } from './cpu-load.ts';

/** Says that this host lives, what it has and what it does. */
export class Heartbeats {
  readonly #site: Site;
  readonly #siteId: string;
  readonly #plane: ControlPlane;
  readonly #images: ImageStore;
  readonly #startedAtMs = Date.now();
  readonly #load = new CpuLoad();
  readonly #roundTrips = new Map<string, number>();
  #seq = 0;
  #inventory = '';
  #probedAtMs = -Infinity;

  constructor(site: Site, siteId: string, plane: ControlPlane, images: ImageStore) {
    this.#site = site;
    this.#siteId = siteId;
    this.#plane = plane;
    this.#images = images;
  }

  /** One heartbeat, and the inventory if it has changed. */
  async beat(): Promise<void> {
    const { buckets } = this.#plane;
    const host = this.#site.config.id;
    this.#plane.publishHeartbeat(await this.#heartbeat());
    const inventory = await this.#takeInventory();
    const text = JSON.stringify(inventory);
    if (text !== this.#inventory) {
      await buckets.inventories.put(`${this.#siteId}.${host}`, inventory);
      this.#inventory = text;
    }
    if (performance.now() - this.#probedAtMs > LINK_PROBE_MS) {
      this.#probedAtMs = performance.now();
      void this.#probe();
    }
  }

  static readonly intervalMs = HEARTBEAT_MS;

  async #heartbeat(): Promise<Heartbeat> {
    const atMs = Date.now();
    const { capacity } = await this.#site.status();
    const vms = this.#site.vms.store.list();
    const usedCpus = vms
      .filter((vm) => this.#site.vms.qemu(vm))
      .reduce((sum, { definition }) => sum + definition.machine.cpus, 0);
    this.#seq += 1;
    return {
      version: 1,
      host: this.#site.config.id,
      site: this.#siteId,
      startedAtMs: this.#startedAtMs,
      seq: this.#seq,
      atMs,
      capacity: {
        cpus: cpus().length,
        memoryMiB: capacity.memoryMiB,
        diskMiB: capacity.diskMiB ?? capacity.diskUsedMiB + capacity.diskFreeMiB,
        vms: capacity.vms,
      },
      used: {
        cpus: usedCpus,
        memoryMiB: capacity.memoryUsedMiB,
        diskMiB: capacity.diskUsedMiB,
        vms: capacity.vmsUsed,
      },
      cpuLoad: this.#load.next(),
      migrations: this.#site.migrations.activeCount,
      links: this.#links(),
    };
  }

  #links(): Heartbeat['links'] {
    return this.#site
      .sites()
      .filter(({ self, connected }) => !self && connected)
      .slice(0, LIST_MAX)
      .map(({ id }) => ({
        peer: id,
        rttMs: this.#roundTrips.get(id) ?? null,
        rateMbit: this.#site.migrations.lastRateMbit(id) ?? null,
      }));
  }

  async #probe(): Promise<void> {
    const connected = this.#site.sites().filter((site) => !site.self && site.connected);
    for (const { id } of connected) {
      await this.#site.peers.roundTripMs(id).then(
        (rttMs) => this.#roundTrips.set(id, Math.round(rttMs * 100) / 100),
        () => this.#roundTrips.delete(id),
      );
    }
  }

  async #takeInventory(): Promise<Inventory> {
    const { config, vms } = this.#site;
    const address = config.link.advertise ?? config.link.listen;
    const [images, templates] = await Promise.all([this.#images.list(), this.#site.templates()]);
    return {
      version: 1,
      host: config.id,
      site: this.#siteId,
      cloudapVersion: VERSION,
      qemuVersion: vms.facts.version,
      accelerator: vms.facts.accelerator,
      address: address ? formatAddress(address) : null,
      relay: config.link.relay,
      images: images.slice(0, LIST_MAX).map(({ manifest }) => manifest.digest),
      templates: templates.slice(0, LIST_MAX).map(({ digest }) => digest),
    };
  }
}
