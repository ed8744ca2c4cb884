import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { sleep } from '../../base/async.ts';
import type { GuestInfo } from '../../content/images/manifest.ts';
import { RfbSession } from '../../qemu/rfb/session.ts';

const READY_TIMEOUT_MS = 180_000;
/** What was typed has been drawn when nothing larger than a blinking caret has changed for so many looks. */
const QUIET_LOOKS = 3;
const LOOK_INTERVAL_MS = 700;
const DRAWN_TIMEOUT_MS = 60_000;
/** A caret that blinks, and nothing else. */
export const CARET_PIXELS = 200;
const FOCUS_MS = 1500;
const PIXEL_BYTES = 4;

/** The user's view of a VM with an application in it: its screen, keyboard and pointer. */
export class DemoScreen implements Disposable {
  readonly #rfb: RfbSession;
  readonly #signal: AbortSignal;

  private constructor(rfb: RfbSession, signal: AbortSignal) {
    this.#rfb = rfb;
    this.#signal = signal;
  }

  static async connect(vncSocket: string, signal: AbortSignal): Promise<DemoScreen> {
    return new DemoScreen(await RfbSession.connect(vncSocket, { signal }), signal);
  }

  /** Waits until the application is up and its text area has the focus. @throws RFB_TIMEOUT */
  async ready(guest: GuestInfo): Promise<void> {
    const { screen, ready, focus } = guest;
    if (screen && ready) {
      await this.#rfb.waitReady({ screen, ...ready, timeoutMs: READY_TIMEOUT_MS, signal: this.#signal });
    }
    if (focus) await this.#rfb.click(focus.x, focus.y, this.#signal);
    await sleep(FOCUS_MS, this.#signal);
  }

  async type(text: string): Promise<void> {
    const before = await this.look();
    await this.#rfb.type(text, { delayMs: 40, signal: this.#signal });
    await this.#drawn(before);
  }

  /** Something was drawn, and then nothing more: a busy guest may show nothing at all for seconds. */
  async #drawn(before: Buffer): Promise<void> {
    const deadlineMs = performance.now() + DRAWN_TIMEOUT_MS;
    let last = before;
    for (let quiet = 0; quiet < QUIET_LOOKS && performance.now() < deadlineMs; ) {
      await sleep(LOOK_INTERVAL_MS, this.#signal);
      const now = await this.look();
      const begun = differingPixels(before, now) > CARET_PIXELS;
      quiet = begun && differingPixels(last, now) <= CARET_PIXELS ? quiet + 1 : 0;
      last = now;
    }
  }

  /** Writes the screen as a PNG and returns its pixels. */
  async shoot(path: string): Promise<Buffer> {
    const png = await this.#rfb.screenshot({ signal: this.#signal });
    const pixels = Buffer.from(this.#rfb.screen.pixels);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, png);
    return pixels;
  }

  /** The whole screen as it is now. */
  async look(): Promise<Buffer> {
    await this.#rfb.refresh({ signal: this.#signal });
    return Buffer.from(this.#rfb.screen.pixels);
  }

  [Symbol.dispose](): void {
    this.#rfb.close();
  }
}

/** How many pixels differ between two pictures of one size. */
export function differingPixels(a: Buffer, b: Buffer): number {
  if (a.length !== b.length) return Math.max(a.length, b.length) / PIXEL_BYTES;
  let count = 0;
  for (let at = 0; at < a.length; at += PIXEL_BYTES) {
    if (a.readUInt32LE(at) !== b.readUInt32LE(at)) count += 1;
  }
  return count;
}
