import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { lockDataDir } from './lock.ts';

it('keeps a data directory for one agent, in this process and in others, until it lets go', async () => {
  await using dir = await tempDir();
  const lock = lockDataDir(dir.path);
  expect(() => lockDataDir(dir.path)).toThrow(expect.objectContaining({ code: 'SITE_LOCKED' }));
  expect(() => lockDataDir(dir.path)).toThrow(`process ${process.pid}`);
  const module = new URL('lock.ts', import.meta.url).href;
  const script = `try { (await import(${JSON.stringify(module)})).lockDataDir(${JSON.stringify(dir.path)}); console.log('taken') } catch (e) { console.log(e.code) }`;
  const ask = async (): Promise<string> => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
    return stdout.trim();
  };
  expect(await ask()).toBe('SITE_LOCKED');
  lock[Symbol.dispose]();
  lock[Symbol.dispose]();
  // taken by a process that has ended since: nothing of its lock is left
  expect(await ask()).toBe('taken');
  using _again = lockDataDir(dir.path);
});
