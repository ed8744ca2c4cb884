/**
 * The CONFIGURATION section (migration/savevm.c): the machine's name, then subsections without a length of their own.
 * Both functions return the length of the record at `buf[pos, end)`; minus the number of bytes they must see to go on; or,
 * as text, why the record is not understood.
 */
import { CAPABILITIES_MAX, MACHINE_NAME_MAX_BYTES, PAGE_BITS } from './constants.ts';

/** u8 7, u32 length, machine name. */
export function machineLength(buf: Buffer, pos: number, end: number): number | string {
  if (end - pos < 5) return -5;
  const nameLength = buf.readUInt32BE(pos + 1);
  if (nameLength > MACHINE_NAME_MAX_BYTES) return 'machine name too long';
  const need = 5 + nameLength;
  return end - pos < need ? -need : need;
}

/** u8 5, u8 + name, u32 version, and the fields of one of the three subsections that QEMU has. */
export function subsectionLength(buf: Buffer, pos: number, end: number): number | string {
  if (end - pos < 2) return -2;
  const head = 2 + buf.readUInt8(pos + 1) + 4;
  if (end - pos < head) return -head;
  const name = buf.toString('latin1', pos + 2, pos + head - 4);
  let need = head;
  if (name === 'configuration/target-page-bits') {
    need += 4;
    if (end - pos < need) return -need;
    const bits = buf.readUInt32BE(pos + head);
    if (bits !== PAGE_BITS) return `pages of 2^${bits} bytes`;
  } else if (name === 'configuration/uuid') {
    need += 16;
  } else if (name === 'configuration/capabilities') {
    need += 4;
    if (end - pos < need) return -need;
    const count = buf.readUInt32BE(pos + head);
    if (count > CAPABILITIES_MAX) return 'too many capabilities';
    for (let i = 0; i < count; i++) {
      if (end - pos < need + 1) return -(need + 1);
      need += 1 + buf.readUInt8(pos + need);
    }
  } else {
    return `subsection "${name}"`;
  }
  return end - pos < need ? -need : need;
}
