import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { existsSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import { migrationRecordSchema } from '../../src/migration/record.ts';
import { tempDir } from '../kit/tempdir.ts';

const CLI = 'src/cli/main.ts';

/** Runs the command line as a user does and returns what it said. */
async function cloudap(
  args: readonly string[],
  onStart: (pid: number) => void = () => {},
): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text));
  onStart(child.pid ?? 0);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, out, err };
}

/** Processes and temporary folders of demos. */
async function leftovers(): Promise<string[]> {
  const folders = (await readdir(tmpdir())).filter((name) => name.startsWith('cloudap-demo-'));
  const processes: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    let line = '';
    try {
      line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    } catch {
      continue;
    }
    if (line.includes('cloudap-demo-')) processes.push(line);
  }
  return [...folders, ...processes];
}

test.each(['ci', 'abiword'])('the demo moves the %s guest and leaves nothing behind', async (guest) => {
  await using dir = await tempDir();
  const file = dir.file('record.json');
  const before = await leftovers();
  const { code, out, err } = await cloudap(['demo', '--guest', guest, '--json', file]);
  expect(code, err).toBe(0);
  const record = migrationRecordSchema.parse(JSON.parse(await readFile(file, 'utf8')));
  expect(record).toMatchObject({ ok: true, source: 'center', target: 'ap1', integrity: { bad: 0 } });
  for (const figure of ['downtime', 'switch time', 'total migration time', 'migrated data']) {
    expect(out).toContain(figure);
  }
  expect(out).toContain('qemu-img check finds no error');
  if (guest === 'abiword') {
    const [, shot] = /after +(\S+\.png)/.exec(out) ?? [];
    expect(existsSync(shot ?? '')).toBe(true);
  }
  expect((await leftovers()).filter((found) => !before.includes(found))).toEqual([]);
});

test('Ctrl-C ends the demo in order', async () => {
  const before = await leftovers();
  const { code, err } = await cloudap(['demo', '--guest', 'ci', '--link', 'rate=5mbit'], (pid) => {
    const watch = setInterval(() => {
      void leftovers().then((found) => {
        if (!found.some((line) => line.includes('qemu-system') && !before.includes(line))) return;
        clearInterval(watch);
        process.kill(pid, 'SIGINT');
      });
    }, 300);
  });
  expect(code, err).not.toBe(0);
  expect((await leftovers()).filter((found) => !before.includes(found))).toEqual([]);
});
