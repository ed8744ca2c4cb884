import { errorCatalogue } from '../base/errors.ts';

export const failLab = errorCatalogue({
  LAB_START: {
    summary: 'a process of the two-site set-up did not start',
    remedy: 'The message holds what it said; `./cloudap doctor` shows what this machine lacks.',
  },
  LAB_TEMPLATE: {
    summary: 'no template could be built at the center',
    remedy: 'The message says why.',
  },
  LAB_NETNS: {
    summary: 'no link between network namespaces could be made',
    remedy:
      'It needs root, `ip` and `tc` (iproute2) and the kernel modules veth and sch_tbf; the emulated link needs none.',
  },
});
