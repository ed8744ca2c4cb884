import { statusOf as siteStatusOf } from '../site/api/status-codes.ts';

const exact: Readonly<Record<string, number>> = {
  AUTH_REQUIRED: 401,
  AUTH_EXPIRED: 401,
  AUTH_WRONG: 401,
  AUTH_LOCKED: 429,
  AUTH_FORBIDDEN: 403,
  AUTH_PASSWORD: 400,
  ACCOUNT_UNKNOWN: 404,
  ACCOUNT_EXISTS: 409,
  CREDENTIAL_UNKNOWN: 404,
  CREDENTIALS_TOO_MANY: 429,
  TASK_UNKNOWN: 404,
  TASK_NOT_ABORTABLE: 409,
  PORTAL_BUSY: 429,
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
