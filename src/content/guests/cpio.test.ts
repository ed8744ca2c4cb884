import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CpioEntry, cpioArchive, readCpio } from './cpio.ts';

describe('cpioArchive', () => {
  it('writes folders before what is in them, each once', () => {
    const archive = cpioArchive([
      { kind: 'file', path: 'a/b/program', data: Buffer.from('x'), mode: 0o755 },
      { kind: 'link', path: 'a/b/name', target: 'program' },
      { kind: 'device', path: 'dev/console', major: 5, minor: 1 },
      { kind: 'folder', path: 'proc' },
    ]);
    expect(archive.length % 512).toBe(0);
    expect(readCpio(archive).map(({ path, mode }) => `${path} ${mode.toString(8)}`)).toEqual([
      'a 40755',
      'a/b 40755',
      'a/b/program 100755',
      'a/b/name 120777',
      'dev 40755',
      'dev/console 20600',
      'proc 40755',
    ]);
  });

  it('gives back what was put in, and the same bytes for the same entries', () => {
    const name = fc.stringMatching(/^[a-z]{1,8}$/);
    const files = fc.uniqueArray(fc.tuple(name, fc.uint8Array({ maxLength: 50 })), {
      selector: ([path]) => path,
    });
    fc.assert(
      fc.property(files, (list) => {
        const entries = list.map(
          ([path, data]): CpioEntry => ({ kind: 'file', path, data: Buffer.from(data) }),
        );
        const archive = cpioArchive(entries);
        expect(readCpio(archive).map(({ path, data }) => [path, new Uint8Array(data)])).toEqual(list);
        expect(cpioArchive(entries).equals(archive)).toBe(true);
      }),
    );
  });

  it('takes no path twice and none that leads outside', () => {
    const data = Buffer.alloc(0);
    for (const path of ['', '/etc/passwd', '../x', 'a/../b']) {
      expect(() => cpioArchive([{ kind: 'file', path, data }])).toThrow(TypeError);
    }
    const twice: CpioEntry = { kind: 'file', path: 'x', data };
    expect(() => cpioArchive([twice, twice])).toThrow('twice');
  });
});
