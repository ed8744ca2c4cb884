import { readFile } from 'node:fs/promises';
import { processAlive } from '../base/process.ts';
import { run } from '../base/process.ts';
import { formatLinkSpec, type LinkSpec } from '../link/link-spec.ts';
import { failLab } from './errors.ts';
import type { HostPort, LabSide, Wan, WanBytes } from './wan.ts';

const ADDRESSES = { center: '10.77.0.1', ap: '10.77.0.2' } as const;
const DEVICE = 'wan0';
const PREFIX = 'cloudap-lab-';
const FIRST_PORT = 17_400;
/** As `tbf` wants it: at least rate / HZ; and what a router in front of such a line may hold. */
const BURST = '64kb';
const LATENCY = '50ms';

/**
 * Two network namespaces joined by a veth pair, each end limited by the kernel's token bucket filter (tc-tbf(8)):
 * real TCP, a rate and a queue of 50 ms, no emulator in user space. Delay only where the kernel has netem. Needs root.
 */
export class NetnsWan implements Wan {
  readonly prefix: Readonly<Record<LabSide, readonly string[]>>;
  readonly #names: Readonly<Record<LabSide, string>>;
  #nextPort = FIRST_PORT;

  private constructor(names: Readonly<Record<LabSide, string>>) {
    this.#names = names;
    const into = (side: LabSide): string[] => ['ip', 'netns', 'exec', names[side]];
    this.prefix = { center: into('center'), ap: into('ap') };
  }

  /** Removes first what runs that were killed have left. @throws LAB_NETNS */
  static async start(link: LinkSpec): Promise<NetnsWan> {
    const names = { center: `${PREFIX}${process.pid}-c`, ap: `${PREFIX}${process.pid}-a` };
    const wan = new NetnsWan(names);
    if (link.rateMbit === undefined || link.jitterMs > 0) {
      throw failLab('LAB_NETNS', `${formatLinkSpec(link)}: a rate is needed, and jitter cannot be had`);
    }
    try {
      await removeLeftovers();
      for (const name of Object.values(names)) await run('ip', ['netns', 'add', name]);
      const far = ['peer', 'name', DEVICE, 'netns', names.ap];
      await run('ip', ['link', 'add', DEVICE, 'netns', names.center, 'type', 'veth', ...far]);
      for (const side of ['center', 'ap'] as const) {
        const ip = (...args: string[]) => run('ip', ['-n', names[side], ...args]);
        await ip('addr', 'add', `${ADDRESSES[side]}/24`, 'dev', DEVICE);
        await ip('link', 'set', 'lo', 'up');
        await ip('link', 'set', DEVICE, 'up');
        await shape(names[side], link);
      }
    } catch (cause) {
      await wan[Symbol.asyncDispose]();
      throw failLab('LAB_NETNS', cause instanceof Error ? cause.message : '', { cause });
    }
    return wan;
  }

  listenHost(side: LabSide): string {
    return ADDRESSES[side];
  }

  /** Nobody else listens in there. */
  freePort(): Promise<number> {
    this.#nextPort += 1;
    return Promise.resolve(this.#nextPort);
  }

  reach(side: LabSide, port: number): Promise<HostPort> {
    return Promise.resolve({ host: ADDRESSES[side], port });
  }

  /** Bytes of packets, headers included. */
  async bytes(): Promise<WanBytes> {
    const sent = async (side: LabSide): Promise<number> => {
      const { stdout } = await run('ip', [
        '-n',
        this.#names[side],
        '-s',
        '-json',
        'link',
        'show',
        'dev',
        DEVICE,
      ]);
      const [device] = JSON.parse(stdout) as [{ stats64: { tx: { bytes: number } } }];
      return device.stats64.tx.bytes;
    };
    return { towardsAp: await sent('center'), towardsCenter: await sent('ap') };
  }

  async command(line: string): Promise<unknown> {
    if (line === 'stats') return this.bytes();
    const state = { cut: 'down', restore: 'up' }[line];
    if (state === undefined) throw failLab('LAB_NETNS', `no command ${line}`);
    await run('ip', ['-n', this.#names.center, 'link', 'set', DEVICE, state]);
    return { ok: true };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of Object.values(this.#names)) await remove(name);
  }
}

async function shape(name: string, link: LinkSpec): Promise<void> {
  const tc = (...args: string[]) => run('tc', ['-n', name, 'qdisc', 'add', 'dev', DEVICE, ...args]);
  await tc('root', 'handle', '1:', 'tbf', 'rate', `${link.rateMbit}mbit`, 'burst', BURST, 'latency', LATENCY);
  if (link.rttMs > 0) await tc('parent', '1:', 'netem', 'delay', `${link.rttMs / 2}ms`);
}

async function removeLeftovers(): Promise<void> {
  const { stdout } = await run('ip', ['netns', 'list']);
  for (const line of stdout.split('\n')) {
    const [name = ''] = line.split(' ');
    const pid = Number(/^cloudap-lab-(\d+)-/.exec(name)?.[1]);
    if (pid > 0 && !processAlive(pid)) await remove(name);
  }
}

/** Ends what still runs in it, by pid, then removes it; the veth pair goes with it. */
async function remove(name: string): Promise<void> {
  const pids = await run('ip', ['netns', 'pids', name]).catch(() => ({ stdout: '' }));
  for (const pid of pids.stdout.split('\n').map(Number).filter(Boolean)) {
    if (await isOurs(pid)) process.kill(pid, 'SIGKILL');
  }
  await run('ip', ['netns', 'delete', name]).catch(() => {});
}

/** Only programs that a lab starts. */
async function isOurs(pid: number): Promise<boolean> {
  const command = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  return /^(node|MainThread|qemu-system|ip)/.test(command);
}
