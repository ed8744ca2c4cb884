import { crc32 } from 'node:zlib';
import { decodeBlock } from '../codec.ts';
import { MEMORY_FRAME_RAW_LIMIT_BYTES } from './constants.ts';
import type { KindStats } from './encoder.ts';
import { fail } from './errors.ts';
import { FRAME_HEADER_BYTES, type FrameHeader, readFrameHeader } from './frame.ts';
import { RepeatWindow, type ResidueRule } from './content.ts';
import { decodeMemory, referencesOf } from './memory.ts';

/**
 * Target side of the memory path: makes the source QEMU's stream bytes of the frames of a StreamEncoder. The outputs,
 * one after the other, are the stream, byte for byte. A frame is used whole or not at all; after an error the decoder
 * is unusable.
 */
export class StreamDecoder {
  readonly #window: RepeatWindow;
  readonly #residue: ResidueRule | undefined;
  readonly #stats = {
    memory: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
    device: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
  };

  /** Where memory frames are decoded to, if the caller is done with each before the next. */
  readonly #output: Buffer | undefined;

  /**
   * `repeatPages` must be what the encoder was given. With `reuseOutput` a result is valid until the next `push`: a
   * megabyte less to allocate, and to collect, for each frame. The sink of `residue` gets what the encoder's gets.
   */
  constructor(
    options: {
      readonly repeatPages?: number;
      readonly reuseOutput?: boolean;
      readonly residue?: ResidueRule | undefined;
    } = {},
  ) {
    this.#residue = options.residue;
    this.#window = new RepeatWindow(options.repeatPages ?? 0);
    this.#output = options.reuseOutput ? Buffer.allocUnsafeSlow(MEMORY_FRAME_RAW_LIMIT_BYTES) : undefined;
  }

  /**
   * Numbers of the pages that a frame refers to, in order of use; empty for most frames. Their bodies, one after the
   * other and verified, go with the frame into `push`. Independent of other frames.
   * @throws STREAM_FRAME_VERSION, STREAM_FRAME_CORRUPT, STREAM_FRAME_TOO_LARGE, CODEC_UNKNOWN
   */
  static references(frame: Buffer): Float64Array {
    const header = readFrameHeader(frame);
    return header.kind === 'memory' ? referencesOf(frame, header) : new Float64Array();
  }

  /**
   * Decodes one frame. The result may share memory with `frame` (device bytes that were sent raw).
   * @throws STREAM_FRAME_VERSION, STREAM_FRAME_CORRUPT, STREAM_FRAME_TOO_LARGE, STREAM_CHECKSUM, STREAM_CONTENT,
   *   CODEC_UNKNOWN, CODEC_CORRUPT
   */
  push(frame: Buffer, referenced?: Buffer): Buffer {
    const header = readFrameHeader(frame);
    const out =
      header.kind === 'device'
        ? decodeBlock(header.codec, frame.subarray(FRAME_HEADER_BYTES), header.rawBytes)
        : decodeMemory(frame, header, {
            window: this.#window,
            residue: this.#residue,
            referenced,
            output: this.#output,
          });
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
