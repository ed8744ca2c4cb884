import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  TEMPLATE_NAME: {
    summary: 'this is not a usable template name',
    remedy: 'Use 1 to 64 of a-z, A-Z, 0-9, dot, dash and underscore, beginning with a letter.',
  },
  TEMPLATE_UNKNOWN: {
    summary: 'there is no such template',
    remedy: '`cloudap template ls` shows what there is; `cloudap template build` makes more.',
  },
  TEMPLATE_AMBIGUOUS: {
    summary: 'several templates match',
    remedy: 'Give more characters of the digest; `cloudap template ls` shows them.',
  },
  TEMPLATE_CORRUPT: {
    summary: 'the template is damaged',
    remedy:
      'Remove it with `cloudap template rm` and build it again; VMs that run from it are not harmed by that.',
  },
  TEMPLATE_IN_USE: {
    summary: 'VMs that run here map the memory of this template',
    remedy: 'Stop the VMs that the message names, or move them away, first.',
  },
  TEMPLATE_STORE: {
    summary: 'the template store cannot be used',
    remedy: 'Check that `templates` in the dataDir is writable and has space for the memory of a VM.',
  },
});
