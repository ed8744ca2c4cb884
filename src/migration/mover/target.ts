import { rm } from 'node:fs/promises';
import { abortable } from '../../base/async.ts';
import { asCloudapError } from '../../base/errors.ts';
import type { Lane } from '../../link/types.ts';
import { QemuMonitor } from '../../qemu/monitor.ts';
import { fail as failPages } from '../../content/pages/errors.ts';
import { ContentReader } from '../../content/pages/reader.ts';
import type { ContentLog } from '../../content/residue/log.ts';
import { REPEAT_WINDOW_PAGES } from '../../wire/qemu-stream/constants.ts';
import type { QmpEvent } from '../../wire/qmp/messages.ts';
import { References } from '../memory/references.ts';
import { MemoryTarget } from '../memory/target.ts';
import {
  errorForPeer,
  MESSAGE_CONTENT_BYTES,
  MESSAGE_RETURN,
  MESSAGE_STREAM,
  MESSAGE_STREAM_END,
  migrationFail,
  type TargetFigures,
} from '../messages.ts';
import { changeOwnership, commitStaged, stageOwnership, syncOwnership } from '../ownership.ts';
import { setCapabilities } from '../schemes/hybrid.ts';
import type { TargetMoverConfig } from './config.ts';
import { channelResidue, diskNotes, firstOfResidue, openContentLog } from './content-log.ts';
import type { MoverContext } from './context.ts';
import { MoverPeer, qemuOr } from './peer.ts';
import { peakRssMiB } from './rss.ts';
import { TargetDisk } from './target-disk.ts';

/** Whoever prepared us should be here by then. */
const HELLO_TIMEOUT_MS = 30_000;
const QEMU_START_TIMEOUT_MS = 60_000;
/** How long the source may take to fetch our figures; a cut link may be in between. */
const RELEASE_TIMEOUT_MS = 600_000;
const FOREVER = { timeoutMs: Number.POSITIVE_INFINITY };
const QUIT_TIMEOUT_MS = 2_000;

/** What QEMU will say of the VM that it takes in. */
interface IncomingVm {
  readonly resumed: Promise<QmpEvent>;
  readonly completed: Promise<unknown>;
}

/** The target's half of a migration: serves the overlay to QEMU, feeds it the stream, and makes it independent. */
export class TargetMover implements AsyncDisposable {
  readonly #config: TargetMoverConfig;
  readonly #context: MoverContext;
  readonly #stack = new AsyncDisposableStack();
  /** Aborted when QEMU has gone: the only thing that ends a mover whose VM runs here. */
  readonly #qemuGone = new AbortController();
  readonly #peer: MoverPeer;
  #disk: TargetDisk | undefined;
  #memory: MemoryTarget | undefined;
  #references: References | undefined;
  /** Undefined where there is nothing to refer to, or it cannot be used. */
  #content: Promise<ContentReader | undefined> = Promise.resolve(undefined);
  /** Of the pages that come. */
  #log: ContentLog | undefined;
  #firstOfResidue = 0;
  #qmp: QemuMonitor | undefined;
  readonly #started = Promise.withResolvers<void>();
  readonly #taken = Promise.withResolvers<void>();
  #ownership: 'theirs' | 'ours' | 'refused' = 'theirs';

  constructor(config: TargetMoverConfig, context: MoverContext) {
    this.#config = config;
    this.#context = context;
    this.#peer = new MoverPeer(context.cancelled.signal, (type, payload, lane) =>
      this.#dispatch(type, payload, lane),
    );
  }

  /** Waits for the other mover and serves the overlay; from then on QEMU can be started. */
  async listen(): Promise<void> {
    const session = this.#stack.use(await this.#peer.open(this.#config));
    this.#content = this.#openContent();
    this.#log = openContentLog(this.#config, this.#context.log);
    if (this.#log) this.#stack.use(this.#log);
    const disk = this.#stack.use(
      await TargetDisk.open(
        this.#config,
        session,
        this.#context.log,
        diskNotes(this.#log, () => this.#firstOfResidue),
      ),
    );
    this.#disk = disk;
    this.#context.setProgress(() => {
      const { urgent, bulk, rateMbit } = session.stats();
      return {
        link: session.state,
        progress: {
          pagesDone: 0,
          pagesTotal: 0,
          ...disk.progress(),
          bytesSent: urgent.bytesSent + bulk.bytesSent,
          rateMbit: rateMbit ?? null,
        },
      };
    });
  }

  async run(): Promise<void> {
    try {
      const connecting = this.#connectQemu();
      // its failure ends the other wait, too
      connecting.catch((error: unknown) => this.#peer.giveUp(error));
      const { memory, preempt } = await this.#agree();
      const qmp = await connecting;
      const vm = await this.#receiveVm(qmp, memory, preempt);
      const figures = await this.#standing(this.#runVm(qmp, vm));
      await this.#release(figures);
    } catch (error) {
      await this.#fail(error);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  /** The agent has started our QEMU. */
  qemuStarted(): void {
    this.#started.resolve();
  }

  /** Meets the source: from here on it may send, while QEMU still starts. */
  async #agree(): Promise<{ memory: MemoryTarget; preempt: boolean }> {
    const config = this.#config;
    const { signal } = this.#peer;
    const hello = await this.#peer.inbox.take('hello', { timeoutMs: HELLO_TIMEOUT_MS, signal });
    if (
      hello.migrationId !== config.migrationId ||
      hello.vmId !== config.vmId ||
      hello.generation !== config.generation
    ) {
      throw migrationFail('MOVER_PROTOCOL', 'hello of another migration');
    }
    const { preempt } = hello;
    const reader = await this.#content;
    const offered = hello.content ?? [];
    const content = reader?.agree(offered.map(({ digest }) => digest)) ?? [];
    if (!hello.keeps) this.#log?.giveUp();
    this.#firstOfResidue = firstOfResidue(
      content.map((digest) => ({
        kind: offered.find((one) => one.digest === digest)?.kind ?? 'image',
        entries: reader?.entriesOf(digest) ?? 0,
      })),
    );
    this.#disk?.useContent(content.length > 0 ? reader : undefined);
    const repeatPages = Math.min(hello.repeatPages ?? 0, REPEAT_WINDOW_PAGES);
    const references = new References({
      reader: content.length > 0 ? reader : undefined,
      send: (type, payload) => {
        this.#peer.session?.send('urgent', type, payload).catch(() => {});
      },
      onMissing: (pages) => {
        const files = (config.content ?? []).map(({ path }) => path).join(', ');
        this.#context.log.warn({ err: failPages('PAGES_CONTENT_DAMAGED', files), pages }, 'content');
      },
    });
    this.#references = references;
    // QEMU leaves its socket behind when it is ended while it waits
    this.#stack.defer(() => rm(config.streamSocket, { force: true }));
    const memory = this.#stack.use(
      new MemoryTarget({
        socketPath: config.streamSocket,
        preempt,
        references,
        repeatPages,
        residue: channelResidue(this.#log, this.#firstOfResidue),
        onTakeover: () => this.#takeOver(),
        onReturn: (bytes) => {
          this.#peer.session?.send('urgent', MESSAGE_RETURN, bytes).catch(() => {});
        },
      }),
    );
    memory.failed.catch((error: unknown) => this.#peer.giveUp(error));
    this.#memory = memory;
    this.#context.states.transition('precopy');
    await this.#peer.tell({ kind: 'accepted', content: [...content], repeatPages, keeps: this.#keeps });
    return { memory, preempt };
  }

  async #connectQemu(): Promise<QemuMonitor> {
    const { signal } = this.#peer;
    const timeout = AbortSignal.timeout(QEMU_START_TIMEOUT_MS);
    await abortable(this.#started.promise, AbortSignal.any([signal, timeout])).catch((cause: unknown) => {
      signal.throwIfAborted();
      throw migrationFail('MOVER_QEMU_TARGET', 'it was not started in time', { cause });
    });
    const connected = await QemuMonitor.connect(this.#config.qmpSocket, { signal }).catch(
      (cause: unknown) => {
        signal.throwIfAborted();
        throw migrationFail('MOVER_QEMU_TARGET', 'no monitor', { cause });
      },
    );
    const qmp = this.#stack.use(connected);
    this.#qmp = qmp;
    qmp.closed
      .then((cause) => {
        const error = migrationFail('MOVER_QEMU_TARGET', cause.message, { cause });
        this.#qemuGone.abort(error);
        this.#peer.giveUp(error);
      })
      .catch(() => {});
    return qmp;
  }

  /** Up to the moment at which the VM is ours. */
  async #receiveVm(qmp: QemuMonitor, memory: MemoryTarget, preempt: boolean): Promise<IncomingVm> {
    const { siteId, peerSiteId, vmId, generation, ownershipPath, streamSocket } = this.#config;
    const { signal } = this.#peer;
    const staged = stageOwnership(ownershipPath, {
      version: 1,
      vmId,
      owner: siteId,
      generation: generation + 1,
      state: 'owned',
      peer: peerSiteId,
    });
    staged.catch(() => {});
    // waited for from now on: QEMU's history of events has an end
    const { signal: gone } = this.#qemuGone;
    const status = (wanted: string): Promise<unknown> =>
      qmp.waitEvent('MIGRATION', (event) => event.data['status'] === wanted, { signal: gone, ...FOREVER });
    const completed = status('completed');
    const resumed = qmp.waitEvent('RESUME', undefined, { signal: gone, ...FOREVER });
    const failed = status('failed').then(() =>
      Promise.reject(migrationFail('MOVER_QEMU_TARGET', 'QEMU could not load the VM')),
    );
    for (const promise of [completed, resumed, failed]) promise.catch(() => {});
    await setCapabilities(qmp, preempt);
    await qmp.migrateIncoming(`unix:${streamSocket}`);
    await memory.connect();
    await staged;
    await this.#peer.tell({ kind: 'ready' });
    await Promise.race([abortable(this.#taken.promise, signal), failed]);
    return { resumed: Promise.race([resumed, failed, memory.failed]), completed };
  }

  /** Opens the files that the source may refer to; what is wrong with them costs bandwidth only. */
  async #openContent(): Promise<ContentReader | undefined> {
    const content = (this.#config.content ?? []).flatMap(({ path, indexPath }) =>
      path === undefined ? [] : [{ path, indexPath }],
    );
    if (content.length === 0) return undefined;
    const { log } = this.#context;
    try {
      return this.#stack.use(
        await ContentReader.open(content, (err, { path }) => log.warn({ err, file: path }, 'content')),
      );
    } catch (err) {
      log.warn({ err }, 'content');
      return undefined;
    }
  }

  /**
   * The last step before QEMU may run the VM: from here on this site owns it. Between the last look at whether we have
   * given up and the commit nothing else can happen.
   */
  async #takeOver(): Promise<void> {
    const { peerSiteId, generation, ownershipPath } = this.#config;
    await abortable(this.#disk?.frozen ?? Promise.resolve(), this.#peer.signal);
    this.#peer.signal.throwIfAborted();
    if (this.#ownership !== 'theirs') throw migrationFail('MOVER_PROTOCOL', 'a takeover after the end');
    commitStaged(ownershipPath, { owner: peerSiteId, generation, state: 'incoming' });
    this.#ownership = 'ours';
    this.#context.states.transition('switching');
    this.#peer.session?.setLossTimeout(Number.POSITIVE_INFINITY);
    this.#taken.resolve();
  }

  /**
   * The VM is ours. Whatever fails is reported, and this mover stays: it holds the VM's reads and page faults, which
   * would otherwise fail or break off, and it keeps what has arrived. Only the end of QEMU ends it.
   */
  async #standing<T>(step: Promise<T>): Promise<T> {
    try {
      return await abortable(step, this.#qemuGone.signal);
    } catch (cause) {
      const { signal } = this.#qemuGone;
      signal.throwIfAborted();
      this.#report(cause);
      await abortable(new Promise<never>(() => {}), signal);
      throw cause;
    }
  }

  #report(cause: unknown): void {
    const error = asCloudapError(cause);
    const { log, states } = this.#context;
    log.error({ err: error, state: states.state }, 'the VM is here, and something is wrong');
    this.#context.setError(error);
  }

  /** The source is needed until everything has arrived; without it the VM waits where it misses something. */
  #watchSource(): () => void {
    const { signal } = this.#peer;
    const lost = (): void => {
      if (this.#qemuGone.signal.aborted) return;
      const cause = asCloudapError(signal.reason);
      this.#report(migrationFail('MOVER_SOURCE_LOST', cause.message, { cause }));
    };
    if (signal.aborted) lost();
    signal.addEventListener('abort', lost);
    return () => signal.removeEventListener('abort', lost);
  }

  /** From the takeover until the VM needs nothing of the source any more. */
  async #runVm(qmp: QemuMonitor, vm: IncomingVm): Promise<TargetFigures> {
    const { states, log } = this.#context;
    const { siteId, generation, ownershipPath, topPath } = this.#config;
    const disk = this.#disk as TargetDisk;
    const stopWatching = this.#watchSource();
    const resume = await vm.resumed;
    states.transition('postcopy');
    // a source that cannot be told has failed, which is reported elsewhere
    await this.#peer.tell({ kind: 'resumed', atMs: resume.timestampMs ?? Date.now() }).catch(() => {});
    await syncOwnership(ownershipPath);
    const arrived = new AbortController();
    const watching = disk
      .watchWrites(qmp, log, arrived.signal)
      .catch((err: unknown) => log.warn({ err }, 'writes of the guest are not watched'));
    await disk.complete;
    const diskCompleteAtMs = Date.now();
    await vm.completed;
    stopWatching();
    states.transition('finalizing');
    arrived.abort();
    await watching;
    const figures = disk.figures();
    await disk.handOver(qmp);
    const owned = { owner: siteId, generation: generation + 1, state: 'owned' as const };
    await changeOwnership(ownershipPath, owned, { ...owned, peer: null });
    await rm(topPath, { force: true });
    const { checked, bad } = figures.integrity;
    return {
      ...figures,
      integrity: { checked: checked + (this.#memory?.checkedFrames ?? 0), bad },
      peakRssMiB: peakRssMiB(),
      diskCompleteAtMs,
      independentAtMs: Date.now(),
    };
  }

  /** The source needs our figures for its record; we need nothing of it any more, and nothing can fail. */
  async #release(figures: TargetFigures): Promise<void> {
    const { signal } = this.#peer;
    try {
      this.#context.states.transition('completed');
      await this.#peer.tell({ kind: 'independent', figures, keeps: this.#keeps });
      const { keeps } = await this.#peer.inbox.take('released', { timeoutMs: RELEASE_TIMEOUT_MS, signal });
      if (!keeps) this.#log?.giveUp();
      await this.#peer.close();
    } catch (err) {
      this.#context.log.warn({ err }, 'the source has not heard that it is released');
    }
    await this.#log?.finish();
  }

  get #keeps(): boolean {
    return this.#log?.isOpen ?? false;
  }

  #dispatch(type: number, payload: Buffer, lane: Lane): void | Promise<void> {
    switch (type) {
      case MESSAGE_STREAM:
        return this.#expectMemory().handle(payload, lane);
      case MESSAGE_CONTENT_BYTES:
        return this.#references?.handleBytes(payload);
      case MESSAGE_STREAM_END:
        return this.#expectMemory().handleEnd(payload);
      default:
        return this.#disk?.handle(type, payload, lane);
    }
  }

  #expectMemory(): MemoryTarget {
    if (!this.#memory) throw migrationFail('MOVER_PROTOCOL', 'the stream came before hello');
    return this.#memory;
  }

  async #fail(cause: unknown): Promise<void> {
    const { states, log } = this.#context;
    // decided before anything is said: a takeover that is under way is refused from here on
    const tookOver = this.#ownership === 'ours';
    if (!tookOver) this.#ownership = 'refused';
    const error = qemuOr(cause, this.#qmp, 'MOVER_QEMU_TARGET');
    this.#peer.giveUp(error);
    log.error({ err: error, state: states.state, tookOver }, 'migration failed');
    this.#context.setError(error);
    void this.#peer.tell({ kind: 'failed', error: errorForPeer(error), tookOver }).catch(() => {});
    // Before the switch nothing here is worth keeping; afterwards everything is.
    if (!tookOver) await this.#qmp?.quit({ timeoutMs: QUIT_TIMEOUT_MS }).catch(() => {});
    await this.#peer.close().catch(() => {});
    states.transition(error.code === 'MOVER_CANCELLED' && !tookOver ? 'cancelled' : 'failed');
  }
}
