import { errorCatalogue } from '../base/errors.ts';

export const failRegistry = errorCatalogue({
  ENROL_TOKEN: {
    summary: 'this is no enrolment token',
    remedy: 'Copy the whole line that `cloudap center token` printed at the center.',
  },
  ENROL_TOKEN_UNKNOWN: {
    summary: 'the center does not know this token',
    remedy: 'It was revoked, or is of another center; make a new one there: `cloudap center token`.',
  },
  ENROL_TOKEN_EXPIRED: {
    summary: 'the token has expired',
    remedy: 'Make a new one at the center: `cloudap center token`, with a longer `--ttl` if need be.',
  },
  ENROL_TOKEN_USED: {
    summary: 'the token has been used already',
    remedy:
      'A token lets one node in, once. If it was not you who used it, revoke that node at the center: `cloudap center revoke`.',
  },
  ENROL_TOO_MANY: {
    summary: 'too many tokens are open, or too many requests came',
    remedy: 'Wait a minute; remove tokens that nobody needs: `cloudap center token --rm ID`.',
  },
  ENROL_UNREACHABLE: {
    summary: 'the center’s enrolment address cannot be reached',
    remedy: 'Check the address (it is in the token; `--center HOST:PORT` takes another one) and firewalls.',
  },
  ENROL_WRONG_CENTER: {
    summary: 'whoever answers is not the center that made the token',
    remedy:
      'Check the address, and who answers there: the certificate authority is not the one in the token.',
  },
  ENROL_BAD_REQUEST: {
    summary: 'the enrolment service does not take this request',
    remedy: 'Use `cloudap enrol` of the same version as the center.',
  },
  ENROL_BAD_ANSWER: {
    summary: 'the center’s answer is not as it should be',
    remedy: 'Use the same version of CloudAP at both ends.',
  },
  ENROL_EXISTS: {
    summary: 'this directory is of another node already',
    remedy: 'Take an empty directory, or one of the same node.',
  },
  NODE_UNKNOWN: {
    summary: 'no such node or site',
    remedy: '`cloudap center nodes` lists them.',
  },
  NODE_IS_CENTER: {
    summary: 'the center cannot be revoked, nor another node be called like it',
    remedy: 'Name another node; to replace the center’s certificate make it anew with its CA.',
  },
  NODE_REVOKED: {
    summary: 'the certificate of this node is no longer good',
    remedy: 'Enrol it again: `cloudap center token` at the center, `cloudap enrol` here.',
  },
  NO_ENROLMENT: {
    summary: 'this center takes no enrolments',
    remedy: 'Give it `enrol: {listen: …, ca: …}` in its configuration (docs/REGISTRY.md).',
  },
});
