/** What a user is told about one kind of failure. The code is the stable part: tests and callers match on it. */
export interface ErrorKind {
  /** What went wrong, in one line, without the particulars of one occurrence. */
  readonly summary: string;
  /** What the reader can do about it. */
  readonly remedy: string;
}

/** The one error class of CloudAP: the same code appears in the API, the command line and the log. */
export class CloudapError extends Error {
  readonly code: string;
  readonly remedy: string;
  /** Typed particulars (paths, ids, limits), for logs and for `--json`. */
  readonly fields: Readonly<Record<string, unknown>>;

  constructor(
    code: string,
    message: string,
    remedy: string,
    options: { cause?: unknown; fields?: Readonly<Record<string, unknown>> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CloudapError';
    this.code = code;
    this.remedy = remedy;
    this.fields = options.fields ?? {};
  }

  /** The shape in which errors cross a process or a link. */
  toJSON(): { code: string; message: string; remedy: string; fields: Readonly<Record<string, unknown>> } {
    return { code: this.code, message: this.message, remedy: this.remedy, fields: this.fields };
  }
}

const catalogue = new Map<string, ErrorKind>();

/** Every kind declared so far; docs/ERRORS.md is checked against it. */
export function allErrorKinds(): ReadonlyMap<string, ErrorKind> {
  return catalogue;
}

/**
 * Declares the error kinds of one room and returns the function that makes them:
 * `fail('LINK_LOST', 'no answer for 5 s', { cause })`. The message is appended to the kind's summary.
 */
export function errorCatalogue<const T extends Readonly<Record<string, ErrorKind>>>(kinds: T) {
  for (const [code, kind] of Object.entries(kinds)) catalogue.set(code, kind);
  return (
    code: keyof T & string,
    detail = '',
    options: { cause?: unknown; fields?: Readonly<Record<string, unknown>> } = {},
  ): CloudapError => {
    const kind = kinds[code] as ErrorKind;
    return new CloudapError(
      code,
      detail === '' ? kind.summary : `${kind.summary}: ${detail}`,
      kind.remedy,
      options,
    );
  };
}

/** Failures that no room declares. */
const fail = errorCatalogue({
  INTERNAL: {
    summary: 'something went wrong that CloudAP has no word for',
    remedy: 'This is a defect in CloudAP; report it with the log (CLOUDAP_DEBUG=1 shows where it happened).',
  },
  CANCELLED: { summary: 'cancelled', remedy: 'Nothing is left to do; run the command again when you like.' },
});

/** What a user is told who ended the command. */
export function cancelledError(): CloudapError {
  return fail('CANCELLED');
}

/** The code of any thrown value; a failure nobody classified is `INTERNAL`. */
export function errorCode(error: unknown): string {
  return error instanceof CloudapError ? error.code : 'INTERNAL';
}

/** Any thrown value as one that can be reported with a code. */
export function asCloudapError(error: unknown): CloudapError {
  if (error instanceof CloudapError) return error;
  const message = error instanceof Error ? error.message : String(error);
  // the message stays as it is: it mostly becomes the detail of another one
  return new CloudapError('INTERNAL', message, fail('INTERNAL').remedy, { cause: error });
}
