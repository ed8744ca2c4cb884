import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DISK_RESERVE_BYTES } from '../constants.ts';
import { vmDefinitionSchema } from '../vm/definition.ts';
import { checkPrepare, compareVersions, type TargetFacts } from './checks.ts';
import { prepareSchema, type Prepare } from './messages.ts';
import { parseParams } from './params.ts';

const digest = 'b'.repeat(64);
const MIB = 1024 * 1024;

function request(change: Partial<Prepare> = {}): Prepare {
  return {
    version: 1,
    migrationId: 'mig-0123456789ab',
    source: 'center',
    target: 'ap1',
    generation: 3,
    qemuVersion: '7.2.5',
    overlayBytes: 10 * MIB,
    sourceDials: false,
    linkLossTimeoutMs: 5000,
    vm: vmDefinitionSchema.parse({
      version: 1,
      id: 'vm-0123456789ab',
      name: 'desk',
      createdAtMs: 1,
      image: digest,
      accelerator: 'tcg',
      machine: {
        machineType: 'pc-i440fx-7.2',
        cpuModel: 'qemu64,+rdrand',
        cpus: 1,
        memoryMiB: 512,
        diskBytes: 64 * MIB,
        display: 'vga',
        uuid: '0b5e7a1e-7d59-4c61-9d3a-0a8f2f3c5a10',
      },
    }),
    ...change,
  };
}

function facts(change: Partial<TargetFacts> = {}): TargetFacts {
  return {
    site: 'ap1',
    qemu: {
      version: '7.2.22',
      accelerator: 'tcg',
      acceleratorReason: '',
      machineTypes: new Set(['pc-i440fx-7.2']),
      cpuModels: new Set(['qemu64']),
    },
    machineProblem: undefined,
    image: {
      digest,
      name: 'x',
      format: 'raw',
      virtualBytes: 64 * MIB,
      diskPath: '/x',
      kernelPath: undefined,
      initrdPath: undefined,
      commandLine: '',
      defaults: { memoryMiB: 512, cpus: 1, display: 'vga', input: 'none' },
      serialPorts: 1,
    },
    capacity: { memoryMiB: 1024, diskBytes: undefined, vms: 4 },
    used: { memoryMiB: 512, diskBytes: 0, vms: 3 },
    availableMemoryMiB: 4096,
    freeDiskBytes: DISK_RESERVE_BYTES + 10 * MIB,
    vmExists: false,
    nameTaken: false,
    migrations: 0,
    migrationsMax: 2,
    routable: true,
    ...change,
  };
}

const qemu = (change: Partial<TargetFacts['qemu']>): Partial<TargetFacts> => ({
  qemu: { ...facts().qemu, ...change },
});

describe('the target’s decision', () => {
  it('is yes where everything fits, to the last byte', () => {
    expect(() => checkPrepare(request(), 'center', facts())).not.toThrow();
  });

  it.each<[string, Partial<TargetFacts>]>([
    ['PREPARE_NOT_FOR_ME', { site: 'ap2' }],
    ['PREPARE_BUSY', { migrations: 2 }],
    ['PREPARE_VM_EXISTS', { vmExists: true }],
    ['PREPARE_NAME_TAKEN', { nameTaken: true }],
    ['PREPARE_MACHINE_UNKNOWN', qemu({ machineTypes: new Set(['pc-i440fx-9.0']) })],
    ['PREPARE_CPU_UNKNOWN', qemu({ cpuModels: new Set(['max']) })],
    ['PREPARE_CPU_UNKNOWN', { machineProblem: 'no rdrand' }],
    ['PREPARE_ACCELERATOR', qemu({ accelerator: 'kvm' })],
    ['PREPARE_QEMU_TOO_OLD', qemu({ version: '7.1.9' })],
    ['PREPARE_NO_IMAGE', { image: undefined }],
    ['PREPARE_TOO_MANY_VMS', { used: { memoryMiB: 0, diskBytes: 0, vms: 4 } }],
    ['PREPARE_NO_MEMORY', { used: { memoryMiB: 513, diskBytes: 0, vms: 1 } }],
    ['PREPARE_NO_MEMORY', { availableMemoryMiB: 511 }],
    ['PREPARE_NO_DISK', { freeDiskBytes: DISK_RESERVE_BYTES + 10 * MIB - 1 }],
    [
      'PREPARE_NO_DISK',
      {
        capacity: { memoryMiB: 1024, vms: 4, diskBytes: 10 * MIB },
        used: { memoryMiB: 0, diskBytes: 1, vms: 0 },
      },
    ],
    ['PREPARE_NO_ROUTE', { routable: false }],
  ])('is a coded no: %s', (code, change) => {
    expect(() => checkPrepare(request(), 'center', facts(change))).toThrow(expect.objectContaining({ code }));
  });

  it('is no to a caller that speaks for another site', () => {
    expect(() => checkPrepare(request(), 'ap7', facts())).toThrow(
      expect.objectContaining({ code: 'PREPARE_NOT_FOR_ME' }),
    );
  });

  it('is no to an image of another size', () => {
    const { image } = facts();
    const changed = image ? { ...image, virtualBytes: 65 * MIB } : undefined;
    const act = () => checkPrepare(request(), 'center', facts({ image: changed }));
    expect(act).toThrow(expect.objectContaining({ code: 'PREPARE_IMAGE_DAMAGED' }));
  });
});

it.each([
  ['7.2.22', '7.2.5', 0],
  ['7.2.0', '7.10.0', -1],
  ['10.0.2', '7.2.22', 1],
  ['7.3.0', '7.2.9', 1],
])('QEMU %s against %s', (a, b, sign) => {
  expect(Math.sign(compareVersions(a, b))).toBe(sign);
});

describe('parameters of another agent', () => {
  const wrong = (value: unknown) => () => parseParams(prepareSchema, value);

  it('takes what it was made for', () => {
    expect(parseParams(prepareSchema, JSON.parse(JSON.stringify(request())))).toEqual(request());
  });

  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['a list', []],
    ['an unknown field', { ...request(), extra: 1 }],
    ['an unknown field of the VM', { ...request(), vm: { ...request().vm, path: '/etc/passwd' } }],
    ['an id that climbs out', { ...request(), vm: { ...request().vm, id: '../../etc' } }],
    ['a migration id that climbs out', { ...request(), migrationId: 'mig-../../../etc' }],
    ['a name with a slash', { ...request(), vm: { ...request().vm, name: 'a/b' } }],
    ['a digest that is a path', { ...request(), vm: { ...request().vm, image: '../x' } }],
    [
      'an option in the CPU model',
      {
        ...request(),
        vm: { ...request().vm, machine: { ...request().vm.machine, cpuModel: 'max,vendor=x' } },
      },
    ],
    ['another version', { ...request(), version: 2 }],
    ['a negative size', { ...request(), overlayBytes: -1 }],
    ['a timeout without end', { ...request(), linkLossTimeoutMs: 1e12 }],
  ])('refuses %s', (_what, value) => {
    expect(wrong(value)).toThrow(expect.objectContaining({ code: 'PREPARE_BAD_REQUEST' }));
  });

  it('survives any JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(wrong(value)).toThrow(expect.objectContaining({ code: 'PREPARE_BAD_REQUEST' }));
      }),
    );
  });
});
