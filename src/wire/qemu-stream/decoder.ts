import { crc32 } from 'node:zlib';
import { decodeBlock } from '../codec.ts';
import type { KindStats } from './encoder.ts';
import { fail } from './errors.ts';
import { FRAME_HEADER_BYTES, type FrameHeader, readFrameHeader } from './frame.ts';
import { decodeMemory } from './memory.ts';

/**
 * Target side of the memory path: makes the source QEMU's stream bytes of the frames of a StreamEncoder. The outputs,
 * one after the other, are the stream, byte for byte. A frame is used whole or not at all.
 */
export class StreamDecoder {
  readonly #stats = {
    memory: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
    device: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
  };

  /**
   * Decodes one frame. The result may share memory with `frame` (device bytes that were sent raw).
   * @throws STREAM_FRAME_VERSION, STREAM_FRAME_CORRUPT, STREAM_FRAME_TOO_LARGE, STREAM_CHECKSUM,
   *   CODEC_UNKNOWN, CODEC_CORRUPT
   */
  push(frame: Buffer): Buffer {
    const header = readFrameHeader(frame);
    const out =
      header.kind === 'device'
        ? decodeBlock(header.codec, frame.subarray(FRAME_HEADER_BYTES), header.rawBytes)
        : decodeMemory(frame, header);
    this.#check(out, header);
    const stats = this.#stats[header.kind];
    stats.bytesRaw += out.length;
    stats.bytesEncoded += frame.length;
    stats.frames++;
    return out;
  }

  stats(): { readonly memory: Readonly<KindStats>; readonly device: Readonly<KindStats> } {
    return { memory: { ...this.#stats.memory }, device: { ...this.#stats.device } };
  }

  #check(out: Buffer, header: FrameHeader): void {
    const actual = crc32(out);
    if (actual === header.crc32) return;
    throw fail('STREAM_CHECKSUM', `${header.kind} frame of ${header.rawBytes} bytes`, {
      fields: { kind: header.kind, expected: header.crc32, actual },
    });
  }
}
