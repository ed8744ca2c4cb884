import { chmod, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { MAX_BOOT_FILE_BYTES, MAX_IMAGES } from './constants.ts';
import { INDEX_FILE } from '../pages/constants.ts';
import { contentOfDisk, makePageIndex } from '../pages/store.ts';
import { fail } from './errors.ts';
import { copyAndHash, hashFile, type LongCall, openRegular } from './files.ts';
import { matching, openStoreFolder, readManifestJson, temporaryFolder } from './folders.ts';
import { importDisk } from './import.ts';
import {
  commandLineSchema,
  type GuestInfo,
  type ImageContent,
  type ImageDefaults,
  imageDigest,
  type ImageManifest,
  imageNameSchema,
  manifestSchema,
  sha256Schema,
} from './manifest.ts';

/** An image in the store. Its files are read-only and never change. */
export interface Image {
  readonly manifest: ImageManifest;
  readonly folder: string;
  readonly diskPath: string;
  readonly kernelPath?: string;
  readonly initrdPath?: string;
}

export interface NewImage {
  readonly name: string;
  readonly disk: {
    readonly path: string;
    /** Says what the file is instead of looking; a raw disk may begin with any bytes. */
    readonly format?: 'raw' | 'qcow2' | undefined;
    /** Take the backing files' content in as well. Only for images that you trust: they name the files. */
    readonly flatten?: boolean | undefined;
  };
  readonly kernel?: string | undefined;
  readonly initrd?: string | undefined;
  readonly commandLine?: string | undefined;
  readonly defaults?: Partial<ImageDefaults> | undefined;
  readonly guest?: GuestInfo | undefined;
  readonly recipe?: ImageManifest['recipe'];
}

const DEFAULTS: ImageDefaults = { memoryMiB: 512, cpus: 1, display: 'vga', input: 'tablet' };

/**
 * Base images by content: `<folder>/<digest>/{manifest.json, disk.raw|disk.qcow2, kernel?, initrd?}`.
 * `pages.idx` beside them is derived from the disk (content/pages): it may be missing, and is no part of the image.
 * An image appears whole (by rename) or not at all; any number of processes may use one store.
 */
export class ImageStore {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Makes the folder if need be and removes what an interrupted `add` left. @throws IMAGE_STORE */
  static async open(folder: string): Promise<ImageStore> {
    try {
      await openStoreFolder(folder);
    } catch (cause) {
      throw fail('IMAGE_STORE', folder, { cause });
    }
    return new ImageStore(folder);
  }

  /**
   * Takes an image in. The same content again, under the same name, gives the image that is there.
   * @throws IMAGE_NAME, IMAGE_COMMAND_LINE, IMAGE_EXISTS and all that judging the disk can throw
   */
  async add(source: NewImage, call: LongCall = {}): Promise<Image> {
    if (!imageNameSchema.safeParse(source.name).success)
      throw fail('IMAGE_NAME', JSON.stringify(source.name));
    const line = source.commandLine;
    if (line !== undefined && (!source.kernel || !commandLineSchema.safeParse(line).success)) {
      throw fail('IMAGE_COMMAND_LINE', source.kernel ? '' : 'there is no kernel');
    }
    if (source.initrd && !source.kernel)
      throw fail('IMAGE_COMMAND_LINE', 'an initial RAM disk needs a kernel');
    const temporary = this.temporaryFolder();
    try {
      await mkdir(temporary);
      const content: ImageContent = {
        version: 1,
        disk: await importDisk(source.disk, temporary, call),
        ...(source.kernel
          ? { kernel: await takeBootFile(source.kernel, join(temporary, 'kernel'), call) }
          : {}),
        ...(source.initrd
          ? { initrd: await takeBootFile(source.initrd, join(temporary, 'initrd'), call) }
          : {}),
        ...(line === undefined ? {} : { commandLine: line }),
        defaults: { ...DEFAULTS, ...source.defaults },
      };
      const manifest: ImageManifest = manifestSchema.parse({
        ...content,
        digest: imageDigest(content),
        name: source.name,
        createdAt: new Date().toISOString(),
        ...(source.guest ? { guest: source.guest } : {}),
        ...(source.recipe ? { recipe: source.recipe } : {}),
      });
      await writeFile(join(temporary, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`, {
        flush: true,
      });
      for (const file of await readdir(temporary)) await chmod(join(temporary, file), 0o444);
      await indexPages(join(temporary, `disk.${content.disk.format}`), call);
      return await this.#publish(temporary, manifest);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw fail('IMAGE_STORE', '', { cause: error });
      throw error;
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }

  /** A new name in the store for what is not whole yet; what this process leaves there when it dies, `open` removes. */
  temporaryFolder(): string {
    return temporaryFolder(this.folder);
  }

  async #publish(temporary: string, manifest: ImageManifest): Promise<Image> {
    const target = join(this.folder, manifest.digest);
    try {
      await rename(temporary, target);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      const present = await this.#read(manifest.digest).catch(() => undefined);
      if (present && present.manifest.name !== manifest.name) {
        throw fail('IMAGE_EXISTS', present.manifest.name, { fields: { digest: manifest.digest } });
      }
      if (present) await keepIndex(temporary, target);
      // The same content, described anew (a recipe's hash, where to click): the description is replaced.
      if (present && !manifest.recipe && !manifest.guest) return present;
      await rename(join(temporary, 'manifest.json'), join(target, 'manifest.json'));
    }
    return this.#image(manifest);
  }

  /** All images, the newest first. Folders that hold no valid image are left out. */
  async list(): Promise<readonly Image[]> {
    const entries = (await readdir(this.folder)).filter((entry) => sha256Schema.safeParse(entry).success);
    const images: Image[] = [];
    for (const entry of entries.slice(0, MAX_IMAGES)) {
      const image = await this.#read(entry).catch(() => undefined);
      if (image) images.push(image);
    }
    return images.sort((a, b) => (a.manifest.createdAt < b.manifest.createdAt ? 1 : -1));
  }

  /** By name (the newest of that name), digest, or unique beginning of a digest. @throws IMAGE_UNKNOWN, IMAGE_AMBIGUOUS, IMAGE_CORRUPT */
  async get(reference: string): Promise<Image> {
    if (sha256Schema.safeParse(reference).success) return this.#read(reference);
    const [image, another] = matching(await this.list(), reference);
    if (another) throw fail('IMAGE_AMBIGUOUS', reference);
    if (!image) throw fail('IMAGE_UNKNOWN', reference);
    return image;
  }

  /** The image built from exactly this recipe hash, if there is one. */
  async findByRecipe(name: string, hash: string): Promise<Image | undefined> {
    return (await this.list()).find(
      ({ manifest }) => manifest.recipe?.name === name && manifest.recipe.hash === hash,
    );
  }

  /** Hashes every file again. @throws IMAGE_CORRUPT with `fields.problems`, IMAGE_UNKNOWN */
  async verify(reference: string, call: LongCall = {}): Promise<Image> {
    const image = await this.get(reference);
    const { manifest } = image;
    const problems: string[] = [];
    const check = async (
      what: string,
      path: string | undefined,
      expected: { sha256: string } | undefined,
    ) => {
      if (!path || !expected) return;
      const found = await hashFile(path, call).catch((error: unknown) => {
        call.signal?.throwIfAborted();
        return { sha256: `unreadable (${String(error)})` };
      });
      if (found.sha256 !== expected.sha256)
        problems.push(`${what}: ${found.sha256} instead of ${expected.sha256}`);
    };
    if (imageDigest(manifest) !== manifest.digest) problems.push('the manifest does not have its own digest');
    await check('disk', image.diskPath, manifest.disk);
    await check('kernel', image.kernelPath, manifest.kernel);
    await check('initrd', image.initrdPath, manifest.initrd);
    if (problems.length > 0) {
      throw fail('IMAGE_CORRUPT', problems.join('; '), { fields: { digest: manifest.digest, problems } });
    }
    return image;
  }

  /** Removes an image unless `inUse` says that something is based on it. @throws IMAGE_IN_USE, IMAGE_UNKNOWN */
  async remove(
    reference: string,
    inUse: (digest: string) => Promise<readonly string[]> | readonly string[] = () => [],
  ): Promise<void> {
    const { manifest, folder } = await this.get(reference);
    const users = await inUse(manifest.digest);
    if (users.length > 0) throw fail('IMAGE_IN_USE', users.join(', '), { fields: { users } });
    const doomed = this.temporaryFolder();
    await rename(folder, doomed);
    await rm(doomed, { recursive: true, force: true });
  }

  async #read(digest: string): Promise<Image> {
    const path = join(this.folder, digest, 'manifest.json');
    try {
      const json = await readManifestJson(path);
      if (json === undefined) throw fail('IMAGE_UNKNOWN', digest);
      const manifest = manifestSchema.parse(json);
      if (manifest.digest !== digest) throw fail('IMAGE_CORRUPT', `${path} speaks of another image`);
      return this.#image(manifest);
    } catch (cause) {
      if (errorCode(cause) === 'IMAGE_UNKNOWN' || (cause as NodeJS.ErrnoException).errno !== undefined)
        throw cause;
      throw fail('IMAGE_CORRUPT', cause instanceof RangeError ? cause.message : path, { cause });
    }
  }

  #image(manifest: ImageManifest): Image {
    const folder = join(this.folder, manifest.digest);
    return {
      manifest,
      folder,
      diskPath: join(folder, `disk.${manifest.disk.format}`),
      ...(manifest.kernel ? { kernelPath: join(folder, 'kernel') } : {}),
      ...(manifest.initrd ? { initrdPath: join(folder, 'initrd') } : {}),
    };
  }
}

/** Indexes the disk's pages; without the index every page of its VMs is sent when they move, and nothing is wrong. */
async function indexPages(diskPath: string, { signal, onProgress }: LongCall): Promise<void> {
  try {
    await makePageIndex(contentOfDisk(diskPath), {
      signal,
      onProgress: (doneBytes, totalBytes) => onProgress?.({ step: 'index', doneBytes, totalBytes }),
    });
  } catch {
    signal?.throwIfAborted();
  }
}

/** An image that was taken in before there were indexes gets the one just made. */
async function keepIndex(temporary: string, target: string): Promise<void> {
  await rename(join(temporary, INDEX_FILE), join(target, INDEX_FILE)).catch(() => {});
}

async function takeBootFile(
  from: string,
  to: string,
  call: LongCall,
): Promise<{ sha256: string; fileBytes: number }> {
  const { file, sizeBytes } = await openRegular(from);
  await file.close();
  if (sizeBytes > MAX_BOOT_FILE_BYTES) {
    throw fail('IMAGE_TOO_LARGE', from, { fields: { sizeBytes, limitBytes: MAX_BOOT_FILE_BYTES } });
  }
  return copyAndHash(from, to, call);
}
