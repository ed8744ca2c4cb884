import * as z from 'zod';
import { errorCatalogue } from '../base/errors.ts';
import { SOURCES_MAX } from '../content/pages/constants.ts';
import { CONTENT_KINDS } from '../content/pages/store.ts';
import {
  MEMORY_FRAME_RAW_LIMIT_BYTES,
  PAGE_BYTES,
  REPEAT_WINDOW_MAX_PAGES,
} from '../wire/qemu-stream/constants.ts';

/**
 * What two movers say to each other over their link session. Types 64..95 belong to the disk (wire/disk).
 *
 *   source                                   target
 *     | HELLO --------------------------------> |  (urgent)  same migration, VM, generation?
 *     | <----------------------------- ACCEPTED |            what it has of what may be referred to
 *     | STREAM (memory, round one) ===========> |  (bulk)
 *     | <-------------------------------- READY |            QEMU listens, NBD is served: the source may switch
 *     | <------------------------------- RETURN |            QEMU's return path
 *     | <--------------- CONTENT_MISSING, DECODED |          pages referred to that are damaged there; frames done with
 *     | CONTENT_BYTES ------------------------> |  (urgent)  those pages
 *     |   pipe drained, ownership offered       |
 *     | disk freeze: size and metadata -------> |  (urgent)
 *     | STREAM (device, TAKEOVER) ------------> |  (urgent)  ownership taken, QEMU resumes the VM
 *     | <------------------------------ RESUMED |
 *     | STREAM (post-copy), disk push ========> |  (bulk)    pulls and page requests <-> on urgent
 *     | STREAM_END ---------------------------> |
 *     | <-------------------------- INDEPENDENT |            overlay pivoted and committed
 *     | RELEASED -----------------------------> |
 * Either side may send FAILED instead of its next message.
 */
export const MESSAGE_CONTROL = 1;
export const MESSAGE_STREAM = 32;
export const MESSAGE_STREAM_END = 33;
export const MESSAGE_RETURN = 34;
export const MESSAGE_CONTENT_MISSING = 35;
export const MESSAGE_CONTENT_BYTES = 36;
export const MESSAGE_DECODED = 37;

/** Version of everything movers exchange, disk and stream frames included. */
export const MOVER_PROTOCOL_VERSION = 3;

export const migrationFail = errorCatalogue({
  MOVER_PROTOCOL: {
    summary: 'the other mover sent something that does not belong here',
    remedy: 'Run the same version of CloudAP at both sites; if both are the same, report this with the log.',
  },
  MOVER_TOO_LATE: {
    summary: 'the VM has already been handed over',
    remedy: 'Let the migration finish; then migrate the VM back.',
  },
  MOVER_CANCELLED: {
    summary: 'the migration was cancelled before the switch',
    remedy: 'The VM runs on at the source; start the migration again when you like.',
  },
  MOVER_PEER_FAILED: {
    summary: 'the other site could not go on with the migration',
    remedy: 'The message holds the other site’s reason. Before the switch the VM runs on at the source.',
  },
  MOVER_QEMU_SOURCE: {
    summary: 'QEMU at the source ended or refused to go on with the migration',
    remedy: 'Look at qemu.log in the VM’s directory at the source.',
  },
  MOVER_QEMU_TARGET: {
    summary: 'QEMU at the target ended or refused the incoming VM',
    remedy:
      'Look at the mover’s log at the target, which holds the end of QEMU’s. Before the switch the VM runs on at the source.',
  },
  MOVER_SOURCE_LOST: {
    summary: 'the source has gone while the VM still needs it',
    remedy:
      'The VM waits wherever it touches what has not arrived, and nothing of it is deleted. If the source cannot come back, stop the VM here and take it back there.',
  },
  MOVER_TAKEN_BACK: {
    summary: 'the operator has taken the VM back to the source',
    remedy: 'Make sure that the target’s copy of the VM does not run any more.',
  },
  MOVER_TARGET_ALIVE: {
    summary: 'the VM is not taken back while the target can be reached',
    remedy: 'Let the migration finish; then migrate the VM back.',
  },
  MOVER_TIMEOUT: {
    summary: 'a step of the migration took too long',
    remedy: 'Look at migrations/<id>.log in the dataDir of both sites for the step that hangs.',
  },
  MOVER_START: {
    summary: 'the mover process did not start',
    remedy: 'Look at the mover’s log, named in the message.',
  },
});

/** Longest control message; the longest real one holds the target's figures, less than 1 KiB. */
export const MAX_CONTROL_BYTES = 16 * 1024;
/** What is sent of an error's texts. */
const MAX_ERROR_TEXT = 1000;

const errorText = z.string().max(MAX_ERROR_TEXT);
const errorShape = z.object({ code: errorText, message: errorText, remedy: errorText });
const count = z.number().int().nonnegative();

/** What only the target can measure; it goes into the record. */
export const targetFiguresSchema = z.object({
  overlayBytes: count,
  diskBytes: count,
  diskRawBytes: count,
  blocks: z.object({
    sizeBytes: count,
    total: count,
    pushed: count,
    pulled: count,
    skipped: count,
    referenced: count,
  }),
  pullLatencyMs: z.object({
    count,
    p50: z.number().nullable(),
    p99: z.number().nullable(),
    max: z.number().nullable(),
  }),
  integrity: z.object({ checked: count, bad: count }),
  peakRssMiB: z.number(),
  /** Unix times by the target's clock. */
  diskCompleteAtMs: z.number(),
  independentAtMs: z.number(),
});
export type TargetFigures = z.infer<typeof targetFiguresSchema>;

/** Of a page index (content/pages). */
const digest = z.string().regex(/^[0-9a-f]{64}$/);

/** What both ends tell each other of how pages travel. */
const pagesShape = {
  /** How many sent pages both ends keep to be repeated: the smaller of the two. */
  repeatPages: z.number().int().min(0).max(REPEAT_WINDOW_MAX_PAGES).optional(),
  /** This end logs the pages that travel, to be residue (content/residue). Both have to; again before they part. */
  keeps: z.boolean().optional(),
};

export const controlSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('hello'),
    version: z.literal(MOVER_PROTOCOL_VERSION),
    migrationId: z.string(),
    vmId: z.string(),
    generation: z.number().int(),
    /** The postcopy-preempt channel is in use: the stream has two channels. */
    preempt: z.boolean(),
    /** What the source could refer to: what stays first, then residue. Which is which decides what both ends log. */
    content: z
      .array(z.object({ digest, kind: z.enum(CONTENT_KINDS) }))
      .max(SOURCES_MAX)
      .optional(),
    ...pagesShape,
  }),
  z.object({
    kind: z.literal('accepted'),
    /** What of it the target has too, in the same order. */
    content: z.array(digest).max(SOURCES_MAX).optional(),
    ...pagesShape,
  }),
  z.object({ kind: z.literal('ready') }),
  z.object({ kind: z.literal('resumed'), atMs: z.number() }),
  z.object({ kind: z.literal('independent'), figures: targetFiguresSchema, keeps: pagesShape.keeps }),
  z.object({ kind: z.literal('released'), keeps: pagesShape.keeps }),
  /** `tookOver`: the sender is the target and its QEMU may run the VM. */
  z.object({ kind: z.literal('failed'), error: errorShape, tookOver: z.boolean() }),
]);
export type Control = z.infer<typeof controlSchema>;

export function encodeControl(message: Control): Buffer {
  return Buffer.from(JSON.stringify(message));
}

/** An error as `failed` carries it: its texts cut to what the other side accepts. */
export function errorForPeer(error: {
  code: string;
  message: string;
  remedy: string;
}): z.infer<typeof errorShape> {
  const cut = (text: string): string => text.slice(0, MAX_ERROR_TEXT);
  return { code: cut(error.code), message: cut(error.message), remedy: cut(error.remedy) };
}

/** @throws MOVER_PROTOCOL */
export function decodeControl(payload: Buffer): Control {
  if (payload.length > MAX_CONTROL_BYTES) {
    throw migrationFail('MOVER_PROTOCOL', `control message of ${payload.length} bytes`);
  }
  try {
    return controlSchema.parse(JSON.parse(payload.toString('utf8')));
  } catch (error) {
    throw migrationFail('MOVER_PROTOCOL', 'control message', { cause: error });
  }
}

/** A piece of one of QEMU's two channels: 0 = main, 1 = postcopy-preempt. */
export interface StreamMessage {
  channel: 0 | 1;
  /** Feeding this one lets the target's QEMU run the VM: ownership is taken first. */
  takeover: boolean;
  /** Position in its channel; a channel's messages may come on either lane. */
  sequence: number;
  frame: Buffer;
}

/** The end of a channel. Layout: u8 channel, u8 0, u16 0, u32 number of messages (big endian). */
export function encodeStreamEnd(channel: 0 | 1, messages: number): Buffer {
  const out = Buffer.alloc(STREAM_HEADER_BYTES);
  out.writeUInt8(channel, 0);
  out.writeUInt32BE(messages, 4);
  return out;
}

/** @throws MOVER_PROTOCOL */
export function decodeStreamEnd(payload: Buffer): { channel: 0 | 1; messages: number } {
  if (payload.length !== STREAM_HEADER_BYTES) throw migrationFail('MOVER_PROTOCOL', 'length of a stream end');
  const channel = payload.readUInt8(0);
  if ((channel !== 0 && channel !== 1) || payload.readUIntBE(1, 3) !== 0) {
    throw migrationFail('MOVER_PROTOCOL', 'stream end');
  }
  return { channel, messages: payload.readUInt32BE(4) };
}

/** Layout: u8 channel, u8 flags (1 = takeover), u16 0, u32 sequence (big endian), then the encoded stream frame. */
const STREAM_HEADER_BYTES = 8;

export function encodeStreamMessage(message: StreamMessage): Buffer {
  const out = Buffer.allocUnsafe(STREAM_HEADER_BYTES + message.frame.length);
  out.writeUInt8(message.channel, 0);
  out.writeUInt8(message.takeover ? 1 : 0, 1);
  out.writeUInt16BE(0, 2);
  out.writeUInt32BE(message.sequence, 4);
  message.frame.copy(out, STREAM_HEADER_BYTES);
  return out;
}

/** @throws MOVER_PROTOCOL */
export function decodeStreamMessage(payload: Buffer): StreamMessage {
  if (payload.length < STREAM_HEADER_BYTES) throw migrationFail('MOVER_PROTOCOL', 'short stream message');
  const channel = payload.readUInt8(0);
  const flags = payload.readUInt8(1);
  if ((channel !== 0 && channel !== 1) || flags > 1 || payload.readUInt16BE(2) !== 0) {
    throw migrationFail('MOVER_PROTOCOL', 'stream message header');
  }
  return {
    channel,
    takeover: flags === 1,
    sequence: payload.readUInt32BE(4),
    frame: payload.subarray(STREAM_HEADER_BYTES),
  };
}

/** Most pages that one frame refers to. */
const FRAME_PAGES_MAX = Math.floor(MEMORY_FRAME_RAW_LIMIT_BYTES / PAGE_BYTES);
/** u8 channel, u8 codec or 0, u16 0, u32 sequence of the stream message (big endian). */
const CONTENT_HEADER_BYTES = 8;

interface ContentHeader {
  channel: 0 | 1;
  sequence: number;
}

function writeContentHeader(out: Buffer, { channel, sequence }: ContentHeader, codec = 0): void {
  out.writeUInt8(channel, 0);
  out.writeUInt8(codec, 1);
  out.writeUInt16BE(0, 2);
  out.writeUInt32BE(sequence, 4);
}

function readContentHeader(payload: Buffer, minimumBytes: number): ContentHeader & { codec: number } {
  if (payload.length < minimumBytes) throw migrationFail('MOVER_PROTOCOL', 'short content message');
  const channel = payload.readUInt8(0);
  if ((channel !== 0 && channel !== 1) || payload.readUInt16BE(2) !== 0)
    throw migrationFail('MOVER_PROTOCOL', 'content message header');
  return { channel, codec: payload.readUInt8(1), sequence: payload.readUInt32BE(4) };
}

/** Target to source: of the pages that this frame refers to, those at these positions (0 is the first) are not here. */
export interface ContentMissing extends ContentHeader {
  positions: readonly number[];
}

/** Header, then u32 for each position. */
export function encodeContentMissing(message: ContentMissing): Buffer {
  const out = Buffer.alloc(CONTENT_HEADER_BYTES + 4 * message.positions.length);
  writeContentHeader(out, message);
  for (const [i, position] of message.positions.entries())
    out.writeUInt32BE(position, CONTENT_HEADER_BYTES + 4 * i);
  return out;
}

/** @throws MOVER_PROTOCOL */
export function decodeContentMissing(payload: Buffer): ContentMissing {
  const { channel, sequence } = readContentHeader(payload, CONTENT_HEADER_BYTES + 4);
  const count = (payload.length - CONTENT_HEADER_BYTES) / 4;
  if (!Number.isInteger(count) || count > FRAME_PAGES_MAX)
    throw migrationFail('MOVER_PROTOCOL', 'positions of missing content');
  const positions = Array.from({ length: count }, (_, i) =>
    payload.readUInt32BE(CONTENT_HEADER_BYTES + 4 * i),
  );
  return { channel, sequence, positions };
}

/** Source to target: the answer, the pages one after the other, packed with a codec of wire/codec.ts. */
export interface ContentBytes extends ContentHeader {
  codec: number;
  pages: number;
  payload: Buffer;
}

/** Header with the codec, u32 number of pages, payload. */
export function encodeContentBytes(message: ContentBytes): Buffer {
  const head = Buffer.alloc(CONTENT_HEADER_BYTES + 4);
  writeContentHeader(head, message, message.codec);
  head.writeUInt32BE(message.pages, CONTENT_HEADER_BYTES);
  return Buffer.concat([head, message.payload]);
}

/** @throws MOVER_PROTOCOL */
export function decodeContentBytes(payload: Buffer): ContentBytes {
  const header = readContentHeader(payload, CONTENT_HEADER_BYTES + 4);
  const pages = payload.readUInt32BE(CONTENT_HEADER_BYTES);
  if (pages > FRAME_PAGES_MAX) throw migrationFail('MOVER_PROTOCOL', `${pages} pages of content`);
  return { ...header, pages, payload: payload.subarray(CONTENT_HEADER_BYTES + 4) };
}

/** Target to source: all frames of the channel up to this one are decoded; what they refer to need not be kept. */
export function encodeDecoded(message: ContentHeader): Buffer {
  const out = Buffer.alloc(CONTENT_HEADER_BYTES);
  writeContentHeader(out, message);
  return out;
}

/** @throws MOVER_PROTOCOL */
export function decodeDecoded(payload: Buffer): ContentHeader {
  const { channel, sequence } = readContentHeader(payload, CONTENT_HEADER_BYTES);
  if (payload.length !== CONTENT_HEADER_BYTES) throw migrationFail('MOVER_PROTOCOL', 'decoded message');
  return { channel, sequence };
}
