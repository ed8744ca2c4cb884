import { statusOf as siteStatusOf } from '../../site/api/status-codes.ts';

const exact: Readonly<Record<string, number>> = {
  MOVE_UNKNOWN: 404,
  MOVE_VM_UNKNOWN: 404,
  MOVE_SITE_UNKNOWN: 404,
  MOVE_TOO_MANY: 429,
  HOST_UNKNOWN: 404,
  SITE_HAS_NO_HOST: 507,
  PLACE_NO_ROOM: 507,
  NODE_UNKNOWN: 404,
  NODE_IS_CENTER: 409,
  ENROL_TOKEN_UNKNOWN: 404,
  ENROL_TOO_MANY: 429,
  CONTROL_NO_ANSWER: 504,
  CONTROL_UNREACHABLE: 503,
  CONTROL_BUSY: 503,
};

/** HTTP status of an error code. */
export function statusOf(code: string): number {
  return exact[code] ?? (code.startsWith('MOVE_') ? 409 : siteStatusOf(code));
}
