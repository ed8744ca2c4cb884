import { type BigIntStats, fstatSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { Lane } from '../../link/types.ts';
import { Bitmap, type Run } from '../../wire/bitmap.ts';
import { CODEC_RLE, CODEC_ZSTD, type CodecId } from '../../wire/codec.ts';
import * as disk from '../../wire/disk/index.ts';
import type { ContentLookup } from '../../wire/qemu-stream/content.ts';
import { MAX_CONTENT_MISSES, MAX_SOURCE_PULLS, PULL_WORKERS } from './constants.ts';
import { fail } from './errors.ts';
import { readMetadataRuns, readRunNow, readRunOf } from './layout.ts';
import { type DiskNotes, noteMessage } from './noted.ts';
import type { Pace } from '../pace.ts';
import { Phase } from './phase.ts';
import type { DiskSourceOptions, DiskSourceStats, FreezeReport } from './types.ts';

const EXTENT_SECTORS = disk.MAX_EXTENT_BYTES / disk.SECTOR_BYTES;
const METADATA_SECTORS = disk.MAX_METADATA_EXTENT_BYTES / disk.SECTOR_BYTES;

type SourcePhase = 'idle' | 'frozen' | 'ready' | 'complete' | 'failed' | 'closed';

interface WaitingPull {
  pull: number;
  again: boolean;
  runs: Run[];
}

/** The source's half of disk post-copy: active push and pull service (Figure 5). */
export class DiskSource implements AsyncDisposable {
  /** Resolves when the target has everything on stable storage; rejects after abort. */
  readonly complete: Promise<void>;
  readonly #completed = Promise.withResolvers<void>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #options: Required<Omit<DiskSourceOptions, 'signal' | 'notes' | 'pace'>>;
  readonly #notes: DiskNotes | undefined;
  readonly #pace: Pace | undefined;
  readonly #file: FileHandle;
  readonly #stop = new AbortController();
  readonly #phase = new Phase<SourcePhase>(
    {
      idle: ['frozen', 'failed', 'closed'],
      frozen: ['ready', 'failed', 'closed'],
      ready: ['complete', 'failed', 'closed'],
      complete: ['closed'],
      failed: ['closed'],
      closed: [],
    },
    'idle',
  );
  readonly #pulls: WaitingPull[] = [];
  readonly #counts = { pushed: 0, pulled: 0, skipped: 0, metadata: 0, resent: 0, referenced: 0 };
  readonly #bytes = { raw: 0, encoded: 0 };
  #bitmap = new Bitmap(0);
  #content: ContentLookup | undefined;
  /** Sectors that were sent as references; only while there is content. */
  #referred = new Bitmap(0);
  #misses = 0;
  #stat: BigIntStats | undefined;
  #sizeBytes = 0;
  /** Location of the last pull; undefined once the push has gone there. */
  #pivot: number | undefined;
  #workers = 0;
  #idle: PromiseWithResolvers<void> | undefined;
  #pushing = false;
  #ended = false;
  /** Metadata that has gone ahead, by first sector. */
  readonly #ahead = new Map<number, { readonly data: Buffer; readonly message: Buffer }>();
  /** What went while the machine stood still is noted when it runs again. */
  readonly #unnoted: { readonly message: Buffer; readonly data: Buffer }[] = [];

  private constructor(options: DiskSourceOptions, file: FileHandle) {
    const { signal, notes, pace, ...rest } = options;
    this.#notes = notes;
    this.#pace = pace;
    this.#options = { disk: 0, codec: CODEC_RLE, format: 'qcow2', ...rest };
    this.#file = file;
    this.complete = this.#completed.promise;
    this.complete.catch(() => undefined);
    this.#ready.promise.catch(() => undefined);
    if (signal?.aborted) this.abort(signal.reason);
    signal?.addEventListener('abort', () => this.abort(signal.reason), {
      once: true,
      signal: this.#stop.signal,
    });
  }

  /** Opens the overlay for reading. @throws DISK_READ_FAILED */
  static async open(options: DiskSourceOptions): Promise<DiskSource> {
    try {
      return new DiskSource(options, await open(options.path, 'r'));
    } catch (cause) {
      throw fail('DISK_READ_FAILED', options.path, { cause });
    }
  }

  /**
   * Sends the metadata as it is now, once, while the machine still runs: what stays the same until the freeze need not be packed,
   * sent and unpacked then. Whatever is wrong with the file is ignored: the freeze itself will tell.
   * @throws LINK_*
   */
  async ahead(): Promise<void> {
    this.#phase.expect('ahead', 'idle');
    let leftBytes = disk.MAX_AHEAD_BYTES;
    for (const { run, data } of this.#metadataNow()) {
      leftBytes -= data.length;
      // the file may end elsewhere by then
      if (leftBytes < 0 || data.length < run.count * disk.SECTOR_BYTES) continue;
      const message = disk.encodeData(this.#disk, 0, run, data, CODEC_ZSTD);
      this.#ahead.set(run.first, { data, message });
      await this.#send('urgent', disk.DISK_AHEAD, message);
    }
  }

  #metadataNow(): { run: Run; data: Buffer }[] {
    if (this.#options.format !== 'qcow2') return [];
    try {
      const { size } = fstatSync(this.#file.fd);
      const pieces = readMetadataRuns(this.#file, size).flatMap((run) => split(run, METADATA_SECTORS));
      return pieces.map((run) => ({ run, data: readRunNow(this.#file, run, size) }));
    } catch {
      return [];
    }
  }

  /** What may be named instead of sent from here on; call it before the freeze. */
  useContent(content: ContentLookup | undefined): void {
    this.#phase.expect('useContent', 'idle');
    this.#content = content;
  }

  /**
   * Marks every sector dirty and sends size and metadata on the urgent lane, so that they stand ahead of whatever is
   * sent there next (the switch-over package). Resolves when they are queued.
   * @throws DISK_READ_FAILED, QCOW2_*, DISK_LIMIT, LINK_*
   */
  async freeze(): Promise<FreezeReport> {
    this.#phase.expect('freeze', 'idle');
    const stat = fstatSync(this.#file.fd, { bigint: true });
    if (stat.size > BigInt(disk.MAX_FILE_BYTES)) throw fail('DISK_LIMIT', `a file of ${stat.size} bytes`);
    const fileSizeBytes = Number(stat.size);
    const qcow2 = this.#options.format === 'qcow2';
    const metadata = qcow2 ? readMetadataRuns(this.#file, fileSizeBytes) : [];
    const metadataSectors = metadata.reduce((sum, run) => sum + run.count, 0);
    const pieces = metadata.flatMap((run) => split(run, METADATA_SECTORS));
    const contents = pieces.map((run) => readRunNow(this.#file, run, fileSizeBytes));

    this.#stat = stat;
    this.#sizeBytes = fileSizeBytes;
    this.#bitmap = new Bitmap(disk.sectorsOf(fileSizeBytes), true);
    if (this.#content) this.#referred = new Bitmap(this.#bitmap.length);
    this.#phase.to('frozen');
    const before = this.#bytes.encoded;
    await this.#send(
      'urgent',
      disk.DISK_FREEZE,
      disk.encodeFreeze(this.#disk, { fileSizeBytes, metadataSectors, qcow2 }),
    );
    for (const [i, run] of pieces.entries()) {
      this.#counts.metadata += this.#clear(run);
      const data = contents[i] ?? Buffer.alloc(0);
      const ahead = this.#ahead.get(run.first);
      const known = ahead?.data.equals(data) ? ahead.message : undefined;
      const message = known ?? disk.encodeData(this.#disk, 0, run, data, CODEC_ZSTD);
      this.#bytes.raw += data.length;
      if (this.#notes) this.#unnoted.push({ message, data });
      if (known) {
        const frame = disk.encodeAsAhead(this.#disk, { run, crc: disk.crcOf(message) });
        await this.#send('urgent', disk.DISK_AS_AHEAD, frame);
      } else await this.#send('urgent', disk.DISK_METADATA, message);
    }
    this.#ahead.clear();
    return {
      fileSizeBytes,
      metadataBytes: metadata.reduce((sum, run) => sum + disk.runBytes(run, fileSizeBytes), 0),
      encodedBytes: this.#bytes.encoded - before,
    };
  }

  /** Begins the active push; it waits by itself until the target is ready. Failures reject `complete`. */
  startPush(): void {
    this.#phase.expect('startPush', 'frozen', 'ready');
    if (this.#pushing) return;
    this.#pushing = true;
    for (const { message, data } of this.#unnoted.splice(0))
      if (this.#notes) noteMessage(this.#notes, message, data, this.#sizeBytes);
    this.#push().catch((error: unknown) => this.abort(error));
  }

  /**
   * Takes one message of a disk type from the link.
   * @throws DISK_FRAME_INVALID, DISK_VERSION, DISK_OUT_OF_RANGE, DISK_ORDER, DISK_LIMIT: nothing was changed then
   */
  // Async, so that a refusal is always a rejection.
  async handle(type: number, message: Buffer, lane: Lane): Promise<void> {
    if (disk.diskOf(message) !== this.#disk || lane !== 'urgent') {
      throw fail('DISK_ORDER', `message ${type} for disk ${disk.diskOf(message)} on lane ${lane}`);
    }
    // What the target had under way when this side gave up or ended.
    if (this.#phase.is('failed', 'closed')) return;
    switch (type) {
      case disk.DISK_READY:
        disk.decodeMark(message);
        this.#phase.expect('READY', 'frozen');
        this.#phase.to('ready');
        this.#ready.resolve();
        return;
      case disk.DISK_PULL:
        this.#onPull(disk.decodePull(message, this.#bitmap.length));
        return;
      case disk.DISK_SYN:
        this.#phase.expect('SYN', 'ready', 'complete');
        for (const run of disk.decodeSyn(message, this.#bitmap.length))
          this.#counts.skipped += this.#clear(run);
        return;
      case disk.DISK_COMPLETE:
        disk.decodeMark(message);
        if (!this.#ended || this.#bitmap.count > 0) throw fail('DISK_ORDER', 'COMPLETE before END');
        this.#phase.to('complete');
        this.#completed.resolve();
        return;
      default:
        throw fail('DISK_ORDER', `message ${type} at the source`);
    }
  }

  stats(): DiskSourceStats {
    return {
      blocks: { ...this.#counts, dirty: this.#bitmap.count, total: this.#bitmap.length },
      bytes: { ...this.#bytes },
    };
  }

  /** The blocks that are not sent and not skipped, for a record of where the transfer stands. */
  bitmap(): Bitmap {
    return this.#bitmap.clone();
  }

  /** Ends push and pull service; `complete` rejects with `error`. The file is as it was. */
  abort(error: unknown): void {
    if (!this.#phase.is('idle', 'frozen', 'ready')) return;
    this.#phase.to('failed');
    this.#completed.reject(error);
    this.#ready.reject(error);
    this.#stop.abort(error);
    this.#pulls.length = 0;
    this.#idle?.resolve();
  }

  /** Keep it open until the target no longer reads over NBD: it answers pulls also after `complete`. */
  async close(): Promise<void> {
    this.abort(fail('DISK_CLOSED'));
    if (this.#phase.is('closed')) return;
    this.#phase.to('closed');
    this.#stop.abort(fail('DISK_CLOSED'));
    await this.#file.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #disk(): number {
    return this.#options.disk;
  }

  #clear(run: Run): number {
    return this.#bitmap.clearRange(run.first, run.first + run.count);
  }

  #send(lane: Lane, type: number, message: Buffer): Promise<void> {
    this.#bytes.encoded += message.length;
    return this.#options.link.send(lane, type, message);
  }

  #sendData(lane: Lane, type: number, pull: number, run: Run, data: Buffer, codec: CodecId): Promise<void> {
    return this.#sendPacked(lane, type, disk.encodeData(this.#disk, pull, run, data, codec), data);
  }

  /** `data` is what the message decodes to. */
  #sendPacked(lane: Lane, type: number, message: Buffer, data: Buffer): Promise<void> {
    this.#bytes.raw += data.length;
    if (this.#notes) noteMessage(this.#notes, message, data, this.#sizeBytes);
    return this.#send(lane, type, message);
  }

  /** ActivePush of Figure 5. A sector is taken only when the lane has room, so that a pull can still overtake it. */
  async #push(): Promise<void> {
    await this.#ready.promise;
    let current = 0;
    while (this.#bitmap.count > 0) {
      await this.#notes?.room();
      await this.#pace?.room(disk.MAX_EXTENT_BYTES);
      this.#stop.signal.throwIfAborted();
      current = this.#pivot ?? current;
      this.#pivot = undefined;
      let first = this.#bitmap.nextSet(current);
      if (first === -1) first = this.#bitmap.nextSet(0);
      if (first === -1) break;
      current = this.#content ? await this.#pushNamed(first, this.#content) : await this.#pushExtent(first);
    }
    await this.#end();
  }

  /** Sends the extent that begins at `first`. @returns where the next one may */
  async #pushExtent(first: number): Promise<number> {
    const run = this.#extentAt(first, EXTENT_SECTORS);
    this.#counts.pushed += this.#clear(run);
    const data = await readRunOf(this.#file, run, this.#sizeBytes);
    await this.#sendData('bulk', disk.DISK_PUSH, 0, run, data, this.#options.codec);
    return run.first + run.count;
  }

  /**
   * The same with names. How much goes into the frame is known only when the data is here; until then the bits stay set, and
   * a pull may take sectors from under it.
   */
  async #pushNamed(first: number, content: ContentLookup): Promise<number> {
    const { count } = this.#extentAt(first, disk.MAX_CONTENT_SECTORS);
    const data = await readRunOf(this.#file, { first, count }, this.#sizeBytes);
    const left = this.#bitmap.nextClear(first, first + count);
    const run = { first, count: left === -1 ? count : left - first };
    if (run.count === 0) return first;
    const part = data.subarray(0, disk.runBytes(run, this.#sizeBytes));
    const packed = this.#name(0, run, part, content);
    const taken = { first, count: packed.count };
    this.#counts.pushed += this.#clear(taken);
    const sent = part.subarray(0, disk.runBytes(taken, this.#sizeBytes));
    await this.#sendPacked('bulk', disk.DISK_PUSH, packed.message, sent);
    return first + packed.count;
  }

  /** Extents end at multiples of their size: neighbours of a pull become whole ones again. */
  #extentAt(first: number, sectors: number): Run {
    const limit = Math.min(first - (first % sectors) + sectors, this.#bitmap.length);
    const end = this.#bitmap.nextClear(first, limit);
    return { first, count: (end === -1 ? limit : end) - first };
  }

  /** Packs an extent with names and takes note of them. */
  #name(pull: number, run: Run, data: Buffer, content: ContentLookup): disk.ContentMessage {
    const packed = disk.encodeContent(this.#disk, pull, run, data, this.#options.codec, content);
    this.#counts.referenced += packed.referenced;
    if (packed.referenced > 0) this.#referred.setRange(run.first, run.first + packed.count);
    return packed;
  }

  /** Every bit is clear. END on both lanes proves to the target that nothing more is on its way. */
  async #end(): Promise<void> {
    while (this.#workers > 0 || this.#pulls.length > 0) {
      this.#idle = Promise.withResolvers<void>();
      await this.#idle.promise;
    }
    this.#stop.signal.throwIfAborted();
    const now = await this.#file.stat({ bigint: true });
    if (now.size !== this.#stat?.size || now.mtimeNs !== this.#stat.mtimeNs)
      throw fail('DISK_SOURCE_CHANGED');
    this.#ended = true;
    await this.#send('bulk', disk.DISK_END, disk.encodeMark(this.#disk));
    await this.#send('urgent', disk.DISK_END, disk.encodeMark(this.#disk));
  }

  /** PullService of Figure 5. */
  #onPull({ pull, run, again }: disk.PullFrame): void {
    this.#phase.expect('PULL', 'ready', 'complete');
    if (this.#pulls.length >= MAX_SOURCE_PULLS) throw fail('DISK_LIMIT', `${MAX_SOURCE_PULLS} pulls wait`);
    this.#pace?.asked();
    const end = run.first + run.count;
    const runs = again ? [run] : [...this.#bitmap.runs(run.first, end)];
    const cleared = this.#clear(run);
    this.#counts.pulled += cleared;
    if (again) {
      this.#counts.resent += run.count - cleared;
      this.#countMiss(run);
    }
    this.#pivot = end < this.#bitmap.length ? end : 0;
    // Sectors whose bit is clear need no answer: they are in a push that has been sent, or in an earlier answer.
    if (runs.length === 0) return;
    this.#pulls.push({ pull, again, runs });
    if (this.#workers < PULL_WORKERS) void this.#servePulls();
  }

  /** What was sent as a reference and is asked for again was not at the target. */
  #countMiss(run: Run): void {
    if (!this.#content || this.#referred.clearRange(run.first, run.first + run.count) === 0) return;
    if (++this.#misses >= MAX_CONTENT_MISSES) this.#content = undefined;
  }

  async #servePulls(): Promise<void> {
    this.#workers++;
    try {
      for (let next = this.#pulls.shift(); next; next = this.#pulls.shift()) await this.#answer(next);
    } catch (error) {
      this.abort(error);
    }
    this.#workers--;
    if (this.#workers === 0) this.#idle?.resolve();
  }

  async #answer({ pull, again, runs }: WaitingPull): Promise<void> {
    for (const run of runs.flatMap((run) => split(run, EXTENT_SECTORS))) {
      const data = await readRunOf(this.#file, run, this.#sizeBytes);
      this.#stop.signal.throwIfAborted();
      // One extent holds no more data than one message may.
      if (this.#content && !again) {
        const { message } = this.#name(pull, run, data, this.#content);
        await this.#sendPacked('urgent', disk.DISK_ANSWER, message, data);
      } else await this.#sendData('urgent', disk.DISK_ANSWER, pull, run, data, this.#options.codec);
    }
    if (again) await this.#send('urgent', disk.DISK_ANSWERED, disk.encodeAnswered(this.#disk, pull));
  }
}

/** Pieces of at most `sectors`. */
function split(run: Run, sectors: number): Run[] {
  const pieces: Run[] = [];
  for (let first = run.first; first < run.first + run.count; first += sectors) {
    pieces.push({ first, count: Math.min(sectors, run.first + run.count - first) });
  }
  return pieces;
}
