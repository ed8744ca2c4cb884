import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { endOutgoing, takeBack } from '../../migration/outgoing.ts';
import { copyState } from '../../qemu/copy-state.ts';
import type { QemuPaths } from '../../qemu/command-line.ts';
import { describeChain } from '../../qemu/block-chain.ts';
import { checkMachine } from '../../qemu/probe.ts';
import { QemuProcess } from '../../qemu/process.ts';
import { loadDeviceState, saveDeviceState } from '../../qemu/saved-state.ts';
import type { ProcessIdentity } from '../../qemu/process-identity.ts';
import { MACHINES_REMEMBERED } from '../constants.ts';
import type { VmPaths } from '../paths.ts';
import type { VmDefinition } from './definition.ts';
import type { BaseImage, QemuBackend, QemuHandle, StartQemu } from '../ports.ts';
import { probeQemu } from './qemu-facts.ts';

/** The real QEMU, behind the interface that the agent uses. */
export function qemuBackend(wanted: 'auto' | 'tcg' | 'kvm'): QemuBackend {
  /** Making a machine takes a tenth of a second, and what this QEMU can does not change while the agent runs. */
  const possible = new Set<string>();
  const keyOf = ({ machine, accelerator }: VmDefinition): string =>
    JSON.stringify([machine.machineType, machine.cpuModel, machine.cpus, accelerator]);
  const remember = (definition: VmDefinition): void => {
    if (possible.size < MACHINES_REMEMBERED) possible.add(keyOf(definition));
  };
  return {
    facts: () => probeQemu(wanted),
    checkMachine: async (definition) => {
      if (possible.has(keyOf(definition))) return;
      await checkMachine(definition.machine, definition.accelerator);
      remember(definition);
    },
    start: async (request) => {
      const qemu = new RealQemu(await startQemu(request), request.paths);
      remember(request.definition);
      return qemu;
    },
    adopt: async (_definition, paths, identity: ProcessIdentity) => {
      const found = await QemuProcess.adopt({
        process: identity,
        qmpSocket: paths.agentQmp,
        logPath: paths.qemuLog,
      });
      return new RealQemu(found, paths);
    },
  };
}

async function startQemu(request: StartQemu): Promise<QemuProcess> {
  const { paths, template } = request;
  const qemu = await launchQemu(request);
  if (!template) return qemu;
  try {
    await loadDeviceState(qemu.qmp, { socketPath: paths.stateSocket, filePath: template.devicesPath });
    await qemu.qmp.cont();
    return qemu;
  } catch (error) {
    await qemu.kill();
    throw error;
  }
}

function launchQemu(request: StartQemu): Promise<QemuProcess> {
  const { definition, paths, image, incoming, template } = request;
  const base = { path: image.diskPath, format: image.format };
  return QemuProcess.start({
    spec: definition.machine,
    name: definition.name,
    accelerator: definition.accelerator,
    logPath: paths.qemuLog,
    paths: qemuPaths(paths, image),
    memoryFile: template ? { path: template.ramPath, shared: false } : request.memoryFile,
    incoming: template !== undefined || request.waiting,
    paused: request.waiting,
    disk: incoming
      ? { mode: 'incoming', base, overlay: { socketPath: incoming.nbdSocket }, topPath: paths.top }
      : { mode: 'normal', base, overlayPath: paths.overlay },
  });
}

function qemuPaths(paths: VmPaths, image: BaseImage): QemuPaths {
  return {
    qmpSocket: paths.agentQmp,
    moverSocket: paths.moverQmp,
    vncSocket: paths.vncSocket,
    serialLog: paths.serialLog,
    serialSocket: paths.serialSocket,
    serial1Socket: paths.serial1Socket,
    kernel: image.kernelPath,
    initrd: image.initrdPath,
  };
}

class RealQemu implements QemuHandle {
  readonly exited: Promise<void>;
  readonly #qemu: QemuProcess;
  readonly #paths: VmPaths;

  constructor(qemu: QemuProcess, paths: VmPaths) {
    this.#qemu = qemu;
    this.#paths = paths;
    this.exited = qemu.exited.then(() => {});
  }

  /** Where an outgoing migration that lost its mover is led to its end. */
  get #recoverSocket(): string {
    return `${dirname(this.#paths.moverQmp)}/recover.sock`;
  }

  get identity(): ProcessIdentity {
    return this.#qemu.identity;
  }

  async runState(): Promise<string> {
    return (await this.#qemu.qmp.queryStatus()).status;
  }

  powerdown(): Promise<void> {
    return this.#qemu.qmp.systemPowerdown();
  }

  async quit(): Promise<void> {
    await this.#qemu.quit();
  }

  async kill(): Promise<void> {
    await this.#qemu.kill();
  }

  async screenshotPng(): Promise<Buffer> {
    const folder = await mkdtemp(join(this.#paths.dir, '.screen-'));
    try {
      const file = join(folder, 'screen.png');
      await this.#qemu.qmp.screendump(file, 'png');
      return await readFile(file);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async resumeAfterFailedMigration(): Promise<void> {
    const { qmp } = this.#qemu;
    // also out of postcopy-paused, which a killed mover leaves and no cancel ends
    await endOutgoing(qmp, { streamSocket: this.#recoverSocket });
    const { running } = await qmp.queryStatus();
    if (!running) await qmp.cont();
  }

  async saveDevices(file: string, signal?: AbortSignal): Promise<void> {
    await saveDeviceState(this.#qemu.qmp, { socketPath: this.#paths.stateSocket, filePath: file, signal });
  }

  async copyTo(other: QemuHandle, whileStopped: () => Promise<void>, signal?: AbortSignal): Promise<number> {
    if (!(other instanceof RealQemu)) throw new TypeError('not of this backend');
    const socketPath = other.#paths.stateSocket;
    return copyState(this.#qemu.qmp, other.#qemu.qmp, { socketPath, whileStopped, signal });
  }

  async takeBack(options: { ownershipPath: string; siteId: string; generation: number }): Promise<void> {
    await takeBack(this.#qemu.qmp, { streamSocket: this.#recoverSocket, ...options });
  }

  async isIndependent(): Promise<boolean> {
    return (await describeChain(this.#qemu.qmp)).stage === 'home';
  }

  detach(): Promise<void> {
    return this.#qemu.close();
  }
}
