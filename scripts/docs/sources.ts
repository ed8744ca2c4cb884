import { globSync } from 'node:fs';

/** The TypeScript files of src without its tests, in a fixed order, relative to the repository. */
export function sourceFiles(root: string): string[] {
  return globSync('src/**/*.ts', { cwd: root })
    .filter((file) => !file.endsWith('.test.ts'))
    .toSorted();
}

const ROOMS: readonly (readonly [room: string, title: string])[] = [
  ['src/cli', 'Command line'],
  ['src/site', 'Sites'],
  ['src/center', 'Center'],
  ['src/portal', 'Portal'],
  ['src/migration', 'Migration'],
  ['src/wire/disk', 'Disk protocol'],
  ['src/content/images', 'Images'],
  ['src/content/guests', 'Guests'],
  ['src/content', 'Content'],
  ['src/link', 'Link'],
  ['src/wire/link', 'Link frames'],
  ['src/qemu/rfb', 'Screens (RFB)'],
  ['src/qemu', 'QEMU'],
  ['src/wire/qmp', 'QMP lines'],
  ['src/wire/qemu-stream', 'QEMU’s migration stream'],
  ['src/nbd', 'NBD'],
  ['src/wire/nbd', 'NBD messages'],
  ['src/wire/qcow2', 'qcow2'],
  ['src/wire', 'Codecs'],
  ['src/lab', 'Two sites on one machine'],
  ['src/bench', 'Benchmarks'],
  ['src/base', 'Everywhere'],
];

/** Where a file's entries stand in a document: the longest room that holds it. */
export function roomOf(file: string): string {
  const held = ROOMS.filter(([room]) => file.startsWith(`${room}/`));
  const [best] = held.toSorted(([a], [b]) => b.length - a.length);
  return best?.[1] ?? 'Other';
}

export const roomTitles: readonly string[] = [...ROOMS.map(([, title]) => title), 'Other'];

/** A Markdown table with columns as wide as their longest cell. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const safe = [head, ...rows].map((row) => row.map((cell) => cell.replaceAll('|', '\\|')));
  const lines = safe.map((row) => `| ${row.join(' | ')} |`);
  lines.splice(1, 0, `| ${head.map(() => '---').join(' | ')} |`);
  return `${lines.join('\n')}\n`;
}
