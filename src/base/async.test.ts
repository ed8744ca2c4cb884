import { setImmediate as tick } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { abortable } from './async.ts';

test('abortable: the first of signal and promise', async () => {
  const abort = new AbortController();
  expect(await abortable(Promise.resolve(1), abort.signal)).toBe(1);
  const waiting = abortable(new Promise<never>(() => {}), abort.signal);
  abort.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
});

test('abortable: a promise that nobody waits for any more is no unhandled rejection', async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', note);
  try {
    const before = AbortSignal.abort(new Error('before'));
    const { promise, reject } = Promise.withResolvers<void>();
    await expect(abortable(promise, before)).rejects.toThrow('before');
    reject(new Error('late'));
    const during = new AbortController();
    const other = Promise.withResolvers<void>();
    const waiting = abortable(other.promise, during.signal);
    during.abort(new Error('during'));
    await expect(waiting).rejects.toThrow('during');
    other.reject(new Error('later'));
    await tick();
    await tick();
    expect(unhandled).toEqual([]);
  } finally {
    process.off('unhandledRejection', note);
  }
});
