import type { z } from 'zod';
import { fail } from './errors.ts';
import { type CommandOptions, type QmpConnectOptions, QmpSession } from './qmp-session.ts';
import * as schemas from './schemas.ts';
import { connectUnix } from './unix-socket.ts';

/** A server of QEMU or for QEMU on a Unix socket. */
export interface UnixServer {
  readonly type: 'unix';
  readonly path: string;
}

/** Options of a block node as `blockdev-add` takes them (qapi/block-core.json, BlockdevOptions). */
export type BlockdevOptions = Readonly<Record<string, unknown>> & { 'node-name': string; driver: string };

/** What CloudAP uses of `migrate-set-parameters`; sizes in bytes/s, times in ms. */
export interface MigrationParameters {
  readonly 'max-bandwidth'?: number;
  readonly 'max-postcopy-bandwidth'?: number;
  readonly 'downtime-limit'?: number;
  readonly 'multifd-channels'?: number;
  readonly 'throttle-trigger-threshold'?: number;
  readonly 'cpu-throttle-initial'?: number;
  readonly 'cpu-throttle-increment'?: number;
  readonly 'max-cpu-throttle'?: number;
}

/** A QMP session with the commands that CloudAP uses, their answers checked. All throw what `execute` throws. */
export class QemuMonitor extends QmpSession {
  /** Connects to a monitor's socket, once. @throws QMP_CONNECT_FAILED, QEMU_SOCKET_PATH_TOO_LONG */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QemuMonitor> {
    const socket = await connectUnix(path, options.signal);
    const monitor = new QemuMonitor(socket, options);
    await monitor.open(options);
    return monitor;
  }

  /** `execute` with an answer of a known shape. @throws QMP_UNEXPECTED */
  async query<T extends z.ZodType>(
    schema: T,
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options?: CommandOptions,
  ): Promise<z.output<T>> {
    const answer = await this.execute(command, args, options);
    const parsed = schema.safeParse(answer);
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    throw fail('QMP_UNEXPECTED', `${command}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`, {
      cause: parsed.error,
      fields: { command },
    });
  }

  async #do(command: string, args?: object, options?: CommandOptions): Promise<void> {
    await this.execute(command, args as Readonly<Record<string, unknown>> | undefined, options);
  }

  queryStatus(options?: CommandOptions): Promise<schemas.VmStatus> {
    return this.query(schemas.vmStatusSchema, 'query-status', undefined, options);
  }

  queryVersion(options?: CommandOptions): Promise<schemas.QemuVersion> {
    return this.query(schemas.versionSchema, 'query-version', undefined, options);
  }

  queryMachines(options?: CommandOptions): Promise<schemas.MachineInfo[]> {
    return this.query(schemas.machinesSchema, 'query-machines', undefined, options);
  }

  /** CPU models; `unavailable-features` is what this host and accelerator lack of each. */
  queryCpuDefinitions(options?: CommandOptions): Promise<schemas.CpuDefinition[]> {
    return this.query(schemas.cpuDefinitionsSchema, 'query-cpu-definitions', undefined, options);
  }

  /** Names of all QMP commands of this QEMU: for feature probes. */
  async queryCommands(options?: CommandOptions): Promise<Set<string>> {
    const commands = await this.query(schemas.commandsSchema, 'query-commands', undefined, options);
    return new Set(commands.map((c) => c.name));
  }

  queryKvm(options?: CommandOptions): Promise<{ enabled: boolean; present: boolean }> {
    return this.query(schemas.kvmSchema, 'query-kvm', undefined, options);
  }

  // --- running -------------------------------------------------------------------------------------------------

  cont(options?: CommandOptions): Promise<void> {
    return this.#do('cont', undefined, options);
  }

  stop(options?: CommandOptions): Promise<void> {
    return this.#do('stop', undefined, options);
  }

  /** Asks the guest to shut down (ACPI power button). */
  systemPowerdown(options?: CommandOptions): Promise<void> {
    return this.#do('system_powerdown', undefined, options);
  }

  systemReset(options?: CommandOptions): Promise<void> {
    return this.#do('system_reset', undefined, options);
  }

  /** QEMU ends after having flushed its disks; the answer may be followed by the end of the session. */
  quit(options?: CommandOptions): Promise<void> {
    return this.#do('quit', undefined, options);
  }

  /** Writes the screen to a file on QEMU's side. */
  screendump(filename: string, format: 'png' | 'ppm' = 'png', options?: CommandOptions): Promise<void> {
    return this.#do('screendump', { filename, format }, options);
  }

  // --- migration -----------------------------------------------------------------------------------------------

  queryMigrate(options?: CommandOptions): Promise<schemas.MigrationInfo> {
    return this.query(schemas.migrationInfoSchema, 'query-migrate', undefined, options);
  }

  async queryMigrateCapabilities(options?: CommandOptions): Promise<Map<string, boolean>> {
    const list = await this.query(
      schemas.migrationCapabilitiesSchema,
      'query-migrate-capabilities',
      undefined,
      options,
    );
    return new Map(list.map(({ capability, state }) => [capability, state]));
  }

  /** E.g. `{ events: true, 'postcopy-ram': true, 'return-path': true }`. */
  migrateSetCapabilities(states: Readonly<Record<string, boolean>>, options?: CommandOptions): Promise<void> {
    const capabilities = Object.entries(states).map(([capability, state]) => ({ capability, state }));
    return this.#do('migrate-set-capabilities', { capabilities }, options);
  }

  migrateSetParameters(parameters: MigrationParameters, options?: CommandOptions): Promise<void> {
    return this.#do('migrate-set-parameters', parameters, options);
  }

  /** Starts sending, or with `resume` goes on after a broken post-copy. Answers at once; watch `MIGRATION`. */
  migrate(uri: string, options: CommandOptions & { resume?: boolean } = {}): Promise<void> {
    return this.#do('migrate', options.resume ? { uri, resume: true } : { uri }, options);
  }

  migrateIncoming(uri: string, options?: CommandOptions): Promise<void> {
    return this.#do('migrate-incoming', { uri }, options);
  }

  migrateStartPostcopy(options?: CommandOptions): Promise<void> {
    return this.#do('migrate-start-postcopy', undefined, options);
  }

  /** From `pre-switchover` on. */
  migrateContinue(state: 'pre-switchover', options?: CommandOptions): Promise<void> {
    return this.#do('migrate-continue', { state }, options);
  }

  migrateCancel(options?: CommandOptions): Promise<void> {
    return this.#do('migrate_cancel', undefined, options);
  }

  /** Breaks a post-copy on purpose: both sides go to `postcopy-paused`. Out of band. */
  migratePause(options?: CommandOptions): Promise<void> {
    return this.#do('migrate-pause', undefined, { ...options, oob: true });
  }

  /** The target's new ear after a broken post-copy. Out of band: QEMU's main loop may wait for a missing page. */
  migrateRecover(uri: string, options?: CommandOptions): Promise<void> {
    return this.#do('migrate-recover', { uri }, { ...options, oob: true });
  }

  // --- block nodes ---------------------------------------------------------------------------------------------

  queryNamedBlockNodes(options?: CommandOptions): Promise<schemas.NamedNode[]> {
    return this.query(schemas.namedNodesSchema, 'query-named-block-nodes', { flat: true }, options);
  }

  queryBlock(options?: CommandOptions): Promise<schemas.BlockDevice[]> {
    return this.query(schemas.blockDevicesSchema, 'query-block', undefined, options);
  }

  queryBlockJobs(options?: CommandOptions): Promise<schemas.BlockJob[]> {
    return this.query(schemas.blockJobsSchema, 'query-block-jobs', undefined, options);
  }

  blockdevAdd(node: BlockdevOptions, options?: CommandOptions): Promise<void> {
    return this.#do('blockdev-add', node, options);
  }

  /** All options of each node must be given: what is absent becomes the default. */
  blockdevReopen(nodes: readonly BlockdevOptions[], options?: CommandOptions): Promise<void> {
    return this.#do('blockdev-reopen', { options: nodes }, options);
  }

  blockdevDel(nodeName: string, options?: CommandOptions): Promise<void> {
    return this.#do('blockdev-del', { 'node-name': nodeName }, options);
  }

  blockCommit(
    job: { jobId: string; topNode: string; baseNode: string; speedBytesPerS?: number },
    options?: CommandOptions,
  ): Promise<void> {
    const { jobId, topNode, baseNode, speedBytesPerS } = job;
    const args = { 'job-id': jobId, device: topNode, 'top-node': topNode, 'base-node': baseNode };
    return this.#do(
      'block-commit',
      speedBytesPerS === undefined ? args : { ...args, speed: speedBytesPerS },
      options,
    );
  }

  blockJobComplete(jobId: string, options?: CommandOptions): Promise<void> {
    return this.#do('block-job-complete', { device: jobId }, options);
  }

  blockJobCancel(jobId: string, force = false, options?: CommandOptions): Promise<void> {
    return this.#do('block-job-cancel', { device: jobId, force }, options);
  }

  nbdServerStart(socketPath: string, maxConnections = 4, options?: CommandOptions): Promise<void> {
    const addr = { type: 'unix', data: { path: socketPath } };
    return this.#do('nbd-server-start', { addr, 'max-connections': maxConnections }, options);
  }

  /** Ends all exports and connections of QEMU's NBD server. */
  nbdServerStop(options?: CommandOptions): Promise<void> {
    return this.#do('nbd-server-stop', undefined, options);
  }

  blockExportAdd(
    spec: { id: string; nodeName: string; name: string; writable?: boolean; allocationDepth?: boolean },
    options?: CommandOptions,
  ): Promise<void> {
    const { id, nodeName, name, writable = false, allocationDepth = false } = spec;
    const args = { type: 'nbd', id, 'node-name': nodeName, name, writable };
    return this.#do('block-export-add', { ...args, 'allocation-depth': allocationDepth }, options);
  }

  blockExportDel(id: string, mode: 'safe' | 'hard' = 'hard', options?: CommandOptions): Promise<void> {
    return this.#do('block-export-del', { id, mode }, options);
  }
}
