import { errors } from '@nats-io/transport-node';
import { STORE_ATTEMPTS } from './constants.ts';
import { failControl } from './errors.ts';

/** Tries again what got no answer: a server that was restarted, a connection that was lost. @throws CONTROL_UNREACHABLE */
export async function persist<T>(what: string, work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      const lost = error instanceof errors.TimeoutError || error instanceof errors.RequestError;
      if (lost && attempt < STORE_ATTEMPTS) continue;
      if (lost || error instanceof errors.ClosedConnectionError || error instanceof errors.ConnectionError)
        throw failControl('CONTROL_UNREACHABLE', what, { cause: error });
      throw error;
    }
  }
}
