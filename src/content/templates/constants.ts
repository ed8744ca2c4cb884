/** Templates that one store lists. */
export const MAX_TEMPLATES = 1000;
