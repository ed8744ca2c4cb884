import { chmod, open, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { run } from '../../base/process.ts';
import { isAlive, processIdentitySchema } from '../../qemu/process-identity.ts';
import { matching, openStoreFolder, readManifestJson, temporaryFolder } from '../images/folders.ts';
import { hashFile, type LongCall } from '../images/files.ts';
import { imageNameSchema, sha256Schema } from '../images/manifest.ts';
import { makePageIndexInBackground } from '../pages/background.ts';
import { type ContentFile, loadPageIndex } from '../pages/store.ts';
import { MAX_TEMPLATES } from './constants.ts';
import { fail } from './errors.ts';
import {
  type TemplateContent,
  templateDigest,
  type TemplateManifest,
  templateManifestSchema,
} from './manifest.ts';

const PARTS = ['overlay', 'ram', 'devices'] as const;
const FILES = { overlay: 'overlay.qcow2', ram: 'ram', devices: 'devices' } as const;

/** Where a template's files are, whole or in the making. */
export interface TemplateFiles {
  readonly folder: string;
  readonly overlayPath: string;
  /** As long as the memory, with holes where it is zero. */
  readonly ramPath: string;
  readonly devicesPath: string;
  /** While QEMU makes them: its process, so that whoever finds them left behind can end it. */
  readonly qemuFile: string;
}

/** A template in the store. Its files never change. */
export interface Template extends TemplateFiles {
  readonly manifest: TemplateManifest;
}

/** What is known of a template before its files are looked at. */
export type NewTemplate = Omit<TemplateContent, 'version' | 'overlay' | 'ram' | 'devices'> & {
  readonly name: string;
};

/** The files of a template whose pages migrations may refer to. */
export function contentOfTemplate({ folder, overlayPath, ramPath }: TemplateFiles): ContentFile[] {
  return [
    { path: overlayPath, indexPath: join(folder, 'overlay.idx') },
    { path: ramPath, indexPath: join(folder, 'ram.idx') },
  ];
}

export function templateFiles(folder: string): TemplateFiles {
  return {
    folder,
    overlayPath: join(folder, FILES.overlay),
    ramPath: join(folder, FILES.ram),
    devicesPath: join(folder, FILES.devices),
    qemuFile: join(folder, 'qemu.json'),
  };
}

/** A name that a template can have. @throws TEMPLATE_NAME */
export function checkTemplateName(name: string): void {
  if (!imageNameSchema.safeParse(name).success) throw fail('TEMPLATE_NAME', JSON.stringify(name));
}

/**
 * Frozen VMs by content: `<folder>/<digest>/{manifest.json, overlay.qcow2, ram, devices}`, and beside them the page
 * indexes `overlay.idx` and `ram.idx`, which are derived. A template appears whole (by rename) or not at all; any number
 * of processes may use one store.
 */
export class TemplateStore {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Makes the folder if need be, and ends and removes what interrupted builds have left. @throws TEMPLATE_STORE */
  static async open(folder: string): Promise<TemplateStore> {
    try {
      await openStoreFolder(folder, endLeftQemu);
    } catch (cause) {
      throw fail('TEMPLATE_STORE', folder, { cause });
    }
    return new TemplateStore(folder);
  }

  /** A place for files in the making; what this process leaves there when it dies, `open` removes. */
  newFiles(): TemplateFiles {
    return templateFiles(temporaryFolder(this.folder));
  }

  /**
   * Makes a template of the files that stand in a folder from `newFiles`, which nobody writes any more. What else is in
   * that folder is removed. Files are read in threads, so that the event loop stays free.
   * @throws TEMPLATE_NAME, TEMPLATE_STORE, PAGES_NOT_INDEXED
   */
  async add(template: NewTemplate, files: TemplateFiles, signal?: AbortSignal): Promise<Template> {
    const { name, ...known } = template;
    checkTemplateName(name);
    try {
      await digHoles(files.ramPath, signal);
      const [overlay, ram] = await this.#indexed(files);
      const content: TemplateContent = {
        version: 1,
        ...known,
        overlay,
        ram,
        devices: await hashFile(files.devicesPath, { signal }),
      };
      signal?.throwIfAborted();
      const manifest = templateManifestSchema.parse({
        ...content,
        digest: templateDigest(content),
        name,
        createdAt: new Date().toISOString(),
      });
      await removeOthers(files);
      await writeFile(join(files.folder, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`, {
        flush: true,
        mode: 0o444,
      });
      await flushAndProtect(files);
      signal?.throwIfAborted();
      return await this.#publish(files, manifest);
    } catch (error) {
      signal?.throwIfAborted();
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      throw fail('TEMPLATE_STORE', 'no space', { cause: error });
    }
  }

  /** Reading a file once gives both its index and its hash. */
  async #indexed(files: TemplateFiles): Promise<[FileEntry, FileEntry]> {
    const entries: FileEntry[] = [];
    for (const file of contentOfTemplate(files)) {
      await makePageIndexInBackground(file);
      const { fileSha256, fileBytes } = await loadPageIndex(file);
      entries.push({ sha256: fileSha256, fileBytes });
    }
    return entries as [FileEntry, FileEntry];
  }

  async #publish(files: TemplateFiles, manifest: TemplateManifest): Promise<Template> {
    const target = join(this.folder, manifest.digest);
    try {
      await rename(files.folder, target);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      return this.get(manifest.digest);
    }
    return { manifest, ...templateFiles(target) };
  }

  /** All templates, the newest first. Folders that hold no whole one are left out. */
  async list(): Promise<readonly Template[]> {
    const entries = (await readdir(this.folder)).filter((entry) => sha256Schema.safeParse(entry).success);
    const templates: Template[] = [];
    for (const entry of entries.slice(0, MAX_TEMPLATES)) {
      const template = await this.#read(entry).catch(() => undefined);
      if (template) templates.push(template);
    }
    return templates.sort((a, b) => (a.manifest.createdAt < b.manifest.createdAt ? 1 : -1));
  }

  /**
   * By name (the newest of that name), digest, or unique beginning of a digest; the files are there and have their lengths.
   * @throws TEMPLATE_UNKNOWN, TEMPLATE_AMBIGUOUS, TEMPLATE_CORRUPT
   */
  async get(reference: string): Promise<Template> {
    const template = await this.#find(reference);
    for (const part of PARTS) {
      const path = join(template.folder, FILES[part]);
      const { size } = await stat(path).catch((cause: unknown) => {
        throw fail('TEMPLATE_CORRUPT', `${path} is not there`, { cause });
      });
      const { fileBytes } = template.manifest[part];
      if (size !== fileBytes) {
        throw fail('TEMPLATE_CORRUPT', `${path} has ${size} bytes instead of ${fileBytes}`);
      }
    }
    return template;
  }

  /** By digest; undefined where there is none, or none that is whole. */
  async find(digest: string): Promise<Template | undefined> {
    return this.get(digest).catch(() => undefined);
  }

  /** Hashes every file again. @throws TEMPLATE_CORRUPT with `fields.problems`, TEMPLATE_UNKNOWN */
  async verify(reference: string, call: LongCall = {}): Promise<Template> {
    const template = await this.#find(reference);
    const { manifest, folder } = template;
    const problems: string[] = [];
    if (templateDigest(manifest) !== manifest.digest)
      problems.push('the manifest does not have its own digest');
    for (const part of PARTS) {
      const found = await hashFile(join(folder, FILES[part]), call).catch((error: unknown) => {
        call.signal?.throwIfAborted();
        return { sha256: `unreadable (${String(error)})` };
      });
      const { sha256 } = manifest[part];
      if (found.sha256 !== sha256) problems.push(`${part}: ${found.sha256} instead of ${sha256}`);
    }
    if (problems.length > 0) {
      throw fail('TEMPLATE_CORRUPT', problems.join('; '), { fields: { digest: manifest.digest, problems } });
    }
    return template;
  }

  /**
   * Removes a template unless `users` names VMs; also a damaged one, by its digest if nothing of it can be read.
   * @throws TEMPLATE_IN_USE, TEMPLATE_UNKNOWN, TEMPLATE_AMBIGUOUS
   */
  async remove(
    reference: string,
    users: (digest: string) => readonly string[] = () => [],
  ): Promise<{ digest: string; name: string }> {
    const { digest, name } = await this.#find(reference).then(
      ({ manifest }) => manifest,
      (error: unknown) => {
        if (errorCode(error) !== 'TEMPLATE_CORRUPT') throw error;
        return { digest: reference, name: reference };
      },
    );
    const names = users(digest);
    if (names.length > 0) throw fail('TEMPLATE_IN_USE', names.join(', '), { fields: { users: names } });
    const doomed = temporaryFolder(this.folder);
    await rename(join(this.folder, digest), doomed);
    await rm(doomed, { recursive: true, force: true });
    return { digest, name };
  }

  async #find(reference: string): Promise<Template> {
    if (sha256Schema.safeParse(reference).success) return this.#read(reference);
    const [template, another] = matching(await this.list(), reference);
    if (another) throw fail('TEMPLATE_AMBIGUOUS', reference);
    if (!template) throw fail('TEMPLATE_UNKNOWN', reference);
    return template;
  }

  async #read(digest: string): Promise<Template> {
    const files = templateFiles(join(this.folder, digest));
    const path = join(files.folder, 'manifest.json');
    try {
      const json = await readManifestJson(path);
      if (json === undefined) throw fail('TEMPLATE_UNKNOWN', digest);
      const manifest = templateManifestSchema.parse(json);
      if (manifest.digest !== digest) throw fail('TEMPLATE_CORRUPT', `${path} speaks of another template`);
      return { manifest, ...files };
    } catch (cause) {
      if (errorCode(cause).startsWith('TEMPLATE_')) throw cause;
      throw fail('TEMPLATE_CORRUPT', cause instanceof RangeError ? cause.message : path, { cause });
    }
  }
}

interface FileEntry {
  readonly sha256: string;
  readonly fileBytes: number;
}

/** A build was killed: its QEMU, if it still runs, runs for nobody. */
async function endLeftQemu(folder: string): Promise<void> {
  const json = await readManifestJson(templateFiles(folder).qemuFile).catch(() => undefined);
  const { data: identity } = processIdentitySchema.safeParse(json);
  if (identity && (await isAlive(identity))) process.kill(identity.pid, 'SIGKILL');
}

/** Gives back the space of pages that are zero; where the file system cannot, they only take room. */
async function digHoles(path: string, signal: AbortSignal | undefined): Promise<void> {
  await run('fallocate', ['--dig-holes', path], signal ? { signal } : {}).catch(() => {});
}

/** Logs and notes of the build. */
async function removeOthers(files: TemplateFiles): Promise<void> {
  const kept = new Set<string>([
    files.overlayPath,
    files.ramPath,
    files.devicesPath,
    ...contentOfTemplate(files).map(({ indexPath }) => indexPath),
  ]);
  for (const entry of await readdir(files.folder)) {
    const path = join(files.folder, entry);
    if (!kept.has(path)) await rm(path, { recursive: true, force: true });
  }
}

/**
 * Only the site's user reads a template: it is somebody's memory. `ram` stays writable, for QEMU before 8.2 opens the
 * file of its memory for writing also where it maps it privately.
 */
async function flushAndProtect({ overlayPath, ramPath, devicesPath }: TemplateFiles): Promise<void> {
  for (const path of [overlayPath, ramPath, devicesPath]) {
    await using file = await open(path, 'r');
    await file.sync();
    await chmod(path, path === ramPath ? 0o600 : 0o400);
  }
}
