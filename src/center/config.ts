import { readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import * as z from 'zod';
import { nodeIdSchema } from '../control/messages.ts';
import { presenceSchema } from '../mobility/config.ts';
import { parseAddress } from '../site/config-text.ts';
import { failSite } from '../site/errors.ts';
import { checkRuntimeDir, defaultRuntimeDir } from '../site/paths.ts';
import { CENTER_CONFIG_MAX_BYTES } from './constants.ts';

const address = z.string().transform((text, context) => {
  const parsed = parseAddress(text);
  if (parsed) return parsed;
  context.addIssue({ code: 'custom', message: `"${text}" is not host:port` });
  return z.NEVER;
});
const path = z.string().min(1);
const tls = z.strictObject({ ca: path, cert: path, key: path });
const enrol = z.strictObject({
  /** Where nodes enrol and renew their certificates. */
  listen: address,
  /** The same as nodes reach it, where that differs; it is part of each token. */
  advertise: address.optional(),
  /** Folder with `ca.pem` and `ca.key`. */
  ca: path,
  /** The control plane as nodes reach it, where that differs from `nats`. */
  servers: z.array(address).min(1).max(16).optional(),
});

/** The center's YAML file; docs/TWO-TIER.md is the reference. */
const centerSchema = z.strictObject({
  /** Its node id, as in its certificate, and the id of its site. */
  id: nodeIdSchema,
  dataDir: path,
  runtimeDir: path.optional(),
  tls,
  enrol,
  /** A MEC platform that is told of moves (MEC 021). */
  mec: z.strictObject({ notify: z.array(z.url({ protocol: /^https?$/ })).max(16) }).optional(),
  nats: z.union([
    /** Its own nats-server. */
    z.strictObject({ listen: address }),
    /** A NATS of the user's. */
    z.strictObject({
      servers: z.array(address).min(1).max(16),
      user: z.string().optional(),
      password: z.string().optional(),
      token: z.string().optional(),
      replicas: z.int().min(1).max(5).default(1),
    }),
  ]),
});

/** An AP's agent. */
const agentSchema = z.strictObject({
  id: nodeIdSchema,
  dataDir: path,
  tls,
  control: z.strictObject({
    site: nodeIdSchema,
    servers: z.array(address).min(1).max(16),
    center: nodeIdSchema.default('center'),
    enrol: address.optional(),
  }),
  presence: presenceSchema(address).optional(),
});

export type CenterConfig = z.infer<typeof centerSchema> & { runtimeDir: string };
export type AgentConfig = z.infer<typeof agentSchema>;

/** @throws CONFIG_UNREADABLE, CONFIG_INVALID, CONFIG_PATH_TOO_LONG */
export function loadCenterConfig(file: string): CenterConfig {
  const config = absolute(load(centerSchema, file), file);
  const runtimeDir = config.runtimeDir
    ? resolve(dirname(file), config.runtimeDir)
    : defaultRuntimeDir(config.dataDir);
  checkRuntimeDir(runtimeDir);
  const { enrol: enrolment } = config;
  return {
    ...config,
    enrol: { ...enrolment, ca: resolve(dirname(resolve(file)), enrolment.ca) },
    runtimeDir,
  };
}

/** @throws CONFIG_UNREADABLE, CONFIG_INVALID */
export function loadAgentConfig(file: string): AgentConfig {
  return absolute(load(agentSchema, file), file);
}

function absolute<T extends { dataDir: string; tls: { ca: string; cert: string; key: string } }>(
  config: T,
  file: string,
): T {
  const base = dirname(resolve(file));
  const { ca, cert, key } = config.tls;
  return {
    ...config,
    dataDir: resolve(base, config.dataDir),
    tls: { ca: resolve(base, ca), cert: resolve(base, cert), key: resolve(base, key) },
  };
}

function load<S extends z.ZodType>(schema: S, file: string): z.output<S> {
  let text: string;
  try {
    if (statSync(file).size > CENTER_CONFIG_MAX_BYTES)
      throw new Error(`larger than ${CENTER_CONFIG_MAX_BYTES} bytes`);
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw failSite('CONFIG_UNREADABLE', `${file}: ${(cause as Error).message}`, { cause });
  }
  const document = parseDocument(text);
  const [broken] = document.errors;
  if (broken) throw failSite('CONFIG_INVALID', `${file}: not YAML: ${broken.message}`, { cause: broken });
  const checked = schema.safeParse(document.toJS({ maxAliasCount: 10 }));
  if (checked.success) return checked.data;
  const lines = checked.error.issues.map(
    ({ path, message }) => `\n  ${path.join('.') || 'file'}: ${message}`,
  );
  throw failSite('CONFIG_INVALID', `${file}:${lines.join('')}`);
}
