import { errorCatalogue } from '../base/errors.ts';

export const failMobility = errorCatalogue({
  PRESENCE_TOKEN: {
    summary: 'this is no token of a device, or it is no longer good',
    remedy: 'Have a new one made at the center: `cloudap center device-token DEVICE`.',
  },
  PRESENCE_BAD_REQUEST: {
    summary: 'the presence service does not take this request',
    remedy: 'See docs/MOBILITY.md for what it takes.',
  },
  PRESENCE_FORBIDDEN: {
    summary: 'the presence service does not know who asks',
    remedy: 'Use the address with the secret that the site’s configuration has (`presence.mec.secret`).',
  },
});
