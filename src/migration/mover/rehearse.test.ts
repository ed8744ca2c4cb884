import { expect, test } from 'vitest';
import { rehearse } from './rehearse.ts';

test('a rehearsal goes through to its end: nothing in it is refused', () => {
  expect(rehearse).not.toThrow();
});
