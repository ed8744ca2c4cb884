import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { abortable } from '../../base/async.ts';
import { asCloudapError } from '../../base/errors.ts';
import type { ApiError } from '../api/messages.ts';
import type { BuildTemplate, BuildView } from '../api/template-messages.ts';
import { TEMPLATE_BUILDS_KEPT } from '../constants.ts';
import { failTemplate } from '../errors.ts';
import { type BuildContext, type BuildPlan, buildTemplate, planBuild } from './build.ts';

/** One build: what is known of it, and who wants to know. */
class Build {
  readonly ended: Promise<void>;
  readonly cancelled = new AbortController();
  #view: BuildView;
  #next = Promise.withResolvers<void>();
  readonly #resolveEnded: () => void;

  constructor({ request, image }: BuildPlan) {
    this.#view = {
      buildId: `tpl-${randomBytes(6).toString('hex')}`,
      name: request.name,
      image: image.digest,
      state: 'starting',
      active: true,
      startedAtMs: Date.now(),
      endedAtMs: null,
      stoodStillMs: null,
      template: null,
      error: null,
    };
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  get view(): BuildView {
    return this.#view;
  }

  update(change: Partial<BuildView>): void {
    this.#view = { ...this.#view, ...change };
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }

  end(state: 'completed' | 'failed' | 'cancelled', change: { template?: string; error?: ApiError }): void {
    this.update({ ...change, state, active: false, endedAtMs: Date.now() });
    this.#resolveEnded();
  }

  /** The view now and after each change; ends with the build. */
  async *follow(signal: AbortSignal): AsyncGenerator<BuildView> {
    for (;;) {
      const next = this.#next.promise;
      const { view } = this;
      yield view;
      if (!view.active) return;
      await abortable(next, signal);
    }
  }
}

/** The templates that this site builds, one at a time. A build does not outlive the agent. */
export class TemplateBuilds {
  readonly #context: BuildContext;
  readonly #log: Logger;
  readonly #builds = new Map<string, Build>();
  #planning = false;
  #ending = false;

  constructor(context: BuildContext, log: Logger) {
    this.#context = context;
    this.#log = log;
  }

  /** An agent that was killed during a build left its sockets (the store has removed its files). */
  async recover(): Promise<void> {
    await rm(this.#context.paths.templateSockets, { recursive: true, force: true });
  }

  /** Starts a build and returns at once; `follow` tells how it goes. @throws TEMPLATE_*, IMAGE_*, VM_CAPACITY, QEMU_SPEC_INVALID */
  async start(request: BuildTemplate): Promise<BuildView> {
    if (this.#planning || this.#active())
      throw failTemplate('TEMPLATE_BUSY', this.#active()?.view.name ?? '');
    this.#planning = true;
    try {
      const plan = await planBuild(this.#context, request);
      if (this.#ending) throw failTemplate('TEMPLATE_CANCELLED', 'the agent is ending');
      const build = new Build(plan);
      this.#keep(build);
      void this.#run(build, plan);
      return build.view;
    } finally {
      this.#planning = false;
    }
  }

  #active(): Build | undefined {
    return [...this.#builds.values()].find(({ view }) => view.active);
  }

  #keep(build: Build): void {
    this.#builds.set(build.view.buildId, build);
    const [oldest] = this.#builds.keys();
    if (this.#builds.size > TEMPLATE_BUILDS_KEPT && oldest !== undefined) this.#builds.delete(oldest);
  }

  async #run(build: Build, plan: BuildPlan): Promise<void> {
    const { signal } = build.cancelled;
    const { buildId, name } = build.view;
    try {
      const { manifest } = await buildTemplate(this.#context, plan, (change) => build.update(change), signal);
      this.#log.info({ template: manifest.digest, name }, 'template built');
      build.end('completed', { template: manifest.digest });
    } catch (thrown) {
      const { code, message, remedy, fields } = asCloudapError(signal.aborted ? signal.reason : thrown);
      this.#log.warn({ build: buildId, code }, `template not built: ${message}`);
      build.end(signal.aborted ? 'cancelled' : 'failed', {
        error: { code, message, remedy, fields: { ...fields } },
      });
    }
  }

  list(): BuildView[] {
    return [...this.#builds.values()].map(({ view }) => view);
  }

  /** @throws TEMPLATE_BUILD_UNKNOWN */
  get(buildId: string): BuildView {
    return this.#find(buildId).view;
  }

  #find(buildId: string): Build {
    const build = this.#builds.get(buildId);
    if (!build) throw failTemplate('TEMPLATE_BUILD_UNKNOWN', buildId);
    return build;
  }

  /** @throws TEMPLATE_BUILD_UNKNOWN */
  follow(buildId: string, signal: AbortSignal): AsyncGenerator<BuildView> {
    return this.#find(buildId).follow(signal);
  }

  /** Returns when nothing of it is left; one that has ended is as it was. @throws TEMPLATE_BUILD_UNKNOWN */
  async cancel(buildId: string): Promise<BuildView> {
    const build = this.#find(buildId);
    build.cancelled.abort(failTemplate('TEMPLATE_CANCELLED', build.view.name));
    await build.ended;
    return build.view;
  }

  /** The agent ends. */
  async close(): Promise<void> {
    this.#ending = true;
    const active = this.#active();
    if (active) await this.cancel(active.view.buildId);
  }
}
