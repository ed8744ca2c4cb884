import { readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import * as z from 'zod';
import { configMessage, parseAddress } from './config-text.ts';
import {
  CONFIG_MAX_BYTES,
  CONTROL_SERVERS_MAX,
  DIAL_SITES_MAX,
  MEMORY_MAX_MIB,
  RESIDUE_MAX_MIB,
  VMS_MAX,
} from './constants.ts';
import { failSite } from './errors.ts';
import { siteIdSchema } from './ids.ts';
import { checkRuntimeDir, defaultRuntimeDir } from './paths.ts';

export interface Address {
  host: string;
  port: number;
}

const address = z.string().transform((text, context): Address => {
  const parsed = parseAddress(text);
  if (parsed) return parsed;
  context.addIssue({ code: 'custom', message: `"${text}" is not host:port` });
  return z.NEVER;
});

const path = z.string().min(1);
const codec = z.enum(['raw', 'rle', 'zstd', 'content']);

const residue = { maxMiB: 4096 };

const linkSchema = z
  .strictObject({
    listen: address.optional(),
    advertise: address.optional(),
    relay: z.boolean().default(false),
    dial: z
      .array(z.strictObject({ site: siteIdSchema, address }))
      .max(DIAL_SITES_MAX)
      .default([]),
  })
  .superRefine((link, context) => {
    if (link.advertise && !link.listen) {
      context.addIssue({ code: 'custom', path: ['advertise'], message: 'needs link.listen' });
    }
    if (link.relay && !link.listen) {
      context.addIssue({ code: 'custom', path: ['relay'], message: 'needs link.listen' });
    }
    const seen = new Set<string>();
    for (const [i, { site }] of link.dial.entries()) {
      if (seen.has(site))
        context.addIssue({ code: 'custom', path: ['dial', i, 'site'], message: `"${site}" stands twice` });
      seen.add(site);
    }
  });

/** How an agent reaches the control plane. */
export const controlSchema = z.strictObject({
  /** The site that this host is part of. */
  site: siteIdSchema,
  /** host:port of the NATS servers. */
  servers: z.array(address).min(1).max(CONTROL_SERVERS_MAX),
  /** The node whose certificate the center's own NATS server shows. */
  center: siteIdSchema.default('center'),
  /** host:port where it renews its certificate. */
  enrol: address.optional(),
  /** A NATS of the user's: how its operator lets us in. Without it our certificate is shown to the center's. */
  nats: z
    .strictObject({
      user: z.string().optional(),
      password: z.string().optional(),
      token: z.string().optional(),
    })
    .optional(),
});
export type ControlConfig = z.infer<typeof controlSchema>;

/** The YAML file as written; docs/SITE.md is the reference and a test keeps the two together. */
export const siteFileSchema = z
  .strictObject({
    id: siteIdSchema,
    dataDir: path,
    runtimeDir: path.optional(),
    imageDir: path.optional(),
    link: linkSchema,
    tls: z.strictObject({ ca: path, cert: path, key: path }),
    capacity: z.strictObject({
      memoryMiB: z.int().min(1).max(MEMORY_MAX_MIB),
      diskMiB: z.int().min(1).optional(),
      vms: z.int().min(1).max(VMS_MAX).default(16),
    }),
    accelerator: z.enum(['auto', 'tcg', 'kvm']).default('auto'),
    migration: z
      .strictObject({
        memoryCodec: codec.default('content'),
        diskCodec: codec.default('content'),
        zstdLevel: z.int().min(1).max(19).optional(),
        linkLossTimeoutMs: z.int().min(1000).max(600_000).default(10_000),
      })
      .default({ memoryCodec: 'content', diskCodec: 'content', linkLossTimeoutMs: 10_000 }),
    residue: z
      .strictObject({ maxMiB: z.int().min(0).max(RESIDUE_MAX_MIB).default(residue.maxMiB) })
      .default(residue),
    /** Where it belongs to in a two-tier system; the agent of `cloudap host` reads it. */
    control: controlSchema.optional(),
  })
  .superRefine((site, context) => {
    const self = site.link.dial.findIndex((d) => d.site === site.id);
    if (self >= 0) {
      context.addIssue({
        code: 'custom',
        path: ['link', 'dial', self, 'site'],
        message: 'is this site itself',
      });
    }
  });

/** A checked configuration: paths are absolute, defaults filled in. */
export interface SiteConfig extends z.infer<typeof siteFileSchema> {
  runtimeDir: string;
  imageDir: string;
  /** In a two-tier system: the file that says whose certificates are good now (link/allowed-peers.ts). */
  peersFile?: string;
}

/**
 * Reads and checks a site's configuration. Relative paths are relative to the file.
 * @throws CONFIG_UNREADABLE, CONFIG_INVALID (each line names a key and its remedy), CONFIG_PATH_TOO_LONG
 */
export function loadConfig(file: string): SiteConfig {
  let text: string;
  try {
    if (statSync(file).size > CONFIG_MAX_BYTES) throw new Error(`larger than ${CONFIG_MAX_BYTES} bytes`);
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw failSite('CONFIG_UNREADABLE', `${file}: ${(error as Error).message}`, { cause: error });
  }
  return parseConfig(text, file);
}

/** As `loadConfig`, from text; `file` is for messages and as the base of relative paths. */
export function parseConfig(text: string, file: string): SiteConfig {
  const document = parseDocument(text, { maxAliasCount: 10 } as never);
  const [broken] = document.errors;
  if (broken) {
    throw failSite('CONFIG_INVALID', `${file}: not YAML: ${broken.message}`, {
      cause: broken,
      fields: { file },
    });
  }
  let raw: unknown;
  try {
    raw = document.toJS({ maxAliasCount: 10 });
  } catch (error) {
    throw failSite('CONFIG_INVALID', `${file}: ${(error as Error).message}`, {
      cause: error,
      fields: { file },
    });
  }
  const checked = siteFileSchema.safeParse(raw);
  if (!checked.success) {
    const problems = checked.error.issues.flatMap((issue) => configMessage(issue));
    const lines = problems.map((p) => `\n  ${p.key}: ${p.problem}. ${p.remedy}`).join('');
    throw failSite('CONFIG_INVALID', `${file}:${lines}`, { fields: { file, problems } });
  }
  const site = checked.data;
  const base = dirname(resolve(file));
  const dataDir = resolve(base, site.dataDir);
  const runtimeDir = site.runtimeDir ? resolve(base, site.runtimeDir) : defaultRuntimeDir(dataDir);
  checkRuntimeDir(runtimeDir);
  return {
    ...site,
    dataDir,
    runtimeDir,
    imageDir: site.imageDir ? resolve(base, site.imageDir) : resolve(dataDir, 'images'),
    ...(site.control ? { peersFile: resolve(dataDir, 'peers.json') } : {}),
    tls: {
      ca: resolve(base, site.tls.ca),
      cert: resolve(base, site.tls.cert),
      key: resolve(base, site.tls.key),
    },
  };
}
