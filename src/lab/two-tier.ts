import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as z from 'zod';
import { sleep } from '../base/async.ts';
import { centerStatusSchema, tokenAnswerSchema } from '../portal/messages.ts';
import {
  enrolNodes,
  makeCenter,
  systemFiles,
  type AskToken,
  type SystemFiles,
  type SystemPlan,
} from '../center/setup/system.ts';
import { localPortal } from '../portal/client.ts';
import { ApiClient } from '../site/api/client.ts';
import { LabChild } from './child.ts';
import { failLab } from './errors.ts';

const CLI = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const READY_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
const readySchema = z.object({ socket: z.string() });

/** Kind and name of an agent's process: `center`, `ap:ap1`, `host:ap1-h1`. */
export type AgentName = string;

/**
 * A Cloud center and some CloudAPs with their hosts, all as processes of this machine, each with a directory of its own: what
 * `cloudap up` runs, and the tests.
 */
export class TwoTier implements AsyncDisposable {
  readonly files: SystemFiles;
  readonly dir: string;
  #center: ApiClient | undefined;
  readonly #children = new Map<AgentName, LabChild>();
  readonly #stopVms: boolean;

  private constructor(dir: string, files: SystemFiles, stopVms: boolean) {
    this.dir = dir;
    this.files = files;
    this.#stopVms = stopVms;
  }

  /** Returns when every host says that it lives; `configured` is called when all have their files. @throws LAB_START */
  static async start(
    plan: SystemPlan,
    options: { stopVms?: boolean; configured?: (files: SystemFiles) => Promise<void> } = {},
  ): Promise<TwoTier> {
    const files = systemFiles(plan);
    const system = new TwoTier(plan.dir, files, options.stopVms ?? true);
    try {
      await makeCenter(plan);
      await system.run('center');
      const ask: AskToken = async (body) =>
        (await system.center.json('POST', '/enrolments', tokenAnswerSchema, { body })).token;
      await enrolNodes(plan, ask);
      await options.configured?.(files);
      const agents = [
        ...files.aps.map((ap) => `ap:${ap}`),
        ...[...files.hosts.keys()].map((h) => `host:${h}`),
      ];
      await Promise.all(agents.map((agent) => system.run(agent)));
      await system.complete(files.hosts.size);
      return system;
    } catch (error) {
      await system[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The center's API. */
  get center(): ApiClient {
    if (!this.#center) throw failLab('LAB_START', 'the center does not run');
    return this.#center;
  }

  /** The API of a host. */
  host(id: string): ApiClient {
    return new ApiClient(readySchema.parse(this.#children.get(`host:${id}`)?.ready).socket);
  }

  /** Starts an agent. @throws LAB_START */
  async run(agent: AgentName): Promise<void> {
    const child = await LabChild.start([CLI, ...this.#arguments(agent), '--json']);
    this.#children.set(agent, child);
    if (agent === 'center') this.#center = localPortal(readySchema.parse(child.ready).socket);
  }

  /** Kills an agent, as a crash does. */
  async kill(agent: AgentName): Promise<void> {
    const child = this.#children.get(agent);
    this.#children.delete(agent);
    await child?.kill();
  }

  pid(agent: AgentName): number | undefined {
    return this.#children.get(agent)?.pid;
  }

  /** Waits until so many hosts live. @throws LAB_START */
  async complete(hosts: number): Promise<void> {
    const untilMs = performance.now() + READY_TIMEOUT_MS;
    for (;;) {
      const status = await this.center.json('GET', '/status', centerStatusSchema);
      if (status.hosts.alive >= hosts) return;
      if (performance.now() > untilMs)
        throw failLab('LAB_START', `${status.hosts.alive} of ${hosts} hosts joined`);
      await sleep(POLL_MS);
    }
  }

  #arguments(agent: AgentName): string[] {
    const [kind, id = ''] = agent.split(':');
    if (kind === 'center') return ['center', '--config', this.files.center];
    if (kind === 'ap') return ['ap', '--config', join(this.dir, id, 'ap.yaml')];
    return ['host', '--config', this.files.hosts.get(id) ?? '', ...(this.#stopVms ? ['--stop-vms'] : [])];
  }

  /** Hosts first: they still tell the center what they end. */
  async [Symbol.asyncDispose](): Promise<void> {
    const end = async (kind: string): Promise<void> => {
      const agents = [...this.#children].filter(([name]) => name.startsWith(kind));
      await Promise.all(agents.map(([, child]) => child[Symbol.asyncDispose]()));
      for (const [name] of agents) this.#children.delete(name);
    };
    await end('host');
    await end('ap');
    await end('center');
  }
}
