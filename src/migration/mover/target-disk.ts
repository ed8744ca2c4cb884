import type { Logger } from 'pino';
import type { ContentReader } from '../../content/pages/reader.ts';
import type { Lane, LinkSession } from '../../link/types.ts';
import { connectNbd } from '../../nbd/connect.ts';
import { type NbdServer, startNbdServer } from '../../nbd/server.ts';
import { commitTop, exportAllocation, pivotToLocal } from '../../qemu/block-graph.ts';
import type { QemuMonitor } from '../../qemu/monitor.ts';
import { SECTOR_BYTES } from '../../wire/disk/index.ts';
import { DiskTarget, pollSkips } from '../disk/index.ts';
import type { DiskNotes } from '../disk/noted.ts';
import type { TargetFigures } from '../messages.ts';
import type { TargetMoverConfig } from './config.ts';

const ALLOCATION_CONTEXT = 'qemu:allocation-depth';
/** Allocation depth of a cluster that stands in `top` itself. */
const IN_TOP = 1;

/** The overlay at the target: served to QEMU while it fills, then handed over to QEMU altogether. */
export class TargetDisk implements AsyncDisposable {
  readonly #config: TargetMoverConfig;
  readonly #disk: DiskTarget;
  readonly #server: NbdServer;

  private constructor(config: TargetMoverConfig, disk: DiskTarget, server: NbdServer) {
    this.#config = config;
    this.#disk = disk;
    this.#server = server;
  }

  /** Once this has resolved QEMU can be started: its `cow` node finds its server. */
  static async open(
    config: TargetMoverConfig,
    link: LinkSession,
    log: Logger,
    notes?: DiskNotes,
  ): Promise<TargetDisk> {
    const disk = await DiskTarget.open({
      path: config.overlayPath,
      link,
      announcedSizeBytes: config.exportSizeBytes,
      notes,
    });
    const server = await startNbdServer({
      listen: { path: config.nbdSocket },
      exports: [{ name: '', backend: disk }],
      onBackendError: (err) => log.error({ err }, 'a read of the overlay failed'),
    });
    return new TargetDisk(config, disk, server);
  }

  /** Resolves when the overlay's tables are here: QEMU may activate it. */
  get frozen(): Promise<void> {
    return this.#disk.frozen;
  }

  /** Resolves when every block is here or no longer needed, and on stable storage. */
  get complete(): Promise<void> {
    return this.#disk.complete;
  }

  /** Where the pages come from that the overlay's blocks may refer to. */
  useContent(reader: ContentReader | undefined): void {
    this.#disk.useContent(reader);
  }

  handle(type: number, payload: Buffer, lane: Lane): Promise<void> {
    return this.#disk.handle(type, payload, lane);
  }

  /** Blocks in the local file, and all of them. */
  progress(): { blocksDone: number; blocksTotal: number } {
    const { total, dirty } = this.#disk.stats().blocks;
    return { blocksDone: total - dirty, blocksTotal: total };
  }

  /** Learns what the guest overwrites, so that it need not come (the paper's syn message); until `signal` aborts. */
  async watchWrites(qmp: QemuMonitor, log: Logger, signal: AbortSignal): Promise<void> {
    await using exported = await exportAllocation(qmp, { socketPath: this.#config.allocationSocket });
    await using client = await connectNbd(
      { path: this.#config.allocationSocket },
      { exportName: exported.exportName, metaContexts: [ALLOCATION_CONTEXT] },
    );
    await pollSkips({
      signal,
      listWrittenClusters: async () => {
        const extents = await client.blockStatus(ALLOCATION_CONTEXT, 0, client.export.sizeBytes, { signal });
        return extents
          .filter(({ flags }) => flags === IN_TOP)
          .map(({ offset, lengthBytes }) => ({ offsetBytes: offset, lengthBytes }));
      },
      skip: (written) => this.#disk.skip(written),
      onError: (err) => log.warn({ err }, 'no look at what the guest has written'),
    });
  }

  /**
   * Everything is here: QEMU reads the local file itself, and takes the guest's writes into it. Afterwards the chain is
   * base <- overlay, without us.
   */
  async handOver(qmp: QemuMonitor): Promise<void> {
    await pivotToLocal(qmp, { localPath: this.#config.overlayPath });
    await this.#server.close();
    await this.#disk.close();
    await commitTop(qmp);
  }

  figures(): Pick<
    TargetFigures,
    'overlayBytes' | 'diskBytes' | 'diskRawBytes' | 'blocks' | 'pullLatencyMs' | 'integrity'
  > {
    const { blocks, bytes, pullLatency, checkedFrames, badFrames } = this.#disk.stats();
    return {
      overlayBytes: blocks.total * SECTOR_BYTES,
      diskBytes: bytes.encoded,
      diskRawBytes: bytes.raw,
      blocks: {
        sizeBytes: SECTOR_BYTES,
        total: blocks.total,
        // what goes ahead of the switch is pushed, too
        pushed: blocks.pushed + blocks.metadata,
        pulled: blocks.pulled,
        skipped: blocks.skipped,
        referenced: blocks.referenced,
      },
      pullLatencyMs:
        pullLatency.count === 0
          ? { count: 0, p50: null, p99: null, max: null }
          : {
              count: pullLatency.count,
              p50: pullLatency.p50Ms,
              p99: pullLatency.p99Ms,
              max: pullLatency.maxMs,
            },
      integrity: { checked: checkedFrames, bad: badFrames },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.destroy();
    await this.#disk.close();
  }
}
