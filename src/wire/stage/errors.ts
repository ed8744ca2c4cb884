import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  STAGE_FRAME_INVALID: {
    summary: 'the other site sent a malformed part of a file',
    remedy: 'Update both sites to the same version of CloudAP; if they are, report a defect.',
  },
});
