import { randomUUID } from 'node:crypto';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import { errors } from '@nats-io/transport-node';
import type * as z from 'zod';
import { asCloudapError, CloudapError } from '../base/errors.ts';
import { ANSWERS_KEPT, MESSAGE_MAX_BYTES, REQUESTS_UNDER_WAY_MAX, REQUEST_TIMEOUT_MS } from './constants.ts';
import { failControl } from './errors.ts';
import { answerSchema, requestSchema } from './messages.ts';

export interface RequestOptions {
  /** Names the command: sent again with the same id it has its effect once. By default a new one. */
  id?: string;
  timeoutMs?: number;
}

/**
 * Asks an agent; its refusal is thrown as it said it.
 * @throws CONTROL_UNREACHABLE, CONTROL_NO_ANSWER, CONTROL_BAD_ANSWER, CONTROL_TOO_LARGE; what the agent answers
 */
export async function request<S extends z.ZodType>(
  connection: NatsConnection,
  subject: string,
  params: unknown,
  result: S,
  options: RequestOptions = {},
): Promise<z.output<S>> {
  const { id = randomUUID(), timeoutMs = REQUEST_TIMEOUT_MS } = options;
  const text = JSON.stringify({ version: 1, id, params });
  if (Buffer.byteLength(text) > MESSAGE_MAX_BYTES) throw failControl('CONTROL_TOO_LARGE', subject);
  let message: Msg;
  try {
    message = await connection.request(subject, text, { timeout: timeoutMs });
  } catch (error) {
    throw requestFailure(error, subject);
  }
  const answer = parse(answerSchema, message.data, 'CONTROL_BAD_ANSWER', subject);
  if (!answer.ok) {
    const { code, message: why, remedy, fields } = answer.error;
    throw new CloudapError(code, why, remedy, { fields });
  }
  const checked = result.safeParse(answer.result);
  if (checked.success) return checked.data;
  throw failControl('CONTROL_BAD_ANSWER', `${subject}: ${firstIssue(checked.error)}`);
}

function requestFailure(error: unknown, subject: string): Error {
  if (error instanceof errors.RequestError || error instanceof errors.TimeoutError)
    return failControl('CONTROL_NO_ANSWER', subject, { cause: error });
  return failControl('CONTROL_UNREACHABLE', `${subject}: ${(error as Error).message}`, { cause: error });
}

/** A method: the shape of its parameters, and what it does. */
export interface Method<S extends z.ZodType = z.ZodType> {
  params: S;
  run(params: z.output<S>): Promise<unknown>;
}

export function method<S extends z.ZodType>(
  params: S,
  run: (params: z.output<S>) => Promise<unknown>,
): Method {
  return { params, run };
}

/**
 * Serves `<prefix>.<method>`. Each request's id is remembered with its answer: a repeated one waits for, or gets, the
 * first one's. Refusals are remembered for as long as the work takes only: who asks again has it tried again.
 */
export function serveRequests(
  connection: NatsConnection,
  prefix: string,
  methods: Readonly<Record<string, Method>>,
  onRefused: (subject: string, error: CloudapError) => void,
): Disposable {
  const answers = new Map<string, Promise<string>>();
  let underWay = 0;
  const answer = async (name: string, data: Uint8Array): Promise<string> => {
    const found = methods[name];
    if (!Object.hasOwn(methods, name) || !found)
      throw failControl('CONTROL_NO_SUCH_METHOD', name.slice(0, 64));
    const { id, params } = parse(requestSchema, data, 'CONTROL_BAD_REQUEST', name);
    const key = `${name} ${id}`;
    const before = answers.get(key);
    if (before) return before;
    const checked = found.params.safeParse(params);
    if (!checked.success) throw failControl('CONTROL_BAD_REQUEST', `${name}: ${firstIssue(checked.error)}`);
    if (underWay >= REQUESTS_UNDER_WAY_MAX) throw failControl('CONTROL_BUSY', `${underWay}`);
    underWay += 1;
    const work = found
      .run(checked.data)
      .then((result) => encode({ version: 1, ok: true, result: result ?? null }))
      .finally(() => (underWay -= 1));
    answers.set(key, work);
    work.catch(() => answers.delete(key));
    if (answers.size > ANSWERS_KEPT) answers.delete(answers.keys().next().value ?? '');
    return work;
  };
  const subscription: Subscription = connection.subscribe(`${prefix}.*`);
  const serve = async (message: Msg): Promise<void> => {
    const name = message.subject.slice(prefix.length + 1);
    let text: string;
    try {
      text = await answer(name, message.data);
    } catch (thrown) {
      const refused = asCloudapError(thrown);
      onRefused(message.subject, refused);
      text = encode({ version: 1, ok: false, error: refused.toJSON() });
    }
    // what a connection that has gone cannot say, its caller asks again
    if (!connection.isClosed()) message.respond(text);
  };
  void (async () => {
    for await (const message of subscription) void serve(message);
  })();
  return { [Symbol.dispose]: () => subscription.unsubscribe() };
}

function encode(answer: z.input<typeof answerSchema>): string {
  const text = JSON.stringify(answer);
  if (Buffer.byteLength(text) <= MESSAGE_MAX_BYTES) return text;
  const error = failControl('CONTROL_TOO_LARGE', `an answer of ${Buffer.byteLength(text)} bytes`).toJSON();
  return JSON.stringify({ version: 1, ok: false, error });
}

/** Bytes of a peer as a message of that shape. @throws `code` */
export function parse<S extends z.ZodType>(
  schema: S,
  data: Uint8Array,
  code: 'CONTROL_BAD_REQUEST' | 'CONTROL_BAD_ANSWER',
  what: string,
): z.output<S> {
  if (data.byteLength > MESSAGE_MAX_BYTES) throw failControl('CONTROL_TOO_LARGE', what);
  let raw: unknown;
  try {
    raw = JSON.parse(Buffer.from(data).toString('utf8'));
  } catch (cause) {
    throw failControl(code, `${what}: no JSON`, { cause });
  }
  const checked = schema.safeParse(raw);
  if (checked.success) return checked.data;
  throw failControl(code, `${what}: ${firstIssue(checked.error)}`);
}

function firstIssue(error: z.ZodError): string {
  const [issue] = error.issues;
  return issue ? `${issue.path.join('.') || 'it'}: ${issue.message}` : 'another shape';
}
