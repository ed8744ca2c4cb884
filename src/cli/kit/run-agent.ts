import { pino, type Logger } from 'pino';
import type { CliContext } from './context.ts';

/** A signal while an agent starts ends it as soon as it has started: half a start is no state to leave. */
export function signalled(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}

/** `agent.log` in the agent's data directory, JSON lines. */
export function agentLog(context: CliContext, base: Record<string, string>, dataDir: string): Logger {
  return pino(
    { base, level: context.env.CLOUDAP_LOG ?? 'info' },
    pino.destination({ dest: `${dataDir}/agent.log`, append: true, mode: 0o600, sync: true }),
  );
}
