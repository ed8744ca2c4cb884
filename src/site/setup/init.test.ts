import { stat } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { loadConfig } from '../config.ts';
import { loadTls } from '../tls.ts';
import { addSite, initSite } from './init.ts';

it('sets two sites up that fit each other, in two calls', async () => {
  await using dir = await tempDir();
  const center = await initSite({ id: 'center', dir: dir.file('center'), listen: '0.0.0.0:7999' });
  const ap = await addSite({ id: 'ap1', dir: dir.file('ap1'), ca: dir.file('center') });
  const [a, b] = [loadConfig(center.config), loadConfig(ap.config)];
  expect(a.link).toEqual({ listen: { host: '0.0.0.0', port: 7999 }, relay: false, dial: [] });
  expect(b.link).toEqual({
    relay: false,
    dial: [{ site: 'center', address: { host: '127.0.0.1', port: 7999 } }],
  });
  expect((await loadTls(a.tls, 'center')).ca).toBe((await loadTls(b.tls, 'ap1')).ca);
  expect((await stat(b.tls.key)).mode & 0o777).toBe(0o600);
  expect((await stat(`${center.ca}/ca.key`)).mode & 0o777).toBe(0o600);
  // given the CA directory itself, and dialled at the advertised address
  const far = await initSite({ id: 'far', dir: dir.file('far'), advertise: 'far.example.org:1234' });
  const ap2 = await addSite({ id: 'ap2', dir: dir.file('ap2'), ca: far.ca });
  expect(loadConfig(ap2.config).link.dial[0]?.address).toEqual({ host: 'far.example.org', port: 1234 });
});

it('refuses what cannot work, and overwrites nothing', async () => {
  await using dir = await tempDir();
  const file = (name: string): string => dir.file(name);
  await initSite({ id: 'center', dir: file('center'), listen: 'none' });
  const cases: [() => Promise<unknown>, string][] = [
    [() => initSite({ id: 'center', dir: file('center') }), 'SITE_EXISTS'],
    [() => initSite({ id: 'No', dir: file('a') }), 'SITE_SETUP'],
    [() => initSite({ id: 'b', dir: file('b'), listen: 'everywhere' }), 'SITE_SETUP'],
    [() => addSite({ id: 'c', dir: file('c'), ca: file('nowhere') }), 'SITE_SETUP'],
    [() => addSite({ id: 'd', dir: file('d'), ca: file('center') }), 'SITE_SETUP'],
    [() => addSite({ id: 'e', dir: file('e'), ca: file('center'), dial: ['center'] }), 'SITE_SETUP'],
  ];
  for (const [attempt, code] of cases) await expect(attempt()).rejects.toMatchObject({ code });
});
