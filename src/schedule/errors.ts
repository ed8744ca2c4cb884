import { errorCatalogue } from '../base/errors.ts';

export const failSchedule = errorCatalogue({
  PLACE_NO_ROOM: {
    summary: 'no host of the site can take the VM',
    remedy:
      'The message says for each host what it lacks. Make room there, stage the image, or move the VM to another site.',
  },
  PLACE_CONTENDED: {
    summary: 'the hosts of the site are being given away faster than this request can take one',
    remedy: 'Ask again in a moment.',
  },
});
