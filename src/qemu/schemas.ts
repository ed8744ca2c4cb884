/** The answers of QEMU that CloudAP reads, as zod schemas: unknown fields pass, missing ones do not. */
import { z } from 'zod';

/** `query-status`; `status` is QEMU's RunState (qapi/run-state.json), kept open for newer ones. */
export const vmStatusSchema = z.object({ running: z.boolean(), status: z.string() });
export type VmStatus = z.infer<typeof vmStatusSchema>;

const ramStatsSchema = z.object({
  transferred: z.number(),
  remaining: z.number(),
  total: z.number(),
  duplicate: z.number(),
  normal: z.number(),
  'normal-bytes': z.number(),
  'dirty-pages-rate': z.number().optional(),
  'dirty-sync-count': z.number(),
  'page-size': z.number(),
  'precopy-bytes': z.number().optional(),
  'downtime-bytes': z.number().optional(),
  'postcopy-bytes': z.number().optional(),
  'postcopy-requests': z.number().optional(),
});

/** `query-migrate`; everything is absent before the first migration. Times in ms, sizes in bytes. */
export const migrationInfoSchema = z.object({
  status: z.string().optional(),
  ram: ramStatsSchema.optional(),
  'error-desc': z.string().optional(),
  'total-time': z.number().optional(),
  /** Wrong for post-copy: take the events' timestamps (DESIGN 1). */
  downtime: z.number().optional(),
  'setup-time': z.number().optional(),
  'postcopy-blocktime': z.number().optional(),
});
export type MigrationInfo = z.infer<typeof migrationInfoSchema>;

export const migrationCapabilitiesSchema = z.array(z.object({ capability: z.string(), state: z.boolean() }));

/** `query-block-jobs`. */
export const blockJobsSchema = z.array(
  z.object({
    device: z.string(),
    type: z.string(),
    len: z.number(),
    offset: z.number(),
    busy: z.boolean(),
    paused: z.boolean(),
    ready: z.boolean(),
    status: z.string(),
    error: z.string().optional(),
  }),
);
export type BlockJob = z.infer<typeof blockJobsSchema>[number];

/** `query-named-block-nodes { flat: true }`, the fields that tell a node's place in a chain. */
export const namedNodesSchema = z.array(
  z.object({
    'node-name': z.string(),
    drv: z.string(),
    ro: z.boolean(),
    file: z.string(),
    backing_file: z.string().optional(),
    /** QEMU 10: false while another QEMU owns the image. */
    active: z.boolean().optional(),
    image: z.object({ 'virtual-size': z.number() }).optional(),
    /** QEMU 10: the edges of the graph; older ones have only `x-debug-query-block-graph`. */
    children: z.array(z.object({ child: z.string(), 'node-name': z.string() })).optional(),
  }),
);
export type NamedNode = z.infer<typeof namedNodesSchema>[number];

/** `query-block`: which node a device is attached to. */
export const blockDevicesSchema = z.array(
  z.object({
    qdev: z.string().optional(),
    device: z.string(),
    'io-status': z.string().optional(),
    inserted: z.object({ 'node-name': z.string().optional(), ro: z.boolean() }).optional(),
  }),
);
export type BlockDevice = z.infer<typeof blockDevicesSchema>[number];

/** `x-debug-query-block-graph`: nodes and edges with numbers (qapi/block-core.json, XDbgBlockGraph). */
export const blockGraphSchema = z.object({
  nodes: z.array(z.object({ id: z.number(), type: z.string(), name: z.string() })),
  edges: z.array(z.object({ parent: z.number(), child: z.number(), name: z.string() })),
});

export const machinesSchema = z.array(
  z.object({
    name: z.string(),
    alias: z.string().optional(),
    'is-default': z.boolean().optional(),
    'cpu-max': z.number(),
    deprecated: z.boolean().optional(),
  }),
);
export type MachineInfo = z.infer<typeof machinesSchema>[number];

export const cpuDefinitionsSchema = z.array(
  z.object({ name: z.string(), 'unavailable-features': z.array(z.string()).optional() }),
);
export type CpuDefinition = z.infer<typeof cpuDefinitionsSchema>[number];

export const versionSchema = z.object({
  qemu: z.object({ major: z.number(), minor: z.number(), micro: z.number() }),
  package: z.string(),
});
export type QemuVersion = z.infer<typeof versionSchema>;

export const kvmSchema = z.object({ enabled: z.boolean(), present: z.boolean() });
export const commandsSchema = z.array(z.object({ name: z.string() }));
export const cpusSchema = z.array(z.object({ 'cpu-index': z.number(), 'thread-id': z.number() }));
