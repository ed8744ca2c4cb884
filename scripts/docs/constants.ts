import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { sourceFiles } from './sources.ts';

/** A numeric constant of the sources with the comment above it. */
export interface Constant {
  readonly name: string;
  readonly value: number;
  /** The sentence(s) of its doc comment; constants that follow each other without one share it. */
  readonly why: string;
  /** Relative to the repository. */
  readonly file: string;
}

const DECLARATION = /^(?:export )?const ([A-Z][A-Z0-9_]+)(?:: number)? = ([^;{}'"`[\]]+);/;
/** What stands outside of constants.ts counts if its name says that it is a limit. */
const NAMED_LIKE_A_LIMIT = /(^|_)(MAX|MIN|LIMIT|TIMEOUT|MOST)(_|$)/;

/** Numeric constants: all of every constants.ts, and those named like a limit elsewhere; tests and benchmarks left out. */
export function constants(root: string): Constant[] {
  const known = new Map<string, number>();
  // twice, because a room may use the constants of one that comes later
  collect(root, known);
  return collect(root, known);
}

function collect(root: string, known: Map<string, number>): Constant[] {
  const found: Constant[] = [];
  const files = sourceFiles(root).filter((file) => !/^src\/(bench|lab)\//.test(file));
  // constants.ts first: other files use their values
  for (const file of files.toSorted((a, b) => rank(a) - rank(b))) {
    const local = new Map(known);
    for (const { name, expression, why } of declarations(readFileSync(join(root, file), 'utf8'))) {
      const value = evaluate(expression, local);
      if (value === undefined) continue;
      local.set(name, value);
      if (rank(file) === 0) known.set(name, value);
      if (rank(file) === 0 || NAMED_LIKE_A_LIMIT.test(name)) found.push({ name, value, why, file });
    }
  }
  return found;
}

const rank = (file: string): number => (!file.endsWith('/constants.ts') ? 1 : 0);

function* declarations(text: string): Generator<{ name: string; expression: string; why: string }> {
  let why = '';
  let comment: string[] | undefined;
  for (const line of text.split('\n')) {
    const opened = /^\/\*\*?\s?(.*)$/.exec(line);
    if (opened) comment = [];
    if (comment) {
      comment.push(line.replace(/^\s*\/?\*+\/?\s?/, '').replace(/\s*\*\/\s*$/, ''));
      if (line.includes('*/')) {
        why = comment.join(' ').replaceAll(/\s+/g, ' ').trim();
        comment = undefined;
      }
      continue;
    }
    const match = DECLARATION.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) {
      yield { name: match[1], expression: match[2], why };
    } else why = '';
  }
}

/** Numbers, other constants and arithmetic; undefined for anything else. */
function evaluate(expression: string, known: ReadonlyMap<string, number>): number | undefined {
  let unknown = false;
  const numbers = expression.replaceAll(/[A-Za-z_][A-Za-z0-9_]*/g, (word, at: number) => {
    // `0x7e` and `30_000` are numbers
    if (/[0-9]/.test(expression.charAt(at - 1))) return word;
    const value = known.get(word);
    unknown ||= value === undefined;
    return String(value);
  });
  if (unknown || !/^[0-9a-fx_+\-*/() .]+$/i.test(numbers)) return undefined;
  const value: unknown = runInNewContext(numbers);
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}
