const exact: Readonly<Record<string, number>> = {
  API_BAD_REQUEST: 400,
  API_NO_SUCH_ROUTE: 404,
  VM_UNKNOWN: 404,
  IMAGE_UNKNOWN: 404,
  IMAGE_AMBIGUOUS: 400,
  TEMPLATE_UNKNOWN: 404,
  TEMPLATE_BUILD_UNKNOWN: 404,
  TEMPLATE_AMBIGUOUS: 400,
  TEMPLATE_CORRUPT: 500,
  TEMPLATE_STORE: 507,
  SITE_UNKNOWN: 404,
  MIGRATE_UNKNOWN: 404,
  STAGE_UNKNOWN: 404,
  STAGE_TO_SELF: 400,
  STAGE_NO_SPACE: 507,
  RESIDUE_UNKNOWN: 404,
  SITE_NOT_CONNECTED: 503,
  VM_CAPACITY: 507,
  VM_START_FAILED: 502,
  QEMU_SPEC_INVALID: 400,
  MIGRATE_TO_SELF: 400,
};

/** HTTP status of an error code: what is not named here is a conflict of states (409) or a failure (500). */
export function statusOf(code: string): number {
  const status = exact[code];
  if (status !== undefined) return status;
  return /^(VM|TEMPLATE|MIGRATE|MOVER|OWNERSHIP|STAGE)_/.test(code) ? 409 : 500;
}
