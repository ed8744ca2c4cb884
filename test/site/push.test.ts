import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { access, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as z from 'zod';
import { sleep } from '../../src/base/async.ts';
import { type Image, ImageStore } from '../../src/content/images/store.ts';
import { contentOfDisk, loadPageIndex } from '../../src/content/pages/store.ts';
import { stageImage } from '../../src/content/images/stage.ts';
import { contentOfTemplate, TemplateStore } from '../../src/content/templates/store.ts';
import { partFolder } from '../../src/content/staging/part.ts';
import { type LabSite, TwoSites } from '../../src/lab/two-sites.ts';
import { statusSchema, vmViewSchema } from '../../src/site/api/messages.ts';
import { type PushView, pushViewSchema } from '../../src/site/api/push-messages.ts';
import { builtGuest } from '../content/launcher.ts';
import { cli, startCli } from '../kit/siteProcess.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

const MIB = 2 ** 20;
const DATA_MIB = 24;
/** Of these the second half are holes. */
const DISK_MIB = 200;

let dir: TempDir;
let sites: TwoSites;
let source: ImageStore;
let target: ImageStore;

beforeAll(async () => {
  dir = await tempDir();
  sites = await TwoSites.start({
    dir: dir.path,
    memoryMiB: 1024,
    link: { rateMbit: 200, rttMs: 4, jitterMs: 0 },
  });
  source = await storeOf(sites.center);
  target = await storeOf(sites.ap);
});
afterAll(async () => {
  await sites?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

async function storeOf({ api }: LabSite): Promise<ImageStore> {
  return ImageStore.open((await api.json('GET', '/status', statusSchema)).imageDir);
}

/** An image that does not compress, with holes in it. */
async function newImage(name: string): Promise<Image> {
  const path = dir.file(`${name}.raw`);
  {
    await using file = await open(path, 'w');
    for (let i = 0; i < DATA_MIB; i++)
      await file.write(
        randomFillSync(Buffer.alloc(MIB)),
        0,
        MIB,
        (i < DATA_MIB / 2 ? i : DISK_MIB - 1 - i) * MIB,
      );
    await file.truncate(DISK_MIB * MIB);
  }
  return source.add({ name, disk: { path, format: 'raw' } });
}

async function start(what: string): Promise<PushView> {
  const body = { kind: 'image', what, to: 'ap1' };
  return sites.center.api.json('POST', '/pushes', pushViewSchema, { body });
}

/** Follows a push to its end, or until `until` says so. */
async function follow(push: PushView, until: (view: PushView) => boolean = () => false): Promise<PushView> {
  let last = push;
  for await (const view of sites.center.api.lines(`/pushes/${push.pushId}/events`, pushViewSchema)) {
    last = view;
    if (until(view)) break;
  }
  return last;
}

const halfway = ({ progress }: PushView): boolean => (progress?.doneBytes ?? 0) > 10 * MIB;

/** The image is at the target, whole, with the index of its pages, and nothing else is left there. */
async function expectThere(image: Image): Promise<void> {
  const { digest } = image.manifest;
  const there = await target.verify(digest);
  expect(there.manifest).toEqual(image.manifest);
  await loadPageIndex(contentOfDisk(there.diskPath));
  const files = await readdir(image.folder);
  expect((await readdir(there.folder)).sort()).toEqual(files.sort());
  expect((await stat(there.diskPath)).blocks * 512).toBeLessThan(2 * DATA_MIB * MIB);
  await expectGone(digest);
}

/** Nothing is left of an attempt. */
async function expectGone(digest: string): Promise<void> {
  await expect(access(partFolder(target.folder, digest))).rejects.toMatchObject({ code: 'ENOENT' });
}

/** Processes of pushes at a site, found by their parent. */
async function processesOf({ api }: LabSite): Promise<number[]> {
  const { pid } = await api.json('GET', '/status', statusSchema);
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8'))
    .trim()
    .split(' ')
    .map(Number);
  const found: number[] = [];
  for (const child of children.filter((id) => id > 0)) {
    const line = await readFile(`/proc/${child}/cmdline`, 'latin1').catch(() => '');
    if (line.includes('stage/process-main')) found.push(child);
  }
  return found;
}

const targetHears = async (pushId: string): Promise<PushView | undefined> =>
  (await sites.ap.api.json('GET', '/pushes', z.array(pushViewSchema))).find((view) => view.pushId === pushId);

/** The target's side of an attempt is over, too. */
async function targetEnds(pushId: string): Promise<void> {
  while ((await targetHears(pushId))?.active) await sleep(50);
}

describe('an image is pushed to another site', () => {
  it('once, holes not sent; the second time nothing is sent', async () => {
    const image = await newImage('whole');
    const done = await follow(await start('whole'));
    expect(done).toMatchObject({ state: 'completed', present: false, error: null, role: 'source' });
    expect(done.progress?.wireBytes).toBeGreaterThan(DATA_MIB * MIB);
    expect(done.progress?.wireBytes).toBeLessThan(1.1 * DATA_MIB * MIB);
    await expectThere(image);
    expect(await targetHears(done.pushId)).toMatchObject({ role: 'target', peer: 'center' });
    const again = await follow(await start(image.manifest.digest.slice(0, 12)));
    expect(again).toMatchObject({ state: 'completed', present: true, progress: null });
    await expect(start('nothing')).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
  });

  it('over a link that is cut in the middle, without beginning again', async () => {
    const image = await newImage('cut');
    const push = await start('cut');
    await follow(push, halfway);
    await sites.link('cut');
    expect((await follow(push, ({ link }) => link === 'cut')).active).toBe(true);
    await sites.link('restore');
    const done = await follow(push);
    expect(done).toMatchObject({ state: 'completed' });
    expect(done.progress?.wireBytes).toBeLessThan(1.5 * DATA_MIB * MIB);
    await expectThere(image);
  });

  it('is cancelled, and goes on from there when it is asked for again', async () => {
    const image = await newImage('cancelled');
    const push = await start('cancelled');
    await follow(push, halfway);
    await expect(start('cancelled')).rejects.toMatchObject({ code: 'STAGE_BUSY' });
    const ended = await sites.center.api.json('DELETE', `/pushes/${push.pushId}`, pushViewSchema);
    expect(ended).toMatchObject({ state: 'cancelled', active: false, error: { code: 'STAGE_CANCELLED' } });
    await targetEnds(push.pushId);
    await access(partFolder(target.folder, image.manifest.digest));
    await expect(target.get(image.manifest.digest)).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
    const done = await follow(await start('cancelled'));
    expect(done).toMatchObject({ state: 'completed' });
    expect(done.progress?.resumedBytes).toBeGreaterThan(8 * MIB);
    expect(done.progress?.wireBytes).toBeLessThan((DATA_MIB - 7) * MIB);
    await expectThere(image);
  });

  it.each(['center', 'ap'] as const)('goes on when the process at the %s was killed', async (side) => {
    const image = await newImage(`killed-${side}`);
    const push = await start(`killed-${side}`);
    await follow(push, halfway);
    const [pid = 0] = await processesOf(sites[side]);
    process.kill(pid, 'SIGKILL');
    const failed = await follow(push);
    expect(failed.state).toBe('failed');
    expect(failed.error?.code).toBe(side === 'center' ? 'STAGE_PROCESS' : 'STAGE_PEER_FAILED');
    await targetEnds(push.pushId);
    const done = await follow(await start(`killed-${side}`));
    expect(done).toMatchObject({ state: 'completed' });
    expect(done.progress?.resumedBytes).toBeGreaterThanOrEqual(8 * MIB);
    expect(done.progress?.wireBytes).toBeLessThan((DATA_MIB - 7) * MIB);
    await expectThere(image);
    while ((await processesOf(sites.center)).length + (await processesOf(sites.ap)).length > 0)
      await sleep(50);
  });

  it('is refused when its bytes are wrong, and nothing appears', async () => {
    const image = await newImage('wrong');
    await using file = await open(image.diskPath, 'r+');
    await file.write(Buffer.from('wrong'), 0, 5, 3 * MIB);
    const failed = await follow(await start('wrong'));
    expect(failed).toMatchObject({ state: 'failed', error: { code: 'STAGE_DAMAGED' } });
    await expectGone(image.manifest.digest);
    await expect(target.get(image.manifest.digest)).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
    await file.truncate(5 * MIB);
    const short = await follow(await start('wrong'));
    expect(short).toMatchObject({ state: 'failed', error: { code: 'STAGE_SOURCE' } });
  });

  it('begins a file again when what an earlier attempt has left of it is wrong', async () => {
    const image = await newImage('spoilt');
    const push = await start('spoilt');
    await follow(push, halfway);
    await sites.center.api.json('DELETE', `/pushes/${push.pushId}`, pushViewSchema);
    await targetEnds(push.pushId);
    {
      await using file = await open(join(partFolder(target.folder, image.manifest.digest), 'disk.raw'), 'r+');
      await file.write(Buffer.from('wrong'), 0, 5, 3 * MIB);
    }
    expect(await follow(await start('spoilt'))).toMatchObject({ state: 'completed' });
    await expectThere(image);
  });

  it('until Ctrl-C at its command line', async () => {
    const image = await newImage('interrupted');
    const command = startCli(['image', 'push', 'interrupted', '--to', 'ap1'], sites.center.config);
    const exit = once(command, 'exit');
    const pushes = () => sites.center.api.json('GET', '/pushes', z.array(pushViewSchema));
    let push: PushView | undefined;
    while (!push && command.exitCode === null)
      push = (await pushes()).find((view) => view.digest === image.manifest.digest);
    if (!push) throw new Error('the command ended');
    await follow(push, halfway);
    command.kill('SIGINT');
    expect(await exit).toEqual([130, null]);
    expect((await pushes())[0]).toMatchObject({ state: 'cancelled' });
    await targetEnds(push.pushId);
    await access(partFolder(target.folder, image.manifest.digest));
  });

  it('by the command line', async () => {
    await newImage('cli');
    const { config } = sites.center;
    const pushed = await cli(['image', 'push', 'cli', '--to', 'ap1'], { config });
    expect(pushed).toMatchObject({ code: 0 });
    expect(pushed.stdout).toMatch(/^cli [0-9a-f]{16} is at ap1: 200/);
    expect(pushed.stderr).toContain('sending');
    const again = await cli(['image', 'push', 'cli', '--to', 'ap1', '--json'], { config });
    expect(JSON.parse(again.stdout)).toMatchObject({ state: 'completed', present: true });
    const listed = await cli(['image', 'push', '--ls'], { config });
    expect(listed.stdout).toContain('to ap1');
    expect(await cli(['image', 'push', 'cli', '--to', 'center'], { config })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('STAGE_TO_SELF') as string,
    });
  });

  it('and a VM can move to where its image has come, and start from a template that came after it', async () => {
    const { center, ap } = sites;
    const run = async (site: LabSite, ...args: string[]): Promise<void> => {
      expect(await cli(args, { config: site.config })).toMatchObject({ code: 0 });
    };
    await stageImage(await builtGuest('ci'), source);
    await run(center, 'vm', 'create', 'desk', '--image', 'ci', '--start');
    await run(center, 'template', 'build', '--image', 'ci', '--name', 'frozen');
    const refused = async (code: string, ...args: string[]): Promise<void> =>
      expect(await cli(args, { config: center.config })).toMatchObject({
        code: 1,
        stderr: expect.stringContaining(code) as string,
      });
    await refused('PREPARE_NO_IMAGE', 'migrate', 'desk', '--to', 'ap1');
    await refused('STAGE_REQUIRES', 'template', 'push', 'frozen', '--to', 'ap1');
    await run(center, 'image', 'push', 'ci', '--to', 'ap1');
    await run(center, 'migrate', 'desk', '--to', 'ap1');
    await run(center, 'template', 'push', 'frozen', '--to', 'ap1');
    const templates = async ({ api }: LabSite): Promise<TemplateStore> =>
      TemplateStore.open((await api.json('GET', '/status', statusSchema)).dataDir + '/templates');
    const here = await (await templates(center)).get('frozen');
    const there = await (await templates(ap)).verify('frozen');
    expect(there.manifest).toEqual(here.manifest);
    for (const content of contentOfTemplate(there)) await loadPageIndex(content);
    for (const path of ['', '/overlay.qcow2', '/ram', '/devices'])
      expect((await stat(there.folder + path)).mode).toBe((await stat(here.folder + path)).mode);
    await run(ap, 'vm', 'create', 'quick', '--template', 'frozen');
    const vms = () => ap.api.json('GET', '/vms', z.array(vmViewSchema));
    await expect
      .poll(vms, { timeout: 60_000 })
      .toEqual(
        expect.arrayContaining([
          expect.objectContaining({ name: 'desk', status: 'running', owner: 'ap1' }),
          expect.objectContaining({ name: 'quick', status: 'running', owner: 'ap1' }),
        ]),
      );
  });
});
