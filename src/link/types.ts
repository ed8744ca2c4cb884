/**
 * Two connections a migration: `urgent` carries control, the switch-over package and answers to pulls;
 * `bulk` carries round one and the active push, and is limited by credits so that urgent messages never wait
 * behind a deep queue (DESIGN 4).
 */
export type Lane = 'urgent' | 'bulk';

/** `open`: both lanes connected; `cut`: at least one lost and being made again; `closed` is final. */
export type LinkState = 'connecting' | 'open' | 'cut' | 'closed';

/** Handles one message. Its acknowledgement (and so its credit) goes back when the returned promise has settled. */
export type MessageHandler = (type: number, payload: Buffer, lane: Lane) => void | Promise<void>;

export interface LaneStats {
  /** Bytes of frames written and read, TLS overhead not counted; retransmissions are. */
  bytesSent: number;
  bytesReceived: number;
  messagesSent: number;
  messagesReceived: number;
  /** Bytes of frames sent over the current connection that have not arrived yet, as far as is known: what the window bounds. */
  bytesInFlight: number;
  /** Payload bytes accepted for sending that the other side has not handled yet. */
  bytesPending: number;
}

export interface LinkStats {
  urgent: LaneStats;
  bulk: LaneStats;
  /** The smallest round trip seen so far, and the bulk lane's delivery rate as measured; undefined before the first answer. */
  minRttMs: number | undefined;
  rateMbit: number | undefined;
  /** Far clock minus near clock, estimated from the exchange with the smallest round trip. */
  clockOffsetMs: number | undefined;
  /** Bulk bytes that may be on their way now. */
  windowBytes: number;
  /** How often a connection was lost and resumed. */
  cuts: number;
}

/**
 * One migration's reliable, ordered message pipe to the other site. It outlives its connections: after a cut both
 * lanes resume at the last acknowledged message, so that neither side ever sees a gap or a duplicate.
 */
export interface LinkSession extends AsyncDisposable {
  /** The id under which both sides know the session, and the site at the other end. */
  readonly sessionId: string;
  readonly peerSiteId: string;
  readonly state: LinkState;
  /**
   * Queues a message (type 1..255, payload at most MAX_MESSAGE_BYTES). Resolves when the lane has room for the next
   * one, which for `bulk` means credit; order within a lane is kept. The payload must not be changed afterwards.
   * @throws LINK_CLOSED, LINK_LOST, LINK_MESSAGE_TOO_LARGE
   */
  send(lane: Lane, type: number, payload: Buffer): Promise<void>;
  /** Resolves when both lanes are connected for the first time. @throws what `closed` rejects with, LINK_CLOSED */
  opened(signal?: AbortSignal): Promise<void>;
  /** Resolves when everything sent so far on the lane has been handled (not only received) by the other side. */
  drained(lane: Lane, signal?: AbortSignal): Promise<void>;
  /** How long a cut may last before the session fails with LINK_LOST; Infinity after the switch. */
  setLossTimeout(ms: number): void;
  stats(): LinkStats;
  onStateChange(listener: (state: LinkState) => void): () => void;
  /** Settles when the session has ended: resolves after an orderly close by either side, rejects with the cause otherwise. */
  readonly closed: Promise<void>;
  /** Orderly end: waits until what was sent is acknowledged (bounded by `timeoutMs`), then tells the other side. */
  close(timeoutMs?: number): Promise<void>;
  /** Ends at once; the other side is told the reason if it can be reached. */
  abort(reason: Error): void;
}
