import { errorCode } from '../../base/errors.ts';
import type { Lane, LinkSession } from '../../link/types.ts';
import { Bitmap, type Run } from '../../wire/bitmap.ts';
import * as disk from '../../wire/disk/index.ts';
import type { ByteExtent } from '../../wire/qcow2/index.ts';
import { MAX_BAD_IN_A_ROW, MAX_PULL_SECTORS_IN_FLIGHT, MAX_READ_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import { LatencyHistogram, type LatencySummary } from './histogram.ts';
import { LocalFile } from './local-file.ts';
import { Phase } from './phase.ts';
import { PullTable } from './pull-table.ts';
import { ReplayQueue } from './replay.ts';
import { SkipPlanner } from './skip.ts';

export interface DiskTargetOptions {
  /** An existing file, readable and writable: its bytes are served until the freeze, then it is emptied. */
  path: string;
  link: LinkSession;
  /** What `sizeBytes` says throughout: at least what the overlay can reach until the source stops. */
  announcedSizeBytes: number;
  /** Number of the disk within the migration, 0 by default. */
  disk?: number;
  signal?: AbortSignal;
  /** Milliseconds of a monotonic clock; for tests. */
  now?: () => number;
}

export interface DiskTargetStats {
  /** Sectors; pushed + pulled + skipped + metadata + dirty = total. `dropped` arrived although nobody needed them. */
  blocks: {
    pushed: number;
    pulled: number;
    skipped: number;
    metadata: number;
    dirty: number;
    total: number;
    dropped: number;
  };
  /** Data after unpacking, and data messages as they came from the link. */
  bytes: { raw: number; encoded: number };
  /** From read() to the data being there, of reads that had to wait for the source. */
  pullLatency: LatencySummary;
  /** Data frames verified, and those whose checksum was wrong (they were asked for again). */
  checkedFrames: number;
  badFrames: number;
}

type TargetPhase = 'serving' | 'freezing' | 'live' | 'complete' | 'failed' | 'closed';
type Kind = 'pushed' | 'pulled' | 'metadata';

/** The target's half of disk post-copy: pull, receive and replay (Figures 4 and 6). An NBD backend. */
export class DiskTarget implements AsyncDisposable {
  /** Constant: see DiskTargetOptions.announcedSizeBytes. */
  readonly sizeBytes: number;
  /** Resolves when header and tables of the frozen overlay are here: only then may QEMU activate its images. */
  readonly frozen: Promise<void>;
  /** Resolves when no sector is missing and the file is on stable storage; rejects after abort and close. */
  readonly complete: Promise<void>;
  readonly #frozen = Promise.withResolvers<void>();
  readonly #completed = Promise.withResolvers<void>();
  readonly #disk: number;
  readonly #link: LinkSession;
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
  readonly #counts = { pushed: 0, pulled: 0, metadata: 0, dropped: 0 };
  readonly #bytes = { raw: 0, encoded: 0 };
  #checked = 0;
  #bad = 0;
  #badInARow = 0;
  #freeze: disk.FreezeFrame = { fileSizeBytes: 0, metadataSectors: 0, qcow2: false };
  #dirty = new Bitmap(0);
  /** Cleared by a skip: not in the local file, and a read that hits one all the same is pulled. */
  #skipped = new Bitmap(0);
  /** Metadata that has been received, landed or not; only while freezing. */
  #metadata = new Bitmap(0);
  #metadataLeft = 0;
  #planner: SkipPlanner | undefined;
  #ends = { urgent: false, bulk: false };
  #finishing = false;
  #failure: unknown;

  private constructor(options: DiskTargetOptions, file: LocalFile) {
    this.sizeBytes = options.announcedSizeBytes;
    this.#disk = options.disk ?? 0;
    this.#link = options.link;
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
        const first = Math.min(Math.floor(offsetBytes / disk.SECTOR_BYTES), this.#dirty.length);
        const end = Math.min(Math.ceil((offsetBytes + lengthBytes) / disk.SECTOR_BYTES), this.#dirty.length);
        if (!this.#missing(first, end)) return this.#file.read(offsetBytes, lengthBytes);
        return this.#pull(first, end).then(() => this.#file.read(offsetBytes, lengthBytes));
      }
      case 'failed':
      case 'closed':
      default:
        return Promise.reject(this.#failure);
    }
  }

  /**
   * Takes one message of a disk type from the link. Settles when it has been landed: let the link acknowledge then.
   * @throws DISK_FRAME_INVALID, DISK_VERSION, DISK_OUT_OF_RANGE, DISK_ORDER, DISK_OVERLAP, DISK_UNSOLICITED,
   * DISK_LIMIT, DISK_TOO_LARGE: nothing was changed then. Otherwise what made the whole transfer fail.
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
      case disk.DISK_METADATA:
        return this.#onMetadata(message);
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
      landed: (extent) => this.#landed(extent),
    });
    const planned = new Bitmap(this.#dirty.length);
    for (const run of this.#planner.plan(written) ?? []) {
      for (const dirty of this.#dirty.runs(run.first, run.first + run.count)) {
        for (let sector = dirty.first; sector < dirty.first + dirty.count; sector++) {
          if (!this.#pulls.has(sector)) planned.set(sector);
        }
      }
    }
    const runs = [...planned.runs()];
    for (const { first, count } of runs) {
      this.#dirty.clearRange(first, first + count);
      this.#skipped.setRange(first, first + count);
    }
    for (let i = 0; i < runs.length; i += disk.MAX_SYN_RUNS) {
      this.#post(disk.DISK_SYN, disk.encodeSyn(this.#disk, runs.slice(i, i + disk.MAX_SYN_RUNS)));
    }
    if (this.#replay.idle) this.#settle();
    return planned.count;
  }

  stats(): DiskTargetStats {
    return {
      blocks: {
        ...this.#counts,
        skipped: this.#skipped.count,
        dirty: this.#dirty.count,
        total: this.#dirty.length,
      },
      bytes: { ...this.#bytes },
      pullLatency: this.#latency.summary(),
      checkedFrames: this.#checked,
      badFrames: this.#bad,
    };
  }

  /** The sectors that have not arrived, for a record of where the transfer stands. */
  bitmap(): Bitmap {
    return this.#dirty.clone();
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

  #missing(first: number, end: number): boolean {
    return this.#dirty.anySet(first, end) || (this.#skipped.count > 0 && this.#skipped.anySet(first, end));
  }

  #landed(extent: ByteExtent): boolean {
    const end = Math.min(
      Math.ceil((extent.offsetBytes + extent.lengthBytes) / disk.SECTOR_BYTES),
      this.#dirty.length,
    );
    const first = Math.floor(extent.offsetBytes / disk.SECTOR_BYTES);
    return first >= end || !this.#missing(first, end);
  }

  async #pull(first: number, end: number): Promise<void> {
    const beganMs = this.#now();
    const dirty = [...this.#dirty.runs(first, end)];
    const skipped = [...this.#skipped.runs(first, end)];
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
    const sectors = disk.sectorsOf(frame.fileSizeBytes);
    this.#dirty = new Bitmap(sectors, true);
    this.#skipped = new Bitmap(sectors);
    this.#metadata = new Bitmap(sectors);
    this.#metadataLeft = frame.metadataSectors;
    return this.#enqueue(true, 0, async () => {
      await this.#file.reset(frame.fileSizeBytes);
      this.#goLiveIfFrozen();
    });
  }

  #onMetadata(message: Buffer): Promise<void> {
    this.#phase.expect('METADATA', 'freezing');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes, disk.MAX_METADATA_EXTENT_BYTES);
    const { first, count } = frame.run;
    if (
      this.#metadata.count + count > this.#freeze.metadataSectors ||
      this.#metadata.anySet(first, first + count)
    ) {
      throw fail('DISK_OVERLAP', `${count} sectors at ${first}`, { fields: { ...frame.run } });
    }
    this.#metadata.setRange(first, first + count);
    return this.#enqueue(true, message.length, () => {
      const data = this.#unpack(frame, message.length);
      if (data !== 'bad') {
        if (data) this.#file.writeNow(data, first * disk.SECTOR_BYTES);
        this.#counts.metadata += this.#dirty.clearRange(first, first + count);
      }
      // What arrived damaged is pulled like data.
      this.#metadataLeft -= count;
      this.#goLiveIfFrozen();
    });
  }

  #goLiveIfFrozen(): void {
    if (this.#metadataLeft > 0 || !this.#phase.is('freezing')) return;
    this.#phase.to('live');
    this.#post(disk.DISK_READY, disk.encodeMark(this.#disk));
    for (const run of this.#metadata.runs()) {
      for (const lost of this.#dirty.runs(run.first, run.first + run.count)) this.#pulls.ask(lost, true);
    }
    this.#metadata = new Bitmap(0);
    this.#frozen.resolve();
  }

  #onPush(message: Buffer): Promise<void> {
    this.#phase.expect('PUSH', 'live');
    if (this.#ends.bulk) throw fail('DISK_ORDER', 'PUSH after END');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes);
    if (frame.pull !== 0) throw fail('DISK_UNSOLICITED', 'a PUSH that names a pull');
    return this.#enqueue(false, message.length, () => this.#land(frame, 'pushed', message.length));
  }

  #onAnswer(message: Buffer): Promise<void> {
    this.#phase.expect('ANSWER', 'live', 'complete');
    const frame = disk.decodeData(message, this.#freeze.fileSizeBytes);
    this.#pulls.checkAnswer(frame.pull, frame.run);
    return this.#enqueue(true, message.length, () => this.#land(frame, 'pulled', message.length));
  }

  /** In the queue behind the answers: what did not arrive sound among them is asked for once more. */
  #onAnswered(pull: number): Promise<void> {
    this.#phase.expect('ANSWERED', 'live', 'complete');
    this.#pulls.checkAnswered(pull);
    return this.#enqueue(true, 0, () => {
      for (const run of this.#pulls.answered(pull)) this.#pulls.ask(run, true);
    });
  }

  #onEnd(lane: Lane): Promise<void> {
    this.#phase.expect('END', 'live');
    if (this.#ends[lane]) throw fail('DISK_ORDER', `a second END on lane ${lane}`);
    this.#ends[lane] = true;
    return this.#enqueue(lane === 'urgent', 0, () => undefined);
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

  #unpack(frame: disk.DataFrame, messageBytes: number): Buffer | undefined | 'bad' {
    this.#bytes.encoded += messageBytes;
    this.#checked++;
    try {
      const data = disk.unpackData(frame, this.#freeze.fileSizeBytes);
      this.#bytes.raw += disk.runBytes(frame.run, this.#freeze.fileSizeBytes);
      this.#badInARow = 0;
      return data;
    } catch (error) {
      if (errorCode(error) !== 'DISK_FRAME_CORRUPT') throw error;
      this.#bad++;
      if (++this.#badInARow > MAX_BAD_IN_A_ROW)
        throw fail('DISK_CORRUPT', `${this.#bad} frames`, { cause: error });
      return 'bad';
    }
  }

  /** Writes what is still missing of a frame's sectors, then clears their bits: each sector lands once. */
  async #land(frame: disk.DataFrame, kind: Kind, messageBytes: number): Promise<void> {
    const data = this.#unpack(frame, messageBytes);
    const wanted = this.#wanted(frame.run);
    if (data === 'bad') {
      for (const run of wanted) {
        this.#pulls.release(run);
        this.#pulls.ask(run, true);
      }
      return;
    }
    this.#counts.dropped += frame.run.count - wanted.reduce((sum, run) => sum + run.count, 0);
    for (const run of wanted) {
      const end = run.first + run.count;
      if (data) {
        const from = (run.first - frame.run.first) * disk.SECTOR_BYTES;
        const part = data.subarray(from, from + disk.runBytes(run, this.#freeze.fileSizeBytes));
        await this.#file.write(part, run.first * disk.SECTOR_BYTES);
      }
      // Meanwhile a skip may have taken some of them: they have landed, so that is what they are counted as.
      this.#skipped.clearRange(run.first, end);
      this.#dirty.clearRange(run.first, end);
      this.#counts[kind] += run.count;
      this.#pulls.landed(run);
    }
  }

  /** The parts of a run that are dirty, or were skipped and are being read all the same. */
  #wanted(run: Run): Run[] {
    const end = run.first + run.count;
    const wanted = [...this.#dirty.runs(run.first, end)];
    if (this.#skipped.count === 0) return wanted;
    for (const skipped of this.#skipped.runs(run.first, end)) {
      for (let sector = skipped.first; sector < skipped.first + skipped.count; sector++) {
        if (this.#pulls.has(sector)) wanted.push({ first: sector, count: 1 });
      }
    }
    return wanted;
  }

  /** Nothing waits to be landed. When the source has sent everything, what is still dirty was lost on the way. */
  #settle(): void {
    if (!this.#phase.is('live') || !this.#ends.urgent || !this.#ends.bulk || !this.#replay.idle) return;
    if (this.#dirty.count === 0) {
      if (!this.#finishing) void this.#finish();
      return;
    }
    let asked = 0;
    for (const run of this.#dirty.runs()) {
      const count = Math.min(run.count, MAX_PULL_SECTORS_IN_FLIGHT - asked);
      this.#pulls.ask({ first: run.first, count }, true);
      asked += count;
      if (asked >= MAX_PULL_SECTORS_IN_FLIGHT) break;
    }
  }

  async #finish(): Promise<void> {
    this.#finishing = true;
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
