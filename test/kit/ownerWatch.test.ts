import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { OwnerWatch } from './ownerWatch.ts';
import { tempDir } from './tempdir.ts';

const VM = 'vm-000000000001';

test('the watch sees a VM that two hosts own, and none where one only offers it', async () => {
  await using dir = await tempDir();
  const owns = async (host: string, owner: string, generation: number, state: string): Promise<void> => {
    const folder = join(dir.path, host, 'data', 'vms', VM);
    await mkdir(folder, { recursive: true });
    const ownership = { version: 1, vmId: VM, owner, generation, state, peer: null };
    await writeFile(join(folder, 'ownership.json'), JSON.stringify(ownership));
  };
  const system = {
    dir: dir.path,
    files: {
      hosts: new Map([
        ['h1', ''],
        ['h2', ''],
      ]),
    },
  };
  await owns('h1', 'h1', 1, 'offered');
  await owns('h2', 'h2', 2, 'owned');
  await using watch = OwnerWatch.start(system);
  while (watch.looks < 3) await sleep(10);
  expect(watch.violations).toEqual([]);
  expect([...(await watch.owners())]).toEqual([[VM, [{ host: 'h2', generation: 2 }]]]);
  await owns('h1', 'h1', 1, 'owned');
  const { looks } = watch;
  while (watch.looks < looks + 3) await sleep(10);
  expect(watch.violations[0]).toContain(`${VM} is owned by`);
});
