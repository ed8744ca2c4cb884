import type { QmpEvent } from '../../src/wire/qmp/messages.ts';
import type { QemuProcess } from '../../src/qemu/process.ts';
import { tempDir } from './tempdir.ts';

const CAPABILITIES = { events: true, 'return-path': true, 'postcopy-ram': true };

export interface DirectMigration {
  /** STOP at the source to RESUME at the target. */
  readonly downtimeMs: number;
  /** What the source reported, in order. */
  readonly statuses: readonly unknown[];
}

/** Post-copy migration between two QEMUs of this machine without any agent: a socket joins them. */
export async function migrateDirect(
  source: QemuProcess,
  target: QemuProcess,
  options: { preempt?: boolean } = {},
): Promise<DirectMigration> {
  await using dir = await tempDir();
  const uri = `unix:${dir.file('m.sock')}`;
  const marks = { source: source.qmp.mark(), target: target.qmp.mark() };
  const states = { ...CAPABILITIES, 'postcopy-preempt': options.preempt ?? false };
  for (const { qmp } of [source, target]) await qmp.migrateSetCapabilities(states);
  await target.qmp.migrateIncoming(uri);
  // So slow that round one cannot end first: what is tested is post-copy.
  await source.qmp.migrateSetParameters({ 'max-bandwidth': 100_000 });
  await source.qmp.migrate(uri);
  const reached = (qemu: QemuProcess, since: typeof marks.source, ...wanted: string[]) =>
    qemu.qmp.waitEvent('MIGRATION', (e) => wanted.includes(String(e.data.status)), { since });
  await reached(source, marks.source, 'active', 'failed');
  await source.qmp.migrateStartPostcopy();
  const [stop, resume] = await Promise.all([
    source.qmp.waitEvent('STOP', undefined, { since: marks.source }),
    target.qmp.waitEvent('RESUME', undefined, { since: marks.target }),
  ]);
  for (const [qemu, mark] of [
    [source, marks.source],
    [target, marks.target],
  ] as const) {
    const end = await reached(qemu, mark, 'completed', 'failed', 'postcopy-paused');
    if (end.data.status !== 'completed') throw new Error(`migration ended as ${String(end.data.status)}`);
  }
  const statuses = source.qmp
    .eventsSince(marks.source)
    .filter((e: QmpEvent) => e.name === 'MIGRATION')
    .map((e) => e.data.status);
  return { downtimeMs: (resume.timestampMs ?? 0) - (stop.timestampMs ?? 0), statuses };
}
