import { duplexPair, type Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { CloudapError, errorCode } from '../base/errors.ts';
import { RPC_MAX_HANDLING, RPC_MAX_LINE_BYTES, RPC_MAX_PENDING } from './constants.ts';
import { type RpcHandlers, RpcPeer } from './rpc.ts';

function pair(handlers: RpcHandlers = {}, ours: RpcHandlers = {}): { near: RpcPeer; far: RpcPeer } {
  const [a, b] = duplexPair();
  return { near: new RpcPeer(a, { handlers: ours }), far: new RpcPeer(b, { handlers, peerSiteId: 'ap1' }) };
}
/** A peer at one end, and the bare stream of the other. */
function bare(handlers: RpcHandlers = {}): { peer: RpcPeer; stream: Duplex; said: () => string } {
  const [a, stream] = duplexPair();
  let text = '';
  stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  return { peer: new RpcPeer(a, { handlers }), stream, said: () => text };
}
const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
const never = (): Promise<never> => new Promise(() => {});

test('both sides call, and answers find their calls whatever their order', async () => {
  const { near, far } = pair(
    {
      add: async (params) => {
        const [a = 0, b = 0] = params as number[];
        await new Promise((r) => setTimeout(r, 5 - b));
        return a + b;
      },
    },
    { who: async () => 'near' },
  );
  await expect(
    Promise.all([near.call('add', [1, 1]), near.call('add', [1, 4]), far.call('who')]),
  ).resolves.toEqual([2, 5, 'near']);
  await expect(pair({ nothing: async () => undefined }).near.call('nothing')).resolves.toBeNull();
});

test('the handler knows the site of the caller', async () => {
  const { near } = pair({ site: async (_params, { peerSiteId }) => peerSiteId });
  await expect(near.call('site')).resolves.toBe('ap1');
});

test('errors cross with code, remedy and fields; others become INTERNAL', async () => {
  const { near } = pair({
    coded: async () => {
      throw new CloudapError('VM_BUSY', 'is moving', 'wait', { fields: { vm: 'a' } });
    },
    plain: async () => {
      throw new TypeError('oops');
    },
  });
  const error = await near.call('coded').catch((e: unknown) => e);
  expect(error).toBeInstanceOf(CloudapError);
  expect(error).toMatchObject({ code: 'VM_BUSY', message: 'is moving', remedy: 'wait', fields: { vm: 'a' } });
  expect(await codeOf(near.call('plain'))).toBe('INTERNAL');
});

test.each(['nope', 'toString', '__proto__', 'constructor'])('no method %s', async (method) => {
  expect(await codeOf(pair().near.call(method))).toBe('RPC_NO_METHOD');
});

test('a call that takes too long or is given up aborts the handler; its late answer harms nobody', async () => {
  const aborted: string[] = [];
  const { near } = pair({
    wait: (_params, { signal }) =>
      new Promise((resolve) =>
        signal.addEventListener('abort', () => {
          aborted.push('aborted');
          resolve('late');
        }),
      ),
    ping: async () => 'pong',
  });
  expect(await codeOf(near.call('wait', null, { timeoutMs: 5 }))).toBe('RPC_TIMEOUT');
  const abort = new AbortController();
  const call = near.call('wait', null, { signal: abort.signal });
  abort.abort(new CloudapError('GIVEN_UP', 'x', 'y'));
  expect(await codeOf(call)).toBe('GIVEN_UP');
  await expect(near.call('ping')).resolves.toBe('pong');
  expect(aborted).toHaveLength(2);
});

test('when the connection ends, calls that wait and handlers that run hear why', async () => {
  const started = Promise.withResolvers<AbortSignal>();
  const { near, far } = pair({
    wait: (_params, { signal }) => {
      started.resolve(signal);
      return never();
    },
  });
  const call = codeOf(near.call('wait'));
  const signal = await started.promise;
  far.close(new CloudapError('SITE_STOPS', 'x', 'y'));
  expect(await call).toBe('RPC_CLOSED');
  expect(errorCode(await far.closed)).toBe('SITE_STOPS');
  expect(signal.aborted).toBe(true);
  expect(await codeOf(near.call('wait'))).toBe('RPC_CLOSED');
  expect(() => near.notify('x')).toThrow(CloudapError);
});

test('notifications arrive; a handler that fails is reported on its own side only', async () => {
  const [a, b] = duplexPair();
  const failed = Promise.withResolvers<string>();
  const near = new RpcPeer(a);
  const far = new RpcPeer(b, {
    handlers: {
      event: async () => {
        throw new Error('x');
      },
      ping: async () => 1,
    },
    onNotifyError: (method) => failed.resolve(method),
  });
  near.notify('event', 1);
  near.notify('unknown');
  expect(await failed.promise).toBe('event');
  await expect(near.call('ping')).resolves.toBe(1);
  expect(far.isClosed).toBe(false);
});

test('too many calls: at the caller, and at the one who handles', async () => {
  const { peer } = bare();
  const calls = Array.from({ length: RPC_MAX_PENDING }, () => peer.call('x'));
  for (const call of calls) call.catch(() => {});
  expect(await codeOf(peer.call('x'))).toBe('RPC_OVERLOAD');
  peer.close();
  const { near } = pair({ wait: never });
  const waiting = Array.from({ length: RPC_MAX_HANDLING }, () => near.call('wait'));
  for (const call of waiting) call.catch(() => {});
  expect(await codeOf(near.call('wait'))).toBe('RPC_OVERLOAD');
  near.close();
});

test('lines beyond the limit are not sent, and end the connection if they come', async () => {
  const { near, far } = pair({ big: async () => 'x'.repeat(RPC_MAX_LINE_BYTES) });
  expect(await codeOf(near.call('big'))).toBe('RPC_LINE_TOO_LONG');
  expect(await codeOf(near.call('x', 'y'.repeat(RPC_MAX_LINE_BYTES)))).toBe('RPC_LINE_TOO_LONG');
  expect(far.isClosed).toBe(false);
  const { peer, stream } = bare();
  for (let i = 0; i <= RPC_MAX_LINE_BYTES; i += 65_536) stream.write('z'.repeat(65_536));
  expect(errorCode(await peer.closed)).toBe('RPC_LINE_TOO_LONG');
});

test.each([
  'no json',
  '{}',
  '[1]',
  '{"id":0,"method":"x"}',
  '{"id":1,"method":""}',
  '{"id":1,"error":"x"}',
  '{"id":1,"result":1,"more":1}',
  '{"cancel":"1"}',
])('%s ends the connection with RPC_BAD_MESSAGE', async (line) => {
  const { peer, stream } = bare();
  const call = codeOf(peer.call('x'));
  stream.write(`${line}\n`);
  expect(errorCode(await peer.closed)).toBe('RPC_BAD_MESSAGE');
  expect(await call).toBe('RPC_BAD_MESSAGE');
});

test('lines may come byte by byte, glued, with empty lines between', async () => {
  const { peer, stream, said } = bare({ echo: async (params) => params });
  const text = '\n{"id":1,"method":"echo","params":"ä€"}\n\n{"id":2,"method":"echo","params":2}\n';
  for (const byte of Buffer.from(text)) stream.write(Buffer.of(byte));
  stream.write('{"id":3,"method":"echo"}\n{"id":4,"method":"echo","params":[]}\n');
  while (said().split('\n').length < 5) await new Promise((resolve) => setImmediate(resolve));
  expect(said()).toBe(
    '{"id":1,"result":"ä€"}\n{"id":2,"result":2}\n{"id":3,"result":null}\n{"id":4,"result":[]}\n',
  );
  peer.close();
});
