import * as z from 'zod';
import type { ContentFile } from '../pages/store.ts';
import { imageKind } from './image.ts';
import { templateKind } from './template.ts';

/** A file of an artefact: its name within the folder, and what it must be. */
export interface ArtefactFile {
  readonly name: string;
  readonly sha256: string;
  readonly fileBytes: number;
  /** Permissions that it has in a store. */
  readonly mode: number;
}

/** What a push brings to another site: a folder `<store>/<digest>` with `manifest.json` and the files that it lists. */
export interface Artefact {
  readonly digest: string;
  readonly name: string;
  /** As it stands in `manifest.json`. */
  readonly manifest: unknown;
  readonly files: readonly ArtefactFile[];
  /** What the target must have before: without it this is of no use. */
  readonly requires?: { readonly kind: ArtefactKindName; readonly digest: string };
}

/** A kind of artefact; everything else about a push is the same for all. */
export interface ArtefactKind {
  /** Permissions of its folder in a store. */
  readonly folderMode: number;
  /** Checks a manifest, its digest included. @throws STAGE_MANIFEST */
  parse(manifest: unknown): Artefact;
  /** Judges files that are what the manifest says, before they come into the store. @throws a coded error */
  judge(folder: string, artefact: Artefact, signal: AbortSignal): Promise<void>;
  /** The files whose page indexes are made at the target: derived, never sent. */
  content(folder: string, artefact: Artefact): readonly ContentFile[];
}

export const artefactKindSchema = z.enum(['image', 'template']);
export type ArtefactKindName = z.infer<typeof artefactKindSchema>;

export const artefactKinds: Readonly<Record<ArtefactKindName, ArtefactKind>> = {
  image: imageKind,
  template: templateKind,
};

export function totalBytes({ files }: Pick<Artefact, 'files'>): number {
  return files.reduce((sum, file) => sum + file.fileBytes, 0);
}
