import { errorCatalogue } from '../base/errors.ts';

export const failControl = errorCatalogue({
  CONTROL_UNREACHABLE: {
    summary: 'the control plane cannot be reached',
    remedy:
      'Look whether the center runs and whether the address in the configuration (control.servers) is right; VMs run on meanwhile.',
  },
  CONTROL_REFUSED: {
    summary: 'the control plane refuses this agent',
    remedy:
      'Its certificate is unknown, expired or revoked: `cloudap center hosts` at the center shows it; enrol the agent again with a new token.',
  },
  CONTROL_NATS: {
    summary: 'nats-server does not start',
    remedy: 'The message holds its last words; mostly another process listens on its port.',
  },
  CONTROL_NO_ANSWER: {
    summary: 'the agent that was asked does not answer',
    remedy:
      'Look whether it runs (`cloudap center hosts`); the same command may be repeated, it has its effect once.',
  },
  CONTROL_BAD_REQUEST: {
    summary: 'a request is not as the protocol wants it',
    remedy: 'The message names the fields. Both agents should be of the same version of CloudAP.',
  },
  CONTROL_BAD_ANSWER: {
    summary: 'an answer is not as the protocol wants it',
    remedy: 'Both agents should be of the same version of CloudAP.',
  },
  CONTROL_NO_SUCH_METHOD: {
    summary: 'the agent does not know this request',
    remedy: 'Both agents should be of the same version of CloudAP.',
  },
  CONTROL_BUSY: {
    summary: 'the agent has too many requests under way',
    remedy: 'Try again in a moment.',
  },
  CONTROL_TOO_LARGE: {
    summary: 'a message is larger than the control plane takes',
    remedy: 'The message says which; lists in it are bounded (docs/LIMITS.md).',
  },
  CONTROL_CONFLICT: {
    summary: 'a record was changed by somebody else meanwhile',
    remedy: 'Read it again and repeat the change.',
  },
});
