import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { run as runProgram } from '../../base/process.ts';
import { Hook } from './hook.ts';
import { macOf, type PresenceSource, type Report } from './source.ts';

export interface HostapdOptions {
  /** Where the script goes that hostapd_cli calls. */
  readonly dir: string;
  /** Its interface, and the directory of its control sockets. */
  readonly interface: string;
  readonly control: string;
  readonly program?: string;
}

/**
 * Stations of hostapd: `hostapd_cli -a` calls a script with the interface, the event and the station. (It speaks to hostapd
 * over Unix datagram sockets, which Node does not have.)
 */
export function hostapdSource(options: HostapdOptions): PresenceSource {
  const { dir, interface: device, control, program = 'hostapd_cli' } = options;
  const where = ['-p', control, '-i', device];
  return {
    name: 'hostapd',
    async run(report, signal) {
      await using hook = await Hook.make(dir, `hostapd-${device}`);
      const ended = new AbortController();
      const either = AbortSignal.any([signal, ended.signal]);
      const child = spawn(program, [...where, '-a', hook.script], { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-500);
      });
      const exit = once(child, 'exit').finally(() => ended.abort());
      exit.catch(() => {});
      try {
        await once(child, 'spawn');
        await reportStations(program, where, report);
        for await (const [at, event = '', mac = ''] of hook.calls(either)) {
          const station = macOf(mac);
          const kind = kinds[event];
          if (at === device && station && kind) report({ device: station, kind });
        }
        if (!signal.aborted) throw new Error(`${program} ended: ${said.trim() || 'is hostapd running?'}`);
      } finally {
        child.kill();
        await exit.catch(() => {});
      }
    },
  };
}

const kinds: Readonly<Record<string, 'arrive' | 'leave'>> = {
  'AP-STA-CONNECTED': 'arrive',
  'AP-STA-DISCONNECTED': 'leave',
};

/** `all_sta` prints each station's MAC on a line of its own, then what is known of it as `key=value`. */
async function reportStations(program: string, where: readonly string[], report: Report): Promise<void> {
  const { stdout } = await runProgram(program, [...where, 'all_sta']);
  let station: string | undefined;
  let authorised = false;
  let signalDbm: number | undefined;
  const flush = (): void => {
    if (station && authorised)
      report({ device: station, kind: 'arrive', ...(signalDbm === undefined ? {} : { signalDbm }) });
  };
  for (const line of stdout.split('\n')) {
    const mac = macOf(line.trim());
    if (mac) {
      flush();
      [station, authorised, signalDbm] = [mac, false, undefined];
    } else if (line.startsWith('flags=')) authorised = line.includes('[AUTHORIZED]');
    else if (/^signal=-\d{1,3}$/.test(line)) signalDbm = Number(line.slice('signal='.length));
  }
  flush();
}
