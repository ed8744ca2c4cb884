import { NBD_ERRNO, type NbdErrnoName } from '../wire/nbd/constants.ts';
import type { NbdExtent } from '../wire/nbd/frames.ts';

/**
 * What an export serves. Each method may answer at once or with a promise; what is answered at once costs no trip
 * through the event loop, so a backend that has the bytes in memory or in the page cache should not return a promise.
 * Ranges are checked before a method is called: they lie inside the export, and lengths are above zero.
 *
 * A method fails by throwing or rejecting; a `code` property such as `ENOSPC` becomes the NBD error number, anything
 * else EIO. `signal` aborts when the client has gone; nobody reads the answer then.
 */
export interface NbdBackend {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Requests must be multiples of it (a power of two up to 64 KiB); 1 unless given. */
  readonly minimumBlockBytes?: number;
  /** What the client should use (a power of two); 4096 unless given. */
  readonly preferredBlockBytes?: number;
  /** Exactly `lengthBytes` bytes. They must not change until the client has them; hand out a copy of what may. */
  read(offset: number, lengthBytes: number, signal: AbortSignal): Buffer | Promise<Buffer>;
  /** `data` may share memory with the socket's buffer; copy it to keep it beyond the answer. */
  write?(offset: number, data: Buffer, signal: AbortSignal): void | Promise<void>;
  /** Makes everything answered so far durable. With it FLUSH and FUA are offered. */
  flush?(signal: AbortSignal): void | Promise<void>;
  /** The range is no longer needed; doing nothing is allowed. */
  trim?(offset: number, lengthBytes: number, signal: AbortSignal): void | Promise<void>;
  /** Must read back as zeroes; with `mayTrim` false the space must stay allocated. */
  writeZeroes?(
    offset: number,
    lengthBytes: number,
    mayTrim: boolean,
    signal: AbortSignal,
  ): void | Promise<void>;
  /**
   * Status for `base:allocation` (`ALLOCATION` flags): consecutive from `offset` on, at least one extent; it may end
   * before or behind the range.
   */
  extents?(
    offset: number,
    lengthBytes: number,
    signal: AbortSignal,
  ): readonly NbdExtent[] | Promise<readonly NbdExtent[]>;
}

const ERRNO_OF_CODE: Readonly<Record<string, NbdErrnoName>> = {
  EACCES: 'EPERM',
  EROFS: 'EPERM',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  EOPNOTSUPP: 'ENOTSUP',
};

/** The NBD error number of whatever a backend threw: by its `code`, else EIO. */
export function errnoOf(error: unknown): number {
  const code = (error as { code?: unknown } | null)?.code;
  if (typeof code !== 'string') return NBD_ERRNO.EIO;
  const name = ERRNO_OF_CODE[code] ?? code;
  return Object.hasOwn(NBD_ERRNO, name) ? NBD_ERRNO[name as NbdErrnoName] : NBD_ERRNO.EIO;
}
