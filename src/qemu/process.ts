import { sleep } from '../base/async.ts';
import { type CloudapError, errorCode } from '../base/errors.ts';
import { type QemuOptions, qemuArguments } from './command-line.ts';
import { QEMU_CONNECT_RETRY_MS, QEMU_QUIT_GRACE_MS, QEMU_START_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';
import { QemuMonitor } from './monitor.ts';
import {
  describeExit,
  endProcess,
  launch,
  type ProcessHandle,
  prepareSockets,
  type QemuExit,
  startFailure,
  verifyProcess,
  watchProcess,
  within,
} from './process-handle.ts';
import type { ProcessIdentity } from './process-identity.ts';
import { checkPath } from './socket-path.ts';

export const QEMU_PROGRAM = 'qemu-system-x86_64';

export interface QemuStartOptions extends QemuOptions {
  readonly program?: string | undefined;
  /** QEMU's stderr and stdout; appended to, mode 0600. */
  readonly logPath: string;
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
  /** Environment of QEMU. Default: this process's. */
  readonly env?: NodeJS.ProcessEnv | undefined;
}

export interface QemuAdoptOptions {
  /** With an identity that was recorded, exactly this process; with a bare pid (from a pid file), one whose command line names the monitor. */
  readonly process: ProcessIdentity | number;
  readonly qmpSocket: string;
  readonly logPath: string;
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

/**
 * One running QEMU. It does not depend on this process: it goes on when this process ends, and a later one adopts
 * it. Whether a signal hits the right process is checked before each (pid, start time and boot).
 */
export class QemuProcess implements AsyncDisposable {
  readonly #handle: ProcessHandle;
  readonly #monitor: QemuMonitor;
  #released = false;

  private constructor(handle: ProcessHandle, monitor: QemuMonitor) {
    this.#handle = handle;
    this.#monitor = monitor;
  }

  /** The agent's monitor. */
  get qmp(): QemuMonitor {
    return this.#monitor;
  }

  /** To be recorded, for `adopt`. */
  get identity(): ProcessIdentity {
    return this.#handle.identity;
  }

  get pid(): number {
    return this.#handle.identity.pid;
  }

  /** Settles, never rejects, when the process has ended (unless `close` came first). */
  get exited(): Promise<QemuExit> {
    return this.#handle.exited;
  }

  /**
   * Starts QEMU and waits until its monitor answers.
   * @throws QEMU_NOT_FOUND, QEMU_START_FAILED (with the end of the log), QMP_CONNECT_FAILED, those of `qemuArguments`
   */
  static async start(options: QemuStartOptions): Promise<QemuProcess> {
    const { paths, logPath, signal } = options;
    const args = qemuArguments(options);
    await prepareSockets([
      paths.qmpSocket,
      paths.moverSocket,
      paths.vncSocket,
      paths.serialSocket,
      paths.serial1Socket,
    ]);
    signal?.throwIfAborted();
    const handle = await launch(options.program ?? QEMU_PROGRAM, args, checkPath(logPath), options.env);
    try {
      return new QemuProcess(handle, await attach(handle, paths.qmpSocket, options, 'QEMU_START_FAILED'));
    } catch (error) {
      await endProcess(handle, 0);
      throw error;
    }
  }

  /** Takes over a QEMU that runs already. @throws QEMU_NOT_OURS, QMP_CONNECT_FAILED, QEMU_EXITED */
  static async adopt(options: QemuAdoptOptions): Promise<QemuProcess> {
    const identity = await verifyProcess(options.process, options.qmpSocket);
    const handle = watchProcess(identity, options.logPath);
    try {
      return new QemuProcess(handle, await attach(handle, options.qmpSocket, options, 'QEMU_EXITED'));
    } catch (error) {
      handle.stopWatching();
      throw error;
    }
  }

  /**
   * Ends QEMU: QMP `quit` (flushes disks), then SIGTERM, then SIGKILL, each after the grace period.
   * @throws QEMU_UNKILLABLE, QMP_CLOSED after `close`
   */
  async quit(options: { graceMs?: number } = {}): Promise<QemuExit> {
    const { graceMs = QEMU_QUIT_GRACE_MS } = options;
    this.#checkHeld();
    if (this.#monitor.state === 'running') {
      // The answer can get lost in the end of the connection: only the exit counts.
      await this.#monitor.quit({ timeoutMs: graceMs }).catch(() => {});
      await within(this.exited, graceMs);
    }
    return this.#end(graceMs);
  }

  /** Ends QEMU without asking it; unwritten guest data in its caches is lost. @throws QEMU_UNKILLABLE, QMP_CLOSED after `close` */
  async kill(): Promise<QemuExit> {
    this.#checkHeld();
    return this.#end(0);
  }

  /** Lets go: the monitor is closed and the process no longer watched. QEMU runs on. */
  async close(): Promise<void> {
    this.#released = true;
    this.#handle.stopWatching();
    await this.#monitor.close();
  }

  /** Ends QEMU, for tests and other bounded uses, unless `close` came first. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#released) await this.quit({ graceMs: 2_000 });
  }

  #checkHeld(): void {
    if (this.#released) throw fail('QMP_CLOSED', 'this QEMU was let go; adopt it to end it');
  }

  async #end(graceMs: number): Promise<QemuExit> {
    const exit = await endProcess(this.#handle, graceMs);
    await this.#monitor.close();
    return exit;
  }
}

/** Connects to the monitor, as often as needed, as long as the process lives. */
async function attach(
  handle: ProcessHandle,
  qmpSocket: string,
  options: { signal?: AbortSignal | undefined; timeoutMs?: number | undefined; program?: string | undefined },
  exitCode: 'QEMU_START_FAILED' | 'QEMU_EXITED',
): Promise<QemuMonitor> {
  const { signal, timeoutMs = QEMU_START_TIMEOUT_MS } = options;
  const deadline = performance.now() + timeoutMs;
  const explainLoss = async (loss: CloudapError): Promise<CloudapError> => {
    const exit = await handle.exited;
    return fail('QEMU_EXITED', describeExit(exit), { cause: loss, fields: { ...exit } });
  };
  let exit: QemuExit | undefined;
  void handle.exited.then((e) => {
    exit = e;
  });
  for (;;) {
    if (exit) {
      throw exitCode === 'QEMU_START_FAILED'
        ? startFailure(options.program ?? QEMU_PROGRAM, exit)
        : fail('QEMU_EXITED', describeExit(exit), { fields: { ...exit } });
    }
    const leftMs = deadline - performance.now();
    try {
      return await QemuMonitor.connect(qmpSocket, { explainLoss, signal, timeoutMs: Math.max(leftMs, 1) });
    } catch (error) {
      signal?.throwIfAborted();
      const code = errorCode(error);
      // While QEMU starts, its socket is missing or refuses; when it ends, the connection breaks.
      const retry = code === 'QMP_CONNECT_FAILED' || code === 'QMP_DISCONNECTED' || code === 'QEMU_EXITED';
      if (!retry || leftMs <= 0) throw error;
    }
    await Promise.race([sleep(QEMU_CONNECT_RETRY_MS, signal), handle.exited]);
  }
}
