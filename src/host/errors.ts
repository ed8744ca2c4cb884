import { errorCatalogue } from '../base/errors.ts';

export const failHost = errorCatalogue({
  HOST_NO_CONTROL: {
    summary: 'the configuration has no `control` block',
    remedy:
      'A host of a two-tier system needs one (docs/SITE.md); `cloudap node join` writes it. A site by itself is run by `cloudap site`.',
  },
  HOST_NO_ROUTE: {
    summary: 'neither of the two hosts can reach the other',
    remedy:
      'One of them needs link.listen (and link.advertise where it is behind NAT), or both a way to a host of the center with link.relay.',
  },
});
