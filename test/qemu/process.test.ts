import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { processAlive } from '../../src/base/process.ts';
import { optionText } from '../../src/qemu/command-line.ts';
import { QemuMonitor } from '../../src/qemu/monitor.ts';
import { QemuProcess } from '../../src/qemu/process.ts';
import { startQemu, testPaths, testSpec } from '../kit/qemu.ts';
import { tempDir } from '../kit/tempdir.ts';

const coded = (code: string, fields?: Record<string, unknown>) =>
  expect.objectContaining(fields ? { code, fields: expect.objectContaining(fields) } : { code });

test('a machine starts, answers on both monitors and ends when asked', async () => {
  await using dir = await tempDir();
  await using vm = await startQemu(dir, {
    spec: testSpec({ display: 'vga', input: 'tablet', serialPorts: 2, cpus: 2 }),
  });
  expect(await vm.qmp.queryStatus()).toMatchObject({ running: true, status: 'running' });
  expect((await vm.qmp.queryVersion()).qemu).toEqual(vm.qmp.greeting.version);
  const { qmpSocket, moverSocket, pidFile = '' } = testPaths(dir);
  await using mover = await QemuMonitor.connect(moverSocket);
  expect((await mover.queryMachines()).map((m) => m.name)).toContain('pc-i440fx-7.2');
  expect((await mover.queryCpuDefinitions()).map((c) => c.name)).toContain('qemu64');
  expect((await readFile(pidFile, 'utf8')).trim()).toBe(String(vm.pid));
  await vm.qmp.screendump(dir.file('screen.png'));
  expect((await readFile(dir.file('screen.png'))).subarray(1, 4).toString()).toBe('PNG');

  const mark = vm.qmp.mark();
  await vm.qmp.stop();
  const stopped = await vm.qmp.waitEvent('STOP', undefined, { since: mark });
  expect(Math.abs((stopped.timestampMs ?? 0) - Date.now())).toBeLessThan(60_000);

  const exit = await vm.quit();
  expect(exit).toMatchObject({ code: 0, signal: null });
  expect(processAlive(vm.pid)).toBe(false);
  await expect(QemuMonitor.connect(qmpSocket)).rejects.toEqual(coded('QMP_CONNECT_FAILED'));
});

test('only the owner reaches sockets and logs', async () => {
  await using dir = await tempDir();
  await using vm = await startQemu(dir, {
    spec: testSpec({ display: 'vga', serialPorts: 2 }),
    paths: { serialSocket: dir.file('vm/serial0.sock'), serial1Socket: dir.file('vm/serial1.sock') },
  });
  expect(vm.pid).toBeGreaterThan(1);
  expect((await stat(dir.file('vm'))).mode & 0o777).toBe(0o700);
  const sockets = await readdir(dir.file('vm'));
  expect(sockets.toSorted()).toEqual(['mover.sock', 'qmp.sock', 'serial0.sock', 'serial1.sock', 'vnc.sock']);
  const files = [...sockets.map((s) => `vm/${s}`), 'vm.serial', 'vm.qemu', 'vm.pid'];
  for (const name of files) expect([name, (await stat(dir.file(name))).mode & 0o077]).toEqual([name, 0]);
});

test('a machine that QEMU refuses fails with what QEMU said', async () => {
  await using dir = await tempDir();
  await writeFile(testPaths(dir).logPath, 'said in an earlier run\n');
  const start = startQemu(dir, { spec: testSpec({ machineType: 'pc-i440fx-99.9' }) });
  const error = (await start.catch((e: unknown) => e)) as { fields: { logTail: string } };
  expect(error).toEqual(coded('QEMU_START_FAILED', { exitCode: 1 }));
  expect(error.fields.logTail).toContain('unsupported machine type');
  expect(error.fields.logTail).not.toContain('earlier run');
});

test('a missing program is told apart', async () => {
  await using dir = await tempDir();
  await expect(startQemu(dir, { program: dir.file('no-such-qemu') })).rejects.toEqual(
    coded('QEMU_NOT_FOUND'),
  );
});

test('a start can be given up, and leaves no process', async () => {
  await using dir = await tempDir();
  // Never gets as far as its monitor.
  const program = dir.file('slow');
  await writeFile(program, '#!/bin/sh\necho $$ > "$0.pid"\nexec sleep 600\n', { mode: 0o755 });
  await expect(startQemu(dir, { program, signal: AbortSignal.timeout(400) })).rejects.toEqual(
    expect.objectContaining({ name: 'TimeoutError' }),
  );
  await expect(startQemu(dir, { program, timeoutMs: 200 })).rejects.toEqual(coded('QMP_CONNECT_FAILED'));
  expect(processAlive(Number(await readFile(`${program}.pid`, 'utf8')))).toBe(false);
});

test('a running machine outlives its agent and is adopted', async () => {
  await using dir = await tempDir();
  const { qmpSocket, logPath } = testPaths(dir);
  const first = await startQemu(dir);
  await first.close();
  expect(processAlive(first.pid)).toBe(true);

  await expect(first.quit()).rejects.toEqual(coded('QMP_CLOSED'));
  await using second = await QemuProcess.adopt({ process: first.identity, qmpSocket, logPath });
  expect(second.identity).toEqual(first.identity);
  expect(await second.qmp.queryStatus()).toMatchObject({ running: true });
  await second.close();

  await using third = await QemuProcess.adopt({ process: first.pid, qmpSocket, logPath });
  expect((await third.quit()).code).toBeNull();
  expect(processAlive(first.pid)).toBe(false);
  await expect(QemuProcess.adopt({ process: first.identity, qmpSocket, logPath })).rejects.toEqual(
    coded('QEMU_NOT_OURS'),
  );
});

test('a process that merely has the number is never adopted', async () => {
  await using dir = await tempDir();
  await using vm = await startQemu(dir);
  const { qmpSocket, logPath } = testPaths(dir);
  const recycled = { ...vm.identity, startTicks: vm.identity.startTicks - 1 };
  const rebooted = { ...vm.identity, bootId: '00000000-0000-4000-8000-000000000000' };
  for (const process of [recycled, rebooted, globalThis.process.pid]) {
    await expect(QemuProcess.adopt({ process, qmpSocket, logPath })).rejects.toEqual(coded('QEMU_NOT_OURS'));
  }
  const other = { process: vm.identity, qmpSocket: dir.file('other.sock'), logPath };
  await expect(QemuProcess.adopt(other)).rejects.toEqual(coded('QEMU_NOT_OURS'));
});

test('when QEMU is killed, pending calls and waits end with the true cause', async () => {
  await using dir = await tempDir();
  const vm = await startQemu(dir);
  const waiting = vm.qmp.waitEvent('NEVER').catch((e: unknown) => e);
  const exited = vm.kill();
  expect(await waiting).toEqual(coded('QEMU_EXITED', { signal: 'SIGKILL' }));
  expect(await exited).toMatchObject({ signal: 'SIGKILL', code: null });
  await expect(vm.qmp.queryStatus()).rejects.toEqual(coded('QEMU_EXITED'));
  expect((await vm.qmp.closed).code).toBe('QEMU_EXITED');
});

test('the end of an adopted machine is noticed', async () => {
  await using dir = await tempDir();
  const { qmpSocket, logPath } = testPaths(dir);
  await using vm = await startQemu(dir);
  await vm.qmp.close();
  await using adopted = await QemuProcess.adopt({ process: vm.identity, qmpSocket, logPath });
  process.kill(vm.pid, 'SIGKILL');
  await adopted.exited;
  expect((await adopted.qmp.closed).code).toBe('QEMU_EXITED');
});

test('a QEMU that hangs is killed', async () => {
  await using dir = await tempDir();
  const vm = await startQemu(dir);
  process.kill(vm.pid, 'SIGSTOP');
  expect(await vm.quit({ graceMs: 200 })).toMatchObject({ signal: 'SIGKILL' });
});

test('commands fail with class and text, alone and many at once', async () => {
  await using dir = await tempDir();
  await using vm = await startQemu(dir);
  await expect(vm.qmp.execute('no-such-command')).rejects.toEqual(
    coded('QMP_COMMAND_FAILED', { command: 'no-such-command', class: 'CommandNotFound' }),
  );
  const many = Array.from({ length: 200 }, (_, i) =>
    i % 2 === 0 ? vm.qmp.queryStatus() : vm.qmp.execute('bad').catch(() => 'failed'),
  );
  const answers = await Promise.all(many);
  expect(answers.filter((a) => a === 'failed')).toHaveLength(100);
});

test('paths with commas and spaces reach QEMU whole', async () => {
  await using dir = await tempDir();
  await using vm = await startQemu(dir, {
    spec: testSpec({ display: 'vga' }),
    paths: { vncSocket: dir.file('a,b c,path=x/v,n.sock'), serialLog: dir.file('ser,ial=1.txt') },
  });
  expect(vm.pid).toBeGreaterThan(1);
  expect(await readdir(dir.file('a,b c,path=x'))).toEqual(['v,n.sock']);
  expect(await readdir(dir.path)).toContain('ser,ial=1.txt');
  expect(optionText('a,b', { c: 'd,e' })).toBe('a,,b,c=d,,e');
});
