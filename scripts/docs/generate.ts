import { constants } from './constants.ts';
import { declaredErrors, errorsDocument } from './errors.ts';
import { limitsDocument } from './limits.ts';

/** Documents that are made from the sources: path and text. */
export async function generatedDocuments(root: string): Promise<[path: string, text: string][]> {
  return [
    ['docs/ERRORS.md', errorsDocument(await declaredErrors(root))],
    ['docs/LIMITS.md', limitsDocument(constants(root))],
  ];
}
