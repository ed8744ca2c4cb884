import { z } from 'zod';
import {
  MAX_CPUS,
  MAX_DISK_BYTES,
  MAX_KERNEL_COMMAND_LINE_BYTES,
  MAX_MEMORY_MIB,
  MIN_MEMORY_MIB,
} from './constants.ts';
import { fail } from './errors.ts';

/** A file of the VM's image, by name: the site knows where it lies. Never a path. */
const fileName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$/, 'a plain file name')
  .refine((name) => !name.includes('..'), 'a plain file name');

/**
 * What the guest sees of its machine, and nothing of the host: it stands in `vm.json`, travels to other sites and
 * must be the same at both ends of a migration. It comes from outside, so every field is narrow: no value can name
 * a host file or add an option to QEMU's command line.
 */
export const machineSpecSchema = z.strictObject({
  /** Versioned, so that source and target build the same machine whatever their QEMU is. */
  machineType: z.string().regex(/^pc-(i440fx|q35)-\d{1,2}\.\d{1,2}$/, "a versioned type as 'pc-i440fx-7.2'"),
  /** A model that all sites support, with feature flags: `qemu64,+rdrand`. */
  cpuModel: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(,[+-][a-z0-9][a-z0-9._-]{0,31}){0,64}$/, "as 'qemu64,+rdrand'"),
  cpus: z.int().min(1).max(MAX_CPUS),
  memoryMiB: z.int().min(MIN_MEMORY_MIB).max(MAX_MEMORY_MIB),
  /** Size of the one disk; null: no disk. */
  diskBytes: z.int().min(512).max(MAX_DISK_BYTES).multipleOf(512).nullable(),
  /** `vga`: a standard VGA card and VNC on a Unix socket. */
  display: z.enum(['vga', 'none']),
  /** `tablet`: an absolute pointer (virtio). A PS/2 keyboard is there always. */
  input: z.enum(['tablet', 'none']).default('none'),
  serialPorts: z.union([z.literal(1), z.literal(2)]).default(1),
  /** Boot this kernel instead of the disk's boot sector. */
  directBoot: z
    .strictObject({
      kernel: fileName,
      initrd: fileName.optional(),
      commandLine: z
        .string()
        .max(MAX_KERNEL_COMMAND_LINE_BYTES)
        .regex(/^[\x20-\x7e]*$/, 'printable ASCII')
        .default(''),
    })
    .optional(),
  uuid: z.uuid(),
});

export type MachineSpec = z.output<typeof machineSpecSchema>;
/** As written by hand: what has a default may be left out. */
export type MachineSpecInput = z.input<typeof machineSpecSchema>;

/** @throws QEMU_SPEC_INVALID */
export function parseMachineSpec(value: unknown): MachineSpec {
  const parsed = machineSpecSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.map((i) => `${i.path.join('.') || 'it'}: ${i.message}`);
  throw fail('QEMU_SPEC_INVALID', issues.join('; '), { cause: parsed.error, fields: { issues } });
}

/**
 * Cylinders, heads and sectors of a disk. Given explicitly because QEMU otherwise guesses them from the partition
 * table: it would read sector 0 before it answers on its monitor (hw/block/hd-geometry.c), and at a target that
 * sector may still be at the source. Guests use LBA; the figures only have to be the same everywhere.
 */
export function diskGeometry(diskBytes: number): { cylinders: number; heads: number; sectors: number } {
  const heads = 16;
  const sectors = 63;
  const cylinders = Math.floor(diskBytes / (512 * heads * sectors));
  return { cylinders: Math.min(Math.max(cylinders, 1), 65_535), heads, sectors };
}
