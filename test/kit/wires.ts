import type { HostSettings } from '../../src/center/setup/node-files.ts';
import { Emulator } from '../../src/link/emulator.ts';
import { parseAddress } from '../../src/site/config-text.ts';

/** The wires to the gateways of a system's hosts: what is sent between hosts passes one of them, and each can be cut. */
export class Wires implements AsyncDisposable {
  readonly #emulators: Emulator[] = [];

  /** For `SystemPlan`: other hosts reach this one over a wire of ours. */
  readonly host = async (_id: string, listen: string): Promise<Partial<HostSettings>> => {
    const forward = parseAddress(listen);
    if (!forward) throw new Error(listen);
    const emulator = await Emulator.listen({ listen: { host: '127.0.0.1', port: 0 }, forward });
    this.#emulators.push(emulator);
    const { address } = emulator;
    return 'port' in address ? { advertise: `${address.host}:${address.port}` } : {};
  };

  /** The line is dead: nothing passes, nothing ends. */
  cut(): void {
    for (const emulator of this.#emulators) emulator.cut();
  }

  restore(): void {
    for (const emulator of this.#emulators) emulator.restore();
  }

  /** Every connection is reset; new ones work. */
  drop(): void {
    for (const emulator of this.#emulators) emulator.drop();
  }

  get bytes(): number {
    return this.#emulators.reduce((sum, emulator) => {
      const { bytesUp, bytesDown } = emulator.stats();
      return sum + bytesUp + bytesDown;
    }, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#emulators.map((emulator) => emulator[Symbol.asyncDispose]()));
  }
}
