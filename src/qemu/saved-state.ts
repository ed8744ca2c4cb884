/**
 * A VM apart from its memory, in a file: what QEMU's migration stream holds when the memory is a file of its own
 * (capability `x-ignore-shared`, migration/ram.c). QEMU opens no file for it, and runs no program (its sandbox forbids
 * that): the stream passes through a Unix socket, as every other one.
 *
 *   save   QEMU: memory from a file, shared     this process listens -> file
 *   load   QEMU: the same file, private         QEMU listens         <- file
 */
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { errorCode } from '../base/errors.ts';
import { DEVICE_STATE_TIMEOUT_MS, MAX_DEVICE_STATE_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import type { QemuMonitor } from './monitor.ts';
import type { QmpMark } from './qmp-events.ts';
import { checkSocketPath } from './socket-path.ts';
import { connectUnix } from './unix-socket.ts';

export interface SavedStateOptions {
  /** For the stream; it must not exist, its directory must be of mode 0700. */
  readonly socketPath: string;
  readonly filePath: string;
  readonly signal?: AbortSignal | undefined;
}

const CAPABILITIES = { events: true, 'return-path': false, 'postcopy-ram': false, 'postcopy-preempt': false };
const IGNORE_SHARED = 'x-ignore-shared';
const ENDS = ['completed', 'failed', 'cancelled'];

/**
 * Stops the guest and saves all but its memory, which must be mapped shared from a file. The file is new and on disk
 * afterwards; QEMU stays stopped, its disk flushed and let go.
 * @throws QEMU_STATE_NOT_SAVED, what QMP throws
 */
export async function saveDeviceState(qmp: QemuMonitor, options: SavedStateOptions): Promise<void> {
  const { socketPath, filePath, signal } = options;
  checkSocketPath(socketPath);
  const server = createServer({ allowHalfOpen: true });
  const received = new AbortController();
  try {
    await qmp.stop({ signal });
    await qmp.migrateSetCapabilities({ ...CAPABILITIES, [IGNORE_SHARED]: true }, { signal });
    server.listen(socketPath);
    await once(server, 'listening', signal ? { signal } : {});
    const since = qmp.mark();
    let trouble: unknown;
    const written = receive(server, filePath, received.signal);
    written.catch((error: unknown) => (trouble = error));
    await qmp.migrate(`unix:${socketPath}`, { signal });
    const status = await endOf(qmp, since, signal);
    if (status !== 'completed') {
      const { 'error-desc': why } = await qmp.queryMigrate({ signal });
      throw fail('QEMU_STATE_NOT_SAVED', (trouble as Error | undefined)?.message ?? why ?? status, {
        cause: trouble,
      });
    }
    await written;
  } catch (error) {
    await rm(filePath, { force: true });
    signal?.throwIfAborted();
    if (errorCode(error) !== 'INTERNAL') throw error;
    throw fail('QEMU_STATE_NOT_SAVED', (error as Error).message, { cause: error });
  } finally {
    received.abort();
    server.close();
  }
}

async function receive(
  server: ReturnType<typeof createServer>,
  filePath: string,
  signal: AbortSignal,
): Promise<void> {
  const [socket] = (await once(server, 'connection', { signal })) as [Socket];
  const file = createWriteStream(filePath, { flags: 'wx', mode: 0o600, flush: true });
  await pipeline(socket, limited(), file, { signal });
}

function limited(): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes <= MAX_DEVICE_STATE_BYTES) done(null, chunk);
      else done(fail('QEMU_STATE_NOT_SAVED', `more than ${MAX_DEVICE_STATE_BYTES} bytes`));
    },
  });
}

/**
 * Loads the state into a QEMU that was started with `incoming` and the memory that goes with it. The guest is stopped
 * afterwards: `cont` lets it go on. The capability is off again, so that the VM can leave by post-copy.
 * @throws QEMU_STATE_NOT_LOADED, what QMP throws
 */
export async function loadDeviceState(qmp: QemuMonitor, options: SavedStateOptions): Promise<void> {
  const { socketPath, filePath, signal } = options;
  const given = new AbortController();
  try {
    await qmp.migrateSetCapabilities({ ...CAPABILITIES, [IGNORE_SHARED]: true }, { signal });
    const since = qmp.mark();
    await qmp.migrateIncoming(`unix:${checkSocketPath(socketPath)}`, { signal });
    const socket = await connectUnix(socketPath, signal);
    // QEMU closes when it has what it wants or cannot go on; which of both its status says
    const sent = pipeline(createReadStream(filePath), socket, { signal: given.signal });
    sent.catch(() => {});
    const status = await endOf(qmp, since, signal);
    if (status !== 'completed') throw fail('QEMU_STATE_NOT_LOADED', status);
    await qmp.migrateSetCapabilities({ [IGNORE_SHARED]: false }, { signal });
  } catch (error) {
    signal?.throwIfAborted();
    const code = errorCode(error);
    // QEMU ends over a state that it cannot read, and its log says why
    if (code !== 'QEMU_EXITED' && code !== 'QMP_DISCONNECTED' && code !== 'INTERNAL') throw error;
    throw fail('QEMU_STATE_NOT_LOADED', (error as Error).message, { cause: error });
  } finally {
    given.abort();
  }
}

async function endOf(qmp: QemuMonitor, since: QmpMark, signal: AbortSignal | undefined): Promise<string> {
  const ended = await qmp.waitEvent('MIGRATION', ({ data }) => ENDS.includes(String(data.status)), {
    since,
    signal,
    timeoutMs: DEVICE_STATE_TIMEOUT_MS,
  });
  return String(ended.data.status);
}
