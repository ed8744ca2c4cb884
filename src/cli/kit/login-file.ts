import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import * as z from 'zod';

const loginSchema = z.object({
  host: z.string(),
  port: z.int(),
  caFile: z.string(),
  center: z.string(),
  token: z.string(),
});
/** Where this user is logged in. */
export type Login = z.infer<typeof loginSchema>;

const loginFile = (env: NodeJS.ProcessEnv): string =>
  join(env['XDG_CONFIG_HOME'] ?? join(homedir(), '.config'), 'cloudap', 'login.json');

/** `CLOUDAP_TOKEN` stands for the token in it. */
export async function readLogin(env: NodeJS.ProcessEnv = process.env): Promise<Login | undefined> {
  try {
    const login = loginSchema.parse(JSON.parse(await readFile(loginFile(env), 'utf8')));
    return { ...login, token: env['CLOUDAP_TOKEN'] ?? login.token };
  } catch {
    return undefined;
  }
}

/** Readable by this user only. */
export async function writeLogin(login: Login, env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const file = loginFile(env);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, JSON.stringify(login, undefined, 2), { mode: 0o600 });
  await rename(`${file}.new`, file);
  return file;
}

export async function removeLogin(env: NodeJS.ProcessEnv = process.env): Promise<void> {
  await rm(loginFile(env), { force: true });
}
