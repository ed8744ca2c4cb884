import {
  DATA_HEADER_BYTES,
  HELLO_MAGIC,
  INSTANCE_BYTES,
  MAX_CLOSE_CODE_BYTES,
  MAX_CLOSE_TEXT_BYTES,
  MAX_FRAGMENT_BYTES,
  MAX_MESSAGE_BYTES,
  MAX_SESSION_ID_BYTES,
  MAX_SITE_ID_BYTES,
  PREFIX_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';
import { type ControlFrame, type DataHeader, type HelloFrame, KIND, LANE_NUMBER } from './frames.ts';

const TWO_32 = 2 ** 32;

function writeUint53(buffer: Buffer, value: number, at: number): void {
  if (!Number.isSafeInteger(value) || value < 0) throw fail('LINK_BAD_ARGUMENT', `${value} is not a counter`);
  buffer.writeUInt32BE(Math.floor(value / TWO_32), at);
  buffer.writeUInt32BE(value % TWO_32, at + 4);
}

function frame(kind: number, type: number, bodyBytes: number): Buffer {
  const buffer = Buffer.alloc(PREFIX_BYTES + bodyBytes);
  buffer[0] = kind;
  buffer[1] = type;
  buffer.writeUInt32BE(bodyBytes, 4);
  return buffer;
}

/** The first DATA_HEADER_BYTES of a DATA frame; the piece of the message follows it on the wire. @throws LINK_BAD_ARGUMENT, LINK_MESSAGE_TOO_LARGE */
export function encodeDataHeader(header: DataHeader): Buffer {
  const { seq, type, totalBytes, offsetBytes, pieceBytes } = header;
  if (totalBytes > MAX_MESSAGE_BYTES) {
    throw fail('LINK_MESSAGE_TOO_LARGE', `${totalBytes} bytes`, { fields: { totalBytes } });
  }
  if (!Number.isInteger(type) || type < 1 || type > 255) throw fail('LINK_BAD_ARGUMENT', `type ${type}`);
  if (pieceBytes > MAX_FRAGMENT_BYTES || offsetBytes + pieceBytes > totalBytes) {
    throw fail('LINK_BAD_ARGUMENT', `piece of ${pieceBytes} bytes at ${offsetBytes} of ${totalBytes}`);
  }
  const buffer = Buffer.allocUnsafe(DATA_HEADER_BYTES);
  buffer.writeUInt32BE(((KIND.DATA << 24) | (type << 16)) >>> 0, 0);
  buffer.writeUInt32BE(DATA_HEADER_BYTES - PREFIX_BYTES + pieceBytes, 4);
  writeUint53(buffer, seq, 8);
  buffer.writeUInt32BE(totalBytes, 16);
  buffer.writeUInt32BE(offsetBytes, 20);
  return buffer;
}

function ascii(text: string, limitBytes: number, what: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (!/^[\x21-\x7e]*$/.test(text) || bytes.length > limitBytes) {
    throw fail('LINK_BAD_ARGUMENT', `${what} must be at most ${limitBytes} printable ASCII characters`);
  }
  return bytes;
}

function encodeHello(hello: HelloFrame): Buffer {
  const session = ascii(hello.sessionId, MAX_SESSION_ID_BYTES, 'session id');
  const site = ascii(hello.siteId, MAX_SITE_ID_BYTES, 'site id');
  const fixed = 8 + 2 * INSTANCE_BYTES + 12;
  const buffer = frame(KIND.HELLO, 0, fixed + 2 + session.length + site.length);
  let at = buffer.writeUInt32BE(HELLO_MAGIC, PREFIX_BYTES);
  at = buffer.writeUInt16BE(hello.version, at);
  at = buffer.writeUInt8(LANE_NUMBER[hello.lane], at) + 1;
  at += buffer.write(hello.instance, at, INSTANCE_BYTES, 'hex');
  if (hello.peerInstance !== undefined) buffer.write(hello.peerInstance, at, INSTANCE_BYTES, 'hex');
  at += INSTANCE_BYTES;
  writeUint53(buffer, hello.receivedSeq, at);
  at = buffer.writeUInt32BE(hello.receivedOffsetBytes, at + 8);
  for (const text of [session, site]) {
    at = buffer.writeUInt8(text.length, at);
    at += text.copy(buffer, at);
  }
  return buffer;
}

/** UTF-8 of `text`, cut at a character so that it fits. */
function cutUtf8(text: string, limitBytes: number): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length <= limitBytes) return bytes;
  let end = limitBytes;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}

/** Any frame without message bytes. @throws LINK_BAD_ARGUMENT */
export function encodeControl(control: ControlFrame): Buffer {
  switch (control.kind) {
    case 'ack': {
      const buffer = frame(KIND.ACK, 0, 24);
      writeUint53(buffer, control.receivedBytes, 8);
      writeUint53(buffer, control.arrivedAtUs, 16);
      writeUint53(buffer, control.handledSeq, 24);
      return buffer;
    }
    case 'ping': {
      const buffer = frame(KIND.PING, 0, 8);
      writeUint53(buffer, control.clockUs, 8);
      return buffer;
    }
    case 'pong': {
      const buffer = frame(KIND.PONG, 0, 16);
      writeUint53(buffer, control.echoUs, 8);
      writeUint53(buffer, control.clockUs, 16);
      return buffer;
    }
    case 'hello':
      return encodeHello(control);
    case 'close':
    default: {
      const code = ascii(control.code, MAX_CLOSE_CODE_BYTES, 'error code');
      const text = cutUtf8(control.text, MAX_CLOSE_TEXT_BYTES);
      const buffer = frame(KIND.CLOSE, 0, 3 + code.length + text.length);
      buffer.writeUInt16BE(control.reason, 8);
      buffer.writeUInt8(code.length, 10);
      code.copy(buffer, 11);
      text.copy(buffer, 11 + code.length);
      return buffer;
    }
  }
}
