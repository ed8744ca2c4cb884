import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { formatLinkSpec, type LinkSpec } from '../link/link-spec.ts';
import { LabChild } from './child.ts';
import { failLab } from './errors.ts';
import { freePort } from './free-port.ts';
import type { HostPort, LabSide, Wan, WanBytes } from './wan.ts';

const EMULATOR = fileURLToPath(new URL('../link/emulator-main.ts', import.meta.url));
const HOST = '127.0.0.1';
const addressSchema = z.object({ address: z.object({ host: z.string(), port: z.number() }) });
const statsSchema = z.object({ bytesUp: z.number(), bytesDown: z.number() });

/** The link emulator in a process of its own, between ports of this machine; needs no privileges. */
export class EmulatedWan implements Wan {
  readonly prefix = { center: [], ap: [] };
  readonly #emulator: LabChild;

  private constructor(emulator: LabChild) {
    this.#emulator = emulator;
  }

  /** @throws LAB_START */
  static async start(link: LinkSpec): Promise<EmulatedWan> {
    // a first way that nobody uses; the others are made when they are asked for
    const nowhere = { host: HOST, port: await freePort() };
    const config = { listen: { host: HOST, port: 0 }, forward: nowhere, link: formatLinkSpec(link) };
    return new EmulatedWan(await LabChild.start([EMULATOR, JSON.stringify(config)]));
  }

  listenHost(): string {
    return HOST;
  }

  freePort(): Promise<number> {
    return freePort();
  }

  async reach(side: LabSide, port: number): Promise<HostPort> {
    const answer = await this.command(`forward ${port}${side === 'center' ? '' : ' reversed'}`);
    const parsed = addressSchema.safeParse(answer);
    if (!parsed.success) throw failLab('LAB_START', JSON.stringify(answer));
    return parsed.data.address;
  }

  async bytes(): Promise<WanBytes> {
    const { bytesUp, bytesDown } = statsSchema.parse(await this.command('stats'));
    return { towardsCenter: bytesUp, towardsAp: bytesDown };
  }

  command(line: string): Promise<unknown> {
    return this.#emulator.ask(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#emulator[Symbol.asyncDispose]();
  }
}
