import { chmod, mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { SOCKET_PATH_MAX_BYTES, SOCKET_SUFFIX_MAX_BYTES } from './constants.ts';
import { newMigrationId, newVmId } from './ids.ts';
import { makeRuntimeDir, sitePaths } from './paths.ts';

describe('runtime directory', () => {
  it('is made for its user alone, and again', async () => {
    await using dir = await tempDir();
    const path = dir.file('deep/run');
    makeRuntimeDir(path);
    makeRuntimeDir(path);
    expect((await stat(path)).mode & 0o777).toBe(0o700);
  });

  it('is closed to others where it was open', async () => {
    await using dir = await tempDir();
    await mkdir(dir.file('run'));
    await chmod(dir.file('run'), 0o755);
    makeRuntimeDir(dir.file('run'));
    expect((await stat(dir.file('run'))).mode & 0o777).toBe(0o700);
  });

  it('is no file, and nobody else’s directory behind a link', async () => {
    await using dir = await tempDir();
    await writeFile(dir.file('file'), '');
    await symlink('/tmp', dir.file('link'));
    for (const name of ['file', 'link']) {
      expect(() => makeRuntimeDir(dir.file(name))).toThrow(
        expect.objectContaining({ code: 'SITE_RUNTIME_DIR' }),
      );
    }
  });
});

it('has room for the longest socket behind the longest runtime directory', () => {
  const runtimeDir = `/${'r'.repeat(SOCKET_PATH_MAX_BYTES - SOCKET_SUFFIX_MAX_BYTES - 1)}`;
  const paths = sitePaths({ dataDir: '/d', imageDir: '/i', runtimeDir });
  const vm = paths.vm(newVmId());
  const migration = paths.migration(newMigrationId());
  const sockets = [
    paths.apiSocket,
    paths.linkSocket('agent'),
    vm.agentQmp,
    vm.moverQmp,
    vm.vncSocket,
    vm.serialSocket,
    vm.serial1Socket,
    migration.rpcSocket,
    migration.streamSocket,
    migration.nbdSocket,
    migration.allocationSocket,
    migration.linkSocket,
  ];
  for (const socket of sockets)
    expect(Buffer.byteLength(socket), socket).toBeLessThanOrEqual(SOCKET_PATH_MAX_BYTES);
});
