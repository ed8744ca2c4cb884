import { errorCatalogue } from '../../base/errors.ts';

const defect = 'Both sites must run compatible versions of CloudAP; if they do, this is a defect in CloudAP.';

export const fail = errorCatalogue({
  STREAM_UNKNOWN: {
    summary: 'the migration stream is not one that CloudAP understands',
    remedy:
      'The source QEMU is not of a supported version (7.2 to 10), or uses a capability CloudAP does not set.',
  },
  STREAM_PACKAGED_TOO_LARGE: {
    summary: 'the device state of the machine is larger than allowed',
    remedy:
      'Use fewer or smaller devices (video memory counts as RAM, not as device state). See docs/LIMITS.md.',
  },
  STREAM_ENDED: {
    summary: 'migration stream data after its end',
    remedy: 'This is a defect in CloudAP; report it with the log.',
  },
  STREAM_FRAME_VERSION: { summary: 'a stream frame has a version that is not known here', remedy: defect },
  STREAM_FRAME_CORRUPT: { summary: 'a stream frame is malformed', remedy: defect },
  STREAM_FRAME_TOO_LARGE: { summary: 'a stream frame is larger than allowed', remedy: defect },
  STREAM_CHECKSUM: {
    summary: 'a stream frame did not decode to the bytes that were sent',
    remedy:
      'The data was damaged on the way or by a faulty machine; nothing of the frame was used. Try again.',
  },
  STREAM_CONTENT: {
    summary: 'a stream frame was decoded without the pages that it refers to',
    remedy: defect,
  },
  STREAM_RETURN_PATH: {
    summary: 'the return path of the target QEMU is malformed',
    remedy: 'The target QEMU is faulty or of an unsupported version.',
  },
});
