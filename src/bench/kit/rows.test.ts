import { expect, test } from 'vitest';
import { makeRow, metricsTable, rowsTable } from './rows.ts';

test('a row has its ratio, rounded figures and its notes', () => {
  expect(
    makeRow('ci idle rle', 'downtimeMs', 12.3456, {
      peer: { name: 'qemu', value: 123.456 },
      notes: '5 runs',
    }),
  ).toEqual({
    case: 'ci idle rle',
    metric: 'downtimeMs',
    value: 12.35,
    peer: 'qemu',
    peerValue: 123.5,
    ratio: 0.1,
    notes: '5 runs',
  });
});

test('without a peer there is nothing to compare with; what is no number is null, so that JSON keeps it', () => {
  const alone = makeRow('mix raw', 'MBps', 400);
  expect(alone).toEqual({
    case: 'mix raw',
    metric: 'MBps',
    value: 400,
    peer: null,
    peerValue: null,
    ratio: null,
  });
  const none = makeRow('x', 'y', Number.NaN, { peer: { name: 'p', value: 0 } });
  expect(none).toMatchObject({ value: null, ratio: null });
  expect(JSON.parse(JSON.stringify(none))).toEqual(none);
});

test('the table has a line a row and each note once', () => {
  const peer = { name: 'qemu', value: 2 };
  const rows = [makeRow('a', 'm', 1, { peer, notes: 'n' }), makeRow('a', 'longer', 10, { peer, notes: 'n' })];
  expect(rowsTable(rows)).toBe(
    [
      'case  metric  cloudap  peer  peer value  ratio',
      'a     m             1  qemu           2    0.5',
      'a     longer       10  qemu           2      5',
      '  a: n',
      '',
    ].join('\n'),
  );
  expect(metricsTable(rows)).toBe('case  m  longer\na     1      10\n');
});
