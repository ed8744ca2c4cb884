/*
 * Client messages of RFB 3.8 (RFC 6143, 7.5). All numbers are big endian.
 *
 *   0 SetPixelFormat            0 pad3 | format16
 *   2 SetEncodings              2 pad1 | count u16 | encoding i32 ...
 *   3 FramebufferUpdateRequest  3 | incremental u8 | x y width height u16
 *   4 KeyEvent                  4 | down u8 | pad2 | keysym u32
 *   5 PointerEvent              5 | buttons u8 | x y u16
 */
export const ENCODING_RAW = 0;
export const ENCODING_DESKTOP_SIZE = -223;
export const CLIENT_VERSION = Buffer.from('RFB 003.008\n', 'latin1');
export const SECURITY_NONE = 1;

/** 32 bits a pixel, depth 24, little endian, true colour: bytes in memory are blue, green, red, unused. */
export function encodePixelFormat(): Buffer {
  const message = Buffer.alloc(20);
  message.set([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0], 4);
  return message;
}

export function encodeEncodings(encodings: readonly number[]): Buffer {
  const message = Buffer.alloc(4 + 4 * encodings.length);
  message[0] = 2;
  message.writeUInt16BE(encodings.length, 2);
  encodings.forEach((encoding, i) => message.writeInt32BE(encoding, 4 + 4 * i));
  return message;
}

export function encodeUpdateRequest(incremental: boolean, width: number, height: number): Buffer {
  const message = Buffer.alloc(10);
  message[0] = 3;
  message[1] = incremental ? 1 : 0;
  message.writeUInt16BE(width, 6);
  message.writeUInt16BE(height, 8);
  return message;
}

export function encodeKey(keysym: number, down: boolean): Buffer {
  const message = Buffer.alloc(8);
  message[0] = 4;
  message[1] = down ? 1 : 0;
  message.writeUInt32BE(keysym, 4);
  return message;
}

/** @param buttons bit 0 is the left button, 1 the middle, 2 the right */
export function encodePointer(x: number, y: number, buttons: number): Buffer {
  const message = Buffer.alloc(6);
  message[0] = 5;
  message[1] = buttons;
  message.writeUInt16BE(x, 2);
  message.writeUInt16BE(y, 4);
  return message;
}
