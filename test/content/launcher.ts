import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../src/base/async.ts';
import { RfbSession } from '../../src/qemu/rfb/session.ts';
import { buildGuest } from '../../src/content/guests/build.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { type Image, ImageStore } from '../../src/content/images/store.ts';

/** Speaks to a guest over QEMU's socket of a serial port, as soon as QEMU has opened it. */
export async function connectSerial(path: string): Promise<WorkloadClient> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await WorkloadClient.connect(path);
    } catch (error) {
      if (attempt === 200) throw error;
      await sleep(25);
    }
  }
}

/** The guest, built or found in the repository's cache. */
export async function builtGuest(name: string): Promise<Image> {
  const cache = join(import.meta.dirname, '../../.cache');
  return buildGuest(name, await ImageStore.open(join(cache, 'images')), cache);
}

/** A guest under QEMU, with a fresh overlay in a temporary folder; ended by pid on disposal. */
export class Guest implements AsyncDisposable {
  readonly folder: string;
  readonly #qemu: ChildProcess;

  private constructor(folder: string, qemu: ChildProcess) {
    this.folder = folder;
    this.#qemu = qemu;
  }

  /** @param options.prepare arguments of qemu-io, run on the overlay first */
  static async start(image: Image, options: { prepare?: readonly string[] } = {}): Promise<Guest> {
    const folder = await mkdtemp(join(tmpdir(), 'cloudap-guest-'));
    const { manifest } = image;
    const overlay = join(folder, 'overlay.qcow2');
    const base = ['-b', image.diskPath, '-F', manifest.disk.format];
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...base, overlay]);
    if (options.prepare) execFileSync('qemu-io', [...options.prepare, overlay]);
    const { memoryMiB, display, input } = manifest.defaults;
    const args = [
      '-M pc-i440fx-7.2 -accel tcg,tb-size=128 -cpu qemu64,+rdrand -nodefaults -no-reboot -display none',
      `-m ${memoryMiB}`,
      display === 'vga' ? `-vga std -vnc unix:${folder}/vnc` : '',
      input === 'tablet' ? '-device virtio-tablet-pci' : '',
      `-drive file=${overlay},if=none,id=d0,format=qcow2,discard=unmap -device virtio-blk-pci,drive=d0`,
      `-serial unix:${folder}/serial0,server=on,wait=off -serial unix:${folder}/serial1,server=on,wait=off`,
    ].flatMap((part) => part.split(' ').filter(Boolean));
    if (image.kernelPath) args.push('-kernel', image.kernelPath);
    if (image.initrdPath) args.push('-initrd', image.initrdPath);
    if (manifest.commandLine) args.push('-append', manifest.commandLine);
    return new Guest(folder, spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'inherit', 'inherit'] }));
  }

  serial(port: 0 | 1): Promise<WorkloadClient> {
    return connectSerial(join(this.folder, `serial${port}`));
  }

  /** The screen, as soon as QEMU has opened it. */
  async screen(): Promise<RfbSession> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await RfbSession.connect(join(this.folder, 'vnc'));
      } catch (error) {
        if (attempt === 200) throw error;
        await sleep(25);
      }
    }
  }

  get overlay(): string {
    return join(this.folder, 'overlay.qcow2');
  }

  async stop(): Promise<void> {
    if (this.#qemu.exitCode !== null || this.#qemu.signalCode !== null) return;
    this.#qemu.kill('SIGTERM');
    await once(this.#qemu, 'exit');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}
