import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  LINK_BAD_FRAME: {
    summary: 'the other site sent a frame that breaks the link protocol',
    remedy: 'Check that both sites run the same CloudAP version; if they do, report it with both logs.',
  },
  LINK_BAD_ARGUMENT: {
    summary: 'a value does not fit into a link frame',
    remedy: 'The message names the value and its limit.',
  },
  LINK_MESSAGE_TOO_LARGE: {
    summary: 'a message is larger than the link allows',
    remedy: 'This is a defect of the sender; the limit is MAX_MESSAGE_BYTES (docs/LIMITS.md).',
  },
  LINK_VERSION: {
    summary: 'the sites speak different versions of the link protocol',
    remedy: 'Update CloudAP at the older site.',
  },
  LINK_BAD_PREAMBLE: {
    summary: 'a connection to the gateway did not start with a CloudAP preamble',
    remedy: 'Something that is not CloudAP connects to the link port, or the sites run different versions.',
  },
});
