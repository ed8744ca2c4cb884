/**
 * The memory path: QEMU's migration stream, packed for the WAN.
 *
 *   source QEMU ──stream──▶ StreamEncoder ──frames──▶ link ──frames──▶ StreamDecoder ──the same bytes──▶ target QEMU
 *   source QEMU ◀────────── return path, forwarded as it is, read by ReturnPathParser ◀────────────────── target QEMU
 *
 * The stream is described in parser.ts and ram.ts, the frames in frame.ts, the tokens in them in tokens.ts. A change of either
 * layout takes a new FRAME_VERSION; a decoder accepts its own version only.
 */
export type { EncodedFrame, PackLater } from './batch.ts';
export * from './constants.ts';
export type { ContentLookup } from './content.ts';
export { StreamDecoder } from './decoder.ts';
export {
  type Background,
  type KindStats,
  StreamEncoder,
  type StreamEncoderOptions,
  type StreamHooks,
  type StreamStats,
} from './encoder.ts';
export { FRAME_VERSION } from './frame.ts';
export type { PageCounts } from './pages.ts';
export type { RamBlock, RestReason } from './sink.ts';
export { type ReturnMessage, ReturnPathParser, type ReturnPathStats } from './returnPath.ts';
