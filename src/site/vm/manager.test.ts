import { expect, it } from 'vitest';
import { fakePair } from '../../../test/kit/fakePair.ts';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { errorCode } from '../../base/errors.ts';

it('stops also a VM that is just being started, and starts none any more', async () => {
  await using dir = await tempDir();
  const { center } = await fakePair(dir);
  await center.vms.stop(center.vm, { force: true });
  expect(center.host.runningQemus).toBe(0);
  const started = center.vms.start(center.vm);
  await center.vms.stopAll();
  await started;
  expect(center.host.runningQemus).toBe(0);
  expect(await center.vms.start(center.vm).catch(errorCode)).toBe('VM_START_FAILED');
});
