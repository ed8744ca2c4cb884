/** Version of the messages that bring artefacts (images, templates) to another site. */
export const STAGE_VERSION = 1;
/** Message types on the link of a push. */
export const STAGE_CONTROL = 1;
export const STAGE_DATA = 2;
export const STAGE_END = 3;
/** Codec number of a run of zeros; the others are those of wire/codec.ts. */
export const STAGE_ZEROS = 0;
/** Most bytes of a file in one message; runs of zeros may be as long as the file. */
export const MAX_STAGE_BYTES = 256 * 1024;
