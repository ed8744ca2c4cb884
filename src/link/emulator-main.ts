/**
 * The emulator as a process of its own, so that it does not share an event loop with what is measured:
 * `node emulator-main.ts '{"listen":{"host":"127.0.0.1","port":0},"forward":{"host":"127.0.0.1","port":7000},"link":"rate=100mbit,rtt=10ms"}'`
 *
 * Prints `{"ready":true,"address":...}`. Each line on standard input is a command, answered by one line of JSON:
 * `cut`, `restore`, `drop`, `rate 50` (Mbit/s) or `rate unlimited`, `delay RTT_MS [JITTER_MS]`, `stats`,
 * `forward PORT [reversed]` (a further way onto the same link, to that port of this machine; `reversed` is dialled
 * from the link's other end; the answer names its `address`).
 * Ends when standard input ends, or on SIGTERM.
 */
import { createInterface } from 'node:readline';
import { z } from 'zod';
import { asCloudapError } from '../base/errors.ts';
import { Emulator } from './emulator.ts';
import { fail } from './errors.ts';
import { parseLinkSpec } from './link-spec.ts';

const Address = z.union([
  z.strictObject({ host: z.string(), port: z.int().min(0).max(65_535) }),
  z.strictObject({ path: z.string() }),
]);
const Config = z.strictObject({
  listen: Address,
  forward: Address,
  link: z.string(),
  queueBytes: z.int().min(1).optional(),
});

async function command(emulator: Emulator, line: string): Promise<object> {
  const [word = '', ...args] = line.trim().split(/\s+/);
  const numbers = args.map(Number);
  const [first = Number.NaN, second = 0] = numbers;
  switch (word) {
    case 'cut':
      emulator.cut();
      return {};
    case 'restore':
      emulator.restore();
      return {};
    case 'drop':
      emulator.drop();
      return {};
    case 'stats':
      return emulator.stats();
    case 'rate':
      if (args[0] === 'unlimited') emulator.setRate(undefined);
      else if (first > 0) emulator.setRate(first);
      else throw fail('LINK_SPEC', line);
      return {};
    case 'delay':
      if (!(first >= 0 && second >= 0)) throw fail('LINK_SPEC', line);
      emulator.setDelay(first, second);
      return {};
    case 'forward': {
      if (!(Number.isInteger(first) && first > 0 && first <= 65_535)) throw fail('LINK_SPEC', line);
      const host = '127.0.0.1';
      const forward = { host, port: first };
      return { address: await emulator.addForward({ host, port: 0 }, forward, args[1] === 'reversed') };
    }
    default:
      throw fail(
        'LINK_SPEC',
        `${JSON.stringify(word)} is none of cut, restore, drop, rate, delay, forward, stats`,
      );
  }
}

const say = (message: object): boolean => process.stdout.write(`${JSON.stringify(message)}\n`);
process.stdout.on('error', () => {});
try {
  const parsed = Config.safeParse(JSON.parse(process.argv[2] ?? ''));
  if (!parsed.success) throw fail('LINK_CONFIG', z.prettifyError(parsed.error));
  const { listen, forward, link, queueBytes } = parsed.data;
  const spec = parseLinkSpec(link);
  const emulator = await Emulator.listen({
    listen,
    forward,
    ...spec,
    rateMbit: spec.rateMbit,
    ...(queueBytes === undefined ? {} : { queueBytes }),
  });
  say({ ready: true, address: emulator.address, pid: process.pid });
  const end = (): void => void emulator[Symbol.asyncDispose]().then(() => process.exit(0));
  process.once('SIGTERM', end);
  const lines = createInterface({ input: process.stdin });
  lines.on('close', end);
  // answers come in the order of the commands
  let answered: Promise<unknown> = Promise.resolve();
  lines.on('line', (line) => {
    answered = answered
      .then(() => command(emulator, line))
      .then(
        (answer) => say({ ok: true, ...answer }),
        (error: unknown) => say({ ok: false, error: asCloudapError(error) }),
      );
  });
} catch (error) {
  process.stderr.write(`${JSON.stringify(asCloudapError(error))}\n`);
  process.exitCode = 1;
}
