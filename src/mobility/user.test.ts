import { describe, expect, test } from 'vitest';
import { LEAVE_GRACE_MS } from './constants.ts';
import { elapsed, sighted, unseen, type DeviceState } from './device.ts';
import { leading } from './user.ts';

const arrive = (state: DeviceState, site: string, atMs: number): DeviceState =>
  sighted(state, { kind: 'arrive', site, atMs });

describe('a user with several devices', () => {
  const laptop = arrive(unseen, 'ap1', 1000);
  const phone = arrive(unseen, 'ap2', 50_000);

  test('is where the device is that arrived last, in whatever order they are looked at', () => {
    const devices: [string, DeviceState][] = [
      ['laptop', laptop],
      ['phone', phone],
    ];
    expect(leading(devices)).toEqual({ device: 'phone', site: 'ap2', sinceMs: 50_000 });
    expect(leading(devices.toReversed())).toEqual(leading(devices));
  });

  test('is not drawn back by a device that only says again that it is still there', () => {
    const still = arrive(laptop, 'ap1', 90_000);
    expect(
      leading([
        ['laptop', still],
        ['phone', phone],
      ])?.device,
    ).toBe('phone');
  });

  test('is where the others are when that one has left, and nowhere when all have', () => {
    const leave = (state: DeviceState, site: string): DeviceState =>
      elapsed(sighted(state, { kind: 'leave', site, atMs: 100_000 }), 100_000 + LEAVE_GRACE_MS);
    const left = leave(phone, 'ap2');
    expect(
      leading([
        ['laptop', laptop],
        ['phone', left],
      ]),
    ).toEqual({ device: 'laptop', site: 'ap1', sinceMs: 1000 });
    expect(
      leading([
        ['laptop', leave(laptop, 'ap1')],
        ['phone', left],
      ]),
    ).toBeUndefined();
  });
});
