import { request, type IncomingMessage } from 'node:http';
import { request as requestHttps } from 'node:https';
import { createInterface } from 'node:readline';
import * as z from 'zod';
import { CloudapError } from '../../base/errors.ts';
import { apiErrorSchema } from './messages.ts';
import { failSite } from '../errors.ts';
import { API_ANSWER_MAX_BYTES, API_TIMEOUT_MS } from '../constants.ts';

export interface CallOptions {
  body?: unknown;
  signal?: AbortSignal;
  /** No limit where 0. */
  timeoutMs?: number;
}

/** An API that is reached over HTTPS. */
export interface RemoteApi {
  readonly host: string;
  readonly port: number;
  /** PEM text of the CA of its certificate, and what that must say besides. */
  readonly ca: string;
  readonly checkServerIdentity: (host: string, certificate: { subjectaltname?: string }) => Error | undefined;
  /** For `Authorization: Bearer`. */
  readonly token?: string | undefined;
}

/** Speaks to an agent over its Unix socket, or over HTTPS. Errors of the agent come out as they went in, code and all. */
export class ApiClient {
  readonly #target: string | RemoteApi;
  /** Before each path. */
  readonly #prefix: string;

  constructor(target: string | RemoteApi, prefix = '') {
    this.#target = target;
    this.#prefix = prefix;
  }

  get #name(): string {
    return typeof this.#target === 'string' ? this.#target : `${this.#target.host}:${this.#target.port}`;
  }

  /** All pages of a list. */
  async all<T>(path: string, item: z.ZodType<T>): Promise<T[]> {
    const schema = z.object({ items: z.array(item), next: z.string().nullable() });
    const items: T[] = [];
    let cursor = '';
    for (;;) {
      const page = await this.json('GET', cursor === '' ? path : withQuery(path, `cursor=${cursor}`), schema);
      items.push(...page.items);
      if (page.next === null) return items;
      cursor = page.next;
    }
  }

  async json<T>(method: string, path: string, schema: z.ZodType<T>, options: CallOptions = {}): Promise<T> {
    const bytes = await this.bytes(method, path, options);
    try {
      return schema.parse(JSON.parse(bytes.toString('utf8')));
    } catch (error) {
      throw failSite('API_BAD_ANSWER', `${method} ${path}`, { cause: error });
    }
  }

  async bytes(method: string, path: string, options: CallOptions = {}): Promise<Buffer> {
    return collect(await this.#open(method, path, options));
  }

  /** Follows an NDJSON answer until it ends. */
  async *lines<T>(path: string, schema: z.ZodType<T>, signal?: AbortSignal): AsyncGenerator<T> {
    const response = await this.#open('GET', path, { timeoutMs: 0, ...(signal ? { signal } : {}) });
    const reader = createInterface({ input: response });
    let broken: Error | undefined;
    response.on('error', (error) => {
      broken = error;
      reader.close();
    });
    try {
      for await (const line of reader) {
        if (line.trim() !== '') yield schema.parse(JSON.parse(line));
      }
    } finally {
      // whoever has seen enough leaves no connection behind
      response.destroy();
    }
    if (broken) throw this.#unreachable(broken);
  }

  async #open(method: string, path: string, options: CallOptions): Promise<IncomingMessage> {
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const target = this.#target;
      const remote = typeof target === 'string' ? undefined : target;
      const headers = {
        ...(remote?.token === undefined ? {} : { authorization: `Bearer ${remote.token}` }),
        ...(body === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
      };
      const common = {
        method,
        path: this.#prefix + path,
        headers,
        ...(options.signal ? { signal: options.signal } : {}),
      };
      const call = remote
        ? requestHttps(
            {
              ...common,
              host: remote.host,
              port: remote.port,
              ca: remote.ca,
              checkServerIdentity: remote.checkServerIdentity,
              minVersion: 'TLSv1.3',
            },
            resolve,
          )
        : request({ ...common, socketPath: target as string }, resolve);
      const timeoutMs = options.timeoutMs ?? API_TIMEOUT_MS;
      if (timeoutMs > 0) {
        call.setTimeout(timeoutMs, () => call.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)));
      }
      call.once('error', (error) =>
        reject(options.signal?.aborted ? (options.signal.reason as Error) : this.#unreachable(error)),
      );
      call.end(body);
    });
    if ((response.statusCode ?? 500) < 400) return response;
    const text = (await collect(response)).toString('utf8');
    const error = apiErrorSchema.safeParse(tryJson(text)).data;
    if (!error) throw failSite('API_BAD_ANSWER', `${method} ${path}: status ${response.statusCode}`);
    throw new CloudapError(error.code, error.message, error.remedy, { fields: error.fields });
  }

  #unreachable(cause: Error): CloudapError {
    const why = { ENOENT: 'no such socket', ECONNREFUSED: 'nobody listens' }[
      (cause as NodeJS.ErrnoException).code ?? ''
    ];
    return failSite('SITE_UNREACHABLE', `${this.#name}: ${why ?? cause.message}`, {
      cause,
      fields: { address: this.#name },
    });
  }
}

const withQuery = (path: string, query: string): string => `${path}${path.includes('?') ? '&' : '?'}${query}`;

async function collect(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > API_ANSWER_MAX_BYTES) {
      response.destroy();
      throw failSite('API_BAD_ANSWER', `more than ${API_ANSWER_MAX_BYTES} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
