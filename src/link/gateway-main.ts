/**
 * The gateway as a process of its own: `node gateway-main.ts '{"host":"0.0.0.0","port":7000,"socketDir":"/run/cloudap/link"}'`.
 * Prints one line `{"ready":true,"port":7000,"pid":...}` when it listens. It survives the agent that started it
 * (start it detached) and ends on SIGTERM or SIGINT; a closed standard output does not end it.
 */
import { z } from 'zod';
import { asCloudapError } from '../base/errors.ts';
import { fail } from './errors.ts';
import { Gateway } from './gateway.ts';

const Config = z.strictObject({
  host: z.string().min(1).default('0.0.0.0'),
  port: z.int().min(0).max(65_535),
  socketDir: z.string().min(1),
  maxConnections: z.int().min(1).optional(),
  preambleTimeoutMs: z.int().min(1).optional(),
});

function config(): z.infer<typeof Config> {
  let json: unknown;
  try {
    json = JSON.parse(process.argv[2] ?? '');
  } catch (cause) {
    throw fail('LINK_CONFIG', 'the gateway takes one argument, a JSON object', { cause });
  }
  const parsed = Config.safeParse(json);
  if (!parsed.success) throw fail('LINK_CONFIG', z.prettifyError(parsed.error));
  return parsed.data;
}

process.stdout.on('error', () => {});
process.stderr.on('error', () => {});
process.on('SIGHUP', () => {});
try {
  const { maxConnections, preambleTimeoutMs, ...rest } = config();
  const gateway = await Gateway.listen({
    ...rest,
    ...(maxConnections === undefined ? {} : { maxConnections }),
    ...(preambleTimeoutMs === undefined ? {} : { preambleTimeoutMs }),
  });
  process.stdout.write(`${JSON.stringify({ ready: true, port: gateway.port, pid: process.pid })}\n`);
  const end = (): void => void gateway[Symbol.asyncDispose]().then(() => process.exit(0));
  process.once('SIGTERM', end);
  process.once('SIGINT', end);
} catch (error) {
  process.stderr.write(`${JSON.stringify(asCloudapError(error))}\n`);
  process.exitCode = 1;
}
