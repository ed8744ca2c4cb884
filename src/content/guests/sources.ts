import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseStanzas, type Stanza, words } from './deb822.ts';
import { fail } from './errors.ts';

/** What apt options of a one-line source are called in a stanza. */
const OPTION_FIELDS: ReadonlyMap<string, string> = new Map([
  ['signed-by', 'signed-by'],
  ['trusted', 'trusted'],
  ['check-valid-until', 'check-valid-until'],
  ['check-date', 'check-date'],
  ['allow-insecure', 'allow-insecure'],
]);
const FIELD_NAMES: ReadonlyMap<string, string> = new Map([
  ['types', 'Types'],
  ['uris', 'URIs'],
  ['suites', 'Suites'],
  ['components', 'Components'],
  ['signed-by', 'Signed-By'],
  ['trusted', 'Trusted'],
  ['check-valid-until', 'Check-Valid-Until'],
  ['check-date', 'Check-Date'],
  ['allow-insecure', 'Allow-Insecure'],
]);

/** The lines of a `sources.list` file as stanzas. Quotes and brackets in URIs (for CD-ROMs) are not taken. */
export function parseOneLine(text: string): readonly Stanza[] {
  const stanzas: Stanza[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*(deb)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)([^#]*)/.exec(line);
    if (!match) continue;
    const [, type = '', options = '', uri = '', suite = '', components = ''] = match;
    const stanza = new Map([
      ['types', type],
      ['uris', uri],
      ['suites', suite],
      ['components', components.trim()],
    ]);
    for (const option of words(options)) {
      const [name = '', value = ''] = option.split(/=(.*)/s);
      const field = OPTION_FIELDS.get(name.toLowerCase());
      if (field) stanza.set(field, value);
    }
    stanzas.push(stanza);
  }
  return stanzas;
}

/**
 * The part of the sources that holds the suite itself, its updates and its security updates, as deb822 text.
 * Other archives of the machine (vendors' tools, backports) are no part of a guest.
 */
export function suiteSources(stanzas: readonly Stanza[], codename: string): string {
  const wanted = new Set([codename, `${codename}-updates`, `${codename}-security`, `${codename}/updates`]);
  const kept: string[] = [];
  for (const stanza of stanzas) {
    const suites = words(stanza.get('suites')).filter((suite) => wanted.has(suite));
    const enabled = !/^(no|false|0|off)$/i.test(stanza.get('enabled') ?? 'yes');
    if (suites.length === 0 || !enabled || !words(stanza.get('types')).includes('deb')) continue;
    const lines: string[] = [];
    for (const [field, name] of FIELD_NAMES) {
      const value = field === 'suites' ? suites.join(' ') : field === 'types' ? 'deb' : stanza.get(field);
      if (value !== undefined) lines.push(`${name}: ${value}`);
    }
    kept.push(`${lines.join('\n')}\n`);
  }
  return kept.join('\n');
}

/** Everything in `sources.list` and `sources.list.d` of this machine. */
export async function readStanzas(aptFolder = '/etc/apt'): Promise<readonly Stanza[]> {
  const parts = await readdir(join(aptFolder, 'sources.list.d')).catch(() => [] as string[]);
  const files = ['sources.list', ...parts.sort().map((part) => join('sources.list.d', part))];
  const stanzas: Stanza[] = [];
  for (const file of files) {
    const text = await readFile(join(aptFolder, file), 'utf8').catch(() => '');
    if (file.endsWith('.list')) stanzas.push(...parseOneLine(text));
    else if (file.endsWith('.sources')) stanzas.push(...parseStanzas(text));
  }
  return stanzas;
}

/** The machine's Debian suite (VERSION_CODENAME of os-release(5)) and its sources. @throws GUEST_SOURCES */
export async function machineSources(): Promise<{ codename: string; sources: string }> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const codename = /^VERSION_CODENAME=["']?([a-z0-9.-]+)["']?\s*$/m.exec(release)?.[1];
  if (!codename) throw fail('GUEST_SOURCES', 'no VERSION_CODENAME in /etc/os-release');
  const sources = suiteSources(await readStanzas(), codename);
  if (sources === '') throw fail('GUEST_SOURCES', codename);
  return { codename, sources };
}
