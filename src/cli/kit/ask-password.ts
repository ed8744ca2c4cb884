import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { failUsage } from './output.ts';

/** From `CLOUDAP_PASSWORD`, from a pipe, or typed without being shown. @throws USAGE */
export async function askPassword(prompt: string): Promise<string> {
  const given = process.env['CLOUDAP_PASSWORD'];
  if (given !== undefined) return given;
  const { stdin, stderr } = process;
  if (stdin.isTTY) stderr.write(prompt);
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const reader = createInterface({ input: stdin, output: silent, terminal: stdin.isTTY });
  try {
    for await (const line of reader) return line;
  } finally {
    reader.close();
    if (stdin.isTTY) stderr.write('\n');
  }
  throw failUsage('USAGE', 'a password is needed: type it, pipe it in, or set CLOUDAP_PASSWORD');
}
