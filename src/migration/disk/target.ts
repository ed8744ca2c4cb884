import { errorCode } from '../../base/errors.ts';
import type { Lane } from '../../link/types.ts';
import type { Bitmap, Run } from '../../wire/bitmap.ts';
import * as disk from '../../wire/disk/index.ts';
import type { ByteExtent } from '../../wire/qcow2/index.ts';
import { AheadMetadata } from './ahead.ts';
import { MAX_PULL_SECTORS_IN_FLIGHT, MAX_READ_BYTES, REPLAY_SLACK_BYTES } from './constants.ts';
import { ContentLoader, type FramePages, type PageReader } from './content.ts';
import { fail } from './errors.ts';
import { LatencyHistogram } from './histogram.ts';
import { LocalFile } from './local-file.ts';
import { type DiskNotes, noteFrame } from './noted.ts';
import { Phase } from './phase.ts';
import { PullTable } from './pull-table.ts';
import { ReplayQueue } from './replay.ts';
import { SkipPlanner } from './skip.ts';
import { TargetBlocks } from './target-blocks.ts';
import type { DiskLink, DiskTargetOptions, DiskTargetStats } from './types.ts';
import { Verifier } from './verifier.ts';

type TargetPhase = 'serving' | 'freezing' | 'live' | 'complete' | 'failed' | 'closed';

/** The target's half of disk post-copy: pull, receive and replay (Figures 4 and 6). An NBD backend. */
export class DiskTarget implements AsyncDisposable {
  /** Constant: see DiskTargetOptions.announcedSizeBytes. */
  readonly sizeBytes: number;
  readonly readOnly = true;
  /** Resolves when header and tables of the frozen overlay are here: only then may QEMU activate its images. */
  readonly frozen: Promise<void>;
  /** Resolves when no sector is missing and the file is on stable storage; rejects after abort and close. */
  readonly complete: Promise<void>;
  readonly #frozen = Promise.withResolvers<void>();
  readonly #completed = Promise.withResolvers<void>();
  readonly #disk: number;
  readonly #notes: DiskNotes | undefined;
  readonly #link: DiskLink;
  readonly #now: () => number;
  readonly #file: LocalFile;
  readonly #stop = new AbortController();
  readonly #phase = new Phase<TargetPhase>(
    {
      serving: ['freezing', 'failed', 'closed'],
      freezing: ['live', 'failed', 'closed'],
      live: ['complete', 'failed', 'closed'],
      complete: ['failed', 'closed'],
      failed: ['closed'],
      closed: [],
    },
    'serving',
  );
  readonly #pulls: PullTable;
  readonly #replay: ReplayQueue;
  readonly #latency = new LatencyHistogram();
  readonly #verifier = new Verifier();
  readonly #content = new ContentLoader();
  #freeze: disk.FreezeFrame = { fileSizeBytes: 0, metadataSectors: 0, qcow2: false };
  #blocks = new TargetBlocks(0);
  #metadataLeft = 0;
  readonly #ahead = new AheadMetadata();
  /** What landed while the machine stood still is noted when it runs again. */
  readonly #unnoted: { readonly frame: disk.DataFrame; readonly data: Buffer }[] = [];
  #planner: SkipPlanner | undefined;
  #ends = { urgent: false, bulk: false };
  #finishing = false;
  #failure: unknown;

  private constructor(options: DiskTargetOptions, file: LocalFile) {
    this.sizeBytes = options.announcedSizeBytes;
    this.#disk = options.disk ?? 0;
    this.#link = options.link;
    this.#notes = options.notes;
    this.#now = options.now ?? (() => performance.now());
    this.#file = file;
    this.#pulls = new PullTable((frame) => this.#post(disk.DISK_PULL, disk.encodePull(this.#disk, frame)));
    this.#replay = new ReplayQueue(() => this.#settle());
    this.frozen = this.#frozen.promise;
    this.complete = this.#completed.promise;
    this.frozen.catch(() => undefined);
    this.complete.catch(() => undefined);
    const { signal } = options;
    if (signal?.aborted) this.abort(signal.reason);
    signal?.addEventListener('abort', () => this.abort(signal.reason), {
      once: true,
      signal: this.#stop.signal,
    });
  }

  /** @throws DISK_WRITE_FAILED, DISK_LIMIT */
  static async open(options: DiskTargetOptions): Promise<DiskTarget> {
    const { announcedSizeBytes } = options;
    if (!(announcedSizeBytes >= 0 && announcedSizeBytes <= disk.MAX_FILE_BYTES)) {
      throw fail('DISK_LIMIT', `an announced size of ${announcedSizeBytes} bytes`);
    }
    return new DiskTarget(options, await LocalFile.open(options.path));
  }

  /** Where the pages come from that the source may refer to; call it before the freeze. */
  useContent(reader: PageReader | undefined): void {
    this.#content.use(reader);
  }

  /**
   * The overlay's bytes, zeros past its end. At once where they are local; else they are pulled, however long that
   * takes: only abort and close end the wait.
   */
  read(offsetBytes: number, lengthBytes: number): Buffer | Promise<Buffer> {
    if (!(offsetBytes >= 0 && lengthBytes >= 0 && lengthBytes <= MAX_READ_BYTES)) {
      return Promise.reject(fail('DISK_LIMIT', `a read of ${lengthBytes} bytes at ${offsetBytes}`));
    }
    switch (this.#phase.now) {
      case 'serving':
        return this.#file.read(offsetBytes, lengthBytes);
      case 'freezing':
        return this.frozen.then(() => this.read(offsetBytes, lengthBytes));
      case 'live':
      case 'complete': {
        const first = Math.min(Math.floor(offsetBytes / disk.SECTOR_BYTES), this.#blocks.total);
        const end = Math.min(Math.ceil((offsetBytes + lengthBytes) / disk.SECTOR_BYTES), this.#blocks.total);
        if (!this.#blocks.missing(first, end)) return this.#file.read(offsetBytes, lengthBytes);
        return this.#pull(first, end).then(() => this.#file.read(offsetBytes, lengthBytes));
      }
      case 'failed':
      case 'closed':
      default:
        return Promise.reject(this.#failure);
    }
  }

  /**
   * Takes one message of a disk type from the link. What belongs to the freeze settles when it has landed, a push when
   * there is room for the next one, the rest at once: the urgent lane never waits for the local disk.
   * @throws DISK_FRAME_INVALID, DISK_VERSION, DISK_OUT_OF_RANGE, DISK_ORDER, DISK_OVERLAP, DISK_UNSOLICITED,
   * DISK_LIMIT, DISK_TOO_LARGE: nothing was changed then.
   */
  async handle(type: number, message: Buffer, lane: Lane): Promise<void> {
    if (disk.diskOf(message) !== this.#disk) throw fail('DISK_ORDER', `disk ${disk.diskOf(message)}`);
    if (lane !== (type === disk.DISK_PUSH ? 'bulk' : 'urgent') && type !== disk.DISK_END) {
      throw fail('DISK_ORDER', `message ${type} on lane ${lane}`);
    }
    // What was on its way when this side gave up or ended.
    if (this.#phase.is('failed', 'closed')) return;
    switch (type) {
      case disk.DISK_FREEZE:
        return this.#onFreeze(disk.decodeFreeze(message));
      case disk.DISK_AHEAD:
        return this.#onAhead(message);
      case disk.DISK_METADATA:
        return this.#onMetadata(message);
      case disk.DISK_AS_AHEAD:
        return this.#onAsAhead(message);
      case disk.DISK_PUSH:
        return this.#onPush(message);
      case disk.DISK_ANSWER:
        return this.#onAnswer(message);
      case disk.DISK_ANSWERED:
        return this.#onAnswered(disk.decodeAnswered(message));
      case disk.DISK_END:
        disk.decodeMark(message);
        return this.#onEnd(lane);
      default:
        throw fail('DISK_ORDER', `message ${type} at the target`);
    }
  }

  /**
   * The syn message: the guest has written these parts of its disk anew (in `top`), so the overlay's data for clusters
   * wholly inside need not come. Sectors that are being pulled come all the same.
   * @returns how many sectors were skipped; 0 too while that cannot be told yet
   * @throws QCOW2_* when the overlay's tables are malformed (nothing is skipped then)
   */
  skip(written: readonly ByteExtent[]): number {
    if (!this.#phase.is('live') || !this.#freeze.qcow2) return 0;
    this.#planner ??= new SkipPlanner({
      fileSizeBytes: this.#freeze.fileSizeBytes,
      read: (offsetBytes, lengthBytes) => this.#file.read(offsetBytes, lengthBytes),
      landed: (extent) => this.#blocks.landed(extent),
    });
    const runs = this.#blocks.skip(this.#planner.plan(written) ?? [], (sector) => this.#pulls.has(sector));
    for (let i = 0; i < runs.length; i += disk.MAX_SYN_RUNS) {
      this.#post(disk.DISK_SYN, disk.encodeSyn(this.#disk, runs.slice(i, i + disk.MAX_SYN_RUNS)));
    }
    if (this.#replay.idle) this.#settle();
    return runs.reduce((sum, run) => sum + run.count, 0);
  }

  stats(): DiskTargetStats {
    const { bytes, checkedFrames, badFrames } = this.#verifier;
    return {
      blocks: this.#blocks.stats(),
      bytes: { ...bytes },
      pullLatency: this.#latency.summary(),
      checkedFrames,
      badFrames,
    };
  }

  /** The sectors that have not arrived, for a record of where the transfer stands. */
  bitmap(): Bitmap {
    return this.#blocks.dirty.clone();
  }

  /** Every read that waits fails with `error`, and every later one: nothing is ever served that has not arrived. */
  abort(error: unknown): void {
    if (this.#phase.is('failed', 'closed')) return;
    this.#phase.to('failed');
    this.#end(error);
  }

  /**
   * Ends it; nothing is written to the file any more once this has resolved. Call after QEMU reads the local file
   * itself and before it may write there (before block-commit).
   */
  async close(): Promise<void> {
    if (this.#phase.is('closed')) return;
    this.#phase.to('closed');
    this.#end(fail('DISK_CLOSED'));
    await this.#replay.settled();
    await this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #end(error: unknown): void {
    this.#failure ??= error;
    this.#stop.abort(error);
    this.#frozen.reject(error);
    this.#completed.reject(error);
    this.#pulls.failAll(error);
    this.#replay.failAll(error);
  }

  #post(type: number, message: Buffer): void {
    this.#link.send('urgent', type, message).catch((error: unknown) => this.abort(error));
  }

  async #pull(first: number, end: number): Promise<void> {
    const beganMs = this.#now();
    const dirty = [...this.#blocks.dirty.runs(first, end)];
    const skipped = [...this.#blocks.skipped.runs(first, end)];
    const landed = this.#pulls.wait([...dirty, ...skipped]);
    for (const run of dirty) this.#pulls.ask(run, false);
    // The source has cleared their bits.
    for (const run of skipped) this.#pulls.ask(run, true);
    await landed;
    this.#latency.add(this.#now() - beganMs);
  }

  #onFreeze(frame: disk.FreezeFrame): Promise<void> {
    this.#phase.expect('FREEZE', 'serving');
    if (frame.fileSizeBytes > this.sizeBytes) {
      const detail = `${frame.fileSizeBytes} bytes, announced ${this.sizeBytes}`;
      throw fail('DISK_TOO_LARGE', detail, { fields: { ...frame, announcedSizeBytes: this.sizeBytes } });
    }
    this.#phase.to('freezing');
    this.#freeze = frame;
    this.#blocks = new TargetBlocks(disk.sectorsOf(frame.fileSizeBytes));
    this.#metadataLeft = frame.metadataSectors;
    return this.#enqueue(true, 0, () => {
      this.#file.reset(frame.fileSizeBytes);
      this.#goLiveIfFrozen();
    });
  }

  async #onAhead(message: Buffer): Promise<void> {
    this.#phase.expect('AHEAD', 'serving');
    const frame = disk.decodeData(message, this.sizeBytes, disk.MAX_METADATA_EXTENT_BYTES);
    this.#ahead.reserve(frame);
    const data = this.#verifier.unpack(frame, message.length, this.sizeBytes);
    if (data !== 'bad') this.#ahead.keep(frame, data);
  }

  #onAsAhead(message: Buffer): Promise<void> {
    this.#phase.expect('AS_AHEAD', 'freezing');
    const { run, crc } = disk.decodeAsAhead(message, this.#blocks.total);
    this.#blocks.announce(run, this.#freeze.metadataSectors);
    return this.#enqueue(true, message.length, () => {
      this.#verifier.bytes.encoded += message.length;
      const found = this.#ahead.find(run, crc);
      if (found) this.#landMetadata(found.frame, found.data);
      this.#metadataLeft -= run.count;
      this.#goLiveIfFrozen();
    });
  }

  #landMetadata(frame: disk.DataFrame, data: Buffer | undefined): void {
    if (data) this.#file.writeNow(data, frame.run.first * disk.SECTOR_BYTES);
    this.#blocks.land(frame.run, 'metadata');
    if (data && this.#notes) this.#unnoted.push({ frame, data });
  }

  #noteMetadata(): void {
    for (const { frame, data } of this.#unnoted.splice(0))
      if (this.#notes) noteFrame(this.#notes, frame, data, this.#freeze.fileSizeBytes);
  }

  #onMetadata(message: Buffer): Promise<void> {
    this.#phase.expect('METADATA', 'freezing');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes, disk.MAX_METADATA_EXTENT_BYTES);
    // It must land before the machine runs, without another word.
    if (frame.codec === disk.CODEC_CONTENT) throw fail('DISK_ORDER', 'METADATA that names content');
    this.#blocks.announce(frame.run, this.#freeze.metadataSectors);
    return this.#enqueue(true, message.length, () => {
      const data = this.#verifier.unpack(frame, message.length, this.#freeze.fileSizeBytes);
      if (data !== 'bad') this.#landMetadata(frame, data);
      // What arrived damaged is pulled like data.
      this.#metadataLeft -= frame.run.count;
      this.#goLiveIfFrozen();
    });
  }

  #goLiveIfFrozen(): void {
    if (this.#metadataLeft > 0 || !this.#phase.is('freezing')) return;
    this.#phase.to('live');
    this.#ahead.clear();
    this.#post(disk.DISK_READY, disk.encodeMark(this.#disk));
    for (const run of this.#blocks.lostMetadata()) this.#pulls.ask(run, true);
    this.#frozen.resolve();
  }

  #onPush(message: Buffer): Promise<void> {
    this.#phase.expect('PUSH', 'live');
    if (this.#ends.bulk) throw fail('DISK_ORDER', 'PUSH after END');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes);
    if (frame.pull !== 0) throw fail('DISK_UNSOLICITED', 'a PUSH that names a pull');
    const landed = this.#arrive(frame, 'pushed', message.length);
    const waiting = this.#replay.bytes + this.#content.bytes;
    const detached = this.#detach(landed);
    return waiting > REPLAY_SLACK_BYTES ? landed : (this.#notes?.room() ?? detached);
  }

  #onAnswer(message: Buffer): Promise<void> {
    this.#phase.expect('ANSWER', 'live', 'complete');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes);
    this.#pulls.checkAnswer(frame.pull, frame.run);
    if (frame.codec === disk.CODEC_CONTENT && this.#pulls.isAgain(frame.pull))
      throw fail('DISK_ORDER', 'names in the answer to a pull for bytes');
    return this.#detach(this.#arrive(frame, 'pulled', message.length));
  }

  /**
   * Has a frame landed, once the pages that it refers to have been read. Frames may overtake each other on the way: which
   * one a sector comes from makes no difference, for the source's file stands still.
   */
  #arrive(frame: disk.DataFrame, kind: 'pushed' | 'pulled', messageBytes: number): Promise<void> {
    const urgent = kind === 'pulled';
    this.#noteMetadata();
    const land = (pages?: FramePages): Promise<void> =>
      this.#enqueue(urgent, messageBytes, () => this.#land(frame, kind, messageBytes, pages));
    let loading: Promise<FramePages> | undefined;
    try {
      loading = this.#content.load(frame, this.#freeze.fileSizeBytes, urgent);
    } catch (error) {
      if (errorCode(error) !== 'DISK_FRAME_CORRUPT') throw error;
      // It will not unpack either, and is asked for again there.
    }
    if (!loading) return land();
    return loading.then(async (pages) => {
      try {
        await land(pages);
      } catch (error) {
        this.abort(error);
        throw error;
      } finally {
        this.#content.release(pages);
      }
    });
  }

  /** In the queue behind the answers: what did not arrive sound among them is asked for once more. */
  #onAnswered(pull: number): Promise<void> {
    this.#phase.expect('ANSWERED', 'live', 'complete');
    this.#pulls.checkAnswered(pull);
    const done = this.#enqueue(true, 0, () => {
      for (const run of this.#pulls.answered(pull)) this.#pulls.ask(run, true);
    });
    return this.#detach(done);
  }

  #onEnd(lane: Lane): Promise<void> {
    this.#phase.expect('END', 'live');
    if (this.#ends[lane]) throw fail('DISK_ORDER', `a second END on lane ${lane}`);
    this.#ends[lane] = true;
    return this.#detach(this.#enqueue(lane === 'urgent', 0, () => undefined));
  }

  /** Nobody waits for this job; its failure has made the transfer fail. */
  async #detach(job: Promise<void>): Promise<void> {
    job.catch(() => undefined);
  }

  /** A job that fails makes the transfer fail: the file cannot become whole any more. */
  #enqueue(urgent: boolean, bytes: number, work: () => void | Promise<void>): Promise<void> {
    return this.#replay.add(urgent, bytes, async () => {
      try {
        await work();
      } catch (error) {
        this.abort(error);
        throw error;
      }
    });
  }

  #unpack(frame: disk.DataFrame, messageBytes: number, pages?: FramePages): Buffer | undefined | 'bad' {
    const size = this.#freeze.fileSizeBytes;
    const data = this.#verifier.unpack(frame, messageBytes, size, pages?.bodies);
    if (this.#notes && data && data !== 'bad') noteFrame(this.#notes, frame, data, size);
    return data;
  }

  /** Of a frame that is of no use what is wanted comes again; what is not wanted any more is noted at the source only. */
  #lose(frame: disk.DataFrame, wanted: readonly Run[]): void {
    if (wanted.reduce((sum, run) => sum + run.count, 0) < frame.run.count)
      this.#notes?.lost('sectors that did not arrive');
  }

  /** Writes what is still missing of a frame's sectors, then clears their bits: each sector lands once. */
  async #land(
    frame: disk.DataFrame,
    kind: 'pushed' | 'pulled',
    messageBytes: number,
    pages?: FramePages,
  ): Promise<void> {
    const wanted = this.#blocks.wanted(frame.run, (sector) => this.#pulls.has(sector));
    if (pages && pages.missing > 0) {
      this.#verifier.bytes.encoded += messageBytes;
      this.#lose(frame, wanted);
      for (const run of wanted) this.#pulls.ask(run, true);
      return;
    }
    const data = this.#unpack(frame, messageBytes, pages);
    if (data === 'bad') {
      this.#lose(frame, wanted);
      for (const run of wanted) {
        this.#pulls.release(run);
        this.#pulls.ask(run, true);
      }
      return;
    }
    this.#blocks.drop(frame.run.count - wanted.reduce((sum, run) => sum + run.count, 0));
    for (const run of wanted) {
      if (data) {
        const from = (run.first - frame.run.first) * disk.SECTOR_BYTES;
        const part = data.subarray(from, from + disk.runBytes(run, this.#freeze.fileSizeBytes));
        await this.#file.write(part, run.first * disk.SECTOR_BYTES);
      }
      this.#blocks.land(run, kind);
      this.#blocks.referred(pages ? countWithin(pages.sectors, run, frame.run.first) : 0);
      this.#pulls.landed(run);
    }
  }

  /** Nothing waits to be landed. When the source has sent everything, what is still dirty was lost on the way. */
  #settle(): void {
    if (!this.#phase.is('live') || !this.#ends.urgent || !this.#ends.bulk) return;
    if (!this.#replay.idle || !this.#content.idle) return;
    if (this.#blocks.dirty.count === 0) {
      if (!this.#finishing) void this.#finish();
      return;
    }
    let asked = 0;
    for (const run of this.#blocks.dirty.runs()) {
      const count = Math.min(run.count, MAX_PULL_SECTORS_IN_FLIGHT - asked);
      this.#pulls.ask({ first: run.first, count }, true);
      asked += count;
      if (asked >= MAX_PULL_SECTORS_IN_FLIGHT) break;
    }
  }

  async #finish(): Promise<void> {
    this.#finishing = true;
    this.#noteMetadata();
    try {
      await this.#file.sync();
    } catch (error) {
      this.abort(error);
      return;
    }
    if (!this.#phase.is('live')) return;
    this.#phase.to('complete');
    this.#post(disk.DISK_COMPLETE, disk.encodeMark(this.#disk));
    this.#completed.resolve();
  }
}

/** How many of these sectors of a frame, which begins at sector `first` of the file, are in the run. */
function countWithin(sectors: readonly number[], run: Run, first: number): number {
  return sectors.filter((at) => first + at >= run.first && first + at < run.first + run.count).length;
}
