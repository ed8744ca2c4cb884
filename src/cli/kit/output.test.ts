import { describe, expect, it } from 'vitest';
import { CloudapError } from '../../base/errors.ts';
import { formatBytes, formatMs, reportError, table, type Output } from './output.ts';

function capture(): Output & { errors: string } {
  return {
    errors: '',
    tty: false,
    columns: 80,
    out() {},
    err(text) {
      this.errors += text;
    },
  };
}

describe('errors', () => {
  it.each([
    [new CloudapError('VM_UNKNOWN', 'no such VM: x', 'See `cloudap vm ls`.'), 1],
    [new CloudapError('USAGE', 'wrong', 'See --help.'), 2],
    [new CloudapError('SITE_UNREACHABLE', 'nobody', 'Start it.'), 3],
    [new CloudapError('MIGRATE_CANCELLED', 'cancelled', 'Nothing.'), 130],
    [new DOMException('interrupted', 'AbortError'), 130],
    [new Error('boom'), 1],
    ['text', 1],
  ])('%s ends with exit code %i', (error, code) => {
    expect(reportError(capture(), error, false)).toBe(code);
  });

  it('are code, message and remedy on two lines, or JSON', () => {
    const error = new CloudapError('VM_UNKNOWN', 'no such VM: x', 'See `cloudap vm ls`.', {
      fields: { vm: 'x' },
    });
    const plain = capture();
    reportError(plain, error, false);
    expect(plain.errors).toBe('VM_UNKNOWN: no such VM: x\n  See `cloudap vm ls`.\n');
    const json = capture();
    reportError(json, error, true);
    expect(JSON.parse(json.errors)).toEqual({ error: error.toJSON() });
  });
});

it('aligns tables', () => {
  expect(
    table(
      ['A', 'B'],
      [
        ['long', 'x'],
        ['s', ''],
      ],
    ),
  ).toBe('A     B\nlong  x\ns\n');
});

it.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1536, '1.5 KiB'],
  [200 * 1024 ** 2, '200 MiB'],
  [2 * 1024 ** 5, '2048 TiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

it.each([
  [null, '-'],
  [0.25, '0.3 ms'],
  [42, '42 ms'],
  [1234, '1.23 s'],
])('%s ms are %s', (ms, text) => {
  expect(formatMs(ms)).toBe(text);
});
