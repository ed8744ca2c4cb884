import { rm } from 'node:fs/promises';
import { sleep } from '../../base/async.ts';
import { asCloudapError } from '../../base/errors.ts';
import type { Lane, LinkSession } from '../../link/types.ts';
import { QemuMonitor } from '../../qemu/monitor.ts';
import type { QmpMark } from '../../qemu/qmp-events.ts';
import { ContentReader } from '../../content/pages/reader.ts';
import { REPEAT_WINDOW_PAGES } from '../../wire/qemu-stream/constants.ts';
import { References } from '../memory/references.ts';
import { MemoryTarget } from '../memory/target.ts';
import {
  type Control,
  encodeControl,
  MESSAGE_CONTENT_BYTES,
  MESSAGE_CONTROL,
  MESSAGE_RETURN,
  MESSAGE_STREAM,
  MESSAGE_STREAM_END,
  migrationFail,
} from '../messages.ts';
import { changeOwnership, commitStaged, stageOwnership, syncOwnership } from '../ownership.ts';
import { setCapabilities } from '../schemes/hybrid.ts';
import { errorShape } from './build-record.ts';
import type { TargetMoverConfig } from './config.ts';
import type { MoverContext } from './context.ts';
import { ControlInbox } from './inbox.ts';
import { openLink } from './link.ts';
import { peakRssMiB } from './rss.ts';
import { TargetDisk } from './target-disk.ts';

/** Whoever prepared us should be here by then. */
const HELLO_TIMEOUT_MS = 30_000;
const QEMU_START_TIMEOUT_MS = 30_000;
const RELEASE_TIMEOUT_MS = 30_000;
const QUIT_TIMEOUT_MS = 2_000;

/** The target's half of a migration: serves the overlay to QEMU, feeds it the stream, and makes it independent. */
export class TargetMover implements AsyncDisposable {
  readonly #config: TargetMoverConfig;
  readonly #context: MoverContext;
  readonly #inbox = new ControlInbox();
  readonly #stack = new AsyncDisposableStack();
  readonly #giveUp = new AbortController();
  #session: LinkSession | undefined;
  #disk: TargetDisk | undefined;
  #memory: MemoryTarget | undefined;
  #references: References | undefined;
  /** Undefined where there is nothing to refer to, or it cannot be used. */
  #content: Promise<ContentReader | undefined> = Promise.resolve(undefined);
  #qmp: QemuMonitor | undefined;
  #tookOver = false;

  constructor(config: TargetMoverConfig, context: MoverContext) {
    this.#config = config;
    this.#context = context;
  }

  /** Waits for the other mover and serves the overlay; from then on QEMU can be started. */
  async listen(): Promise<void> {
    const session = this.#stack.use(
      await openLink(this.#config, (type, payload, lane) => this.#receive(type, payload, lane)),
    );
    this.#session = session;
    this.#content = this.#openContent();
    session.closed.then(
      () => this.#giveUp.abort(migrationFail('MOVER_PEER_FAILED', 'the other mover closed the link')),
      (error: unknown) => this.#giveUp.abort(error),
    );
    const disk = this.#stack.use(await TargetDisk.open(this.#config, session, this.#context.log));
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
      const { cancelled } = this.#context;
      if (cancelled.signal.aborted) this.#giveUp.abort(cancelled.signal.reason);
      cancelled.signal.addEventListener('abort', () => this.#giveUp.abort(cancelled.signal.reason));
      this.#inbox.failure.catch((error: unknown) => this.#giveUp.abort(error));
      const qmp = this.#stack.use(await connectWhenUp(this.#config.qmpSocket, this.#giveUp.signal));
      this.#qmp = qmp;
      qmp.closed
        .then((cause) => this.#giveUp.abort(migrationFail('MOVER_QEMU_TARGET', cause.message, { cause })))
        .catch(() => {});
      const since = qmp.mark();
      await this.#receiveVm(qmp, since);
      await this.#becomeIndependent(qmp, since);
    } catch (error) {
      await this.#fail(error);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  /** Up to the moment at which the VM runs here. */
  async #receiveVm(qmp: QemuMonitor, since: QmpMark): Promise<void> {
    const config = this.#config;
    const { states } = this.#context;
    const { signal } = this.#giveUp;
    const hello = await this.#inbox.take('hello', { timeoutMs: HELLO_TIMEOUT_MS, signal });
    if (
      hello.migrationId !== config.migrationId ||
      hello.vmId !== config.vmId ||
      hello.generation !== config.generation
    ) {
      throw migrationFail('MOVER_PROTOCOL', 'hello of another migration');
    }
    const reader = await this.#content;
    const content = reader?.agree(hello.content) ?? [];
    const repeatPages = Math.min(hello.repeatPages, REPEAT_WINDOW_PAGES);
    const references = new References({
      reader: content.length > 0 ? reader : undefined,
      send: (type, payload) => {
        this.#session?.send('urgent', type, payload).catch(() => {});
      },
    });
    this.#references = references;
    const memory = this.#stack.use(
      new MemoryTarget({
        socketPath: config.streamSocket,
        references,
        repeatPages,
        onTakeover: () => this.#takeOver(),
        onReturn: (bytes) => {
          this.#session?.send('urgent', MESSAGE_RETURN, bytes).catch(() => {});
        },
      }),
    );
    this.#memory = memory;
    await setCapabilities(qmp, hello.preempt);
    await qmp.migrateIncoming(`unix:${config.streamSocket}`);
    await memory.connect(hello.preempt);
    const { siteId, peerSiteId, vmId, generation } = config;
    await stageOwnership(config.ownershipPath, {
      version: 1,
      vmId,
      owner: siteId,
      generation: generation + 1,
      state: 'owned',
      peer: peerSiteId,
    });
    states.transition('precopy');
    await this.#tell({ kind: 'ready', content: [...content], repeatPages });
    const wait = { since, signal, timeoutMs: Number.POSITIVE_INFINITY };
    const failed = qmp
      .waitEvent('MIGRATION', (event) => event.data['status'] === 'failed', wait)
      .then(() => Promise.reject(migrationFail('MOVER_QEMU_TARGET', 'QEMU could not load the VM')));
    failed.catch(() => {});
    const resume = await Promise.race([qmp.waitEvent('RESUME', undefined, wait), failed]);
    await this.#tell({ kind: 'resumed', atMs: resume.timestampMs ?? Date.now() });
    states.transition('postcopy');
    await syncOwnership(config.ownershipPath);
  }

  /** Opens the files that the source may refer to; what is wrong with them costs bandwidth only. */
  async #openContent(): Promise<ContentReader | undefined> {
    const { content = [] } = this.#config;
    if (content.length === 0) return undefined;
    const { log } = this.#context;
    try {
      return this.#stack.use(
        await ContentReader.open(content, (err, file) => log.warn({ err, file: file.path }, 'content')),
      );
    } catch (err) {
      log.warn({ err }, 'content');
      return undefined;
    }
  }

  /** The last step before QEMU may run the VM: from here on this site owns it. */
  async #takeOver(): Promise<void> {
    const { peerSiteId, generation, ownershipPath } = this.#config;
    this.#giveUp.signal.throwIfAborted();
    await this.#disk?.frozen;
    commitStaged(ownershipPath, { owner: peerSiteId, generation, state: 'incoming' });
    this.#tookOver = true;
    this.#context.states.transition('switching');
    this.#session?.setLossTimeout(Number.POSITIVE_INFINITY);
  }

  async #becomeIndependent(qmp: QemuMonitor, since: QmpMark): Promise<void> {
    const config = this.#config;
    const { states, log } = this.#context;
    const disk = this.#disk as TargetDisk;
    const arrived = new AbortController();
    const watching = disk
      .watchWrites(qmp, log, arrived.signal)
      .catch((err: unknown) => log.warn({ err }, 'writes of the guest are not watched'));
    await disk.complete;
    const diskCompleteAtMs = Date.now();
    await qmp.waitEvent('MIGRATION', (event) => event.data['status'] === 'completed', {
      since,
      timeoutMs: Number.POSITIVE_INFINITY,
    });
    states.transition('finalizing');
    arrived.abort();
    await watching;
    const figures = disk.figures();
    await disk.handOver(qmp);
    const { siteId, generation } = config;
    await changeOwnership(
      config.ownershipPath,
      { owner: siteId, generation: generation + 1, state: 'owned' },
      { owner: siteId, generation: generation + 1, state: 'owned', peer: null },
    );
    await rm(config.topPath, { force: true });
    const { checked, bad } = figures.integrity;
    await this.#tell({
      kind: 'independent',
      figures: {
        ...figures,
        integrity: { checked: checked + (this.#memory?.checkedFrames ?? 0), bad },
        peakRssMiB: peakRssMiB(),
        diskCompleteAtMs,
        independentAtMs: Date.now(),
      },
    });
    states.transition('completed');
    // The source needs our figures for its record; we need nothing of it any more.
    await this.#inbox.take('released', { timeoutMs: RELEASE_TIMEOUT_MS }).catch(() => {});
    await this.#session?.close(1000).catch(() => {});
  }

  #receive(type: number, payload: Buffer, lane: Lane): void | Promise<void> {
    switch (type) {
      case MESSAGE_CONTROL:
        return this.#inbox.push(payload);
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
    const error = asCloudapError(cause);
    log.error({ err: error, state: states.state, tookOver: this.#tookOver }, 'migration failed');
    this.#context.setError(error);
    await this.#tell({ kind: 'failed', error: errorShape(error), tookOver: this.#tookOver }).catch(() => {});
    // Before the switch nothing here is worth keeping; afterwards everything is.
    if (!this.#tookOver) await this.#qmp?.quit({ timeoutMs: QUIT_TIMEOUT_MS }).catch(() => {});
    await this.#session?.close(1000).catch(() => {});
    states.transition(error.code === 'MOVER_CANCELLED' ? 'cancelled' : 'failed');
  }

  #tell(message: Control): Promise<void> {
    const session = this.#session;
    return session ? session.send('urgent', MESSAGE_CONTROL, encodeControl(message)) : Promise.resolve();
  }
}

/** The agent starts QEMU once we serve its disk; its monitor is there a moment later. */
async function connectWhenUp(path: string, signal: AbortSignal): Promise<QemuMonitor> {
  const deadline = performance.now() + QEMU_START_TIMEOUT_MS;
  for (;;) {
    try {
      return await QemuMonitor.connect(path, { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (performance.now() > deadline)
        throw migrationFail('MOVER_QEMU_TARGET', 'no monitor', { cause: error });
      await sleep(50, signal);
    }
  }
}
