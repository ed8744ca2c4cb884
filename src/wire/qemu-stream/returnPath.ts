/**
 * Push parser of the return path, target QEMU to source QEMU (migration/migration.c): u16 type, u16 length, data.
 *
 *   1 SHUT u32 status   2 PONG u32   3 REQ_PAGES_ID u64 start, u32 length, u8 + block name   4 REQ_PAGES u64, u32
 *   5 RECV_BITMAP u8 + block name; then, outside of the message: u64 size, that many bytes, u64 0x0123456789abcdef
 *   6 RESUME_ACK u32   7 SWITCHOVER_ACK (QEMU 8.1)
 */
import { PAGE_BYTES, RECV_BITMAP_MAX_BYTES } from './constants.ts';
import { fail } from './errors.ts';

export const RETURN_SHUT = 1;
export const RETURN_PONG = 2;
export const RETURN_REQ_PAGES_ID = 3;
export const RETURN_REQ_PAGES = 4;
export const RETURN_RECV_BITMAP = 5;
export const RETURN_RESUME_ACK = 6;
export const RETURN_SWITCHOVER_ACK = 7;

const HEADER_BYTES = 4;
const BITMAP_END = 0x0123456789abcdefn;
/** Lengths of the messages that have a fixed one. */
const fixedLengths: Readonly<Record<number, number>> = {
  [RETURN_SHUT]: 4,
  [RETURN_PONG]: 4,
  [RETURN_REQ_PAGES]: 12,
  [RETURN_RESUME_ACK]: 4,
  [RETURN_SWITCHOVER_ACK]: 0,
};

/** One message with its bytes as they came (`raw`, for forwarding; a copy of its own). */
export type ReturnMessage = { readonly raw: Buffer } & (
  | { readonly kind: 'shut'; readonly status: number }
  | { readonly kind: 'pong'; readonly value: number }
  /** `block` is undefined where it is the block of the request before. */
  | {
      readonly kind: 'request-pages';
      readonly block: string | undefined;
      readonly startByte: bigint;
      readonly lengthBytes: number;
    }
  | { readonly kind: 'received-bitmap'; readonly block: string; readonly bitmapBytes: number }
  | { readonly kind: 'resume-ack'; readonly value: number }
  | { readonly kind: 'switchover-ack' }
  /** Of a QEMU newer than this code: forward it. */
  | { readonly kind: 'other'; readonly type: number }
);

/** The target's word that it has loaded the whole stream (migrate_send_rp_shut); 0 is success. */
export function encodeShut(status: number): Buffer {
  const out = Buffer.alloc(HEADER_BYTES + 4);
  out.writeUInt16BE(RETURN_SHUT, 0);
  out.writeUInt16BE(4, 2);
  out.writeUInt32BE(status, HEADER_BYTES);
  return out;
}

/** "The recovered post-copy may go on" (MIGRATION_RESUME_ACK_VALUE). */
export function encodeResumeAck(): Buffer {
  const out = encodeShut(1);
  out.writeUInt16BE(RETURN_RESUME_ACK, 0);
  return out;
}

/** That all pages of a block have been received (ramblock_recv_bitmap_send: whole 64-bit words, little endian). */
export function encodeReceivedBitmap(block: string, pages: number): Buffer {
  const name = Buffer.from(block, 'latin1');
  const bitmapBytes = Math.ceil(pages / 64) * 8;
  const head = Buffer.alloc(HEADER_BYTES + 1 + name.length + 8);
  head.writeUInt16BE(RETURN_RECV_BITMAP, 0);
  head.writeUInt16BE(1 + name.length, 2);
  head.writeUInt8(name.length, HEADER_BYTES);
  name.copy(head, HEADER_BYTES + 1);
  head.writeBigUInt64BE(BigInt(bitmapBytes), HEADER_BYTES + 1 + name.length);
  const end = Buffer.alloc(8);
  end.writeBigUInt64BE(BITMAP_END);
  return Buffer.concat([head, Buffer.alloc(bitmapBytes, 0xff), end]);
}

/** A request for pages of a RAM block, as the target's QEMU makes it (migrate_send_rp_message_req_pages). */
export function encodePageRequest(block: string, offsetBytes: number, lengthBytes: number): Buffer {
  const name = Buffer.from(block, 'latin1');
  const out = Buffer.alloc(HEADER_BYTES + 13 + name.length);
  out.writeUInt16BE(RETURN_REQ_PAGES_ID, 0);
  out.writeUInt16BE(13 + name.length, 2);
  out.writeBigUInt64BE(BigInt(offsetBytes), HEADER_BYTES);
  out.writeUInt32BE(lengthBytes, HEADER_BYTES + 8);
  out.writeUInt8(name.length, HEADER_BYTES + 12);
  name.copy(out, HEADER_BYTES + 13);
  return out;
}

export interface ReturnPathStats {
  /** Requests and the pages they asked for: the paper's page faults over the network. */
  requests: number;
  pagesRequested: number;
  messages: number;
  bytes: number;
}

export class ReturnPathParser {
  #pending = Buffer.alloc(0);
  #length = 0;
  readonly #stats: ReturnPathStats = { requests: 0, pagesRequested: 0, messages: 0, bytes: 0 };

  /**
   * Takes the next bytes; returns the messages that are complete with them. `chunk` may be reused afterwards.
   * @throws STREAM_RETURN_PATH
   */
  push(chunk: Buffer): ReturnMessage[] {
    this.#stats.bytes += chunk.length;
    this.#append(chunk);
    const messages: ReturnMessage[] = [];
    let pos = 0;
    for (;;) {
      const message = this.#next(pos);
      if (!message) break;
      pos += message.raw.length;
      this.#stats.messages++;
      messages.push(message);
    }
    this.#pending.copyWithin(0, pos, this.#length);
    this.#length -= pos;
    return messages;
  }

  /** Bytes of a message that is not whole yet. */
  get pendingBytes(): number {
    return this.#length;
  }

  stats(): Readonly<ReturnPathStats> {
    return { ...this.#stats };
  }

  #append(chunk: Buffer): void {
    const need = this.#length + chunk.length;
    if (need > this.#pending.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(1024, 2 * need));
      this.#pending.copy(grown, 0, 0, this.#length);
      this.#pending = grown;
    }
    chunk.copy(this.#pending, this.#length);
    this.#length = need;
  }

  #next(pos: number): ReturnMessage | undefined {
    const available = this.#length - pos;
    if (available < HEADER_BYTES) return undefined;
    const type = this.#pending.readUInt16BE(pos);
    const length = this.#pending.readUInt16BE(pos + 2);
    const fixed = fixedLengths[type];
    if (type === 0 || (fixed !== undefined && fixed !== length)) {
      throw fail('STREAM_RETURN_PATH', `message ${type} of ${length} bytes`, { fields: { type, length } });
    }
    const end = HEADER_BYTES + length;
    if (available < end) return undefined;
    const data = this.#pending.subarray(pos + HEADER_BYTES, pos + end);
    if (type === RETURN_RECV_BITMAP) return this.#bitmap(pos, end, nameAt(data, 0));
    return this.#message(type, data, Buffer.from(this.#pending.subarray(pos, pos + end)));
  }

  #message(type: number, data: Buffer, raw: Buffer): ReturnMessage {
    switch (type) {
      case RETURN_SHUT:
        return { kind: 'shut', status: data.readUInt32BE(0), raw };
      case RETURN_PONG:
        return { kind: 'pong', value: data.readUInt32BE(0), raw };
      case RETURN_REQ_PAGES:
        return this.#request(data, undefined, raw);
      case RETURN_REQ_PAGES_ID:
        return this.#request(data, nameAt(data, 12), raw);
      case RETURN_RESUME_ACK:
        return { kind: 'resume-ack', value: data.readUInt32BE(0), raw };
      case RETURN_SWITCHOVER_ACK:
        return { kind: 'switchover-ack', raw };
      default:
        return { kind: 'other', type, raw };
    }
  }

  #request(data: Buffer, block: string | undefined, raw: Buffer): ReturnMessage {
    const lengthBytes = data.readUInt32BE(8);
    this.#stats.requests++;
    this.#stats.pagesRequested += Math.ceil(lengthBytes / PAGE_BYTES);
    return { kind: 'request-pages', block, startByte: data.readBigUInt64BE(0), lengthBytes, raw };
  }

  #bitmap(pos: number, head: number, block: string): ReturnMessage | undefined {
    if (this.#length - pos < head + 8) return undefined;
    const size = this.#pending.readBigUInt64BE(pos + head);
    if (size > BigInt(RECV_BITMAP_MAX_BYTES)) throw fail('STREAM_RETURN_PATH', `bitmap of ${size} bytes`);
    const bitmapBytes = Number(size);
    const total = head + 8 + bitmapBytes + 8;
    if (this.#length - pos < total) return undefined;
    if (this.#pending.readBigUInt64BE(pos + total - 8) !== BITMAP_END)
      throw fail('STREAM_RETURN_PATH', 'bitmap without its end mark');
    const raw = Buffer.from(this.#pending.subarray(pos, pos + total));
    return { kind: 'received-bitmap', block, bitmapBytes, raw };
  }
}

/** u8 + text that fills the rest of the message exactly. @throws STREAM_RETURN_PATH */
function nameAt(data: Buffer, at: number): string {
  if (data.length <= at || data.length !== at + 1 + data.readUInt8(at))
    throw fail('STREAM_RETURN_PATH', 'block name');
  return data.toString('latin1', at + 1);
}
