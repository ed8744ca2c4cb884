/**
 * What a connection says to a site's gateway before TLS begins, and the one byte that it answers.
 *
 *   dialler:  magic u32 `CAPG` | version u8 | length u8 | route name (1..64 of a-z 0-9 -)
 *   gateway:  status u8: 0x01 spliced to the route from here on; anything else: refused, and the connection is closed
 *
 * Nothing in it is secret or trusted: the process behind the route checks certificates. A new layout gets a new version.
 */
import { MAX_ROUTE_BYTES, PREAMBLE_MAGIC, PREAMBLE_VERSION } from './constants.ts';
import { fail } from './errors.ts';

export const GATEWAY_STATUS = { OK: 1, BAD_PREAMBLE: 2, NO_ROUTE: 3, BUSY: 4 } as const;

const ROUTE = /^[a-z0-9-]{1,64}$/;
const FIXED_BYTES = 6;
export const MAX_PREAMBLE_BYTES = FIXED_BYTES + MAX_ROUTE_BYTES;

/** @throws LINK_BAD_ARGUMENT */
export function encodePreamble(route: string): Buffer {
  if (!ROUTE.test(route)) throw fail('LINK_BAD_ARGUMENT', `route ${JSON.stringify(route)}`);
  const buffer = Buffer.alloc(FIXED_BYTES + route.length);
  buffer.writeUInt32BE(PREAMBLE_MAGIC, 0);
  buffer[4] = PREAMBLE_VERSION;
  buffer[5] = route.length;
  buffer.write(route, FIXED_BYTES, 'latin1');
  return buffer;
}

/**
 * Reads a preamble from the bytes received so far: undefined while it is incomplete, else the route and what follows it.
 * @throws LINK_BAD_PREAMBLE as soon as it is clear that this is none
 */
export function parsePreamble(bytes: Buffer): { route: string; rest: Buffer } | undefined {
  const magic = Buffer.alloc(4);
  magic.writeUInt32BE(PREAMBLE_MAGIC, 0);
  const known = Math.min(4, bytes.length);
  if (bytes.compare(magic, 0, known, 0, known) !== 0) throw fail('LINK_BAD_PREAMBLE', 'wrong magic');
  const version = bytes[4];
  if (version !== undefined && version !== PREAMBLE_VERSION)
    throw fail('LINK_BAD_PREAMBLE', `version ${version}`);
  const length = bytes[5];
  if (length === undefined) return undefined;
  if (length === 0 || length > MAX_ROUTE_BYTES) throw fail('LINK_BAD_PREAMBLE', `route of ${length} bytes`);
  if (bytes.length < FIXED_BYTES + length) return undefined;
  const route = bytes.toString('latin1', FIXED_BYTES, FIXED_BYTES + length);
  if (!ROUTE.test(route)) throw fail('LINK_BAD_PREAMBLE', 'route with other characters than a-z 0-9 -');
  return { route, rest: bytes.subarray(FIXED_BYTES + length) };
}
