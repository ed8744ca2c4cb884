/** Builds frames of everything that is not RAM. */
import { crc32 } from 'node:zlib';
import { CODEC_ZSTD, encodeBlock } from '../codec.ts';
import type { EncodedFrame } from './batch.ts';
import { FRAME_HEADER_BYTES, writeFrameHeader } from './frame.ts';

/** Device state is small and mostly zeros, and the switch waits for it: always the fastest zstd. */
const DEVICE_ZSTD_LEVEL = 1;

export class DeviceBatch {
  #pieces: Buffer[] = [];
  #tail = Buffer.alloc(0);
  #tailLength = 0;
  rawBytes = 0;

  /** Copies a piece of stream bytes. Small pieces share buffers. */
  add(buf: Buffer, start: number, end: number): void {
    let pos = start;
    while (pos < end) {
      if (this.#tailLength === this.#tail.length) {
        this.#closeTail();
        // Doubling keeps the number of pieces small without trusting an announced length.
        this.#tail = Buffer.allocUnsafeSlow(Math.max(4096, this.rawBytes));
      }
      const part = Math.min(end - pos, this.#tail.length - this.#tailLength);
      buf.copy(this.#tail, this.#tailLength, pos, pos + part);
      this.#tailLength += part;
      this.rawBytes += part;
      pos += part;
    }
  }

  #closeTail(): void {
    if (this.#tailLength > 0) this.#pieces.push(this.#tail.subarray(0, this.#tailLength));
    this.#tail = Buffer.alloc(0);
    this.#tailLength = 0;
  }

  /** The frame, or undefined if nothing was added since the last one. */
  take(): EncodedFrame | undefined {
    if (this.rawBytes === 0) return undefined;
    this.#closeTail();
    const [first] = this.#pieces;
    const raw = this.#pieces.length === 1 && first ? first : Buffer.concat(this.#pieces, this.rawBytes);
    this.#pieces = [];
    this.rawBytes = 0;
    const { codec, payload: content } = encodeBlock(CODEC_ZSTD, raw, { zstdLevel: DEVICE_ZSTD_LEVEL });
    const payload = Buffer.allocUnsafeSlow(FRAME_HEADER_BYTES + content.length);
    writeFrameHeader(payload, { kind: 'device', codec, rawBytes: raw.length, crc32: crc32(raw) });
    content.copy(payload, FRAME_HEADER_BYTES);
    return {
      kind: 'device',
      payload,
      rawBytes: raw.length,
      zeroPages: 0,
      dataPages: 0,
      referencedPages: 0,
      repeatedPages: 0,
      residuePages: 0,
    };
  }
}
