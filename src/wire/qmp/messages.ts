/**
 * QMP, QEMU's control protocol, as far as a client needs it (QEMU docs/interop/qmp-spec.rst).
 *
 *     server                                     client
 *       | {"QMP": {"version": …, "capabilities": ["oob"]}} ->
 *       | <- {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": 0}
 *       | {"return": {}, "id": 0} ->
 *       | <- {"execute": "query-status", "id": 1}
 *       | <- {"exec-oob": "migrate-recover", …, "id": 2}     overtakes commands that are waiting
 *       | {"event": "STOP", "timestamp": {…}} ->             at any time
 *       | {"return": {…}, "id": 2} ->
 *       | {"error": {"class": …, "desc": …}, "id": 1} ->
 *
 * One JSON object a line, CR LF behind it. Integers above 2^53 lose precision when parsed; no field that CloudAP
 * uses can become that large.
 */
export type QmpMessage = QmpGreeting | QmpReturn | QmpErrorReply | QmpEvent;

export interface QmpGreeting {
  readonly kind: 'greeting';
  readonly version: { readonly major: number; readonly minor: number; readonly micro: number };
  /** Distribution's addition to the version, e.g. `Debian 1:7.2+dfsg-7`. */
  readonly package: string;
  readonly capabilities: readonly string[];
}

export interface QmpReturn {
  readonly kind: 'return';
  readonly id: unknown;
  readonly value: unknown;
}

export interface QmpErrorReply {
  readonly kind: 'error';
  /** Undefined when QEMU could not even parse the command. */
  readonly id: unknown;
  readonly errorClass: string;
  readonly description: string;
}

export interface QmpEvent {
  readonly kind: 'event';
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's clock (Unix time) at the event, with a µs fraction; undefined if QEMU could not read its clock. */
  readonly timestampMs: number | undefined;
}

export interface QmpCommand {
  readonly execute: string;
  readonly arguments?: Readonly<Record<string, unknown>> | undefined;
  readonly id: number;
  /** Send as `exec-oob`: executed at once, even while QEMU's main loop hangs (only some commands allow it). */
  readonly oob?: boolean | undefined;
}
