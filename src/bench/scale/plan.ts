import * as z from 'zod';

/** What the simulated agents are to be; a line of JSON on their standard input. */
export const agentsPlanSchema = z.object({
  servers: z.array(z.string()),
  /** The center's own certificate: the process speaks for all nodes. */
  tls: z.object({ ca: z.string(), cert: z.string(), key: z.string() }),
  sites: z.int().positive(),
  hostsPerSite: z.int().positive(),
  vms: z.int().positive(),
});
export type AgentsPlan = z.infer<typeof agentsPlanSchema>;

export const siteName = (i: number): string => `ap${i + 1}`;
export const hostName = (site: number, host: number): string => `${siteName(site)}-h${host + 1}`;
export const vmName = (i: number): string => `vm-${i.toString(16).padStart(12, '0')}`;
export const userName = (i: number): string => `user${i}`;
export const IMAGE = '0'.repeat(64);
/** Every host has this much, so that there is room for a VM that comes. */
export const HOST = { cpus: 32, memoryMiB: 262_144, diskMiB: 4_194_304, vms: 256 } as const;
export const VM_MEMORY_MIB = 512;

/** What the simulated agents say: one line of JSON each. */
export const writtenSchema = z.object({ records: z.number(), ms: z.number() });
