import {
  DATA_HEADER_BYTES,
  HELLO_MAGIC,
  INSTANCE_BYTES,
  LINK_VERSION,
  MAX_CLOSE_CODE_BYTES,
  MAX_CLOSE_TEXT_BYTES,
  MAX_FRAGMENT_BYTES,
  MAX_HELLO_BYTES,
  MAX_MESSAGE_BYTES,
  MAX_SESSION_ID_BYTES,
  MAX_SITE_ID_BYTES,
  PREFIX_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';
import { type FrameSink, type HelloFrame, KIND } from './frames.ts';

const DATA_FIXED_BYTES = DATA_HEADER_BYTES - PREFIX_BYTES;
const HELLO_FIXED_BYTES = 8 + 2 * INSTANCE_BYTES + 12;
const NO_INSTANCE = '00'.repeat(INSTANCE_BYTES);

/** Allowed body lengths by kind, checked before anything of the body is kept. */
const BODY_BYTES: Readonly<Record<number, readonly [min: number, max: number]>> = {
  [KIND.DATA]: [DATA_FIXED_BYTES, DATA_FIXED_BYTES + MAX_FRAGMENT_BYTES],
  [KIND.ACK]: [24, 24],
  [KIND.PING]: [8, 8],
  [KIND.PONG]: [16, 16],
  // room for what later versions may say, so that they are refused by their number and not by their length
  [KIND.HELLO]: [8, MAX_HELLO_BYTES],
  [KIND.CLOSE]: [3, 3 + MAX_CLOSE_CODE_BYTES + MAX_CLOSE_TEXT_BYTES],
};
const SCRATCH_BYTES = PREFIX_BYTES + MAX_HELLO_BYTES;

function readUint53(buffer: Buffer, at: number): number {
  const high = buffer.readUInt32BE(at);
  if (high >= 2 ** 21) throw fail('LINK_BAD_FRAME', 'a counter is out of range');
  return high * 2 ** 32 + buffer.readUInt32BE(at + 4);
}

/**
 * Push parser of one direction of one connection. It keeps at most one control frame or DATA header (about
 * 1 KiB); message bytes pass through. After an error it is of no use any more: each further push throws the same.
 */
export class FrameParser {
  readonly #sink: FrameSink;
  readonly #scratch = Buffer.alloc(SCRATCH_BYTES);
  #have = 0;
  #need = PREFIX_BYTES;
  #state: 'prefix' | 'body' | 'piece' = 'prefix';
  #pieceLeft = 0;
  #failure: Error | undefined;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  /** @throws LINK_BAD_FRAME, LINK_MESSAGE_TOO_LARGE, LINK_VERSION, and what the sink throws */
  push(chunk: Buffer): void {
    if (this.#failure) throw this.#failure;
    try {
      this.#run(chunk);
    } catch (error) {
      this.#failure = error as Error;
      throw error;
    }
  }

  #run(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === 'piece') {
        const end = Math.min(chunk.length, at + this.#pieceLeft);
        this.#pieceLeft -= end - at;
        this.#sink.piece(at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end));
        at = end;
        if (this.#pieceLeft === 0) this.#expect('prefix', PREFIX_BYTES);
        continue;
      }
      const copied = chunk.copy(this.#scratch, this.#have, at, at + this.#need - this.#have);
      at += copied;
      this.#have += copied;
      if (this.#have < this.#need) return;
      if (this.#state === 'prefix') this.#prefix();
      else this.#body();
    }
  }

  #expect(state: 'prefix' | 'body', need: number): void {
    this.#state = state;
    this.#need = need;
    if (state === 'prefix') this.#have = 0;
  }

  #prefix(): void {
    const kind = this.#scratch[0] ?? 0;
    const type = this.#scratch[1] ?? 0;
    const length = this.#scratch.readUInt32BE(4);
    const range = BODY_BYTES[kind];
    if (!range) throw fail('LINK_BAD_FRAME', `unknown kind ${kind}`, { fields: { kind } });
    if (length < range[0] || length > range[1]) {
      throw fail('LINK_BAD_FRAME', `kind ${kind} with a body of ${length} bytes`, {
        fields: { kind, length },
      });
    }
    if (this.#scratch.readUInt16BE(2) !== 0) throw fail('LINK_BAD_FRAME', 'reserved bytes are not zero');
    if ((kind === KIND.DATA) !== (type !== 0)) throw fail('LINK_BAD_FRAME', `kind ${kind} with type ${type}`);
    this.#expect('body', kind === KIND.DATA ? DATA_HEADER_BYTES : PREFIX_BYTES + length);
  }

  #body(): void {
    if (this.#scratch[0] === KIND.DATA) {
      this.#dataHeader();
      return;
    }
    const frame = decodeControl(this.#scratch.subarray(0, this.#need));
    this.#expect('prefix', PREFIX_BYTES);
    this.#sink.control(frame);
  }

  #dataHeader(): void {
    const s = this.#scratch;
    const pieceBytes = s.readUInt32BE(4) - DATA_FIXED_BYTES;
    const seq = readUint53(s, 8);
    const totalBytes = s.readUInt32BE(16);
    const offsetBytes = s.readUInt32BE(20);
    if (totalBytes > MAX_MESSAGE_BYTES) {
      throw fail('LINK_MESSAGE_TOO_LARGE', `${totalBytes} bytes announced`, { fields: { totalBytes } });
    }
    if (seq === 0) throw fail('LINK_BAD_FRAME', 'message number 0');
    if (offsetBytes + pieceBytes > totalBytes || (pieceBytes === 0 && totalBytes !== 0)) {
      throw fail('LINK_BAD_FRAME', `piece of ${pieceBytes} bytes at ${offsetBytes} of ${totalBytes}`);
    }
    const type = s[1] ?? 0;
    this.#pieceLeft = pieceBytes;
    if (pieceBytes === 0) this.#expect('prefix', PREFIX_BYTES);
    else this.#state = 'piece';
    this.#sink.data({ seq, type, totalBytes, offsetBytes, pieceBytes });
  }
}

/** `buffer` is one whole frame whose kind and length were checked. */
function decodeControl(buffer: Buffer): Parameters<FrameSink['control']>[0] {
  switch (buffer.readUInt8(0)) {
    case KIND.ACK:
      return {
        kind: 'ack',
        receivedBytes: readUint53(buffer, 8),
        arrivedAtUs: readUint53(buffer, 16),
        handledSeq: readUint53(buffer, 24),
      };
    case KIND.PING:
      return { kind: 'ping', clockUs: readUint53(buffer, 8) };
    case KIND.PONG:
      return { kind: 'pong', echoUs: readUint53(buffer, 8), clockUs: readUint53(buffer, 16) };
    case KIND.HELLO:
      return decodeHello(buffer);
    default: {
      const codeEnd = 11 + buffer.readUInt8(10);
      if (codeEnd > buffer.length) throw fail('LINK_BAD_FRAME', 'error code longer than its frame');
      const code = printable(buffer.subarray(11, codeEnd));
      const reason = buffer.readUInt16BE(8);
      if (reason === 0) throw fail('LINK_BAD_FRAME', 'close reason 0');
      return { kind: 'close', reason, code, text: buffer.toString('utf8', codeEnd) };
    }
  }
}

function printable(bytes: Buffer): string {
  const text = bytes.toString('latin1');
  if (!/^[\x21-\x7e]*$/.test(text)) throw fail('LINK_BAD_FRAME', 'a name holds unprintable characters');
  return text;
}

function decodeHello(buffer: Buffer): HelloFrame {
  if (buffer.readUInt32BE(PREFIX_BYTES) !== HELLO_MAGIC)
    throw fail('LINK_BAD_FRAME', 'HELLO without its magic');
  const version = buffer.readUInt16BE(PREFIX_BYTES + 4);
  if (version !== LINK_VERSION) {
    throw fail('LINK_VERSION', `theirs is ${version}, ours ${LINK_VERSION}`, { fields: { version } });
  }
  if (buffer.length < PREFIX_BYTES + HELLO_FIXED_BYTES + 2)
    throw fail('LINK_BAD_FRAME', 'HELLO is too short');
  const laneNumber = buffer[PREFIX_BYTES + 6];
  if ((laneNumber !== 1 && laneNumber !== 2) || buffer[PREFIX_BYTES + 7] !== 0) {
    throw fail('LINK_BAD_FRAME', `lane ${laneNumber}`);
  }
  let at = PREFIX_BYTES + 8;
  const instance = buffer.toString('hex', at, (at += INSTANCE_BYTES));
  const peer = buffer.toString('hex', at, (at += INSTANCE_BYTES));
  if (instance === NO_INSTANCE) throw fail('LINK_BAD_FRAME', 'HELLO without an instance');
  const receivedSeq = readUint53(buffer, at);
  const receivedOffsetBytes = buffer.readUInt32BE(at + 8);
  at += 12;
  const names: string[] = [];
  for (let i = 0; i < 2; i += 1) {
    const end = at + 1 + (at < buffer.length ? buffer.readUInt8(at) : 0);
    if (end > buffer.length) throw fail('LINK_BAD_FRAME', 'a name is longer than its frame');
    names.push(printable(buffer.subarray(at + 1, end)));
    at = end;
  }
  if (at !== buffer.length) throw fail('LINK_BAD_FRAME', 'bytes after the end of HELLO');
  const [sessionId = '', siteId = ''] = names;
  if (sessionId.length > MAX_SESSION_ID_BYTES || siteId.length > MAX_SITE_ID_BYTES) {
    throw fail('LINK_BAD_FRAME', 'a name is too long');
  }
  return {
    kind: 'hello',
    version,
    lane: laneNumber === 1 ? 'urgent' : 'bulk',
    instance,
    peerInstance: peer === NO_INSTANCE ? undefined : peer,
    receivedSeq,
    receivedOffsetBytes,
    sessionId,
    siteId,
  };
}
