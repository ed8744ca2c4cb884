import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { errorCode } from '../../base/errors.ts';
import { run } from '../../base/process.ts';
import { IMAGE_TOOL_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';
import { copyAndHash, hashFile, type LongCall } from './files.ts';
import { backingChain, inspectDisk } from './inspect.ts';
import type { ImageContent } from './manifest.ts';
import type { NewImage } from './store.ts';

/**
 * Brings a disk into `folder` as `disk.raw` or `disk.qcow2`, without a backing file.
 * @throws IMAGE_HAS_BACKING unless told to flatten; all of `inspectDisk` and `backingChain`
 */
export async function importDisk(
  source: NewImage['disk'],
  folder: string,
  call: LongCall,
): Promise<ImageContent['disk']> {
  const header = await inspectDisk(source.path, source.format);
  const { format } = header;
  const target = join(folder, `disk.${format}`);
  if (header.backing !== undefined) {
    if (!source.flatten)
      throw fail('IMAGE_HAS_BACKING', header.backing, { fields: { backing: header.backing } });
    await backingChain(source.path, header);
    await flatten(source.path, target, header.virtualSizeBytes, call);
  }
  const file =
    header.backing === undefined
      ? await copyAndHash(source.path, target, call)
      : await hashFile(target, call);
  // The copy is what counts: the file it was made from may have been changed since it was looked at.
  const taken = await inspectDisk(target, format);
  if (taken.backing !== undefined) throw fail('IMAGE_HAS_BACKING', taken.backing);
  if (format === 'qcow2') await checkQcow2(target, call);
  return { format, virtualSizeBytes: taken.virtualSizeBytes, ...file };
}

/**
 * Judges a disk that another site has sent as the disk of an image: like one that is imported, whatever the manifest says.
 * @throws IMAGE_HAS_BACKING, IMAGE_CORRUPT; all of `inspectDisk`
 */
export async function judgeStagedDisk(
  path: string,
  disk: Pick<ImageContent['disk'], 'format' | 'virtualSizeBytes'>,
  call: LongCall,
): Promise<void> {
  const found = await inspectDisk(path, disk.format);
  if (found.backing !== undefined) throw fail('IMAGE_HAS_BACKING', found.backing);
  if (found.virtualSizeBytes !== disk.virtualSizeBytes)
    throw fail(
      'IMAGE_CORRUPT',
      `a disk of ${found.virtualSizeBytes} instead of ${disk.virtualSizeBytes} bytes`,
    );
  if (disk.format === 'qcow2') await checkQcow2(path, call);
}

async function checkQcow2(path: string, { signal, onProgress }: LongCall): Promise<void> {
  onProgress?.({ step: 'check', doneBytes: 0, totalBytes: 1 });
  try {
    await run('qemu-img', ['check', '-q', '-f', 'qcow2', path], {
      timeoutMs: IMAGE_TOOL_TIMEOUT_MS,
      ...(signal ? { signal } : {}),
    });
  } catch (cause) {
    // Exit status 3 is leaked clusters: wasted space, no wrong data.
    const leaked = (cause as { cause?: { code?: unknown } }).cause?.code === 3;
    if (!leaked) {
      if (errorCode(cause) !== 'PROGRAM_FAILED') throw cause;
      throw fail('IMAGE_CORRUPT', cause instanceof Error ? cause.message : '', { cause });
    }
  }
  onProgress?.({ step: 'check', doneBytes: 1, totalBytes: 1 });
}

/** `qemu-img convert` with its progress; one coroutine and in order, so that equal disks give equal files. */
async function flatten(
  from: string,
  to: string,
  totalBytes: number,
  { signal, onProgress }: LongCall,
): Promise<void> {
  signal?.throwIfAborted();
  try {
    const args = ['convert', '-p', '-m', '1', '-f', 'qcow2', '-O', 'qcow2', from, to];
    const child = spawn('qemu-img', args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(signal ? { signal } : {}),
    });
    let said = '';
    child.stdout.on('data', (data: Buffer) => {
      const percent = /\(([\d.]+)\/100%\)\s*$/.exec(data.toString('latin1'))?.[1];
      if (percent)
        onProgress?.({ step: 'convert', doneBytes: (Number(percent) / 100) * totalBytes, totalBytes });
    });
    child.stderr.on('data', (data: Buffer) => {
      said = (said + data.toString('utf8')).slice(-800);
    });
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    if (status !== 0) throw fail('IMAGE_CORRUPT', said.trim());
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
