import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseStanzas } from './deb822.ts';
import { DOWNLOAD_POLL_MS, PACKAGE_LIST_MAX_AGE_MS } from './constants.ts';
import { fail } from './errors.ts';
import { machineSources } from './sources.ts';
import { type BuildCall, runStep } from './steps.ts';

/** A package as the archive offers it now. */
export interface PackageVersion {
  readonly name: string;
  readonly version: string;
  readonly sizeBytes: number;
  readonly depends: string;
}

/**
 * The packages of the machine's own suite, through package lists of its own below `folder`: the machine's lists may
 * be missing, old, or hold other archives, and reading ours needs no rights.
 */
export class PackageIndex {
  readonly codename: string;
  readonly sources: string;
  /** A deb822 file with `sources`. */
  readonly sourceFile: string;
  /** How this machine reaches archives (proxies, certificates, clock checks), as lines of apt.conf(5). */
  readonly transport: readonly string[];
  readonly #env: NodeJS.ProcessEnv;

  private constructor(
    machine: { codename: string; sources: string },
    folder: string,
    transport: readonly string[],
  ) {
    this.codename = machine.codename;
    this.sources = machine.sources;
    this.sourceFile = join(folder, 'guest.sources');
    this.transport = transport;
    this.#env = { APT_CONFIG: join(folder, 'apt.conf') };
  }

  /** Fetches the lists again when they are older than `maxAgeMs`. @throws GUEST_SOURCES, GUEST_DOWNLOAD */
  static async open(folder: string, call: BuildCall & { maxAgeMs?: number } = {}): Promise<PackageIndex> {
    const machine = await machineSources();
    await mkdir(join(folder, 'lists', 'partial'), { recursive: true });
    await mkdir(join(folder, 'archives', 'partial'), { recursive: true });
    const index = new PackageIndex(machine, folder, await machineTransport(call.signal));
    await writeFile(index.sourceFile, machine.sources);
    await writeFile(
      join(folder, 'apt.conf'),
      `${[...ownConfiguration(folder), ...index.transport].join('\n')}\n`,
    );
    const fetched = await stat(join(folder, 'fetched')).catch(() => undefined);
    if (fetched && Date.now() - fetched.mtimeMs < (call.maxAgeMs ?? PACKAGE_LIST_MAX_AGE_MS)) return index;
    call.onProgress?.({ step: 'packages', detail: 'package lists' });
    try {
      await runStep('apt-get', ['-q', 'update', '--error-on=any'], {
        env: index.#env,
        signal: call.signal,
        onLine: (detail) => call.onProgress?.({ step: 'packages', detail }),
      });
      await writeFile(join(folder, 'fetched'), '');
    } catch (cause) {
      call.signal?.throwIfAborted();
      // Without a network older lists are still good for finding what was built from them.
      if (!fetched || call.maxAgeMs === 0) throw fail('GUEST_DOWNLOAD', 'package lists', { cause });
    }
    return index;
  }

  /** The versions that would be installed, in the order asked for. @throws GUEST_PACKAGE */
  async lookup(names: readonly string[], signal?: AbortSignal): Promise<readonly PackageVersion[]> {
    const args = ['show', '--no-all-versions', ...names];
    const text = await runStep('apt-cache', args, { env: this.#env, signal }).catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw fail('GUEST_PACKAGE', names.join(', '), { cause });
    });
    const found = new Map<string, PackageVersion>();
    for (const stanza of parseStanzas(text)) {
      const name = stanza.get('package') ?? '';
      const version = stanza.get('version') ?? '';
      const sizeBytes = Number(stanza.get('size') ?? 0);
      if (!found.has(name))
        found.set(name, { name, version, sizeBytes, depends: stanza.get('depends') ?? '' });
    }
    return names.map((name) => {
      const version = found.get(name);
      if (!version) throw fail('GUEST_PACKAGE', name);
      return version;
    });
  }

  /**
   * Downloads one package into `folder` (kept there: a second call is free); apt checks its hash and signature.
   * @returns the path of the .deb @throws GUEST_DOWNLOAD
   */
  async download(wanted: PackageVersion, folder: string, call: BuildCall = {}): Promise<string> {
    const kept = join(folder, `${wanted.name}_${wanted.version.replaceAll(':', '%3a')}.deb`);
    if (await stat(kept).catch(() => undefined)) return kept;
    const scratch = join(folder, `.download-${process.pid}-${Date.now()}`);
    await mkdir(scratch, { recursive: true });
    const timer = setInterval(() => {
      void folderBytes(scratch).then((bytes) => {
        const fraction = Math.min(1, bytes / Math.max(1, wanted.sizeBytes));
        call.onProgress?.({ step: 'packages', fraction, detail: wanted.name });
      });
    }, DOWNLOAD_POLL_MS);
    try {
      const args = ['-q', 'download', `${wanted.name}=${wanted.version}`];
      await runStep('apt-get', args, { env: this.#env, cwd: scratch, signal: call.signal });
      const deb = (await readdir(scratch)).find((file) => file.endsWith('.deb'));
      if (!deb) throw fail('GUEST_DOWNLOAD', wanted.name);
      await rename(join(scratch, deb), kept);
      return kept;
    } catch (cause) {
      call.signal?.throwIfAborted();
      throw fail('GUEST_DOWNLOAD', `${wanted.name} ${wanted.version}`, { cause });
    } finally {
      clearInterval(timer);
      await rm(scratch, { recursive: true, force: true });
    }
  }
}

/** Lists and caches below `folder`; nothing of the machine's configuration, whose hooks could do anything. */
function ownConfiguration(folder: string): readonly string[] {
  return [
    'Dir::Etc::main "/dev/null";',
    'Dir::Etc::parts "/dev/null";',
    `Dir::Etc::sourcelist "${join(folder, 'guest.sources')}";`,
    'Dir::Etc::sourceparts "/dev/null";',
    `Dir::State::lists "${join(folder, 'lists')}";`,
    `Dir::Cache "${folder}";`,
    'Dir::Cache::archives "archives";',
    // The download helper would otherwise run as a user who cannot write below a private folder.
    'APT::Sandbox::User "";',
    'Acquire::Languages "none";',
    'Acquire::Retries "3";',
  ];
}

async function machineTransport(signal: AbortSignal | undefined): Promise<readonly string[]> {
  const dump = await runStep('apt-config', ['dump'], { signal });
  return dump
    .split('\n')
    .filter((line) =>
      /^Acquire::(https?|ftp|Check-Valid-Until|Check-Date|ForceIPv[46])\b.* "[^"]+";$/i.test(line),
    );
}

async function folderBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const file of await readdir(folder).catch(() => [] as string[])) {
    bytes += (await stat(join(folder, file)).catch(() => undefined))?.size ?? 0;
  }
  return bytes;
}
