import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  QCOW2_INVALID: {
    summary: 'the file is not a sound qcow2 image',
    remedy: 'Look at it with `qemu-img check`; restore the image from a copy if it is damaged.',
  },
  QCOW2_UNSUPPORTED: {
    summary: 'the qcow2 image uses a feature that cannot be migrated',
    remedy: 'Convert it with `qemu-img convert -O qcow2` to an image without that feature.',
  },
  QCOW2_LIMIT: {
    summary: 'the qcow2 image exceeds a limit',
    remedy: 'See docs/LIMITS.md; a larger cluster size makes the tables smaller.',
  },
});
