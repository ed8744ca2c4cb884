import type { MigrationRecord } from '../../migration/record.ts';
import type { MigrationView } from '../../site/api/messages.ts';
import { formatBytes, formatMs, type Output } from './output.ts';
import { bar, ProgressLine } from './progress.ts';

/** What a user calls the states; the paper's words where it has some. */
const names: Readonly<Record<MigrationView['state'], string>> = {
  preparing: 'prepare',
  connecting: 'connect',
  precopy: 'memory pre-copy',
  switching: 'freeze-and-copy',
  postcopy: 'post-copy',
  finalizing: 'independence',
  completed: 'completed',
  cancelled: 'cancelled',
  failed: 'failed',
};

/** A running migration on stderr: a line for each phase that is over, and one that moves for the present one. */
export class MigrationDisplay {
  readonly #line: ProgressLine;
  readonly #now: () => number;
  #state: MigrationView['state'] | undefined;
  #sinceMs = 0;

  constructor(output: Output, now: () => number = () => Date.now()) {
    this.#line = new ProgressLine(output);
    this.#now = now;
  }

  show(view: MigrationView): void {
    const now = this.#now();
    if (this.#state === undefined)
      this.#line.done(`moving ${view.vmName} (${view.migrationId}) ${direction(view)}`);
    if (view.state !== this.#state) {
      if (this.#state !== undefined && !(this.#state in ended)) {
        this.#line.done(`  ${names[this.#state].padEnd(18)} ${formatMs(now - this.#sinceMs)}`);
      }
      this.#state = view.state;
      this.#sinceMs = now;
    }
    if (view.active && !(view.state in ended)) this.#line.update(progressText(view));
  }

  note(text: string): void {
    this.#line.done(text);
  }

  close(): void {
    this.#line.clear();
  }
}

const ended = { completed: true, cancelled: true, failed: true };
const direction = (view: MigrationView): string =>
  view.role === 'source' ? `to ${view.peer}` : `from ${view.peer}`;

export function progressText(view: MigrationView): string {
  const head = `  ${names[view.state].padEnd(18)}`;
  const { progress } = view;
  if (!progress) return head.trimEnd();
  const { pagesDone, pagesTotal, blocksDone, blocksTotal, bytesSent, rateMbit } = progress;
  const parts = [
    pagesTotal > 0 ? `memory ${bar(pagesDone / pagesTotal, 10)} ${percent(pagesDone, pagesTotal)}` : '',
    blocksTotal > 0 ? `disk ${bar(blocksDone / blocksTotal, 10)} ${percent(blocksDone, blocksTotal)}` : '',
    formatBytes(bytesSent),
    rateMbit === null ? '' : `${Math.round(rateMbit)} Mbit/s`,
    view.link === 'cut' ? 'link is cut, waiting' : '',
  ];
  return `${head}${parts.filter((part) => part !== '').join('  ')}`;
}

const percent = (done: number, total: number): string =>
  `${Math.min(100, Math.floor((done / total) * 100))}%`;

/** The paper's four metrics and where the time went, from the record alone. */
export function summary(record: MigrationRecord): string {
  const { bytes, link, vm, pages, blocks } = record;
  const longest = Math.max(0, ...record.phases.map((phase) => phase.name.length));
  const phases = record.phases
    .map(
      ({ name, startMs, endMs }) =>
        `  ${name.padEnd(longest)}  ${formatMs(startMs).padStart(9)} .. ${formatMs(endMs)}`,
    )
    .join('\n');
  return `${vm.name} moved from ${record.source} to ${record.target} (${record.scheme}, ${record.accelerator}, QEMU ${record.qemuVersion})
${phases}
  downtime              ${formatMs(record.downtimeMs)}${record.completedAsPrecopy ? ' (completed as pre-copy)' : ''}
  switch time           ${formatMs(record.switchTimeMs)}
  total migration time  ${formatMs(record.totalTimeMs)}
  migrated data         ${formatBytes(bytes.total)} (memory ${formatBytes(bytes.memory)}, disk ${formatBytes(bytes.disk)}, device ${formatBytes(bytes.device)}, control ${formatBytes(bytes.control)})
  pages                 ${pages.zero} zero, ${pages.sent} sent, ${pages.referenced} referenced, ${pages.repeated} repeated, ${pages.postCopied} post-copied, ${pages.faulted} faulted
  blocks                ${blocks.pushed} pushed, ${blocks.pulled} pulled, ${blocks.skipped} skipped
  link                  ${link.rateMbit === null ? '-' : `${Math.round(link.rateMbit)} Mbit/s`}, round trip ${formatMs(link.rttMs)}, ${link.cuts} cuts
`;
}
