/**
 * Payload of a data frame with codec 4: what each sector of the run is. Most of a run that the target holds travels as a
 * few numbers; what it does not hold is packed together.
 *
 *   u8 codec of the block (0: none, 1 raw, 2 rle, 3 zstd), u8 0, u16 bytes of the tokens (big endian), tokens, block
 *
 * A token is u8 kind, varint n (7 bits a byte, low ones first), and what its kind adds. Together they name each sector of
 * the run once, in order:
 *
 *   1 data n          the next n sectors of the unpacked block
 *   2 zero n          all zero
 *   3 reference n r   pages r, r + 1, ... of the content that both sides have agreed on
 *   4 repeat n d      each equals the sector d before it, which is in the same run
 *
 * A last sector that the file's end cuts short is data or zero.
 */
import { crc32 } from 'node:zlib';
import { type CodecId, decodeBlock, encodeBlock } from '../codec.ts';
import type { ContentLookup } from '../qemu-stream/content.ts';
import { TokenReader, VARINT_MAX_BYTES } from '../qemu-stream/tokens.ts';
import { MAX_CONTENT_SECTORS, MAX_EXTENT_BYTES, SECTOR_BYTES } from './constants.ts';
import { fail } from './errors.ts';

const HEADER_BYTES = 4;
const DATA = 1;
const ZERO = 2;
const REFERENCE = 3;
const REPEAT = 4;

const ZERO_SECTOR = Buffer.alloc(SECTOR_BYTES);

/** `count` sectors from sector `at` of the run on; `value` is the number of a reference, the distance of a repeat. */
interface Piece {
  readonly kind: number;
  readonly at: number;
  readonly value: number;
  count: number;
}

function isZeroPart(data: Buffer, start: number, end: number): boolean {
  return data.compare(ZERO_SECTOR, 0, end - start, start, end) === 0;
}

/** What becomes of the sectors at the beginning of a run. */
export interface ContentPlan {
  readonly pieces: readonly Piece[];
  /** Sectors of the run that the plan takes in, and bytes of the file that they cover. */
  readonly sectors: number;
  readonly bytes: number;
  /** Of them: those that travel as bytes, as references, and as repeats. */
  readonly data: number;
  readonly referenced: number;
  readonly repeated: number;
}

/**
 * Looks each sector of a run up. The plan ends where its data sectors reach MAX_EXTENT_BYTES, so that what is urgent never
 * waits behind a long frame, and at MAX_CONTENT_SECTORS; it takes in at least one sector.
 */
export function planContent(run: Buffer, lookup: ContentLookup): ContentPlan {
  const pieces: Piece[] = [];
  const counts = [0, 0, 0, 0, 0];
  const seen = new Map<number, number>();
  const total = Math.min(Math.ceil(run.length / SECTOR_BYTES), MAX_CONTENT_SECTORS);
  let at = 0;
  for (; at < total; at++) {
    const start = at * SECTOR_BYTES;
    const end = Math.min(start + SECTOR_BYTES, run.length);
    const { kind, value } = look(run, start, end, lookup, seen);
    if (kind === DATA && ((counts[DATA] ?? 0) + 1) * SECTOR_BYTES > MAX_EXTENT_BYTES) break;
    counts[kind] = (counts[kind] ?? 0) + 1;
    const last = pieces.at(-1);
    const next = last && (last.kind === REFERENCE ? last.value + last.count : last.value);
    if (last && last.kind === kind && next === value) last.count++;
    else pieces.push({ kind, at, value, count: 1 });
  }
  const [, data = 0, , referenced = 0, repeated = 0] = counts;
  return {
    pieces,
    sectors: at,
    bytes: Math.min(at * SECTOR_BYTES, run.length),
    data,
    referenced,
    repeated,
  };
}

function look(
  run: Buffer,
  start: number,
  end: number,
  lookup: ContentLookup,
  seen: Map<number, number>,
): { kind: number; value: number } {
  if (isZeroPart(run, start, end)) return { kind: ZERO, value: 0 };
  if (end - start < SECTOR_BYTES) return { kind: DATA, value: 0 };
  const crc = crc32(run.subarray(start, end));
  const before = seen.get(crc);
  seen.set(crc, start);
  if (before !== undefined && run.compare(run, before, before + SECTOR_BYTES, start, end) === 0)
    return { kind: REPEAT, value: (start - before) / SECTOR_BYTES };
  const number = lookup.find(run, start, crc);
  return number < 0 ? { kind: DATA, value: 0 } : { kind: REFERENCE, value: number };
}

/** The payload for a plan of `run`; `codec` is for what travels as bytes. */
export function packContent(run: Buffer, plan: ContentPlan, codec: CodecId): Buffer {
  const tokens: number[] = [];
  const bodies: Buffer[] = [];
  for (const { kind, at, count, value } of plan.pieces) {
    tokens.push(kind);
    putVarint(tokens, count);
    if (kind === REFERENCE || kind === REPEAT) putVarint(tokens, value);
    if (kind === DATA)
      bodies.push(run.subarray(at * SECTOR_BYTES, Math.min((at + count) * SECTOR_BYTES, run.length)));
  }
  const block = bodies.length === 0 ? undefined : encodeBlock(codec, Buffer.concat(bodies));
  const head = Buffer.alloc(HEADER_BYTES);
  head.writeUInt8(block?.codec ?? 0, 0);
  head.writeUInt16BE(tokens.length, 2);
  return Buffer.concat([head, Buffer.from(tokens), block?.payload ?? Buffer.alloc(0)]);
}

function putVarint(out: number[], value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    out.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  out.push(rest);
}

/** Most bytes that a payload for a run of `lengthBytes` can have: a token for each sector, and its data. */
export function maxContentBytes(lengthBytes: number): number {
  const tokens = Math.ceil(lengthBytes / SECTOR_BYTES) * (1 + 2 * VARINT_MAX_BYTES);
  return HEADER_BYTES + tokens + Math.min(lengthBytes, MAX_EXTENT_BYTES);
}

/** What a payload refers to. */
export interface ContentReferences {
  /** Numbers of the pages, in the order in which `unpackContent` wants them. */
  readonly ordinals: Float64Array;
  /** Which sectors of the run they are, ascending. */
  readonly sectors: readonly number[];
}

/** @throws DISK_FRAME_CORRUPT */
export function referencesOfContent(payload: Buffer, lengthBytes: number): ContentReferences {
  const ordinals: number[] = [];
  const sectors: number[] = [];
  for (const { kind, at, count, value } of readPieces(payload, lengthBytes).pieces) {
    if (kind !== REFERENCE) continue;
    for (let i = 0; i < count; i++) {
      ordinals.push(value + i);
      sectors.push(at + i);
    }
  }
  return { ordinals: Float64Array.from(ordinals), sectors };
}

/**
 * The sectors of a run, counted from its first, that travel: as bytes, or as references from this number on. What repeats one
 * of them does not. @throws DISK_FRAME_CORRUPT
 */
export function travellingOfContent(payload: Buffer, lengthBytes: number, firstNumber: number): number[] {
  const sectors: number[] = [];
  for (const { kind, at, count, value } of readPieces(payload, lengthBytes).pieces) {
    for (let i = 0; i < count; i++)
      if (kind === DATA || (kind === REFERENCE && value + i >= firstNumber)) sectors.push(at + i);
  }
  return sectors;
}

/**
 * The run's bytes; `referenced` holds the pages that it refers to, one after the other.
 * @throws DISK_FRAME_CORRUPT, CODEC_*
 */
export function unpackContent(payload: Buffer, lengthBytes: number, referenced?: Buffer): Buffer {
  const { pieces, dataBytes, references, block, codec } = readPieces(payload, lengthBytes);
  if (references * SECTOR_BYTES !== (referenced?.length ?? 0)) throw corrupt('number of references');
  const data = dataBytes === 0 ? block : decodeBlock(codec, block, dataBytes);
  const out = Buffer.alloc(lengthBytes);
  let dataAt = 0;
  let referencedAt = 0;
  for (const { kind, at, count, value } of pieces) {
    const start = at * SECTOR_BYTES;
    const end = Math.min(start + count * SECTOR_BYTES, lengthBytes);
    if (kind === DATA) dataAt += data.copy(out, start, dataAt, dataAt + end - start);
    else if (kind === REFERENCE)
      referencedAt += referenced?.copy(out, start, referencedAt, referencedAt + end - start) ?? 0;
    else if (kind === REPEAT) {
      // one by one: what is repeated may itself be a repeat in this piece
      for (let to = start; to < end; to += SECTOR_BYTES)
        out.copyWithin(to, to - value * SECTOR_BYTES, to - (value - 1) * SECTOR_BYTES);
    }
  }
  return out;
}

interface Pieces {
  readonly pieces: readonly Piece[];
  /** What the block must unpack to. */
  readonly dataBytes: number;
  readonly references: number;
  readonly codec: number;
  readonly block: Buffer;
}

/** Reads and checks the tokens: afterwards nothing in them can lead anywhere wrong. */
function readPieces(payload: Buffer, lengthBytes: number): Pieces {
  if (payload.length < HEADER_BYTES || payload.readUInt8(1) !== 0) throw corrupt('header');
  const end = HEADER_BYTES + payload.readUInt16BE(2);
  if (end > payload.length) throw corrupt('tokens longer than the frame');
  const total = Math.ceil(lengthBytes / SECTOR_BYTES);
  const whole = Math.floor(lengthBytes / SECTOR_BYTES);
  const reader = new TokenReader(payload, HEADER_BYTES, end, corrupt);
  const pieces: Piece[] = [];
  let at = 0;
  let dataBytes = 0;
  let references = 0;
  for (let kind = reader.token(); kind >= 0; kind = reader.token()) {
    if (kind < DATA || kind > REPEAT) throw corrupt(`token ${kind}`);
    const count = reader.number();
    if (count === 0 || count > total - at) throw corrupt('more sectors than announced');
    const named = kind === REFERENCE || kind === REPEAT;
    const value = named ? reader.number() : 0;
    if (named && at + count > whole) throw corrupt('a cut sector is named');
    if (kind === REPEAT && (value === 0 || value > at)) throw corrupt('repeats what is not there');
    if (kind === REFERENCE && value > Number.MAX_SAFE_INTEGER - count) throw corrupt('number of a page');
    if (kind === DATA) dataBytes += Math.min((at + count) * SECTOR_BYTES, lengthBytes) - at * SECTOR_BYTES;
    if (kind === REFERENCE) references += count;
    pieces.push({ kind, at, value, count });
    at += count;
  }
  if (at !== total) throw corrupt('fewer sectors than announced');
  if (dataBytes > MAX_EXTENT_BYTES) throw corrupt('more data than allowed');
  const codec = payload.readUInt8(0);
  const block = payload.subarray(end);
  if (dataBytes === 0 && (codec !== 0 || block.length > 0)) throw corrupt('something left over');
  return { pieces, dataBytes, references, codec, block };
}

function corrupt(detail: string): Error {
  return fail('DISK_FRAME_CORRUPT', detail);
}
