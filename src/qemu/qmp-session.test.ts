import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { errorCode } from '../base/errors.ts';
import { QMP_MAX_IN_FLIGHT } from './constants.ts';
import { fail } from './errors.ts';
import { QemuMonitor } from './monitor.ts';
import { QmpEventLog } from './qmp-events.ts';
import { QmpSession, type QmpSessionOptions } from './qmp-session.ts';

interface Command {
  readonly execute?: string;
  readonly 'exec-oob'?: string;
  readonly arguments?: Record<string, unknown>;
  readonly id: number;
}

/** QEMU's side of a monitor, in memory; what it sends arrives byte by byte. */
class FakeQemu {
  readonly received: Command[] = [];
  readonly stream: Duplex;
  #buffered = '';
  /** Answers by itself; without an answer the test does. */
  answer: ((command: Command) => object | undefined) | undefined = (c) =>
    c.execute === 'qmp_capabilities' ? { return: {} } : undefined;

  constructor() {
    this.stream = new Duplex({
      read() {},
      write: (chunk: Buffer, _encoding, callback) => {
        this.#buffered += chunk.toString();
        const lines = this.#buffered.split('\r\n');
        this.#buffered = lines.pop() ?? '';
        for (const line of lines) this.#command(JSON.parse(line) as Command);
        callback();
      },
    });
  }

  #command(command: Command): void {
    this.received.push(command);
    const answer = this.answer?.(command);
    if (answer) this.send({ ...answer, id: command.id });
  }

  send(message: object): void {
    this.raw(`${JSON.stringify(message)}\r\n`);
  }

  raw(text: string): void {
    for (const byte of Buffer.from(text)) this.stream.push(Buffer.of(byte));
  }

  greet(capabilities = ['oob']): void {
    const qemu = { major: 7, minor: 2, micro: 1 };
    this.send({ QMP: { version: { qemu, package: '' }, capabilities } });
  }

  event(name: string, data: object = {}): void {
    this.send({ event: name, data, timestamp: { seconds: 1, microseconds: 500 } });
  }

  names(): (string | undefined)[] {
    return this.received.map((c) => c.execute ?? c['exec-oob']);
  }
}

async function opened(options?: QmpSessionOptions): Promise<{ qemu: FakeQemu; session: QemuMonitor }> {
  const qemu = new FakeQemu();
  const session = new QemuMonitor(qemu.stream, options);
  qemu.greet();
  await session.open();
  return { qemu, session };
}

/** Lets everything that is under way in memory happen. */
const settle = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
const code = (promise: Promise<unknown>) => promise.then(() => 'none', errorCode);

test('greets, negotiates out-of-band commands where offered, and ends', async () => {
  const { qemu, session } = await opened();
  expect(session.state).toBe('running');
  expect(session.greeting.version).toEqual({ major: 7, minor: 2, micro: 1 });
  expect(qemu.received).toEqual([{ execute: 'qmp_capabilities', arguments: { enable: ['oob'] }, id: 0 }]);
  await session.close();
  await session.close();
  expect(session.state).toBe('closed');
  expect((await session.closed).code).toBe('QMP_CLOSED');
  expect(await code(session.execute('a'))).toBe('QMP_CLOSED');

  const plain = new FakeQemu();
  const old = new QmpSession(plain.stream);
  plain.greet([]);
  await old.open();
  expect(plain.received[0]).toEqual({ execute: 'qmp_capabilities', id: 0 });
  // Without the capability the command goes the usual way.
  void old.execute('migrate-recover', {}, { oob: true }).catch(() => {});
  expect(plain.received[1]).toMatchObject({ execute: 'migrate-recover' });
  expect(await code(old.open())).toBe('QMP_CLOSED');
  await old.close();
});

test('commands given before the session is up wait for the negotiation', async () => {
  const qemu = new FakeQemu();
  const session = new QmpSession(qemu.stream);
  expect(await code(session.execute('early'))).toBe('QMP_CLOSED');
  const open = session.open();
  const early = session.execute('query-status');
  qemu.answer = (c) => ({ return: { for: c.execute } });
  qemu.greet();
  await open;
  expect(await early).toEqual({ for: 'query-status' });
  expect(qemu.names()).toEqual(['qmp_capabilities', 'query-status']);
  await session.close();
});

test('answers in any order reach their callers', async () => {
  const { qemu, session } = await opened();
  const answers = Promise.all([session.execute('a'), code(session.execute('b')), session.execute('c')]);
  for (const command of qemu.received.slice(1).toReversed()) {
    const bad = command.execute === 'b';
    qemu.send({
      id: command.id,
      ...(bad ? { error: { class: 'GenericError', desc: 'no' } } : { return: command.execute }),
    });
  }
  expect(await answers).toEqual(['a', 'QMP_COMMAND_FAILED', 'c']);
  await session.close();
});

test('a refusal carries command, class and text', async () => {
  const { qemu, session } = await opened();
  qemu.answer = () => ({ error: { class: 'DeviceNotFound', desc: 'no such node' } });
  await expect(session.execute('blockdev-del')).rejects.toMatchObject({
    code: 'QMP_COMMAND_FAILED',
    fields: { command: 'blockdev-del', class: 'DeviceNotFound', desc: 'no such node' },
  });
  await session.close();
});

test('at most so many commands are at QEMU; out-of-band ones overtake', async () => {
  const { qemu, session } = await opened();
  const calls = Array.from({ length: QMP_MAX_IN_FLIGHT + 3 }, (_, i) => session.execute(`c${i}`));
  const recover = session.execute('migrate-recover', {}, { oob: true });
  expect(qemu.names().slice(1)).toEqual([
    ...Array.from({ length: QMP_MAX_IN_FLIGHT }, (_, i) => `c${i}`),
    'migrate-recover',
  ]);
  qemu.answer = () => ({ return: 1 });
  for (const { id } of qemu.received.slice(1)) qemu.send({ return: 1, id });
  await Promise.all([...calls, recover]);
  await session.close();
});

test('a deadline or an abort ends one wait; a late answer is dropped, an unsent command never sent', async () => {
  const { qemu, session } = await opened();
  expect(await code(session.execute('slow', undefined, { timeoutMs: 5 }))).toBe('QMP_TIMEOUT');
  const abort = new AbortController();
  const aborted = session.execute('aborted', undefined, { signal: abort.signal });
  const fill = Array.from({ length: QMP_MAX_IN_FLIGHT - 2 }, (_, i) => session.execute(`c${i}`));
  const unsent = session.execute('unsent', undefined, { signal: abort.signal });
  abort.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  await expect(unsent).rejects.toThrow('enough');
  for (const { id } of qemu.received.slice(1)) qemu.send({ return: {}, id });
  await Promise.all(fill);
  qemu.answer = () => ({ return: 'still fine' });
  expect(await session.execute('next')).toBe('still fine');
  expect(qemu.names()).not.toContain('unsent');
  await session.close();
});

test.each([
  ['rubbish', 'rubbish\n', 'QMP_MALFORMED'],
  ['an answer to no command', '{"return": {}, "id": 99}\n', 'QMP_UNEXPECTED'],
  ['an error without an id', '{"error": {"class": "C", "desc": "d"}}\n', 'QMP_UNEXPECTED'],
  [
    'a second greeting',
    '{"QMP": {"version": {"qemu": {"major":1,"minor":1,"micro":1}, "package": ""}, "capabilities": []}}\n',
    'QMP_UNEXPECTED',
  ],
])('%s ends the session, and everybody learns the cause', async (_, text, cause) => {
  const { qemu, session } = await opened();
  const pending = [code(session.execute('a')), code(session.waitEvent('B'))];
  qemu.raw(text);
  expect(await Promise.all(pending)).toEqual([cause, cause]);
  expect((await session.closed).code).toBe(cause);
  expect(await code(session.execute('after'))).toBe(cause);
  expect(await code(session.waitEvent('AFTER'))).toBe(cause);
});

test('a lost connection is explained by who knows why', async () => {
  const { qemu, session } = await opened({
    explainLoss: async (loss) => fail('QEMU_EXITED', 'out of memory', { cause: loss }),
  });
  const pending = code(session.execute('a'));
  qemu.stream.destroy();
  expect(await pending).toBe('QEMU_EXITED');

  const other = await opened({ explainLoss: () => Promise.reject(new Error('no idea')) });
  const lost = code(other.session.execute('a'));
  other.qemu.stream.push(null);
  expect(await lost).toBe('QMP_DISCONNECTED');
});

test('opening fails in time, by signal, and when QEMU refuses', async () => {
  const silent = new QmpSession(new FakeQemu().stream);
  expect(await code(silent.open({ timeoutMs: 5 }))).toBe('QMP_CONNECT_FAILED');
  expect(silent.state).toBe('closed');

  const abort = new AbortController();
  const aborted = new QmpSession(new FakeQemu().stream);
  const opening = aborted.open({ signal: abort.signal });
  abort.abort(new Error('enough'));
  await expect(opening).rejects.toThrow('enough');

  const refusing = new FakeQemu();
  refusing.answer = () => ({ error: { class: 'GenericError', desc: 'no' } });
  const refused = new QmpSession(refusing.stream);
  refusing.greet();
  expect(await code(refused.open())).toBe('QMP_COMMAND_FAILED');
  expect(refusing.stream.destroyed).toBe(true);
});

test('an answer of another shape than expected is told apart', async () => {
  const { qemu, session } = await opened();
  qemu.answer = () => ({ return: { running: 'yes' } });
  expect(await code(session.queryStatus())).toBe('QMP_UNEXPECTED');
  qemu.answer = () => ({ return: { running: true, status: 'running', new: 1 } });
  expect(await session.queryStatus()).toEqual({ running: true, status: 'running' });
  await session.close();
});

test('an event between a mark and the wait is not missed; without the mark it is past', async () => {
  const { qemu, session } = await opened();
  qemu.event('STOP', { n: 0 });
  await settle();
  const mark = session.mark();
  qemu.event('STOP', { n: 1 });
  qemu.event('STOP', { n: 2 });
  await settle();
  expect((await session.waitEvent('STOP', undefined, { since: mark })).data).toEqual({ n: 1 });
  const second = await session.waitEvent(['RESUME', 'STOP'], (e) => e.data.n === 2, { since: mark });
  expect(second.timestampMs).toBe(1000.5);
  expect(session.eventsSince(mark)).toHaveLength(2);
  expect(await code(session.waitEvent('STOP', undefined, { timeoutMs: 5 }))).toBe('QMP_EVENT_TIMEOUT');

  const seen: string[] = [];
  const end = session.onEvent((e) => seen.push(e.name));
  const next = session.waitEvent('RESUME');
  qemu.event('RESUME');
  await next;
  end();
  qemu.event('RESUME');
  await settle();
  expect(seen).toEqual(['RESUME']);
  await expect(
    session.waitEvent('X', undefined, { signal: AbortSignal.abort(new Error('no')) }),
  ).rejects.toThrow('no');
  await session.close();
  // What is remembered can be asked for after the end too.
  expect((await session.waitEvent('STOP', undefined, { since: mark })).data).toEqual({ n: 1 });
});

test('the history is bounded, and a mark that fell out of it is refused rather than answered wrongly', async () => {
  const log = new QmpEventLog(3);
  const mark = log.mark();
  const event = (name: string) => log.push({ kind: 'event', name, data: {}, timestampMs: 0 });
  for (const name of ['A', 'B', 'C']) event(name);
  expect(log.since(mark).map((e) => e.name)).toEqual(['A', 'B', 'C']);
  event('D');
  expect(() => log.since(mark)).toThrow(expect.objectContaining({ code: 'QMP_EVENTS_LOST' }));
  expect(await code(log.wait('D', undefined, { since: mark }))).toBe('QMP_EVENTS_LOST');
});

test('a predicate that throws ends its own wait only', async () => {
  const log = new QmpEventLog();
  const bad = log.wait('A', () => {
    throw new Error('defect');
  });
  const good = log.wait('A');
  log.push({ kind: 'event', name: 'A', data: {}, timestampMs: 0 });
  await expect(bad).rejects.toThrow('defect');
  expect((await good).name).toBe('A');
});
