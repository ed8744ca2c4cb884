import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { MEC_ATTEMPTS, MEC_RETRY_MS, MEC_TIMEOUT_MS, MEC_WAITING_MAX } from './constants.ts';

export type MobilityStatus =
  | 'INTER_HOST_MOBILITY_TRIGGERED'
  | 'INTER_HOST_MOBILITY_COMPLETED'
  | 'INTER_HOST_MOBILITY_FAILED';

/** MobilityProcedureNotification of ETSI GS MEC 021 V2.2.1 (application mobility). The application is the VM. */
export interface MobilityProcedureNotification {
  readonly notificationType: 'MobilityProcedureNotification';
  readonly timeStamp: { readonly seconds: number; readonly nanoSeconds: number };
  readonly associateId: readonly { readonly type: string; readonly value: string }[];
  readonly mobilityStatus: MobilityStatus;
  readonly targetAppInfo: { readonly appInstanceId: string; readonly commInterface: readonly object[] };
  readonly _links: { readonly subscription: { readonly href: string } };
}

export function mobilityNotification(move: {
  status: MobilityStatus;
  vm: string;
  /** IP address of the user's device. */
  address: string;
  /** host:port where the VM's new host is reached, if it is. */
  target: { host: string; port: number } | undefined;
  atMs: number;
}): MobilityProcedureNotification {
  const { status, vm, address, target, atMs } = move;
  const type = address.includes(':') ? 'UE_IPV6_ADDRESS' : 'UE_IPv4_ADDRESS';
  return {
    notificationType: 'MobilityProcedureNotification',
    timeStamp: { seconds: Math.floor(atMs / 1000), nanoSeconds: (Math.floor(atMs) % 1000) * 1_000_000 },
    associateId: [{ type, value: address }],
    mobilityStatus: status,
    targetAppInfo: {
      appInstanceId: vm,
      commInterface: target ? [{ ipAddresses: [{ host: target.host, port: target.port }] }] : [],
    },
    _links: { subscription: { href: `urn:cloudap:vm:${vm}` } },
  };
}

/** Posts notifications to one address, in order; one that is not taken after some attempts is dropped, so that no address holds up itself for ever. */
export class Notifier implements AsyncDisposable {
  readonly #url: string;
  readonly #log: Logger;
  readonly #waiting: object[] = [];
  readonly #stop = new AbortController();
  #posting: Promise<void> | undefined;

  constructor(url: string, log: Logger) {
    this.#url = url;
    this.#log = log;
  }

  notify(notification: object): void {
    this.#waiting.push(notification);
    if (this.#waiting.length > MEC_WAITING_MAX) this.#waiting.shift();
    this.#posting ??= this.#post().finally(() => (this.#posting = undefined));
  }

  async #post(): Promise<void> {
    const { signal } = this.#stop;
    for (let next = this.#waiting.shift(); next && !signal.aborted; next = this.#waiting.shift())
      for (let attempt = 1; attempt <= MEC_ATTEMPTS && !signal.aborted; attempt += 1) {
        const why = await this.#try(next);
        if (why === undefined) break;
        this.#log.info({ url: this.#url, attempt, why }, 'notification not taken');
        if (attempt < MEC_ATTEMPTS) await sleep(MEC_RETRY_MS * 2 ** (attempt - 1), signal).catch(() => {});
      }
  }

  /** Undefined when it was taken. */
  async #try(notification: object): Promise<string | undefined> {
    try {
      const answer = await fetch(this.#url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(notification),
        redirect: 'error',
        signal: AbortSignal.any([this.#stop.signal, AbortSignal.timeout(MEC_TIMEOUT_MS)]),
      });
      await answer.body?.cancel();
      return answer.ok ? undefined : `status ${answer.status}`;
    } catch (error) {
      return (error as Error).message;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#posting;
  }
}
