import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { CloudapError } from '../base/errors.ts';
import { configKeys, formatAddress, parseAddress, type ConfigProblem } from './config-text.ts';
import { loadConfig, parseConfig } from './config.ts';
import { RESIDUE_MAX_MIB } from './constants.ts';

const good = `
id: ap1
dataDir: ./data
link: { listen: "0.0.0.0:7411", dial: [{ site: center, address: "center.example.org:7411" }] }
tls: { ca: ca.pem, cert: site.pem, key: site.key }
capacity: { memoryMiB: 4096 }
`;

/** The error of a configuration, as code, keys and text. */
function broken(text: string): { code: string; keys: string[]; message: string } {
  try {
    parseConfig(text, '/etc/cloudap/site.yaml');
  } catch (error) {
    if (!(error instanceof CloudapError)) throw error;
    const problems = (error.fields['problems'] ?? []) as ConfigProblem[];
    for (const problem of problems) {
      expect(error.message).toContain(`${problem.key}: ${problem.problem}`);
      expect(problem.remedy.length).toBeGreaterThan(10);
    }
    return { code: error.code, keys: problems.map((p) => p.key), message: error.message };
  }
  throw new Error('it was taken');
}

describe('configuration of a site', () => {
  it('fills in defaults and makes paths absolute, relative to the file', () => {
    const config = parseConfig(good, '/etc/cloudap/site.yaml');
    expect(config).toMatchObject({
      id: 'ap1',
      dataDir: '/etc/cloudap/data',
      imageDir: '/etc/cloudap/data/images',
      accelerator: 'auto',
      capacity: { memoryMiB: 4096, vms: 16 },
      link: { listen: { host: '0.0.0.0', port: 7411 }, dial: [{ site: 'center' }] },
      tls: { ca: '/etc/cloudap/ca.pem' },
      migration: { memoryCodec: 'content', diskCodec: 'content', linkLossTimeoutMs: 10_000 },
      residue: { maxMiB: 4096 },
    });
    expect(config.runtimeDir).toMatch(/^\/(run\/cloudap|tmp|.*cloudap)/);
    expect(parseConfig(good, '/etc/cloudap/site.yaml').runtimeDir).toBe(config.runtimeDir);
    expect(parseConfig(good, '/srv/site.yaml').runtimeDir).not.toBe(config.runtimeDir);
  });

  it.each<[string, string, string[]]>([
    ['an unknown key', `${good}memory: 1\n`, ['memory']],
    [
      'an unknown key further down',
      good.replace('memoryMiB: 4096', 'memoryMiB: 4096, ram: 2'),
      ['capacity.ram'],
    ],
    ['a missing key', good.replace('id: ap1', ''), ['id']],
    ['a missing section', good.replace(/tls:.*\n/, ''), ['tls']],
    ['a missing key of a section', good.replace('ca: ca.pem, ', ''), ['tls.ca']],
    ['a negative residue.maxMiB', `${good}residue: {maxMiB: -1}\n`, ['residue.maxMiB']],
    [
      'more than residue.maxMiB may be',
      `${good}residue: {maxMiB: ${RESIDUE_MAX_MIB + 1}}\n`,
      ['residue.maxMiB'],
    ],
    ['an id with other characters', good.replace('id: ap1', 'id: AP_1'), ['id']],
    ['an address without port', good.replace('0.0.0.0:7411', '0.0.0.0'), ['link.listen']],
    ['port 0', good.replace('0.0.0.0:7411', '0.0.0.0:0'), ['link.listen']],
    ['a port beyond 65535', good.replace('0.0.0.0:7411', '0.0.0.0:70000'), ['link.listen']],
    ['an address that is no text', good.replace('"0.0.0.0:7411"', '7411'), ['link.listen']],
    [
      'a dial address without port',
      good.replace('center.example.org:7411', 'center'),
      ['link.dial.0.address'],
    ],
    ['dialling itself', good.replace('site: center', 'site: ap1'), ['link.dial.0.site']],
    ['memory that is no number', good.replace('4096', 'much'), ['capacity.memoryMiB']],
    ['memory below zero', good.replace('4096', '-1'), ['capacity.memoryMiB']],
    ['an unknown accelerator', `${good}accelerator: fast\n`, ['accelerator']],
    ['an unknown codec', `${good}migration: { memoryCodec: gzip }\n`, ['migration.memoryCodec']],
    [
      'a timeout out of range',
      `${good}migration: { linkLossTimeoutMs: 10 }\n`,
      ['migration.linkLossTimeoutMs'],
    ],
    ['relay without listen', good.replace('listen: "0.0.0.0:7411"', 'relay: true'), ['link.relay']],
    [
      'advertise without listen',
      good.replace('listen: "0.0.0.0:7411"', 'advertise: "a:1"'),
      ['link.advertise'],
    ],
    [
      'several at once',
      good.replace('id: ap1', 'id: "-"').replace('4096', '0'),
      ['id', 'capacity.memoryMiB'],
    ],
    ['a list instead of a mapping', '- id: ap1\n', ['the file']],
    ['an empty file', '', ['the file']],
    ['a text', 'hello', ['the file']],
  ])('names the key and the remedy: %s', (_what, text, keys) => {
    const found = broken(text);
    expect(found.code).toBe('CONFIG_INVALID');
    expect(found.keys).toEqual(keys);
  });

  it('names the line where it is not YAML', () => {
    const { code, message } = broken('id: ap1\n  dataDir: [\n');
    expect(code).toBe('CONFIG_INVALID');
    expect(message).toMatch(/not YAML.*line 1/s);
  });

  it('survives a bomb of aliases', () => {
    const bomb = `a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n`;
    expect(broken(bomb).code).toBe('CONFIG_INVALID');
  });

  it('refuses a runtime directory in which sockets have no room', () => {
    expect(broken(`${good}runtimeDir: /${'x'.repeat(75)}\n`).code).toBe('CONFIG_PATH_TOO_LONG');
    expect(parseConfig(`${good}runtimeDir: /${'x'.repeat(74)}\n`, '/etc/site.yaml').runtimeDir).toHaveLength(
      75,
    );
  });

  it('says which file cannot be read', () => {
    expect(() => loadConfig('/nowhere/site.yaml')).toThrow(
      expect.objectContaining({ code: 'CONFIG_UNREADABLE' }),
    );
    expect(() => loadConfig('/dev')).toThrow(expect.objectContaining({ code: 'CONFIG_UNREADABLE' }));
  });

  it('has every key in docs/SITE.md', () => {
    const text = readFileSync(new URL('../../docs/SITE.md', import.meta.url), 'utf8');
    for (const key of configKeys) expect(text, key).toContain(`\`${key}\``);
  });

  it('ships examples that are valid', () => {
    for (const name of ['center', 'ap1']) {
      const file = new URL(`../../examples/${name}/site.yaml`, import.meta.url);
      expect(loadConfig(file.pathname).id).toBe(name);
    }
  });
});

describe('addresses', () => {
  it.each([
    ['127.0.0.1:7411', { host: '127.0.0.1', port: 7411 }],
    ['center.example.org:1', { host: 'center.example.org', port: 1 }],
    ['[::1]:65535', { host: '::1', port: 65_535 }],
  ])('%s', (text, address) => {
    expect(parseAddress(text)).toEqual(address);
    expect(formatAddress(address)).toBe(text);
  });

  it.each(['', ':1', 'a:', 'a:b', '::1:5', 'a:0', 'a:65536', 'a b:1', '[::1', '[]:1', 'http://a:1'])(
    'not: %s',
    (text) => {
      expect(parseAddress(text)).toBeUndefined();
    },
  );
});
