import { abortable, withTimeout } from '../../base/async.ts';
import { CloudapError } from '../../base/errors.ts';
import { type Control, decodeControl, migrationFail } from '../messages.ts';

type Kind = Control['kind'];
type Of<K extends Kind> = Extract<Control, { kind: K }>;

/** Control messages of the other mover, by kind. A `failed` message fails whatever is waited for. */
export class ControlInbox {
  readonly #arrived = new Map<Kind, Control>();
  readonly #waiting = new Map<
    Kind,
    { resolve: (message: Control) => void; reject: (error: unknown) => void }
  >();
  readonly #failure = Promise.withResolvers<never>();
  #failed: CloudapError | undefined;

  constructor() {
    this.#failure.promise.catch(() => {});
  }

  /** Rejects when the other mover reports a failure; never resolves. */
  get failure(): Promise<never> {
    return this.#failure.promise;
  }

  /** @throws MOVER_PROTOCOL */
  push(payload: Buffer): void {
    const message = decodeControl(payload);
    if (message.kind === 'failed') {
      const { code, message: text, remedy } = message.error;
      const cause = new CloudapError(code, text, remedy);
      this.#failed = migrationFail('MOVER_PEER_FAILED', `${code}: ${text}`, {
        cause,
        fields: { peerCode: code, tookOver: message.tookOver },
      });
      this.#failure.reject(this.#failed);
      for (const waiter of this.#waiting.values()) waiter.reject(this.#failed);
      return;
    }
    if (this.#arrived.has(message.kind)) throw migrationFail('MOVER_PROTOCOL', `${message.kind} twice`);
    this.#arrived.set(message.kind, message);
    this.#waiting.get(message.kind)?.resolve(message);
  }

  /** Waits for the one message of this kind. @throws MOVER_TIMEOUT, MOVER_PEER_FAILED, the signal's reason */
  async take<K extends Kind>(
    kind: K,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<Of<K>> {
    const arrived = this.#arrived.get(kind);
    if (arrived) return arrived as Of<K>;
    if (this.#failed) throw this.#failed;
    const waiter = Promise.withResolvers<Control>();
    this.#waiting.set(kind, waiter);
    try {
      const waited = abortable(waiter.promise, options.signal);
      const { timeoutMs } = options;
      return (await (timeoutMs === undefined
        ? waited
        : withTimeout(waited, timeoutMs, () =>
            migrationFail('MOVER_TIMEOUT', `no ${kind} for ${timeoutMs} ms`),
          ))) as Of<K>;
    } finally {
      this.#waiting.delete(kind);
    }
  }
}
