/**
 * Link frames: what two sites say on one connection of a session, inside TLS 1.3. All integers are big endian.
 *
 *   prefix (8)  kind u8 | type u8 | zero u16 | length u32 = bytes of the body that follows
 *
 *   kind 1 DATA   type = message type 1..255
 *                 seq u64 | total u32 | offset u32 | piece (length - 16 bytes, at most 64 KiB)
 *                 One message is sent as pieces in order; the message ends where offset + piece = total.
 *                 seq counts messages of the lane and direction from 1, over all connections of the session.
 *   kind 2 ACK    receivedBytes u64 | arrivedAtUs u64 | handledSeq u64
 *                 receivedBytes: DATA frames (headers included) that arrived over this connection, in bytes;
 *                 arrivedAtUs: receiver's clock when the last of them did (delivery rate = bytes / receiver's time);
 *                 handledSeq: all messages up to this one were handled and need not be kept any more.
 *   kind 3 PING   clockUs u64
 *   kind 4 PONG   echoUs u64 (the PING's clock) | clockUs u64 (ours)
 *   kind 5 HELLO  magic u32 `CAPL` | version u16 | lane u8 (1 urgent, 2 bulk) | zero u8
 *                 | instance (16) | peerInstance (16, zero = not known yet)
 *                 | receivedSeq u64 | receivedOffset u32
 *                 | length u8, session id | length u8, site id
 *                 receivedSeq: last message received whole; receivedOffset: bytes received of the one after it.
 *   kind 6 CLOSE  reason u16 | length u8, error code | text (UTF-8, rest of the body)
 *
 * Kind 0, lane 0, message type 0 and reason 0 are never valid.
 *
 *        dialling side                          listening side
 *             | -- TLS 1.3, both certificates ------> |
 *             | -- HELLO (what I have received) ----> |   unknown session, wrong site, version:
 *             | <------ HELLO (what I have received)  |   CLOSE instead of HELLO
 *             | <==== DATA / ACK / PING / PONG =====> |   each side goes on after what the other has received
 *             :            connection lost            :   both keep what was not handled
 *             | -- TLS, HELLO ... as above ---------> |   no gap, no duplicate
 *             | -- CLOSE done ----------------------> |   after everything was acknowledged
 *             | <---------------------- CLOSE done -- |
 *
 * Versioning: the prefix, the first six bytes of HELLO and the whole of CLOSE stay as they are for ever. Any other change of layout or
 * meaning makes a new version number. A side that does not speak the version it reads answers CLOSE with reason
 * VERSION and both numbers in the text; there is no negotiation inside a version.
 */
import type { Buffer } from 'node:buffer';

export const KIND = { DATA: 1, ACK: 2, PING: 3, PONG: 4, HELLO: 5, CLOSE: 6 } as const;

export const LANE_NUMBER = { urgent: 1, bulk: 2 } as const;
export type LaneName = keyof typeof LANE_NUMBER;

/** Why a side ends the session (CLOSE). */
export const CLOSE_REASON = {
  /** Orderly end: everything was handled. */
  DONE: 1,
  /** The session was given up by its owner; the error code says why. */
  ABORTED: 2,
  VERSION: 3,
  /** No such session at this site, or it has ended. */
  SESSION_UNKNOWN: 4,
  /** The certificate's site is not the one that this session is for. */
  WRONG_PEER: 5,
  /** The other end is a new process, or what it has received does not fit what was sent. */
  CANNOT_RESUME: 6,
  /** A frame broke the protocol. */
  PROTOCOL: 7,
} as const;
export type CloseReason = (typeof CLOSE_REASON)[keyof typeof CLOSE_REASON];

export interface DataHeader {
  seq: number;
  type: number;
  totalBytes: number;
  offsetBytes: number;
  /** Bytes of the message in this frame. */
  pieceBytes: number;
}
export interface AckFrame {
  kind: 'ack';
  receivedBytes: number;
  arrivedAtUs: number;
  handledSeq: number;
}
export interface PingFrame {
  kind: 'ping';
  clockUs: number;
}
export interface PongFrame {
  kind: 'pong';
  echoUs: number;
  clockUs: number;
}
export interface HelloFrame {
  kind: 'hello';
  version: number;
  lane: LaneName;
  /** Hex of INSTANCE_BYTES random bytes. */
  instance: string;
  /** The other end's instance as known, or undefined before the first HELLO of it. */
  peerInstance: string | undefined;
  receivedSeq: number;
  receivedOffsetBytes: number;
  sessionId: string;
  siteId: string;
}
export interface CloseFrame {
  kind: 'close';
  /** A CLOSE_REASON, or a number that a later version knows. */
  reason: number;
  /** The error code of the side that closes; empty after an orderly end. */
  code: string;
  text: string;
}
export type ControlFrame = AckFrame | PingFrame | PongFrame | HelloFrame | CloseFrame;

/** Where a parser delivers what it has read. */
export interface FrameSink {
  /** A DATA frame begins; exactly `pieceBytes` bytes follow through `piece`. */
  data(header: DataHeader): void;
  /** Bytes of the current DATA frame; a view into the pushed chunk, to be copied if kept. */
  piece(bytes: Buffer): void;
  control(frame: ControlFrame): void;
}
