import { argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { HASHES_AT_ONCE, HASHES_WAITING_MAX, PASSWORD_MAX_CHARS, PASSWORD_MIN_CHARS } from '../constants.ts';
import { failPortal } from '../errors.ts';

/** OWASP's recommendation for argon2id: 19 MiB, two passes, one lane. */
const PARAMETERS = { memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 } as const;
const SALT_BYTES = 16;
const PHC =
  /^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{8,88})\$([A-Za-z0-9+/]{8,88})$/;

const derive = promisify(argon2);

/** Hashing is dear on purpose; so few are made at once, and who asks for more than that is told. */
class Turns {
  #free = HASHES_AT_ONCE;
  readonly #waiting: (() => void)[] = [];

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else {
      if (this.#waiting.length >= HASHES_WAITING_MAX) throw failPortal('PORTAL_BUSY', 'passwords');
      await new Promise<void>((resolve) => void this.#waiting.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}
const turns = new Turns();

/** @returns a PHC string. @throws AUTH_PASSWORD, PORTAL_BUSY */
export async function hashPassword(password: string): Promise<string> {
  const { length } = password;
  if (length < PASSWORD_MIN_CHARS || length > PASSWORD_MAX_CHARS)
    throw failPortal('AUTH_PASSWORD', `${length} characters`);
  const nonce = randomBytes(SALT_BYTES);
  const hash = await turns.run(() => derive('argon2id', { message: password, nonce, ...PARAMETERS }));
  const { memory, passes, parallelism } = PARAMETERS;
  return `$argon2id$v=19$m=${memory},t=${passes},p=${parallelism}$${b64(nonce)}$${b64(hash)}`;
}

/** Takes as long for an account that is not there (`undefined`) as for a wrong password. @throws PORTAL_BUSY */
export async function verifyPassword(password: string, phc: string | undefined): Promise<boolean> {
  const match = PHC.exec(phc ?? NOBODY);
  if (!match) return false;
  const [, memory, passes, parallelism, salt = '', wanted = ''] = match;
  const tag = Buffer.from(wanted, 'base64');
  const hash = await turns.run(() =>
    derive('argon2id', {
      message: password.slice(0, PASSWORD_MAX_CHARS),
      nonce: Buffer.from(salt, 'base64'),
      memory: Number(memory),
      passes: Number(passes),
      parallelism: Number(parallelism),
      tagLength: tag.length,
    }),
  );
  return timingSafeEqual(hash, tag) && phc !== undefined;
}

const b64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64').replace(/=+$/, '');
const NOBODY = `$argon2id$v=19$m=${PARAMETERS.memory},t=${PARAMETERS.passes},p=${PARAMETERS.parallelism}$${b64(Buffer.alloc(SALT_BYTES))}$${b64(Buffer.alloc(PARAMETERS.tagLength))}`;
