import { connect, type Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { abortable, sleep, withTimeout } from '../../base/async.ts';
import { KEY_DELAY_MS, RFB_CONNECT_TIMEOUT_MS, RFB_REFRESH_TIMEOUT_MS } from './constants.ts';
import { encodeKey, encodePointer, encodeUpdateRequest } from './encode.ts';
import { fail } from './errors.ts';
import type { Framebuffer, Rectangle } from './framebuffer.ts';
import { KEYS, type KeyName, keyOf } from './keys.ts';
import { RfbParser, type ScreenUpdate } from './parser.ts';
import { encodePng } from './png.ts';

export interface WaitOptions {
  /** Gives up with RFB_TIMEOUT after this long. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}
export type UpdateListener = (update: ScreenUpdate, atMs: number) => void;

/** Often enough to notice quiet in time; no server is asked. */
const POLL_MS = 50;

/**
 * The screen, keyboard and pointer of a VM. From `connect` on the framebuffer follows the screen by itself.
 * One session at a time drives a VM; several may look on.
 */
export class RfbSession implements Disposable {
  readonly #socket: Socket;
  readonly #parser: RfbParser;
  readonly #listeners = new Set<UpdateListener>();
  readonly #ended: Promise<never>;
  #end: (error: Error) => void = () => {};
  #failure: Error | undefined;
  #name = '';

  private constructor(socket: Socket, onReady: () => void) {
    this.#socket = socket;
    this.#ended = new Promise<never>((_, reject) => (this.#end = reject));
    this.#ended.catch(() => {});
    this.#parser = new RfbParser({
      reply: (bytes) => socket.write(bytes),
      ready: (name) => {
        this.#name = name;
        this.#request(false);
        onReady();
      },
      update: (update) => {
        const atMs = performance.now();
        for (const listener of this.#listeners) listener(update, atMs);
        // A new size means new, unknown contents.
        this.#request(!update.resized);
      },
    });
    socket.on('data', (data) => {
      try {
        this.#parser.push(data);
      } catch (error) {
        this.#fail(error as Error);
      }
    });
    socket.on('error', (cause) => this.#fail(fail('RFB_CLOSED', cause.message, { cause })));
    socket.on('close', () => this.#fail(fail('RFB_CLOSED')));
  }

  /**
   * Connects to the Unix socket of QEMU's `-vnc unix:PATH` and shakes hands.
   * @throws RFB_CONNECT, RFB_REFUSED, RFB_SECURITY, RFB_PROTOCOL, RFB_LIMIT
   */
  static async connect(path: string, options: Partial<WaitOptions> = {}): Promise<RfbSession> {
    const { signal, timeoutMs = RFB_CONNECT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    const socket = connect(path);
    let onReady: () => void = () => {};
    const ready = new Promise<void>((resolve) => (onReady = resolve));
    const session = new RfbSession(socket, onReady);
    let connected = false;
    socket.once('connect', () => (connected = true));
    try {
      const shaken = withTimeout(Promise.race([ready, session.#ended]), timeoutMs, () =>
        fail('RFB_CONNECT', `no answer on ${path} for ${timeoutMs} ms`),
      );
      await abortable(shaken, signal);
      return session;
    } catch (cause) {
      session.close();
      if (connected || signal?.aborted) throw cause;
      throw fail('RFB_CONNECT', path, { cause });
    }
  }

  /** What the server calls the desktop. */
  get name(): string {
    return this.#name;
  }

  /** The live screen. */
  get screen(): Framebuffer {
    return this.#parser.framebuffer;
  }

  /** Calls `listener` for every update, until the returned function is called. */
  onUpdate(listener: UpdateListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #fail(error: Error): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#socket.destroy();
    this.#end(error);
  }

  #request(incremental: boolean): void {
    this.#socket.write(encodeUpdateRequest(incremental, this.screen.width, this.screen.height));
  }

  #send(bytes: Buffer): void {
    if (this.#failure) throw this.#failure;
    this.#socket.write(bytes);
  }

  /** Asks for the whole screen and waits until it has come. @throws RFB_TIMEOUT, RFB_CLOSED */
  async refresh({ timeoutMs = RFB_REFRESH_TIMEOUT_MS, signal }: Partial<WaitOptions> = {}): Promise<void> {
    let covered = 0;
    const done = this.#when({ timeoutMs, signal }, 'the whole screen', (update) => {
      covered = update.resized ? 0 : covered + update.pixels;
      return covered >= this.screen.width * this.screen.height;
    });
    this.#request(false);
    await done;
  }

  /** The screen as a PNG, after a refresh. @throws RFB_TIMEOUT, RFB_CLOSED */
  async screenshot(options: Partial<WaitOptions> = {}): Promise<Buffer> {
    await this.refresh(options);
    return encodePng(this.screen.width, this.screen.height, Buffer.from(this.screen.pixels));
  }

  /** Presses and releases a key. */
  tap(key: KeyName): void {
    this.#send(encodeKey(KEYS[key], true));
    this.#send(encodeKey(KEYS[key], false));
  }

  /** Types printable ASCII, tabs and line feeds, holding Shift where a US keyboard needs it. @throws RFB_KEY before anything is typed */
  async type(text: string, options: { delayMs?: number; signal?: AbortSignal } = {}): Promise<void> {
    const keys = Array.from(text, keyOf);
    for (const { keysym, shift } of keys) {
      if (shift) this.#send(encodeKey(KEYS.Shift, true));
      this.#send(encodeKey(keysym, true));
      this.#send(encodeKey(keysym, false));
      if (shift) this.#send(encodeKey(KEYS.Shift, false));
      await sleep(options.delayMs ?? KEY_DELAY_MS, options.signal);
    }
  }

  /** Moves the pointer. Needs a tablet in the VM, else positions mean nothing. */
  move(x: number, y: number): void {
    this.#send(encodePointer(x, y, 0));
  }

  /** Moves there and clicks with the left button. */
  async click(x: number, y: number, signal?: AbortSignal): Promise<void> {
    this.move(x, y);
    await sleep(2 * KEY_DELAY_MS, signal);
    this.#send(encodePointer(x, y, 1));
    await sleep(4 * KEY_DELAY_MS, signal);
    this.move(x, y);
  }

  /** The time (performance.now) of the first update that changes a pixel of `area`. @throws RFB_TIMEOUT, RFB_CLOSED */
  waitChange(options: WaitOptions & { readonly area?: Rectangle }): Promise<number> {
    const { area } = options;
    return this.#when(options, 'a change', ({ rectangles, resized }) => {
      if (resized) return true;
      return rectangles.some((rectangle) => rectangle.changed && (!area || overlap(rectangle, area)));
    });
  }

  /**
   * Waits until no update changed `updatePixels` or more (1: anything at all) for `quietMs`.
   * @throws RFB_TIMEOUT, RFB_CLOSED
   */
  async waitStable(
    options: WaitOptions & { readonly quietMs: number; readonly updatePixels?: number },
  ): Promise<void> {
    await this.#quiet(options, 'a quiet screen', () => true);
  }

  /**
   * Waits until an application fills the screen: it has the given size, so much of it is lit, and it is quiet.
   * @throws RFB_TIMEOUT, RFB_CLOSED
   */
  async waitReady(
    options: WaitOptions & {
      readonly screen: { readonly width: number; readonly height: number };
      readonly litPercent: number;
      readonly updatePixels: number;
      readonly quietMs: number;
    },
  ): Promise<void> {
    const { width, height } = options.screen;
    await this.#quiet(options, 'the application', () => {
      if (this.screen.width !== width || this.screen.height !== height) return false;
      return this.screen.litPercent() >= options.litPercent;
    });
  }

  async #quiet(
    options: WaitOptions & { readonly quietMs: number; readonly updatePixels?: number },
    what: string,
    accept: () => boolean,
  ): Promise<void> {
    let lastMs = performance.now();
    const deadlineMs = lastMs + options.timeoutMs;
    const stop = this.onUpdate((update, atMs) => {
      if (update.resized || update.changedPixels >= (options.updatePixels ?? 1)) lastMs = atMs;
    });
    try {
      for (;;) {
        const now = performance.now();
        // Half an update must not be judged; its end will count as activity.
        if (!this.#parser.updating && now - lastMs >= options.quietMs && accept()) return;
        if (now >= deadlineMs) throw fail('RFB_TIMEOUT', `${what}, ${options.timeoutMs} ms`);
        await Promise.race([sleep(POLL_MS, options.signal), this.#ended]);
      }
    } finally {
      stop();
    }
  }

  async #when(options: WaitOptions, what: string, test: (update: ScreenUpdate) => boolean): Promise<number> {
    if (this.#failure) throw this.#failure;
    options.signal?.throwIfAborted();
    let stop = () => {};
    const seen = new Promise<number>((resolve) => {
      stop = this.onUpdate((update, atMs) => {
        if (test(update)) resolve(atMs);
      });
    });
    try {
      const timeout = () => fail('RFB_TIMEOUT', `${what}, ${options.timeoutMs} ms`);
      return await abortable(
        withTimeout(Promise.race([seen, this.#ended]), options.timeoutMs, timeout),
        options.signal,
      );
    } finally {
      stop();
    }
  }

  close(): void {
    this.#fail(fail('RFB_CLOSED', 'closed on this side'));
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function overlap(a: Rectangle, b: Rectangle): boolean {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}
