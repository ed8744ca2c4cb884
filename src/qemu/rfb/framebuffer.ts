import { MAX_SCREEN_SIDE_PIXELS, PIXEL_BYTES } from './constants.ts';
import { fail } from './errors.ts';

export interface Rectangle {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** The screen as last told by the server: four bytes a pixel (blue, green, red, unused), rows from the top. */
export class Framebuffer {
  #width = 0;
  #height = 0;
  #pixels: Buffer = Buffer.alloc(0);

  get width(): number {
    return this.#width;
  }
  get height(): number {
    return this.#height;
  }
  get pixels(): Buffer {
    return this.#pixels;
  }

  /** Black, of a new size. @throws RFB_LIMIT, RFB_PROTOCOL */
  resize(width: number, height: number): void {
    if (width > MAX_SCREEN_SIDE_PIXELS || height > MAX_SCREEN_SIDE_PIXELS) {
      throw fail('RFB_LIMIT', `a screen of ${width}x${height}`);
    }
    if (width === 0 || height === 0) throw fail('RFB_PROTOCOL', `a screen of ${width}x${height}`);
    this.#width = width;
    this.#height = height;
    this.#pixels = Buffer.alloc(width * height * PIXEL_BYTES);
  }

  /** @throws RFB_PROTOCOL when the rectangle is not on the screen */
  check({ x, y, width, height }: Rectangle): void {
    if (x + width > this.#width || y + height > this.#height) {
      throw fail(
        'RFB_PROTOCOL',
        `a rectangle ${width}x${height} at ${x},${y} on ${this.#width}x${this.#height}`,
      );
    }
  }

  /** Puts one row of a rectangle; true if a pixel changed. */
  putRow(x: number, y: number, row: Buffer): boolean {
    const at = (y * this.#width + x) * PIXEL_BYTES;
    if (this.#pixels.compare(row, 0, row.length, at, at + row.length) === 0) return false;
    row.copy(this.#pixels, at);
    return true;
  }

  /** A copy of the pixels of one part of the screen, row by row. @throws RFB_PROTOCOL */
  crop(area: Rectangle): Buffer {
    this.check(area);
    const rows: Buffer[] = [];
    for (let y = area.y; y < area.y + area.height; y++) {
      const at = (y * this.#width + area.x) * PIXEL_BYTES;
      rows.push(this.#pixels.subarray(at, at + area.width * PIXEL_BYTES));
    }
    return Buffer.concat(rows);
  }

  /** The share of pixels, in percent, that are not black. */
  litPercent(): number {
    let lit = 0;
    for (let at = 0; at < this.#pixels.length; at += PIXEL_BYTES) {
      if ((this.#pixels.readUInt32LE(at) & 0xffffff) !== 0) lit++;
    }
    return (100 * lit) / Math.max(1, this.#pixels.length / PIXEL_BYTES);
  }
}
