import { writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { buildTemplateSchema } from './api/template-messages.ts';
import { createVmSchema, migrateSchema } from './api/messages.ts';
import { loadConfig, parseConfig } from './config.ts';
import {
  CONFIG_MAX_BYTES,
  CPUS_MAX,
  DIAL_SITES_MAX,
  MEMORY_MAX_MIB,
  MEMORY_MIN_MIB,
  SWITCH_BUDGET_MAX_MS,
  TEMPLATE_AFTER_MAX_S,
  VMS_MAX,
} from './constants.ts';

function config({ memoryMiB = 4096, vms = 16, dials = 1 }): string {
  const dial = Array.from({ length: dials }, (_, i) => `{ site: s${i}, address: "10.0.0.1:${i + 1}" }`);
  return `
id: ap1
dataDir: ./data
link: { dial: [${dial.join(', ')}] }
tls: { ca: ca.pem, cert: site.pem, key: site.key }
capacity: { memoryMiB: ${memoryMiB}, vms: ${vms} }
`;
}

test.each([
  [{ memoryMiB: MEMORY_MAX_MIB }, { memoryMiB: MEMORY_MAX_MIB + 1 }],
  [{ vms: VMS_MAX }, { vms: VMS_MAX + 1 }],
  [{ dials: DIAL_SITES_MAX }, { dials: DIAL_SITES_MAX + 1 }],
])('a configuration takes %j, not %j', (most, beyond) => {
  expect(parseConfig(config(most), '/etc/site.yaml').id).toBe('ap1');
  expect(() => parseConfig(config(beyond), '/etc/site.yaml')).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID' }),
  );
});

test('a configuration file has a largest size', async () => {
  await using dir = await tempDir();
  const text = config({});
  await writeFile(dir.file('most.yaml'), text + '#'.repeat(CONFIG_MAX_BYTES - text.length));
  expect(loadConfig(dir.file('most.yaml')).id).toBe('ap1');
  await writeFile(dir.file('more.yaml'), text + '#'.repeat(CONFIG_MAX_BYTES - text.length + 1));
  expect(() => loadConfig(dir.file('more.yaml'))).toThrow(
    expect.objectContaining({ code: 'CONFIG_UNREADABLE' }),
  );
});

test.each([
  ['cpus', 1, CPUS_MAX],
  ['memoryMiB', MEMORY_MIN_MIB, MEMORY_MAX_MIB],
])('a VM has %s from %i to %i', (field, least, most) => {
  const taken = (value: number): boolean =>
    createVmSchema.safeParse({ name: 'desk', image: 'ci', [field]: value }).success;
  expect([least - 1, least, most, most + 1].map(taken)).toEqual([false, true, true, false]);
});

test('the budget of a switch', () => {
  const taken = (switchBudgetMs: number): boolean =>
    migrateSchema.safeParse({ vm: 'desk', to: 'ap1', switchBudgetMs }).success;
  expect([0, 1, SWITCH_BUDGET_MAX_MS, SWITCH_BUDGET_MAX_MS + 1].map(taken)).toEqual([
    false,
    true,
    true,
    false,
  ]);
});

test('a guest is frozen within an hour', () => {
  const taken = (afterS: number): boolean =>
    buildTemplateSchema.safeParse({ name: 'desk', image: 'ci', afterS }).success;
  expect([-1, 0, TEMPLATE_AFTER_MAX_S, TEMPLATE_AFTER_MAX_S + 1].map(taken)).toEqual([
    false,
    true,
    true,
    false,
  ]);
});
