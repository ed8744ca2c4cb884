import { mkdir, open, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { abortable, sleep } from '../../base/async.ts';
import type { Lane, LinkSession } from '../../link/types.ts';
import { NODE } from '../../qemu/block-nodes.ts';
import { QemuMonitor } from '../../qemu/monitor.ts';
import { loadOrMakePageIndexes } from '../../content/pages/background.ts';
import { PageLookup } from '../../content/pages/lookup.ts';
import type { PageIndex } from '../../content/pages/page-index.ts';
import type { ContentKind } from '../../content/pages/store.ts';
import type { ContentLog } from '../../content/residue/log.ts';
import { codecIds, type CodecName } from '../../wire/codec.ts';
import { REPEAT_WINDOW_PAGES } from '../../wire/qemu-stream/constants.ts';
import { DiskSource } from '../disk/source.ts';
import { MemorySource } from '../memory/source.ts';
import {
  errorForPeer,
  MESSAGE_CONTENT_MISSING,
  MESSAGE_DECODED,
  MESSAGE_RETURN,
  migrationFail,
  MOVER_PROTOCOL_VERSION,
} from '../messages.ts';
import { endOutgoing, stayHere, type StayOptions, takeBack, withdrawOffer } from '../outgoing.ts';
import { changeOwnership } from '../ownership.ts';
import { Pace } from '../pace.ts';
import type { MigrationRecord } from '../record.ts';
import { worthLeaving } from '../schemes/early.ts';
import { mayPreempt, setCapabilities, startRoundOne, switchOver } from '../schemes/hybrid.ts';
import { isBeforeSwitch } from '../state.ts';
import { buildRecord, Timeline } from './build-record.ts';
import type { Codec, SourceMoverConfig } from './config.ts';
import { channelResidue, diskNotes, firstOfResidue, openContentLog } from './content-log.ts';
import type { MoverContext } from './context.ts';
import { MoverPeer, qemuOr } from './peer.ts';

const ACCEPT_TIMEOUT_MS = 60_000;
/** How long the target's QEMU may take to start. */
const READY_TIMEOUT_MS = 90_000;
/** How long QEMU may take to open its channels before a cancel goes ahead without, and to take note of the last one. */
const CHANNELS_TIMEOUT_MS = 2_000;
const CHANNELS_SETTLE_MS = 100;
/** What emptying the pipe, freeze and resume take: a budgeted switch ends round one so much earlier. */
const SWITCH_ALLOWANCE_MS = 60;
/** From this version on QEMU goes by channel where it leaves out the name of a page's block. */
const QEMU_NAMES_RIGHT = 8;
const FOREVER = { timeoutMs: Number.POSITIVE_INFINITY };
/** Statuses of QEMU's `MIGRATION` event after which nothing follows. */
const ENDS = ['completed', 'failed', 'cancelled'];

/**
 * Has QEMU write what it holds of the overlay's tables, and the host what it holds of the file: else both would be done while
 * the VM stands still. QMP has no command for the first; without the monitor's it only takes longer then.
 */
async function flushOverlay(qmp: QemuMonitor, path: string): Promise<void> {
  await qmp.execute('human-monitor-command', { 'command-line': `qemu-io ${NODE.cow} flush` }).catch(() => {});
  await using file = await open(path, 'r');
  await file.datasync();
}

/** What packs the bytes that cannot be referred to. */
function plainCodec(codec: Codec): CodecName {
  return codec === 'content' ? 'zstd' : codec;
}

/** The controller of a migration: drives it from the source, from the first contact to the record. */
export class SourceMover implements AsyncDisposable {
  readonly #config: SourceMoverConfig;
  readonly #context: MoverContext;
  readonly #stack = new AsyncDisposableStack();
  readonly #timeline: Timeline;
  readonly #peer: MoverPeer;
  #qmp: QemuMonitor | undefined;
  #memory: MemorySource | undefined;
  #disk: DiskSource | undefined;
  /** Of the pages that travel. */
  #log: ContentLog | undefined;
  #firstOfResidue = 0;
  #preempt = false;
  readonly #pace = new Pace();
  /** QEMU has been told to migrate. */
  #migrating = false;
  /** The target's QEMU listens. */
  #targetReady: Promise<void> = Promise.resolve();
  #offered: Promise<void> | undefined;
  /** QEMU has ended its part in order; rejects where it failed. */
  #qemuCompleted: Promise<void> | undefined;
  #takingBack: PromiseWithResolvers<void> | undefined;
  #roundOneBytes = 0;
  #roundOneCut: 'budget' | 'early' | null = null;

  constructor(config: SourceMoverConfig, context: MoverContext) {
    this.#config = config;
    this.#context = context;
    this.#peer = new MoverPeer(context.cancelled.signal, (type, payload, lane) =>
      this.#dispatch(type, payload, lane),
    );
    this.#timeline = new Timeline(config.initiatedAtMs);
  }

  async run(): Promise<void> {
    const { states } = this.#context;
    try {
      await this.#connect(this.#peer.session as LinkSession);
      states.transition('precopy');
      const { stoppedAtMs, resumedAtMs } = await this.#freezeAndCopy();
      states.transition('postcopy');
      await this.#postCopy(stoppedAtMs, resumedAtMs);
      states.transition('completed');
      await this.#log?.finish();
    } catch (error) {
      await this.#fail(error);
      throw error;
    }
  }

  /**
   * The operator gives the target up: the VM goes on here as it was when it was stopped.
   * @throws MOVER_TOO_LATE before the switch or after the end, MOVER_TARGET_ALIVE, and what outgoing.ts throws
   */
  async takeBack(): Promise<void> {
    const { state } = this.#context.states;
    if (state !== 'switching' && state !== 'postcopy')
      throw migrationFail('MOVER_TOO_LATE', `state ${state}`);
    if (this.#peer.session?.state === 'open') throw migrationFail('MOVER_TARGET_ALIVE');
    this.#takingBack ??= Promise.withResolvers<void>();
    this.#takingBack.promise.catch(() => {});
    this.#peer.giveUp(migrationFail('MOVER_TAKEN_BACK'));
    await this.#takingBack.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  /** Looks for the other mover. */
  async listen(): Promise<void> {
    this.#stack.use(await this.#peer.open(this.#config));
  }

  /** Meets the other mover, which is there once its site has said yes. Its QEMU may still be starting. */
  async #connect(session: LinkSession): Promise<void> {
    const config = this.#config;
    const { signal } = this.#peer;
    const loading = this.#loadContent();
    if (config.memoryCodec === 'content') this.#log = openContentLog(config, this.#context.log);
    if (this.#log) this.#stack.use(this.#log);
    const qmp = this.#stack.use(await QemuMonitor.connect(config.qmpSocket, { signal }));
    this.#qmp = qmp;
    qmp.closed
      .then((cause) => this.#peer.giveUp(migrationFail('MOVER_QEMU_SOURCE', cause.message, { cause })))
      .catch(() => {});
    const memory = this.#stack.use(
      new MemorySource({
        socketPath: config.streamSocket,
        session,
        pace: this.#pace,
        repairNames: Number.parseInt(config.qemuVersion, 10) < QEMU_NAMES_RIGHT,
        codec: plainCodec(config.memoryCodec),
        zstdLevel: config.zstdLevel,
        onTakeover: async (completed) => {
          await this.#offer();
          await this.#disk?.freeze();
          if (completed) await this.#qemuCompleted;
        },
      }),
    );
    this.#memory = memory;
    await memory.listen();
    this.#disk = this.#stack.use(
      await DiskSource.open({
        path: config.overlayPath,
        link: session,
        codec: codecIds[plainCodec(config.diskCodec)],
        pace: this.#pace,
        notes: diskNotes(this.#log, () => this.#firstOfResidue),
      }),
    );
    this.#context.setProgress(() => this.#progress());
    const preempt = config.preempt && (await mayPreempt(qmp));
    this.#preempt = preempt;
    await setCapabilities(qmp, preempt);
    const indexes = await loading;
    await session.opened(signal);
    await this.#peer.tell({
      kind: 'hello',
      version: MOVER_PROTOCOL_VERSION,
      migrationId: config.migrationId,
      vmId: config.vmId,
      generation: config.vm.generation,
      preempt,
      content: indexes.map(({ digest, kind }) => ({ digest, kind })),
      repeatPages: config.memoryCodec === 'content' ? REPEAT_WINDOW_PAGES : 0,
      keeps: this.#log !== undefined,
    });
    const accepted = await this.#peer.inbox.take('accepted', { timeoutMs: ACCEPT_TIMEOUT_MS, signal });
    const { content: agreed = [], repeatPages = 0 } = accepted;
    const common = agreed.flatMap((digest) => indexes.find((index) => index.digest === digest) ?? []);
    if (common.length !== agreed.length) throw migrationFail('MOVER_PROTOCOL', 'content not offered');
    if (!accepted.keeps) this.#log?.giveUp();
    this.#firstOfResidue = firstOfResidue(common);
    const lookup = common.length > 0 ? new PageLookup(common) : undefined;
    if (config.memoryCodec === 'content')
      memory.useContent(lookup, repeatPages, channelResidue(this.#log, this.#firstOfResidue));
    if (config.diskCodec === 'content') this.#disk.useContent(lookup);
    const acceptedAtMs = Date.now();
    this.#timeline.add('prepare', config.initiatedAtMs, acceptedAtMs);
    this.#targetReady = this.#peer.inbox.take('ready', { timeoutMs: READY_TIMEOUT_MS, signal }).then(() => {
      this.#timeline.add('target start', acceptedAtMs, Date.now());
    });
    this.#targetReady.catch((error: unknown) => this.#peer.giveUp(error));
  }

  /** The indexes of the files whose pages may be referred to. What is wrong with them costs bandwidth only. */
  async #loadContent(): Promise<readonly (PageIndex & { kind: ContentKind })[]> {
    const { memoryCodec, diskCodec, content } = this.#config;
    if (memoryCodec !== 'content' && diskCodec !== 'content') return [];
    const loaded = await loadOrMakePageIndexes(content ?? [], (err, { path, indexPath }) =>
      this.#context.log.warn({ err, file: path ?? indexPath }, 'content'),
    );
    const indexes = loaded.map(({ content: { kind = 'image' }, index }) => ({ ...index, kind }));
    // what stays comes first: a page that stands in both is no residue
    return indexes.sort((a, b) => Number(a.kind === 'residue') - Number(b.kind === 'residue'));
  }

  /** Round one and the switch; returns when the VM runs at the target. */
  async #freezeAndCopy(): Promise<{ stoppedAtMs: number; resumedAtMs: number }> {
    const { qmp, memory, session } = this.#parts();
    const { signal } = this.#peer;
    const since = qmp.mark();
    // waited for from now on: QEMU's history of events has an end
    const stop = qmp.waitEvent('STOP', undefined, { signal, ...FOREVER });
    this.#qemuCompleted = qmp
      .waitEvent('MIGRATION', (event) => ENDS.includes(String(event.data['status'])), { signal, ...FOREVER })
      .then((event) => {
        const status = String(event.data['status']);
        if (status !== 'completed') throw migrationFail('MOVER_QEMU_SOURCE', `the migration has ${status}`);
      });
    for (const promise of [stop, this.#qemuCompleted]) promise.catch(() => {});
    const precopyAtMs = Date.now();
    this.#migrating = true;
    await startRoundOne(qmp, this.#config.streamSocket);
    const { roundOneEndMs, drainedMs } = await switchOver(qmp, memory, {
      signal,
      since,
      memoryBytes: this.#config.vm.memoryMiB * 2 ** 20,
      cutShort: (over) => this.#cutShort(memory, over),
      ready: this.#targetReady,
      prepare: () => flushOverlay(qmp, this.#config.overlayPath),
      commit: async () => {
        this.#roundOneBytes = session.stats().bulk.bytesSent;
        await this.#offer();
        await this.#disk?.ahead();
      },
    });
    this.#timeline.add('memory pre-copy', precopyAtMs, roundOneEndMs);
    this.#timeline.add('drain', roundOneEndMs, drainedMs);
    const stoppedAtMs = (await stop).timestampMs ?? Date.now();
    const resumed = await this.#peer.inbox.take('resumed', { signal });
    this.#pace.start();
    memory.resumeBackground();
    const resumedAtMs = Math.max(stoppedAtMs, resumed.atMs - (session.stats().clockOffsetMs ?? 0));
    this.#timeline.add('freeze-and-copy', stoppedAtMs, resumedAtMs);
    return { stoppedAtMs, resumedAtMs };
  }

  /**
   * When round one is left unfinished: with a budget for the switch, at what draining and freezing leave of it; without one as
   * soon as leaving costs the VM little. A codec without content is the paper's scheme as it is, with a whole round.
   */
  async #cutShort(memory: MemorySource, over: AbortSignal): Promise<void> {
    const { switchBudgetMs, initiatedAtMs, memoryCodec } = this.#config;
    const automatic = switchBudgetMs === undefined && memoryCodec === 'content';
    if (typeof switchBudgetMs === 'number') {
      const endsAtMs = initiatedAtMs + switchBudgetMs - SWITCH_ALLOWANCE_MS;
      await sleep(Math.max(0, endsAtMs - Date.now()), over);
    } else if (automatic) {
      const { session } = this.#parts();
      const beganAtMs = performance.now();
      await worthLeaving(() => {
        const { pagesSeen, pagesTotal } = memory.stats().encoder;
        const elapsedMs = performance.now() - beganAtMs;
        return { elapsedMs, pagesSeen, pagesTotal, rttMs: session.stats().minRttMs };
      }, over);
    } else return abortable(new Promise<void>(() => {}), over);
    this.#roundOneCut = automatic ? 'early' : 'budget';
  }

  /** Everything that the target still needs, until it is independent; then the record. */
  async #postCopy(stoppedAtMs: number, resumedAtMs: number): Promise<void> {
    const { memory, session } = this.#parts();
    const { signal } = this.#peer;
    const disk = this.#disk as DiskSource;
    const { siteId, peerSiteId, vm, ownershipPath } = this.#config;
    await changeOwnership(
      ownershipPath,
      { owner: siteId, generation: vm.generation, state: 'offered' },
      { owner: peerSiteId, generation: vm.generation + 1, state: 'owned', peer: null },
    );
    disk.startPush();
    await abortable(memory.finished, signal);
    await this.#qemuCompleted;
    this.#timeline.add('memory post-copy', resumedAtMs, Date.now());
    await abortable(disk.complete, signal);
    this.#context.states.transition('finalizing');
    const { figures, keeps } = await this.#peer.inbox.take('independent', { signal });
    if (!keeps) this.#log?.giveUp();
    const offsetMs = session.stats().clockOffsetMs ?? 0;
    const diskCompleteAtMs = figures.diskCompleteAtMs - offsetMs;
    const independentAtMs = figures.independentAtMs - offsetMs;
    this.#timeline.add('disk post-copy', resumedAtMs, diskCompleteAtMs);
    this.#timeline.add('commit', diskCompleteAtMs, independentAtMs);
    // what is still to do cannot fail the migration any more
    await this.#peer.tell({ kind: 'released', keeps: this.#log?.isOpen ?? false }).catch(() => {});
    await this.#keep(
      buildRecord({
        config: this.#config,
        timeline: this.#timeline,
        link: session.stats(),
        memory: memory.stats(),
        figures,
        roundOneBytes: this.#roundOneBytes,
        roundOneCut: this.#roundOneCut,
        times: { stoppedAtMs, resumedAtMs, independentAtMs },
      }),
    );
    await session.close().catch(() => {});
  }

  /** Called at the last moment before the VM may run elsewhere: from here on the source waits for the target. */
  #offer(): Promise<void> {
    this.#offered ??= (async () => {
      const { siteId, peerSiteId, vm, ownershipPath, overlayPath } = this.#config;
      const { session, qmp } = this.#parts();
      await this.#targetReady;
      await flushOverlay(qmp, overlayPath);
      if (session.state !== 'open') throw migrationFail('MOVER_PEER_FAILED', 'the link is cut');
      this.#peer.signal.throwIfAborted();
      await changeOwnership(
        ownershipPath,
        { owner: siteId, generation: vm.generation, state: 'owned' },
        { owner: siteId, generation: vm.generation, state: 'offered', peer: peerSiteId },
      );
      this.#peer.signal.throwIfAborted();
      this.#context.states.transition('switching');
      session.setLossTimeout(Number.POSITIVE_INFINITY);
    })();
    return this.#offered;
  }

  #dispatch(type: number, payload: Buffer, lane: Lane): void | Promise<void> {
    if (type === MESSAGE_RETURN) return this.#memory?.handleReturn(payload);
    if (type === MESSAGE_DECODED) return this.#memory?.handleDecoded(payload);
    if (type === MESSAGE_CONTENT_MISSING) return this.#memory?.handleMissing(payload);
    if (this.#disk) return this.#disk.handle(type, payload, lane);
    throw migrationFail('MOVER_PROTOCOL', `message type ${type}`);
  }

  async #fail(cause: unknown): Promise<void> {
    const { states, log } = this.#context;
    const error = qemuOr(cause, this.#qmp, 'MOVER_QEMU_SOURCE');
    log.error({ err: error, state: states.state }, 'migration failed');
    // an offer that is under way ends first, one way or the other
    this.#peer.giveUp(error);
    await this.#offered?.catch(() => {});
    // While nothing has left that lets the target run the VM, or by its own word that it does not, the VM is ours.
    const ours = (this.#memory?.abandon() ?? true) || error.fields['tookOver'] === false;
    void this.#peer.tell({ kind: 'failed', error: errorForPeer(error), tookOver: false }).catch(() => {});
    await this.#settleQemu(ours).catch((err: unknown) => log.error({ err }, 'QEMU did not take the end'));
    this.#context.setError(error);
    try {
      const record = buildRecord({
        config: this.#config,
        timeline: this.#timeline,
        link: this.#peer.session?.stats(),
        memory: this.#memory?.stats(),
        error,
      });
      await this.#keep(record);
    } catch (err) {
      log.error({ err }, 'the record could not be kept');
    }
    await this.#peer.close().catch(() => {});
    states.transition(ours && error.code === 'MOVER_CANCELLED' ? 'cancelled' : 'failed');
  }

  /**
   * Ours: QEMU goes on as if nothing had been, a VM that was stopped already with its memory and disk intact. Else the
   * VM stays frozen, in a state from which it can be taken back: a QEMU left behind in post-copy could not.
   */
  async #settleQemu(ours: boolean): Promise<void> {
    const qmp = this.#qmp;
    const { siteId, ownershipPath, streamSocket, vm } = this.#config;
    await this.#channelsReady();
    const discarding = !isBeforeSwitch(this.#context.states.state);
    const options: StayOptions = { siteId, ownershipPath, streamSocket, discarding };
    if (discarding) this.#memory?.discardRest();
    if (qmp?.state !== 'running') {
      this.#takingBack?.reject(migrationFail('MOVER_QEMU_SOURCE', 'there is nothing to take back'));
      if (ours) await withdrawOffer(options);
      return;
    }
    if (this.#takingBack) {
      try {
        await takeBack(qmp, { ...options, generation: vm.generation });
        this.#takingBack.resolve();
      } catch (error) {
        this.#takingBack.reject(error);
        throw error;
      }
    } else if (ours) await stayHere(qmp, options);
    else await endOutgoing(qmp, options);
  }

  /**
   * QEMU 7.2 ends in an assertion (yank_register_function) when a migration is cancelled while its second channel is being
   * connected: the VM would be lost.
   */
  async #channelsReady(): Promise<void> {
    const memory = this.#memory;
    if (!memory || !this.#migrating || !this.#preempt) return;
    await memory.connected(2, AbortSignal.timeout(CHANNELS_TIMEOUT_MS)).catch(() => {});
    // it has connected; its main loop has yet to hear so
    await sleep(CHANNELS_SETTLE_MS);
  }

  async #keep(record: Readonly<MigrationRecord>): Promise<void> {
    const { recordPath } = this.#config;
    await mkdir(dirname(recordPath), { recursive: true });
    await writeFile(`${recordPath}.next`, `${JSON.stringify(record, null, 2)}\n`, { flush: true });
    await rename(`${recordPath}.next`, recordPath);
    this.#context.setRecord(record);
  }

  #parts(): { qmp: QemuMonitor; memory: MemorySource; session: LinkSession } {
    const [qmp, memory, session] = [this.#qmp, this.#memory, this.#peer.session];
    if (!qmp || !memory || !session) throw migrationFail('MOVER_PROTOCOL', 'not connected');
    return { qmp, memory, session };
  }

  #progress(): Parameters<MoverContext['setProgress']>[0] extends () => infer T ? T : never {
    const link = this.#peer.session?.stats();
    const stream = this.#memory?.stats().encoder;
    const disk = this.#disk?.stats();
    return {
      link: this.#peer.session?.state ?? 'connecting',
      progress: {
        pagesDone: stream?.pagesSeen ?? 0,
        pagesTotal: stream?.pagesTotal ?? 0,
        blocksDone: disk ? disk.blocks.total - disk.blocks.dirty : 0,
        blocksTotal: disk?.blocks.total ?? 0,
        bytesSent: link ? link.urgent.bytesSent + link.bulk.bytesSent : 0,
        rateMbit: link?.rateMbit ?? null,
      },
    };
  }
}
