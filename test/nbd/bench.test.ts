import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { tempDir } from '../kit/tempdir.ts';

test('the benchmark measures both servers in every case and writes its rows', async () => {
  await using dir = await tempDir();
  const json = dir.file('rows.json');
  const args = ['src/bench/nbd.ts', '--seconds=0.05', '--rounds=1', '--size-mib=8', `--json=${json}`];
  const { stdout } = await run(process.execPath, args, { env: { ...process.env, TMPDIR: dir.path } });
  const { rows } = JSON.parse(await readFile(json, 'utf8')) as { rows: Record<string, unknown>[] };
  expect(rows.map((r) => r['case'])).toEqual(['random-4k-qd1', 'random-4k-qd16', 'sequential-1m-qd1']);
  for (const row of rows) {
    expect(row).toMatchObject({ peer: 'qemu-nbd' });
    expect(row['value']).toBeGreaterThan(0);
    expect(row['peerValue']).toBeGreaterThan(0);
    expect(stdout).toContain(row['case']);
  }
  expect((await run('ls', [dir.path])).stdout).toBe('rows.json\n');
  expect((await run(process.execPath, ['src/bench/nbd.ts', '--help'])).stdout).toContain('--seconds');
});
