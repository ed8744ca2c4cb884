import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { optionText, type QemuOptions, qemuArguments } from './command-line.ts';
import { diskGeometry, type MachineSpecInput, parseMachineSpec } from './machine-spec.ts';

const good: MachineSpecInput = {
  machineType: 'pc-i440fx-7.2',
  cpuModel: 'qemu64,+rdrand',
  cpus: 2,
  memoryMiB: 512,
  diskBytes: 1024 ** 3,
  display: 'vga',
  input: 'tablet',
  serialPorts: 2,
  directBoot: { kernel: 'vmlinuz', initrd: 'initrd.cpio', commandLine: 'console=ttyS0 quiet' },
  uuid: '6f1d7a52-2a53-4a6c-8f0e-0b6f6a1a2b3c',
};

const options: QemuOptions = {
  spec: parseMachineSpec(good),
  name: 'anna, desktop',
  accelerator: 'tcg',
  paths: {
    qmpSocket: '/r/qmp.sock',
    moverSocket: '/r/mover.sock',
    vncSocket: '/r/vnc.sock',
    serialLog: '/l/serial',
    kernel: '/i/vmlinuz',
    initrd: '/i/initrd.cpio',
  },
  disk: { mode: 'normal', base: { path: '/i/base.raw', format: 'raw' }, overlayPath: '/v/cow.qcow2' },
};

/** Values of an option that may be given several times. */
function all(args: readonly string[], option: string): string[] {
  return args.flatMap((a, i) => (a === option ? [args[i + 1] ?? ''] : []));
}
const nodes = (args: readonly string[]) =>
  all(args, '-blockdev').map((n) => JSON.parse(n) as Record<string, unknown>);
const coded = (code: string) => expect.objectContaining({ code });

describe('the description of a machine', () => {
  test('is read back as it was written', () => {
    const spec = parseMachineSpec(good);
    expect(parseMachineSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);
  });

  test.each<[string, unknown]>([
    ['an unversioned machine', { machineType: 'pc' }],
    ['options after the machine', { machineType: 'pc-i440fx-7.2,dump-guest-core=on' }],
    ['another architecture', { machineType: 'virt-7.2' }],
    ['options after the CPU', { cpuModel: 'qemu64,check=off' }],
    ['a line break in the CPU', { cpuModel: 'qemu64\n' }],
    ['no CPUs', { cpus: 0 }],
    ['too many CPUs', { cpus: 1000 }],
    ['half a MiB', { memoryMiB: 16.5 }],
    ['memory as text', { memoryMiB: '512M' }],
    ['a disk of broken sectors', { diskBytes: 1000 }],
    ['a path as kernel', { directBoot: { kernel: '/etc/shadow' } }],
    ['a way up as kernel', { directBoot: { kernel: 'a..b' } }],
    ['a path as initrd', { directBoot: { kernel: 'k', initrd: '../x' } }],
    ['control characters on the kernel command line', { directBoot: { kernel: 'k', commandLine: 'a\nb' } }],
    ['a long kernel command line', { directBoot: { kernel: 'k', commandLine: 'x'.repeat(2048) } }],
    ['a bad uuid', { uuid: 'x' }],
    ['an unknown field', { args: ['-hda', '/dev/sda'] }],
    ['three serial ports', { serialPorts: 3 }],
  ])('%s is refused', (_, change) => {
    expect(() => parseMachineSpec({ ...good, ...(change as object) })).toThrow(coded('QEMU_SPEC_INVALID'));
  });

  test.each([null, undefined, 1, 'x', [], {}])('%j is refused', (value) => {
    expect(() => parseMachineSpec(value)).toThrow(coded('QEMU_SPEC_INVALID'));
  });

  test('any JSON is taken or refused with a code', () => {
    const field = fc.constantFrom(...Object.keys(good));
    fc.assert(
      fc.property(field, fc.jsonValue(), (name, value) => {
        try {
          parseMachineSpec({ ...good, [name]: value });
        } catch (error) {
          expect(error).toEqual(coded('QEMU_SPEC_INVALID'));
        }
      }),
    );
  });

  test('geometries are within what virtio-blk takes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 37 }), (sectors) => {
        const geometry = diskGeometry(sectors * 512);
        expect(geometry).toMatchObject({ heads: 16, sectors: 63 });
        expect(geometry.cylinders).toBeGreaterThanOrEqual(1);
        expect(geometry.cylinders).toBeLessThanOrEqual(65_535);
      }),
    );
  });
});

describe('the command line', () => {
  test.each([
    [undefined, 'memory-backend-ram,id=ram,size=512M'],
    [{ path: '/t/a,b', shared: true }, 'memory-backend-file,id=ram,size=512M,mem-path=/t/a,,b,share=on'],
    [{ path: '/t/ram', shared: false }, 'memory-backend-file,id=ram,size=512M,mem-path=/t/ram,share=off'],
  ])('the memory is one block of one name, whatever it is made of: %j', (memoryFile, object) => {
    const args = qemuArguments({ ...options, memoryFile });
    expect(all(args, '-object')).toEqual([object]);
    expect(all(args, '-machine')).toEqual(['pc-i440fx-7.2,memory-backend=ram']);
  });

  test('of a VM at home', () => {
    const args = qemuArguments(options);
    expect(all(args, '-machine')).toEqual(['pc-i440fx-7.2,memory-backend=ram']);
    expect(all(args, '-object')).toEqual(['memory-backend-ram,id=ram,size=512M']);
    expect(all(args, '-cpu')).toEqual(['qemu64,+rdrand,enforce']);
    expect(all(args, '-name')).toEqual(['guest=anna,, desktop,debug-threads=on']);
    expect(all(args, '-vnc')).toEqual(['unix:/r/vnc.sock']);
    expect(all(args, '-append')).toEqual(['console=ttyS0 quiet']);
    expect(all(args, '-device').at(-1)).toMatch(/drive=cow,cyls=2080,heads=16,secs=63/);
    expect(nodes(args).map((n) => n['node-name'])).toEqual(['base-file', 'base', 'cow-file', 'cow']);
    expect(args).toEqual(expect.arrayContaining(['-nodefaults', '-no-user-config', '-sandbox']));
    expect(args).not.toContain('-incoming');
  });

  test('of a target: the same machine, another disk', () => {
    const overlay = { socketPath: '/r/cow.sock' };
    const args = qemuArguments({
      ...options,
      disk: {
        mode: 'incoming',
        base: { path: '/j/base.qcow2', format: 'qcow2' },
        overlay,
        topPath: '/v/top',
      },
    });
    expect(all(args, '-incoming')).toEqual(['defer']);
    const graph = nodes(args);
    expect(graph.map((n) => n['node-name'])).toEqual([
      'base-file',
      'base',
      'cow-nbd',
      'cow',
      'top-file',
      'top',
    ]);
    expect(graph.find((n) => n['node-name'] === 'cow')).toMatchObject({ 'read-only': true, backing: 'base' });
    for (const option of ['-machine', '-cpu', '-m', '-smp', '-serial']) {
      expect(all(args, option)).toEqual(all(qemuArguments(options), option));
    }
    const devices = (a: readonly string[]) => all(a, '-device').map((d) => d.replace(/drive=\w+/, ''));
    expect(devices(args)).toEqual(devices(qemuArguments(options)));
  });

  test('no file loses its page cache at the switch, and no image decides itself what lies under it', () => {
    for (const mode of ['normal', 'incoming'] as const) {
      for (const base of [undefined, { path: '/b', format: 'qcow2' }] as const) {
        const disk =
          mode === 'normal'
            ? { mode, base, overlayPath: '/o' }
            : { mode, base, overlay: { socketPath: '/s' }, topPath: '/t' };
        for (const node of nodes(qemuArguments({ ...options, disk }))) {
          if (node.driver === 'file') expect(node).toMatchObject({ 'drop-cache': false });
          if (node.driver === 'qcow2') expect(Object.hasOwn(node, 'backing')).toBe(true);
        }
      }
    }
  });

  test('spec and paths must fit', () => {
    const refused = (change: Partial<QemuOptions>, code: string) =>
      expect(() => qemuArguments({ ...options, ...change })).toThrow(coded(code));
    refused({ disk: undefined }, 'QEMU_SPEC_INVALID');
    refused({ spec: parseMachineSpec({ ...good, diskBytes: null }) }, 'QEMU_SPEC_INVALID');
    refused({ paths: { ...options.paths, vncSocket: undefined } }, 'QEMU_SPEC_INVALID');
    refused({ paths: { ...options.paths, kernel: undefined } }, 'QEMU_SPEC_INVALID');
    refused({ paths: { ...options.paths, initrd: undefined } }, 'QEMU_SPEC_INVALID');
    refused({ paths: { ...options.paths, qmpSocket: `/${'ä'.repeat(54)}` } }, 'QEMU_SOCKET_PATH_TOO_LONG');
    refused({ paths: { ...options.paths, qmpSocket: 'relative' } }, 'QEMU_BAD_PATH');
    refused({ paths: { ...options.paths, serialLog: '/a\0b' } }, 'QEMU_BAD_PATH');
    qemuArguments({ ...options, paths: { ...options.paths, qmpSocket: `/${'x'.repeat(106)}` } });
  });

  test('an option’s value reads back whole, commas and all', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: fc.constantFrom(',', '=', 'a', ' ') })), (values) => {
        const text = optionText('head', Object.fromEntries(values.map((v, i) => [`k${i}`, v])));
        // QEMU's rule: a doubled comma is a comma, a single one ends the value (util/qemu-option.c, get_opt_value).
        const parts = text
          .replaceAll(',,', '\0')
          .split(',')
          .map((p) => p.replaceAll('\0', ','));
        expect(parts).toEqual(['head', ...values.map((v, i) => `k${i}=${v}`)]);
      }),
    );
  });
});
