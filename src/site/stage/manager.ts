import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import { type Artefact, artefactKinds } from '../../content/staging/artefact.ts';
import { fail } from '../../content/staging/errors.ts';
import { sweepParts } from '../../content/staging/part.ts';
import type { ApiError } from '../api/messages.ts';
import type { Push, PushView } from '../api/push-messages.ts';
import {
  ABORT_TIMEOUT_MS,
  EVENT_INTERVAL_MS,
  PUSH_LOSS_TIMEOUT_MS,
  PUSHES_LISTED,
  PUSHES_MAX,
} from '../constants.ts';
import { failSite } from '../errors.ts';
import { newPushId } from '../ids.ts';
import { canListenFor, linkTo, type MigrateContext } from '../migrate/context.ts';
import { asApiError } from '../migrate/entry.ts';
import { parseParams } from '../migrate/params.ts';
import { moverTls } from '../tls.ts';
import { PushEntry, type PushInfo } from './entry.ts';
import {
  type StageAbort,
  stageAbortSchema,
  type StagePrepare,
  type StagePrepared,
  stagePreparedSchema,
  stagePrepareSchema,
} from './messages.ts';
import { startStageProcess, type StartStageProcess } from './process.ts';
import type { StageConfig } from './process-config.ts';
import { type ArtefactStores, checkSpace, spaceFor } from './stores.ts';

/** What pushes need of their site. */
export interface StageContext
  extends Pick<MigrateContext, 'config' | 'paths' | 'log' | 'peer' | 'dialAddress' | 'relayFor'> {
  readonly stores: ArtefactStores;
  readonly prepareTimeoutMs: number;
  /** Lets go of what is kept for convenience until so much is free. */
  readonly giveWay?: (freeBytes: number) => Promise<unknown>;
  /** For tests. */
  readonly startProcess?: StartStageProcess;
}

/**
 * All pushes of a site, both directions. They live as long as the agent: what has arrived of one stays in the target's
 * store, and the same push again goes on from there.
 */
export class PushManager {
  readonly #context: StageContext;
  readonly #entries = new Map<string, PushEntry>();
  #closing = false;
  #paused = false;

  constructor(context: StageContext) {
    this.#context = context;
  }

  // --- asked for at this site --------------------------------------------------------------------------------

  /** Starts a push and returns at once; `follow` tells how it goes. @throws STAGE_*, SITE_*, IMAGE_* */
  async start(request: Push): Promise<PushView> {
    const { kind, what, to } = request;
    const { config, stores } = this.#context;
    if (to === config.id) throw fail('STAGE_TO_SELF', to);
    this.#context.peer(to);
    if (this.#context.dialAddress(to) === undefined && !canListenFor(this.#context, to))
      throw failSite('SITE_NOT_CONNECTED', `${to}: no address under link.dial, and no link.listen here`);
    const { folder, manifest } = await stores[kind].get(what);
    const artefact = artefactKinds[kind].parse(manifest);
    if (this.#find(artefact.digest, to)) throw fail('STAGE_BUSY', `${artefact.name} to ${to}`);
    const entry = this.#add({
      pushId: newPushId(),
      role: 'source',
      kind,
      artefact,
      peer: to,
      startedAtMs: Date.now(),
    });
    void this.#runSource(entry, folder);
    return entry.view();
  }

  /** @throws STAGE_UNKNOWN */
  get(pushId: string): PushView {
    return this.#entry(pushId).view();
  }

  /** The latest first. */
  list(): PushView[] {
    return [...this.#entries.values()].map((entry) => entry.view()).toReversed();
  }

  /** @throws STAGE_UNKNOWN */
  follow(pushId: string, signal: AbortSignal): AsyncGenerator<PushView> {
    return this.#entry(pushId).follow(signal, EVENT_INTERVAL_MS);
  }

  /** Waits until it has ended. @throws STAGE_UNKNOWN, STAGE_ENDED */
  async cancel(pushId: string): Promise<PushView> {
    const entry = this.#entry(pushId);
    entry.cancel(fail('STAGE_CANCELLED', 'asked for by the user'));
    await entry.ended;
    return entry.view();
  }

  // --- asked for by another site ------------------------------------------------------------------------------

  /** RPC `stage.prepare`: returns when this side's process looks for the other. @throws STAGE_*, IMAGE_CORRUPT */
  async prepare(caller: string, params: unknown): Promise<StagePrepared> {
    const request = parseParams(stagePrepareSchema, params);
    const { config, stores } = this.#context;
    const { pushId, kind } = request;
    if (request.source !== caller || request.target !== config.id)
      throw fail('STAGE_PROTOCOL', `a push from ${request.source} to ${request.target}`);
    const artefact = artefactKinds[kind].parse(request.manifest);
    const { digest } = artefact;
    if (await stores[kind].has(digest)) return { pushId, present: true };
    // the other agent may have been started anew: then what we know of is over
    const old = this.#find(digest);
    if (old && old.info.peer !== caller) throw fail('STAGE_BUSY', `${artefact.name} from ${old.info.peer}`);
    old?.cancel(fail('STAGE_CANCELLED', 'pushed anew'));
    await old?.ended;
    const { requires } = artefact;
    if (requires && !(await stores[requires.kind].has(requires.digest)))
      throw fail('STAGE_REQUIRES', `${requires.kind} ${requires.digest}`, { fields: { ...requires } });
    await sweepParts(stores[kind].folder);
    const neededBytes = await spaceFor(stores[kind].folder, artefact, request.allocatedBytes);
    await this.#context.giveWay?.(neededBytes).catch(() => {});
    await checkSpace(stores[kind].folder, neededBytes);
    if (this.#entries.has(pushId)) throw fail('STAGE_PROTOCOL', `${pushId} again`);
    if (this.#find(digest)) throw fail('STAGE_BUSY', artefact.name);
    const entry = this.#add({
      pushId,
      role: 'target',
      kind,
      artefact,
      peer: caller,
      startedAtMs: Date.now(),
    });
    void this.#runTarget(entry, request);
    await entry.process?.ready;
    if (!entry.active) throw fail('STAGE_PROCESS', entry.view().error?.message ?? '');
    return { pushId, present: false };
  }

  /** RPC `stage.abort`: the other agent's side has ended without success. */
  async abort(caller: string, params: unknown): Promise<{ aborted: boolean }> {
    const { pushId, error } = parseParams(stageAbortSchema, params);
    const entry = this.#entries.get(pushId);
    if (!entry?.active || entry.info.peer !== caller) return { aborted: false };
    entry.peerKnows = true;
    const { code, message, remedy } = error;
    // of what went wrong there the reason counts, and that it was there
    const told = code !== 'STAGE_PROCESS' && code.startsWith('STAGE_');
    entry.cancel(told ? new CloudapError(code, message, remedy, {}) : fail('STAGE_PEER_FAILED', message));
    await entry.ended;
    return { aborted: true };
  }

  // --- the agent's own life -------------------------------------------------------------------------------------

  /** Removes what pushes of an earlier life have left too long ago. */
  async recover(): Promise<void> {
    const { stores } = this.#context;
    for (const { folder } of Object.values(stores)) await sweepParts(folder);
  }

  /** While a migration is under way at this site nothing is sent from here or to here: it has the link to itself. */
  pause(paused: boolean): void {
    if (paused === this.#paused) return;
    this.#paused = paused;
    for (const entry of this.#entries.values()) if (entry.active) entry.process?.pause(paused);
  }

  /** The agent ends, and its pushes with it. */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.all(
      [...this.#entries.values()].map(async (entry) => {
        await entry.process?.[Symbol.asyncDispose]();
      }),
    );
  }

  // --- within -----------------------------------------------------------------------------------------------------

  #entry(pushId: string): PushEntry {
    const entry = this.#entries.get(pushId);
    if (!entry) throw fail('STAGE_UNKNOWN', pushId);
    return entry;
  }

  /** The active push of an artefact: to this peer, or (without one) into this site. */
  #find(digest: string, peer?: string): PushEntry | undefined {
    return [...this.#entries.values()].find(
      ({ active, info }) =>
        active &&
        info.artefact.digest === digest &&
        (peer === undefined ? info.role === 'target' : info.role === 'source' && info.peer === peer),
    );
  }

  /** @throws STAGE_TOO_MANY */
  #add(info: PushInfo): PushEntry {
    const entries = [...this.#entries.values()];
    if (entries.filter((entry) => entry.active).length >= PUSHES_MAX)
      throw fail('STAGE_TOO_MANY', `${PUSHES_MAX}`);
    const entry = new PushEntry(info);
    this.#entries.set(info.pushId, entry);
    for (const old of entries.filter((known) => !known.active).slice(0, -PUSHES_LISTED))
      this.#entries.delete(old.info.pushId);
    return entry;
  }

  /** Asks the target, and sends what it does not have. Never rejects: the entry has the result. */
  async #runSource(entry: PushEntry, folder: string): Promise<void> {
    const { peer, pushId, kind, artefact } = entry.info;
    const dials = this.#context.dialAddress(peer) !== undefined;
    try {
      const request: StagePrepare = {
        version: 1,
        pushId,
        source: this.#context.config.id,
        target: peer,
        kind,
        manifest: artefact.manifest,
        allocatedBytes: await allocatedBytes(folder, artefact),
        sourceDials: dials,
        linkLossTimeoutMs: PUSH_LOSS_TIMEOUT_MS,
      };
      const answer = await this.#context.peer(peer).call('stage.prepare', request, {
        signal: entry.cancelled.signal,
        timeoutMs: this.#context.prepareTimeoutMs,
      });
      if (stagePreparedSchema.parse(answer).present) return entry.end('completed', null, true);
      await this.#work(entry, folder, dials, PUSH_LOSS_TIMEOUT_MS);
    } catch (error) {
      await this.#settle(entry, error);
    }
  }

  /** Not async up to the start of the process: whoever calls waits for it. */
  async #runTarget(entry: PushEntry, request: StagePrepare): Promise<void> {
    try {
      const { folder } = this.#context.stores[entry.info.kind];
      await this.#work(entry, folder, !request.sourceDials, request.linkLossTimeoutMs);
    } catch (error) {
      await this.#settle(entry, error);
    }
  }

  async #work(entry: PushEntry, folder: string, dials: boolean, linkLossTimeoutMs: number): Promise<void> {
    entry.cancelled.signal.throwIfAborted();
    const { config, paths, startProcess = startStageProcess } = this.#context;
    const { role, pushId, peer, kind, artefact } = entry.info;
    const stage: StageConfig = {
      role,
      pushId,
      peerSiteId: peer,
      link: linkTo(this.#context, peer, dials, { route: pushId, socketPath: paths.linkSocket(pushId) }),
      tls: moverTls(config),
      linkLossTimeoutMs,
      kind,
      manifest: artefact.manifest,
      folder,
      paused: this.#paused,
    };
    const child = startProcess(stage, (status) => entry.update(status));
    entry.attach(child);
    const last = await child.ended;
    await rm(paths.linkSocket(pushId), { force: true });
    if (last?.state === 'completed') {
      this.#context.log.info({ push: pushId, digest: artefact.digest, peer, role }, 'pushed');
      return entry.end('completed', null);
    }
    if (last?.error) throw new CloudapError(last.error.code, last.error.message, last.error.remedy, {});
    throw fail('STAGE_PROCESS', child.said.trim().slice(-300));
  }

  async #settle(entry: PushEntry, thrown: unknown): Promise<void> {
    const { peer, pushId, role } = entry.info;
    const { signal } = entry.cancelled;
    const error = asApiError(signal.aborted ? signal.reason : thrown);
    this.#context.log.warn({ push: pushId, role, peer, code: error.code }, `push ended: ${error.message}`);
    entry.end(error.code === 'STAGE_CANCELLED' ? 'cancelled' : 'failed', error);
    if (!this.#closing && !entry.peerKnows) await this.#tellPeer(entry, error);
  }

  /** Best effort: without it the other side finds out by its link. */
  async #tellPeer(entry: PushEntry, error: ApiError): Promise<void> {
    const cut = (text: string): string => text.slice(0, 1000);
    const params: StageAbort = {
      pushId: entry.info.pushId,
      error: { code: cut(error.code), message: cut(error.message), remedy: cut(error.remedy) },
    };
    try {
      await this.#context.peer(entry.info.peer).call('stage.abort', params, { timeoutMs: ABORT_TIMEOUT_MS });
    } catch (error) {
      this.#context.log.info({ push: params.pushId, err: asCloudapError(error).message }, 'peer not told');
    }
  }
}

async function allocatedBytes(folder: string, { files }: Artefact): Promise<number> {
  const found = await Promise.all(files.map(({ name }) => stat(join(folder, name)))).catch(
    (cause: unknown) => {
      throw fail('STAGE_SOURCE', folder, { cause });
    },
  );
  return found.reduce((sum, { blocks }) => sum + blocks * 512, 0);
}
