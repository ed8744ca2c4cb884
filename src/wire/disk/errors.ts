import { errorCatalogue } from '../../base/errors.ts';

const remedy =
  'Update both sites to the same version of CloudAP; if they are, report a defect with both logs.';

export const fail = errorCatalogue({
  DISK_FRAME_INVALID: { summary: 'the other site sent a malformed disk message', remedy },
  DISK_VERSION: { summary: 'the other site speaks another version of the disk protocol', remedy },
  DISK_OUT_OF_RANGE: { summary: 'the other site named sectors that the disk does not have', remedy },
  DISK_FRAME_CORRUPT: {
    summary: 'disk data arrived damaged',
    remedy:
      'It is asked for again by itself. If it repeats, check memory and network hardware of both hosts.',
  },
});
