import { open } from 'node:fs/promises';
import { fail } from './errors.ts';

/** Bits of `incompatible_features` (QEMU docs/interop/qcow2.txt). */
const CORRUPT = 1n << 1n;
const EXTERNAL_DATA = 1n << 2n;
const HEADER_BYTES = 104;

/** What QEMU is told explicitly is not looked up in the header; what it is not told, this checks. */
export interface OverlayHeader {
  readonly version: number;
  readonly virtualBytes: number;
  readonly clusterBytes: number;
}

/**
 * Looks at an overlay that came from elsewhere before QEMU uses it. `blockdev-reopen` takes any file: QEMU does not
 * read the header again, and would corrupt guest data with tables of another image. An external data file or
 * encryption would make QEMU open what the image's header names.
 * @throws QEMU_OVERLAY_INVALID
 */
export async function checkOverlay(path: string, virtualBytes: number | undefined): Promise<OverlayHeader> {
  const header = Buffer.alloc(HEADER_BYTES);
  const invalid = (why: string, cause?: unknown) =>
    fail('QEMU_OVERLAY_INVALID', `${path}: ${why}`, { cause, fields: { path } });
  try {
    await using file = await open(path, 'r');
    await file.read(header, 0, HEADER_BYTES, 0);
  } catch (error) {
    throw invalid(error instanceof Error ? error.message : String(error), error);
  }
  const version = header.readUInt32BE(4);
  if (header.toString('latin1', 0, 4) !== 'QFI\u00fb' || (version !== 2 && version !== 3)) {
    throw invalid('this is no qcow2 file');
  }
  const clusterBits = header.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) throw invalid(`clusters of 2^${clusterBits} bytes`);
  if (header.readUInt32BE(32) !== 0) throw invalid('it is encrypted');
  const features = version === 2 ? 0n : header.readBigUInt64BE(72);
  if (features & EXTERNAL_DATA) throw invalid('its data lies in another file');
  if (features & CORRUPT) throw invalid('it is marked as corrupt');
  const found = Number(header.readBigUInt64BE(24));
  if (virtualBytes !== undefined && found !== virtualBytes) {
    throw invalid(`a disk of ${found} bytes instead of ${virtualBytes}`);
  }
  return { version, virtualBytes: found, clusterBytes: 2 ** clusterBits };
}
