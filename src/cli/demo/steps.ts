import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '../../base/async.ts';
import { errorCatalogue } from '../../base/errors.ts';
import { run } from '../../base/process.ts';
import { WorkloadClient } from '../../content/guests/workload-client.ts';
import type { Image } from '../../content/images/store.ts';
import type { LabSite, TwoSites } from '../../lab/two-sites.ts';
import type { MigrationRecord } from '../../migration/record.ts';
import {
  type MigrationView,
  migrationViewSchema,
  type VmView,
  vmViewSchema,
} from '../../site/api/messages.ts';
import { CARET_PIXELS, DemoScreen, differingPixels } from './screen.ts';

export const failDemo = errorCatalogue({
  DEMO_NOT_VERIFIED: {
    summary: 'the VM did not arrive as it left',
    remedy:
      'This must never happen: run it again with --json FILE and report the record with what was printed.',
  },
});

const WORKLOAD_WARMUP_MS = 1500;
const BEFORE = 'This line was typed at the Cloud center. ';
const AFTER = 'And this one at the CloudAP, in the same running program.';

/** One VM of the demo, with the self-checking workload inside and perhaps a screen. */
export class DemoVm {
  readonly #lab: TwoSites;
  readonly #image: Image;
  readonly #shots: string;
  readonly #signal: AbortSignal;
  #screenAtDeparture: Buffer | undefined;

  constructor(lab: TwoSites, image: Image, shots: string, signal: AbortSignal) {
    this.#lab = lab;
    this.#image = image;
    this.#shots = shots;
    this.#signal = signal;
  }

  get hasScreen(): boolean {
    return this.#image.manifest.defaults.display === 'vga';
  }

  async start(): Promise<void> {
    const { center } = this.#lab;
    await center.api.json('POST', '/vms', vmViewSchema, {
      body: { name: 'desk', image: this.#image.manifest.digest, start: true },
      signal: this.#signal,
    });
  }

  /** Waits for the guest (and its application), and types at the center. */
  async useAtCenter(): Promise<void> {
    const vm = await this.#at(this.#lab.center);
    if (this.hasScreen) {
      using screen = await DemoScreen.connect(vm.vncSocket ?? '', this.#signal);
      await screen.ready(this.#image.manifest.guest ?? {});
      await screen.type(BEFORE);
      this.#screenAtDeparture = await screen.shoot(this.shot('before'));
    }
    using workload = await this.#workload(vm);
    await workload.ready({ signal: this.#signal });
    await workload.command('start disk=30 mem=300');
    await sleep(WORKLOAD_WARMUP_MS, this.#signal);
  }

  /** Asks for the migration and follows it; `onView` sees each step. */
  async migrate(
    options: Record<string, unknown>,
    onView: (view: MigrationView) => void,
  ): Promise<{ record: MigrationRecord | null; view: MigrationView }> {
    const { api } = this.#lab.center;
    const body = { vm: 'desk', to: this.#lab.ap.id, ...options };
    let view = await api.json('POST', '/migrations', migrationViewSchema, { body });
    const id = view.migrationId;
    const cancel = (): void => void api.json('DELETE', `/migrations/${id}`, z.unknown()).catch(() => {});
    this.#signal.addEventListener('abort', cancel, { once: true });
    for await (const next of api.lines(`/migrations/${id}/events`, migrationViewSchema)) {
      view = next;
      onView(next);
    }
    this.#signal.removeEventListener('abort', cancel);
    this.#signal.throwIfAborted();
    return { record: view.record, view };
  }

  /**
   * Types on at the AP, has the guest verify all of its disk and memory, and checks the overlay.
   * @throws DEMO_NOT_VERIFIED
   */
  async verifyAtAp(): Promise<string[]> {
    const vm = await this.#at(this.#lab.ap);
    const lines: string[] = [];
    if (this.hasScreen) {
      using screen = await DemoScreen.connect(vm.vncSocket ?? '', this.#signal);
      const arrived = await screen.shoot(this.shot('arrived'));
      const lost = differingPixels(this.#screenAtDeparture ?? Buffer.alloc(0), arrived);
      if (lost > CARET_PIXELS)
        throw failDemo('DEMO_NOT_VERIFIED', `${lost} pixels of the screen changed on the way`);
      await screen.type(AFTER);
      const typed = differingPixels(arrived, await screen.shoot(this.shot('after')));
      if (typed < CARET_PIXELS) throw failDemo('DEMO_NOT_VERIFIED', 'typing shows nothing at the CloudAP');
      lines.push('screen     the text typed before is there, and typing goes on');
    }
    using workload = await this.#workload(vm);
    const answer = await workload.command('verify');
    const [disk, memory] = [answer.fields.get('disk_checked') ?? 0, answer.fields.get('mem_checked') ?? 0];
    if (!answer.ok || disk === 0 || memory === 0) throw failDemo('DEMO_NOT_VERIFIED', answer.line);
    await workload.command('stop');
    lines.push(`memory     ${memory} checks of 4 KiB pages by the guest itself, 0 bad`);
    lines.push(`disk       ${disk} checks of 4 KiB blocks by the guest itself, 0 bad`);
    return lines;
  }

  /** Shuts the VM down at the AP and has `qemu-img` look at the overlay that arrived. @throws DEMO_NOT_VERIFIED */
  async checkOverlay(): Promise<string> {
    const { api } = this.#lab.ap;
    const { dir } = await this.#at(this.#lab.ap);
    await api.json('POST', '/vms/desk/stop', vmViewSchema, { body: { force: true } });
    const overlay = join(dir, 'overlay.qcow2');
    await run('qemu-img', ['check', '-q', overlay]).catch((cause: unknown) => {
      throw failDemo('DEMO_NOT_VERIFIED', 'qemu-img check', { cause });
    });
    const { size } = await stat(overlay);
    return `overlay    qemu-img check finds no error (${(size / 2 ** 20).toFixed(1)} MiB)`;
  }

  shot(name: string): string {
    return join(this.#shots, `${name}.png`);
  }

  #at(site: LabSite): Promise<VmView> {
    return site.api.json('GET', '/vms/desk', vmViewSchema);
  }

  #workload(vm: VmView): Promise<WorkloadClient> {
    return WorkloadClient.connect(vm.serial1Socket ?? '');
  }
}
