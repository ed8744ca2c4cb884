import { asCloudapError, type CloudapError } from '../../base/errors.ts';
import type { Lane, LinkSession } from '../../link/types.ts';
import type { QemuMonitor } from '../../qemu/monitor.ts';
import { type Control, encodeControl, MESSAGE_CONTROL, migrationFail } from '../messages.ts';
import type { MoverConfig } from './config.ts';
import { ControlInbox } from './inbox.ts';
import { openLink } from './link.ts';

const CLOSE_TIMEOUT_MS = 1_000;

/** Takes what is no control message; what it throws or rejects with ends the migration. */
export type Dispatch = (type: number, payload: Buffer, lane: Lane) => void | Promise<void>;

/** A mover's end of the conversation with the other mover, and the one reason for which it may give up. */
export class MoverPeer {
  readonly inbox = new ControlInbox();
  readonly #giveUp = new AbortController();
  readonly #dispatch: Dispatch;
  #session: LinkSession | undefined;

  /** `cancelled` is the agent's: it too ends every wait. */
  constructor(cancelled: AbortSignal, dispatch: Dispatch) {
    this.#dispatch = dispatch;
    const onCancel = (): void => this.giveUp(cancelled.reason);
    if (cancelled.aborted) onCancel();
    cancelled.addEventListener('abort', onCancel);
    this.inbox.failure.catch((error: unknown) => this.giveUp(error));
  }

  /** Ends every wait: cancelled, link session over, the other side failed, QEMU gone. */
  get signal(): AbortSignal {
    return this.#giveUp.signal;
  }

  /** Only the first reason counts. */
  giveUp(reason: unknown): void {
    this.#giveUp.abort(reason);
  }

  /** Undefined before `open`. */
  get session(): LinkSession | undefined {
    return this.#session;
  }

  /** Looks for the other mover; the session connects by itself. The caller disposes of it. */
  async open(config: MoverConfig): Promise<LinkSession> {
    const session = await openLink(config, (type, payload, lane) => this.#receive(type, payload, lane));
    this.#session = session;
    session.closed.then(
      () => this.giveUp(migrationFail('MOVER_PEER_FAILED', 'the other mover closed the link')),
      (error: unknown) => this.giveUp(error),
    );
    return session;
  }

  tell(message: Control): Promise<void> {
    const session = this.#session;
    return session ? session.send('urgent', MESSAGE_CONTROL, encodeControl(message)) : Promise.resolve();
  }

  async close(): Promise<void> {
    await this.#session?.close(CLOSE_TIMEOUT_MS);
  }

  /** What the other mover sends wrong ends the migration with its code, not the link session. */
  #receive(type: number, payload: Buffer, lane: Lane): void | Promise<void> {
    try {
      if (type === MESSAGE_CONTROL) return this.inbox.push(payload);
      const handled = this.#dispatch(type, payload, lane);
      return handled?.catch((error: unknown) => this.giveUp(error));
    } catch (error) {
      this.giveUp(error);
      return undefined;
    }
  }
}

/** The cause with its code; but whatever noticed first that QEMU has gone, that is what happened. */
export function qemuOr(
  cause: unknown,
  qmp: QemuMonitor | undefined,
  gone: 'MOVER_QEMU_SOURCE' | 'MOVER_QEMU_TARGET',
): CloudapError {
  const error = asCloudapError(cause);
  const isGone = qmp !== undefined && qmp.state !== 'running' && error.code.startsWith('QMP_');
  return isGone ? migrationFail(gone, 'its monitor is closed', { cause }) : error;
}
