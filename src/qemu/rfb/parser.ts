import { MAX_CUT_TEXT_BYTES, MAX_RECTANGLES, MAX_RFB_TEXT_BYTES, PIXEL_BYTES } from './constants.ts';
import {
  CLIENT_VERSION,
  ENCODING_DESKTOP_SIZE,
  ENCODING_RAW,
  encodeEncodings,
  encodePixelFormat,
  SECURITY_NONE,
} from './encode.ts';
import { fail } from './errors.ts';
import { Framebuffer, type Rectangle } from './framebuffer.ts';

/** One update of the screen, after it has been put into the framebuffer. */
export interface ScreenUpdate {
  readonly rectangles: readonly (Rectangle & { readonly changed: boolean })[];
  /** Pixels in all rectangles, and in those in which something changed. */
  readonly pixels: number;
  readonly changedPixels: number;
  /** The screen got another size (and was black before the rectangles came). */
  readonly resized: boolean;
}

export interface ParserEvents {
  /** Bytes that must go to the server. */
  reply(bytes: Buffer): void;
  /** The handshake is over; the framebuffer has its size and is black. */
  ready(name: string): void;
  update(update: ScreenUpdate): void;
}

type Steps = Generator<number, never, Buffer>;

/**
 * The server's side of an RFB 3.8 conversation (RFC 6143), as a push parser: bytes go in as they come, in pieces of
 * any size; nothing is waited for and nothing larger than one row of pixels is ever gathered. A violation throws, after
 * which the parser must not be used again.
 *
 *   ProtocolVersion -> security types -> SecurityResult -> ServerInit -> (message)*
 */
export class RfbParser {
  readonly framebuffer = new Framebuffer();
  readonly #events: ParserEvents;
  readonly #steps: Steps;
  #needed: number;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #updating = false;

  constructor(events: ParserEvents) {
    this.#events = events;
    this.#steps = this.#conversation();
    this.#needed = this.#steps.next().value;
  }

  /** True while the framebuffer holds a part of an update that has not come to its end. */
  get updating(): boolean {
    return this.#updating;
  }

  /** @throws RFB_PROTOCOL, RFB_LIMIT, RFB_REFUSED, RFB_SECURITY */
  push(data: Buffer): void {
    this.#chunks.push(data);
    this.#buffered += data.length;
    while (this.#buffered >= this.#needed) this.#needed = this.#steps.next(this.#take(this.#needed)).value;
  }

  #take(length: number): Buffer {
    let first = this.#chunks[0] ?? Buffer.alloc(0);
    if (first.length < length) {
      first = Buffer.concat(this.#chunks);
      this.#chunks = [first];
    }
    const taken = first.subarray(0, length);
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    this.#buffered -= length;
    return taken;
  }

  *#conversation(): Steps {
    const version = (yield 12).toString('latin1');
    if (!/^RFB 003\.(008|889)\n$/.test(version))
      throw fail('RFB_PROTOCOL', `it says ${JSON.stringify(version)}`);
    this.#events.reply(CLIENT_VERSION);
    const count = (yield 1).readUInt8(0);
    if (count === 0) throw fail('RFB_REFUSED', yield* this.#text());
    const types = [...(yield count)];
    if (!types.includes(SECURITY_NONE)) throw fail('RFB_SECURITY', `types ${types.join(', ')}`);
    this.#events.reply(Buffer.from([SECURITY_NONE]));
    if ((yield 4).readUInt32BE(0) !== 0) throw fail('RFB_REFUSED', yield* this.#text());
    this.#events.reply(Buffer.from([1])); // shared: others may look on
    const init = yield 20;
    this.framebuffer.resize(init.readUInt16BE(0), init.readUInt16BE(2));
    const name = yield* this.#text();
    this.#events.reply(encodePixelFormat());
    this.#events.reply(encodeEncodings([ENCODING_RAW, ENCODING_DESKTOP_SIZE]));
    this.#events.ready(name);
    for (;;) yield* this.#message();
  }

  *#text(): Generator<number, string, Buffer> {
    const length = (yield 4).readUInt32BE(0);
    if (length > MAX_RFB_TEXT_BYTES) throw fail('RFB_LIMIT', `a text of ${length} bytes`);
    return length === 0 ? '' : (yield length).toString('utf8');
  }

  *#message(): Generator<number, void, Buffer> {
    const type = (yield 1).readUInt8(0);
    switch (type) {
      case 0:
        yield* this.#update();
        return;
      case 1: // SetColourMapEntries: not for true colour; skipped
        for (let left = (yield 5).readUInt16BE(3); left > 0; left--) yield 6;
        return;
      case 2: // Bell
        return;
      case 3: {
        const length = (yield 7).readUInt32BE(3);
        if (length > MAX_CUT_TEXT_BYTES) throw fail('RFB_LIMIT', `a clipboard of ${length} bytes`);
        for (let left = length; left > 0; left -= Math.min(left, 4096)) yield Math.min(left, 4096);
        return;
      }
      default:
        throw fail('RFB_PROTOCOL', `message type ${type}`);
    }
  }

  *#update(): Generator<number, void, Buffer> {
    const count = (yield 3).readUInt16BE(1);
    if (count > MAX_RECTANGLES) throw fail('RFB_LIMIT', `${count} rectangles`);
    this.#updating = true;
    const rectangles: (Rectangle & { changed: boolean })[] = [];
    let pixels = 0;
    let changedPixels = 0;
    let resized = false;
    for (let i = 0; i < count; i++) {
      const head = yield 12;
      const [x, y] = [head.readUInt16BE(0), head.readUInt16BE(2)];
      const [width, height] = [head.readUInt16BE(4), head.readUInt16BE(6)];
      const encoding = head.readInt32BE(8);
      if (encoding === ENCODING_DESKTOP_SIZE) {
        this.framebuffer.resize(width, height);
        resized = true;
        continue;
      }
      if (encoding !== ENCODING_RAW) throw fail('RFB_PROTOCOL', `encoding ${encoding}`);
      const rectangle = { x, y, width, height };
      this.framebuffer.check(rectangle);
      let changed = false;
      for (let row = y; row < y + height; row++) {
        if (width === 0) break;
        if (this.framebuffer.putRow(x, row, yield width * PIXEL_BYTES)) changed = true;
      }
      rectangles.push({ ...rectangle, changed });
      pixels += width * height;
      if (changed) changedPixels += width * height;
    }
    this.#updating = false;
    this.#events.update({ rectangles, pixels, changedPixels, resized });
  }
}
