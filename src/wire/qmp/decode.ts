import type { CloudapError } from '../../base/errors.ts';
import { QMP_MAX_LINE_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import type { QmpEvent, QmpGreeting, QmpMessage } from './messages.ts';

const NEWLINE = 0x0a;
/** How much of an unreadable line an error shows. */
const EXCERPT_CHARS = 120;

/**
 * Push parser: bytes in at any split, messages out to `sink`, in order, each as soon as its line is complete. After
 * a failure it takes nothing any more, since nobody knows where the next message begins.
 */
export class QmpDecoder {
  readonly #sink: (message: QmpMessage) => void;
  readonly #maxLineBytes: number;
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true });
  #parts: Buffer[] = [];
  #pendingBytes = 0;
  #failure: CloudapError | undefined;

  constructor(sink: (message: QmpMessage) => void, maxLineBytes = QMP_MAX_LINE_BYTES) {
    this.#sink = sink;
    this.#maxLineBytes = maxLineBytes;
  }

  /** Bytes of a line that is not complete yet. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** @throws QMP_LINE_TOO_LONG, QMP_MALFORMED; the same error again for anything pushed afterwards */
  push(chunk: Buffer): void {
    if (this.#failure) throw this.#failure;
    let start = 0;
    while (start < chunk.length) {
      const newline = chunk.indexOf(NEWLINE, start);
      const end = newline === -1 ? chunk.length : newline;
      this.#admit(end - start);
      if (newline === -1) {
        // A copy: the caller may reuse the chunk's memory.
        this.#parts.push(Buffer.from(chunk.subarray(start)));
        return;
      }
      this.#parts.push(chunk.subarray(start, newline));
      const line = this.#parts.length === 1 ? chunk.subarray(start, newline) : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#pendingBytes = 0;
      start = newline + 1;
      this.#line(line);
    }
  }

  #admit(bytes: number): void {
    this.#pendingBytes += bytes;
    if (this.#pendingBytes <= this.#maxLineBytes) return;
    this.#parts = [];
    this.#fail(
      fail('QMP_LINE_TOO_LONG', `more than ${this.#maxLineBytes} bytes`, {
        fields: { limitBytes: this.#maxLineBytes },
      }),
    );
  }

  #line(line: Buffer): void {
    let message: QmpMessage | undefined;
    try {
      const text = this.#utf8.decode(line).trim();
      if (text === '') return;
      message = classify(JSON.parse(text));
    } catch (error) {
      this.#fail(fail('QMP_MALFORMED', excerpt(line), { cause: error }));
    }
    if (!message) this.#fail(fail('QMP_MALFORMED', excerpt(line)));
    this.#sink(message);
  }

  #fail(error: CloudapError): never {
    this.#failure = error;
    throw error;
  }
}

type Json = Readonly<Record<string, unknown>>;

function excerpt(line: Buffer): string {
  return JSON.stringify(line.toString('latin1', 0, EXCERPT_CHARS));
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function classify(value: unknown): QmpMessage | undefined {
  if (!isObject(value)) return undefined;
  if (Object.hasOwn(value, 'event')) return eventOf(value);
  if (Object.hasOwn(value, 'return')) return { kind: 'return', id: value.id, value: value.return };
  if (Object.hasOwn(value, 'error')) {
    const { error, id } = value;
    if (!isObject(error) || typeof error.class !== 'string' || typeof error.desc !== 'string')
      return undefined;
    return { kind: 'error', id, errorClass: error.class, description: error.desc };
  }
  return Object.hasOwn(value, 'QMP') ? greetingOf(value.QMP) : undefined;
}

function eventOf(value: Json): QmpEvent | undefined {
  const { event, timestamp } = value;
  const data = value.data ?? {};
  if (typeof event !== 'string' || !isObject(data) || !isObject(timestamp)) return undefined;
  const { seconds, microseconds } = timestamp;
  if (typeof seconds !== 'number' || typeof microseconds !== 'number') return undefined;
  // QEMU says -1 for both when gettimeofday failed.
  const timestampMs = seconds < 0 ? undefined : seconds * 1000 + microseconds / 1000;
  return { kind: 'event', name: event, data, timestampMs };
}

function greetingOf(value: unknown): QmpGreeting | undefined {
  if (!isObject(value) || !isObject(value.version) || !isObject(value.version.qemu)) return undefined;
  const { major, minor, micro } = value.version.qemu;
  const capabilities = value.capabilities ?? [];
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') return undefined;
  if (!Array.isArray(capabilities) || !capabilities.every((c) => typeof c === 'string')) return undefined;
  const distribution = typeof value.version.package === 'string' ? value.version.package : '';
  return { kind: 'greeting', version: { major, minor, micro }, package: distribution, capabilities };
}
