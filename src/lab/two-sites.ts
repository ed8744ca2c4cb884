import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { sleep } from '../base/async.ts';
import { stageImage } from '../content/images/stage.ts';
import { type Image, ImageStore } from '../content/images/store.ts';
import { stageTemplate } from '../content/templates/stage.ts';
import { TemplateStore } from '../content/templates/store.ts';
import type { LinkSpec } from '../link/link-spec.ts';
import { ApiClient } from '../site/api/client.ts';
import { siteViewSchema, statusSchema } from '../site/api/messages.ts';
import { buildViewSchema } from '../site/api/template-messages.ts';
import { loadConfig } from '../site/config.ts';
import { sitePaths } from '../site/paths.ts';
import { addSite, initSite } from '../site/setup/init.ts';
import { LabChild } from './child.ts';
import { EmulatedWan } from './emulated-wan.ts';
import { failLab } from './errors.ts';
import type { LabSide, Wan } from './wan.ts';

const CLI = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

export interface LabSite {
  readonly id: string;
  /** `site.yaml`, for `--site-config`. */
  readonly config: string;
  readonly api: ApiClient;
}

/**
 * A Cloud center and a CloudAP on this machine, each a `cloudap site` process with a data directory of its own, that
 * reach each other only through an emulated WAN link: what the demo, the benchmarks and the tests run on.
 */
export class TwoSites implements AsyncDisposable {
  readonly center: LabSite;
  readonly ap: LabSite;
  /** The link between them; another program may use it, too. */
  readonly wan: Wan;
  readonly #stack: AsyncDisposableStack;

  private constructor(center: LabSite, ap: LabSite, wan: Wan, stack: AsyncDisposableStack) {
    this.center = center;
    this.ap = ap;
    this.wan = wan;
    this.#stack = stack;
  }

  /**
   * Sets both sites up below `dir`, starts them and waits until they are connected. With `wan` they use that link
   * and leave it as it is, else one of their own.
   * @throws LAB_START
   */
  static async start(
    options: { dir: string; memoryMiB: number; signal?: AbortSignal } & ({ link: LinkSpec } | { wan: Wan }),
  ): Promise<TwoSites> {
    const { dir, memoryMiB, signal } = options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await using stack = new AsyncDisposableStack();
    const wan = 'wan' in options ? options.wan : stack.use(await EmulatedWan.start(options.link));
    const port = await wan.freePort('center');
    const center = await wan.reach('center', port);
    const init = await initSite({
      id: 'center',
      dir: join(dir, 'center'),
      listen: `${wan.listenHost('center')}:${port}`,
      memoryMiB,
    });
    const added = await addSite({
      id: 'ap1',
      dir: join(dir, 'ap1'),
      ca: join(dir, 'center'),
      listen: 'none',
      dial: [`center=${center.host}:${center.port}`],
      memoryMiB,
    });
    const [first, second] = await settled([
      startSite(stack, wan, 'center', { id: 'center', config: init.config }),
      startSite(stack, wan, 'ap', { id: 'ap1', config: added.config }),
    ]);
    const lab = new TwoSites(first, second, wan, stack.move());
    try {
      await lab.#connected(signal);
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
    return lab;
  }

  /** Has the image at both sites, as an operator stages base images beforehand. */
  async stage(image: Image): Promise<void> {
    for (const { api } of [this.center, this.ap]) {
      const { imageDir } = await api.json('GET', '/status', statusSchema);
      await stageImage(image, await ImageStore.open(imageDir));
    }
  }

  /** Builds a template of the image at the center and has it at both sites; its digest. @throws LAB_TEMPLATE */
  async template(image: Image, name: string, signal?: AbortSignal): Promise<string> {
    const { api } = this.center;
    const body = { name, image: image.manifest.digest };
    let last = await api.json('POST', '/templates', buildViewSchema, { body });
    const path = `/templates/builds/${last.buildId}`;
    const cancel = (): void => void api.json('DELETE', path, z.unknown()).catch(() => {});
    signal?.addEventListener('abort', cancel, { once: true });
    for await (const next of api.lines(`${path}/events`, buildViewSchema)) last = next;
    signal?.removeEventListener('abort', cancel);
    signal?.throwIfAborted();
    if (last.template === null) throw failLab('LAB_TEMPLATE', last.error?.message ?? last.state);
    const stores = await Promise.all(
      [this.center, this.ap].map(async ({ config }) =>
        TemplateStore.open(sitePaths(loadConfig(config)).templatesDir),
      ),
    );
    const [here, there] = stores as [TemplateStore, TemplateStore];
    await stageTemplate(await here.get(last.template), there);
    return last.template;
  }

  /** `cut`, `restore`, `drop`, `rate 50`, `stats`: see link/emulator-main.ts. */
  async link(command: string): Promise<unknown> {
    return this.wan.command(command);
  }

  /** Stops the VMs, both sites and the link. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  async #connected(signal: AbortSignal | undefined): Promise<void> {
    const deadlineMs = performance.now() + START_TIMEOUT_MS;
    for (const { api, id } of [this.center, this.ap]) {
      for (;;) {
        const sites = await api.json('GET', '/sites', z.array(siteViewSchema));
        if (sites.some((site) => !site.self && site.connected)) break;
        if (performance.now() > deadlineMs) throw failLab('LAB_START', `${id} does not reach the other site`);
        await sleep(POLL_MS, signal);
      }
    }
  }
}

async function startSite(
  stack: AsyncDisposableStack,
  wan: Wan,
  side: LabSide,
  site: { id: string; config: string },
): Promise<LabSite> {
  const args = [CLI, 'site', '--config', site.config, '--stop-vms', '--json'];
  const child = stack.use(await LabChild.start(args, wan.prefix[side]));
  const { socket } = z.object({ socket: z.string() }).parse(child.ready);
  return { ...site, api: new ApiClient(socket) };
}

/** Both, when neither is under way any more: whatever was started can be ended. */
async function settled<A, B>(both: readonly [Promise<A>, Promise<B>]): Promise<[A, B]> {
  await Promise.allSettled(both);
  return Promise.all(both);
}
