import { describe, expect, it } from 'vitest';
import { migrationViewSchema, type MigrationView } from '../../site/api/messages.ts';
import { MigrationDisplay, progressText, summary } from './migration-display.ts';
import { exampleRecord } from './test-record.ts';
import type { Output } from './output.ts';

function view(change: Partial<MigrationView> = {}): MigrationView {
  return migrationViewSchema.parse({
    migrationId: 'mig-0123456789ab',
    role: 'source',
    vmId: 'vm-0123456789ab',
    vmName: 'desk',
    peer: 'ap1',
    state: 'precopy',
    active: true,
    initiatedAtMs: 0,
    link: 'open',
    progress: {
      pagesDone: 50,
      pagesTotal: 100,
      blocksDone: 0,
      blocksTotal: 0,
      bytesSent: 3 * 1024 * 1024,
      rateMbit: 99.6,
    },
    error: null,
    record: null,
    ...change,
  });
}

function screen(tty: boolean): Output & { text: string } {
  return {
    text: '',
    tty,
    columns: 60,
    out() {},
    err(text) {
      this.text += text;
    },
  };
}

describe('display of a migration', () => {
  it('without a terminal is plain lines: each phase once it is over, and now and then the present one', () => {
    const output = screen(false);
    let now = 0;
    const display = new MigrationDisplay(output, () => now);
    for (const [state, ms] of [
      ['preparing', 0],
      ['connecting', 300],
      ['precopy', 400],
      ['precopy', 500],
      ['switching', 2400],
      ['postcopy', 2440],
      ['finalizing', 2600],
      ['completed', 2700],
    ] as const) {
      now = ms;
      display.show(view({ state, active: state !== 'completed' }));
    }
    display.close();
    expect(output.text).not.toContain('\u001B');
    const lines = output.text.split('\n');
    expect(lines[0]).toBe('moving desk (mig-0123456789ab) to ap1');
    for (const line of [
      'prepare            300 ms',
      'connect            100 ms',
      'memory pre-copy    2.00 s',
      'freeze-and-copy    40 ms',
      'post-copy          160 ms',
      'independence       100 ms',
    ]) {
      expect(lines).toContain(`  ${line}`);
    }
  });

  it('on a terminal redraws one line, never longer than the screen', () => {
    const output = screen(true);
    const display = new MigrationDisplay(output, () => 0);
    display.show(view());
    display.close();
    const drawn = output.text.split('\r').filter((part) => part.includes('['));
    expect(drawn.length).toBeGreaterThan(0);
    for (const part of drawn) expect(part.replace('\u001B[K', '').trimEnd().length).toBeLessThan(60);
    expect(output.text.endsWith('\r\u001B[K')).toBe(true);
  });

  it('says how far memory and disk are, and that the link is cut', () => {
    expect(progressText(view())).toContain('memory [#####-----] 50%  3.0 MiB  100 Mbit/s');
    const progress = {
      pagesDone: 100,
      pagesTotal: 100,
      blocksDone: 3,
      blocksTotal: 4,
      bytesSent: 1,
      rateMbit: null,
    };
    expect(progressText(view({ state: 'postcopy', link: 'cut', progress }))).toMatch(
      /disk \[#{8}--\] 75% {2}1 B {2}link is cut, waiting$/,
    );
    expect(progressText(view({ state: 'preparing', progress: null }))).toBe('  prepare');
  });
});

it('sums a record up: phases, the four metrics, bytes by kind', () => {
  const text = summary(exampleRecord());
  for (const part of [
    'desk moved from center to ap1',
    'downtime              12 ms',
    'switch time           2.50 s',
    'total migration time  3.10 s',
    'migrated data         20.0 MiB (memory 18.0 MiB',
    '5 zero, 6 sent, 0 referenced, 0 repeated, 7 post-copied, 8 faulted',
    '1 pushed, 2 pulled, 3 skipped',
    '100 Mbit/s',
  ]) {
    expect(text).toContain(part);
  }
});
