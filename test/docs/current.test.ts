import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { constants } from '../../scripts/docs/constants.ts';
import { declaredErrors } from '../../scripts/docs/errors.ts';
import { generatedDocuments } from '../../scripts/docs/generate.ts';
import { limitNotes, settings } from '../../scripts/docs/limit-notes.ts';
import { noteOf, testFile, testTitle } from '../../scripts/docs/limits.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

describe('docs/ERRORS.md', () => {
  it('has every error once: no code is declared in two places, none is declared unseen', async () => {
    const errors = await declaredErrors(root);
    expect(errors.length).toBeGreaterThan(100);
    const wrong = errors.filter(({ files }) => files.length !== 1);
    expect(
      wrong.map(({ code, files }) => `${code} in ${files.join(' and ') || 'no file that was found'}`),
    ).toEqual([]);
  });

  it('speaks in sentences: a summary goes on after a colon, a remedy ends with a full stop or a command', async () => {
    for (const { code, summary, remedy } of await declaredErrors(root)) {
      expect(summary, code).toMatch(/^\S.{7,118}[^.\s]$/);
      expect(remedy, code).toMatch(/^[A-Z`].{10,}/);
    }
  });

  it('names no error in the other documents that does not exist', async () => {
    const codes = new Set((await declaredErrors(root)).map(({ code }) => code));
    const prefixes = new Set([...codes].map((code) => code.split('_')[0]));
    const others = new Set(['MIGRATION_PASS', ...constants(root).map(({ name }) => name)]);
    for (const path of [
      'README.md',
      ...globSync('docs/**/*.md', { cwd: root, exclude: ['docs/LIMITS.md'] }),
    ]) {
      for (const [, code = ''] of read(path).matchAll(/`([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])`/g)) {
        if (prefixes.has(code.split('_')[0]) && !others.has(code)) {
          expect(codes, `${path}: ${code}`).toContain(code);
        }
      }
    }
  });
});

describe('docs/LIMITS.md', () => {
  const found = constants(root);

  it('has every numeric constant that is a limit or a setting', () => {
    const missing = found.filter((constant) => noteOf(constant) === undefined);
    expect(
      missing.map(({ file, name }) => `${file}: ${name}`),
      'say in scripts/docs/limit-notes.ts what each is, then `npm run docs`',
    ).toEqual([]);
  });

  it('speaks of no constant that is gone', () => {
    const names = new Set(found.map(({ file, name }) => `${file}: ${name}`));
    const spoken = [
      ...Object.entries(limitNotes).flatMap(([file, notes]) =>
        Object.keys(notes).map((name) => `${file}: ${name}`),
      ),
      ...Object.entries(settings).flatMap(([file, list]) => list.map((name) => `${file}: ${name}`)),
    ];
    expect(spoken.filter((name) => !names.has(name))).toEqual([]);
  });

  it('names errors that exist', async () => {
    const codes = new Set((await declaredErrors(root)).map(({ code }) => code));
    for (const notes of Object.values(limitNotes)) {
      for (const [name, { crossed }] of Object.entries(notes)) {
        for (const [, code] of crossed.matchAll(/`([A-Z0-9]+(?:_[A-Z0-9]+)+)`/g))
          expect(codes, name).toContain(code);
      }
    }
  });

  it('links tests that exist', () => {
    for (const notes of Object.values(limitNotes)) {
      for (const [name, { test }] of Object.entries(notes)) {
        if (test !== undefined) expect(read(testFile(test)), `${name}: ${test}`).toContain(testTitle(test));
      }
    }
  });

  it('has a reason for each', () => {
    const bare = found.filter((constant) => {
      const note = noteOf(constant);
      return note !== 'other' && constant.why === '' && !(typeof note === 'object' && note.why !== undefined);
    });
    expect(bare.map(({ file, name }) => `${file}: ${name}`)).toEqual([]);
  });
});

describe('documents', () => {
  it('made from the sources are current (otherwise: npm run docs)', async () => {
    for (const [path, text] of await generatedDocuments(root)) expect(read(path), path).toBe(text);
  });

  const documents = ['README.md', 'CONTRIBUTING.md', ...globSync('docs/**/*.md', { cwd: root })];
  it.each(documents)('%s links to what exists', (path) => {
    const text = read(path);
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [file = '', anchor] = target.split('#');
      const full = file === '' ? join(root, path) : join(root, dirname(path), file);
      expect(existsSync(full), `${path}: ${target}`).toBe(true);
      if (anchor !== undefined && full.endsWith('.md'))
        expect(anchors(readFileSync(full, 'utf8'))).toContain(anchor);
    }
  });
});

/** The anchors that a Markdown viewer makes of headings. */
function anchors(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
    title
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
