import { describe, expect, test } from 'vitest';
import { codeOf } from '../../../test/kit/qemuStream.ts';
import { type Control, encodeControl } from '../messages.ts';
import { ControlInbox } from './inbox.ts';

const push = (inbox: ControlInbox, message: Control): void => inbox.push(encodeControl(message));
const resumed: Control = { kind: 'resumed', atMs: 7 };
const failed = (tookOver: boolean): Control => ({
  kind: 'failed',
  error: { code: 'QMP_TIMEOUT', message: 'm', remedy: 'r' },
  tookOver,
});

describe('ControlInbox', () => {
  test('takes what has come and what is to come', async () => {
    const inbox = new ControlInbox();
    push(inbox, { kind: 'ready' });
    expect(await inbox.take('ready')).toEqual({ kind: 'ready' });
    const waited = inbox.take('resumed');
    push(inbox, resumed);
    expect(await waited).toEqual(resumed);
    // as often as asked for
    expect(await inbox.take('resumed')).toEqual(resumed);
  });

  test('a message twice is a breach', () => {
    const inbox = new ControlInbox();
    push(inbox, { kind: 'ready' });
    expect(codeOf(() => push(inbox, { kind: 'ready' }))).toBe('MOVER_PROTOCOL');
  });

  test('a failure ends every wait, now and later, and says whether the VM was taken', async () => {
    const inbox = new ControlInbox();
    push(inbox, { kind: 'ready' });
    const waits = [inbox.take('resumed'), inbox.take('independent'), inbox.failure];
    push(inbox, failed(true));
    push(inbox, failed(true));
    const error = { code: 'MOVER_PEER_FAILED', fields: { peerCode: 'QMP_TIMEOUT', tookOver: true } };
    for (const wait of waits) await expect(wait).rejects.toMatchObject(error);
    await expect(inbox.take('released')).rejects.toMatchObject(error);
    // what had come before is still there
    expect(await inbox.take('ready')).toEqual({ kind: 'ready' });
  });

  test('a wait has an end: time or signal', async () => {
    const inbox = new ControlInbox();
    await expect(inbox.take('ready', { timeoutMs: 5 })).rejects.toMatchObject({ code: 'MOVER_TIMEOUT' });
    const abort = new AbortController();
    const waited = inbox.take('ready', { signal: abort.signal, timeoutMs: 60_000 });
    abort.abort(new Error('enough'));
    await expect(waited).rejects.toThrow('enough');
    await expect(inbox.take('ready', { signal: abort.signal })).rejects.toThrow('enough');
    push(inbox, { kind: 'ready' });
    expect(await inbox.take('ready')).toEqual({ kind: 'ready' });
  });
});
