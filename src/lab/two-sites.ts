import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { sleep, withTimeout } from '../base/async.ts';
import { errorCatalogue } from '../base/errors.ts';
import { stageImage } from '../content/images/stage.ts';
import { type Image, ImageStore } from '../content/images/store.ts';
import { formatLinkSpec, type LinkSpec } from '../link/link-spec.ts';
import { ApiClient } from '../site/api/client.ts';
import { siteViewSchema, statusSchema } from '../site/api/messages.ts';
import { addSite, initSite } from '../site/setup/init.ts';

const fail = errorCatalogue({
  LAB_START: {
    summary: 'a process of the two-site set-up did not start',
    remedy: 'The message holds what it said; `./cloudap doctor` shows what this machine lacks.',
  },
});

const CLI = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const EMULATOR = fileURLToPath(new URL('../link/emulator-main.ts', import.meta.url));
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
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
  readonly #processes: ChildProcess[];
  readonly #emulator: Child;

  private constructor(center: LabSite, ap: LabSite, processes: ChildProcess[], emulator: Child) {
    this.center = center;
    this.ap = ap;
    this.#processes = processes;
    this.#emulator = emulator;
  }

  /** Sets both sites up below `dir`, starts them and waits until they are connected. @throws LAB_START */
  static async start(options: {
    dir: string;
    link: LinkSpec;
    memoryMiB: number;
    signal?: AbortSignal;
  }): Promise<TwoSites> {
    const { dir, link, memoryMiB, signal } = options;
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const port = await freePort();
    const processes: ChildProcess[] = [];
    try {
      const emulator = await Child.start(processes, [
        EMULATOR,
        JSON.stringify({
          listen: { host: '127.0.0.1', port: 0 },
          forward: { host: '127.0.0.1', port },
          link: formatLinkSpec(link),
        }),
      ]);
      const { address } = z.object({ address: z.object({ port: z.number() }) }).parse(emulator.ready);
      const init = await initSite({
        id: 'center',
        dir: join(dir, 'center'),
        listen: `127.0.0.1:${port}`,
        memoryMiB,
      });
      const added = await addSite({
        id: 'ap1',
        dir: join(dir, 'ap1'),
        ca: join(dir, 'center'),
        listen: 'none',
        dial: [`center=127.0.0.1:${address.port}`],
        memoryMiB,
      });
      const [center, ap] = await Promise.all(
        [
          { id: 'center', config: init.config },
          { id: 'ap1', config: added.config },
        ].map((site) => startSite(processes, site)),
      );
      const lab = new TwoSites(center as LabSite, ap as LabSite, processes, emulator);
      await lab.#connected(signal);
      return lab;
    } catch (error) {
      await stopAll(processes);
      throw error;
    }
  }

  /** Has the image at both sites, as an operator stages base images beforehand. */
  async stage(image: Image): Promise<void> {
    for (const { api } of [this.center, this.ap]) {
      const { imageDir } = await api.json('GET', '/status', statusSchema);
      await stageImage(image, await ImageStore.open(imageDir));
    }
  }

  /** `cut`, `restore`, `drop`, `rate 50`, `stats`: see link/emulator-main.ts. */
  async link(command: string): Promise<unknown> {
    return this.#emulator.ask(command);
  }

  /** Stops the VMs, both sites and the link. */
  async [Symbol.asyncDispose](): Promise<void> {
    await stopAll(this.#processes);
  }

  async #connected(signal: AbortSignal | undefined): Promise<void> {
    const deadlineMs = performance.now() + START_TIMEOUT_MS;
    for (const { api, id } of [this.center, this.ap]) {
      for (;;) {
        const sites = await api.json('GET', '/sites', z.array(siteViewSchema));
        if (sites.some((site) => !site.self && site.connected)) break;
        if (performance.now() > deadlineMs) throw fail('LAB_START', `${id} does not reach the other site`);
        await sleep(POLL_MS, signal);
      }
    }
  }
}

async function startSite(processes: ChildProcess[], site: { id: string; config: string }): Promise<LabSite> {
  const child = await Child.start(processes, [CLI, 'site', '--config', site.config, '--stop-vms', '--json']);
  const { socket } = z.object({ socket: z.string() }).parse(child.ready);
  return { ...site, api: new ApiClient(socket) };
}

/** A Node process of ours that says `{"ready":true,…}` first and answers lines with lines. */
class Child {
  readonly ready: unknown;
  readonly #process: ChildProcess;
  readonly #lines: Interface;

  private constructor(process: ChildProcess, lines: Interface, ready: unknown) {
    this.#process = process;
    this.#lines = lines;
    this.ready = ready;
  }

  static async start(processes: ChildProcess[], args: string[]): Promise<Child> {
    // a process group of its own: Ctrl-C at the terminal is for us, we end the others in order
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    processes.push(child);
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-2000);
    });
    const lines = createInterface({ input: child.stdout });
    const ended = once(child, 'exit').then(() => Promise.reject(fail('LAB_START', `${args[0]}: ${said}`)));
    const first = Promise.race([once(lines, 'line'), ended]) as Promise<[string]>;
    const [line] = await withTimeout(first, START_TIMEOUT_MS, () => fail('LAB_START', `${args[0]}: ${said}`));
    ended.catch(() => {});
    return new Child(child, lines, JSON.parse(line));
  }

  async ask(command: string): Promise<unknown> {
    const answer = once(this.#lines, 'line') as Promise<[string]>;
    this.#process.stdin?.write(`${command}\n`);
    const [line] = await answer;
    return JSON.parse(line);
  }
}

/** Sites first (they stop their VMs), the link last. */
async function stopAll(processes: readonly ChildProcess[]): Promise<void> {
  for (const child of processes.toReversed()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    const kill = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(kill);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address ? address.port : 0;
}
