import { expect, it } from 'vitest';
import { moduleClosure } from './modules.ts';

const dependencies = `kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/block/virtio-blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
`;
const builtin = 'kernel/fs/ext4/ext4.ko\n';

it('lists modules behind all that they need, each once', () => {
  const names = moduleClosure(dependencies, builtin, ['virtio_pci', 'virtio_blk', 'ext4']).map((path) =>
    path.replace(/.*\//, ''),
  );
  expect(names).toEqual(['virtio.ko.xz', 'virtio_ring.ko.xz', 'virtio_pci.ko.xz', 'virtio-blk.ko.xz']);
});

it('reports a module that is neither there nor built in, and a damaged table', () => {
  expect(() => moduleClosure(dependencies, builtin, ['floppy'])).toThrow(
    expect.objectContaining({ code: 'GUEST_MODULE' }),
  );
  const broken = 'a.ko: b.ko\nb.ko: a.ko\nc.ko: missing.ko\n';
  for (const name of ['a', 'c']) {
    expect(() => moduleClosure(broken, '', [name])).toThrow(
      expect.objectContaining({ code: 'GUEST_MODULE' }),
    );
  }
});
