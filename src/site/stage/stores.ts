import { access, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { ImageStore } from '../../content/images/store.ts';
import { TemplateStore } from '../../content/templates/store.ts';
import { type Artefact, type ArtefactKindName, totalBytes } from '../../content/staging/artefact.ts';
import { STAGE_RESERVE_BYTES } from '../../content/staging/constants.ts';
import { fail } from '../../content/staging/errors.ts';
import { freeBytesAt, partBytes } from '../../content/staging/part.ts';
import type { SitePaths } from '../paths.ts';

/** Where a site keeps artefacts of one kind. */
export interface ArtefactStore {
  readonly folder: string;
  /** By digest, unique prefix or name. @throws the store's errors, where there is none */
  get(reference: string): Promise<{ folder: string; manifest: unknown }>;
  /** @throws STAGE_PRESENT_DAMAGED */
  has(digest: string): Promise<boolean>;
}

export type ArtefactStores = Readonly<Record<ArtefactKindName, ArtefactStore>>;

export function artefactStores({ imageDir, templatesDir }: SitePaths): ArtefactStores {
  return { image: imageStore(imageDir), template: templateStore(templatesDir) };
}

function imageStore(folder: string): ArtefactStore {
  return {
    folder,
    get: async (reference) => (await ImageStore.open(folder)).get(reference),
    has: async (digest) => {
      try {
        const image = await (await ImageStore.open(folder)).get(digest);
        await access(image.diskPath);
        return true;
      } catch (cause) {
        if (errorCode(cause) === 'IMAGE_UNKNOWN') return false;
        throw fail('STAGE_PRESENT_DAMAGED', join(folder, digest), { cause });
      }
    },
  };
}

function templateStore(folder: string): ArtefactStore {
  return {
    folder,
    get: async (reference) => (await TemplateStore.open(folder)).get(reference),
    has: async (digest) => {
      try {
        await (await TemplateStore.open(folder)).get(digest);
        return true;
      } catch (cause) {
        if (errorCode(cause) === 'TEMPLATE_UNKNOWN') return false;
        throw fail('STAGE_PRESENT_DAMAGED', join(folder, digest), { cause });
      }
    },
  };
}

/** Space that must be free for what is still to come of an artefact, the reserve included. */
export async function spaceFor(folder: string, artefact: Artefact, allocatedBytes: number): Promise<number> {
  // holes need no space; a source that says less than it sends is stopped later
  const most = Math.min(totalBytes(artefact), allocatedBytes);
  return Math.max(0, most - (await partBytes(folder, artefact.digest))) + STAGE_RESERVE_BYTES;
}

/** @throws STAGE_NO_SPACE */
export async function checkSpace(folder: string, neededBytes: number): Promise<void> {
  await mkdir(folder, { recursive: true });
  const freeBytes = await freeBytesAt(folder);
  if (neededBytes <= freeBytes) return;
  const mib = (bytes: number): number => Math.ceil(bytes / 2 ** 20);
  const detail = `${mib(neededBytes)} MiB (${mib(STAGE_RESERVE_BYTES)} of them in reserve), ${mib(freeBytes)} free`;
  throw fail('STAGE_NO_SPACE', detail, { fields: { neededBytes, freeBytes } });
}
