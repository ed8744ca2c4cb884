import { expect, it } from 'vitest';
import { fakeDigest, FakeHost } from '../../../test/kit/fakeSite.ts';
import { errorCode } from '../../base/errors.ts';
import { templateManifestSchema } from '../../content/templates/manifest.ts';
import { requireUsable } from './usable.ts';

const file = { sha256: fakeDigest, fileBytes: 1 };
const good = {
  version: 1,
  digest: fakeDigest,
  name: 'desk',
  createdAt: '2026-01-01T00:00:00.000Z',
  image: fakeDigest,
  accelerator: 'tcg',
  qemuVersion: '7.2.4',
  machine: {
    machineType: 'pc-i440fx-7.2',
    cpuModel: 'qemu64,+rdrand',
    cpus: 1,
    memoryMiB: 64,
    diskBytes: 1024 ** 2,
    display: 'none',
  },
  overlay: file,
  ram: file,
  devices: file,
};

it.each([
  ['as it is', {}, 'none'],
  ['of an older QEMU', { qemuVersion: '5.0.0' }, 'none'],
  ['of a newer QEMU', { qemuVersion: '8.0.0' }, 'TEMPLATE_QEMU_TOO_OLD'],
  ['of another accelerator', { accelerator: 'kvm' }, 'TEMPLATE_ACCELERATOR'],
  ['of a machine that is not known', { machine: { machineType: 'pc-q35-9.0' } }, 'TEMPLATE_MACHINE'],
  ['of a CPU that is not known', { machine: { cpuModel: 'Skylake' } }, 'TEMPLATE_MACHINE'],
  ['of an image that is not here', { image: 'b'.repeat(64) }, 'TEMPLATE_NO_IMAGE'],
  ['of another disk', { machine: { diskBytes: 512 } }, 'TEMPLATE_NO_IMAGE'],
])('a template %s', async (_what, change, code) => {
  const machine = { ...good.machine, ...('machine' in change ? change.machine : {}) };
  const manifest = templateManifestSchema.parse({ ...good, ...change, machine });
  const host = new FakeHost();
  const answer = requireUsable(manifest, host.facts, host.backends().images);
  expect(await answer.then(() => 'none', errorCode)).toBe(code);
});
