/** Real sites as a user runs them: `cloudap` processes, each with a directory of its own. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../src/base/async.ts';
import { loadConfig } from '../../src/site/config.ts';
import { sitePaths, type SitePaths } from '../../src/site/paths.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface CliResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs one command line to its end. */
export async function cli(
  args: readonly string[],
  options: { cwd?: string; config?: string } = {},
): Promise<CliResult> {
  const env = { ...process.env, ...(options.config ? { CLOUDAP_CONFIG: options.config } : {}) };
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [MAIN, ...args],
      { cwd: options.cwd, env, maxBuffer: 1 << 26 },
      (error, stdout, stderr) => {
        const code = error ? (typeof error.code === 'number' ? error.code : null) : 0;
        resolve({ code, stdout, stderr });
      },
    );
  });
}

/** Starts a command line and lets it run. */
export function startCli(args: readonly string[], config: string): ChildProcess {
  return spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, CLOUDAP_CONFIG: config },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** One site's agent, started and ended as often as a test likes; its VMs end with the test. */
export class SiteProcess implements AsyncDisposable {
  readonly config: string;
  readonly paths: SitePaths;
  #agent: ChildProcess | undefined;

  constructor(config: string) {
    this.config = config;
    this.paths = sitePaths(loadConfig(config));
  }

  get pid(): number {
    return this.#agent?.pid ?? 0;
  }

  /** Returns when the agent serves. */
  async start(): Promise<void> {
    const agent = spawn(process.execPath, [MAIN, 'site', '--config', this.config, '--json'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#agent = agent;
    let said = '';
    agent.stderr.on('data', (data: Buffer) => {
      said += data.toString();
    });
    await Promise.race([
      once(agent.stdout, 'data'),
      once(agent, 'exit').then(() => Promise.reject(new Error(`the agent ended: ${said}`))),
    ]);
  }

  /** Ends the agent with a signal and waits; SIGKILL is the crash. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const agent = this.#agent;
    this.#agent = undefined;
    if (!agent || agent.exitCode !== null) return;
    const exited = once(agent, 'exit');
    agent.kill(signal);
    await exited;
  }

  /** A command line for this site. */
  cli(...args: string[]): Promise<CliResult> {
    return cli(args, { config: this.config });
  }

  /** As `cli`, with `--json`; throws what the command said if it failed. */
  async json<T>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.cli(...args, '--json');
    if (code !== 0) throw new Error(`cloudap ${args.join(' ')}: ${stderr}`);
    return JSON.parse(stdout) as T;
  }

  /** Waits until this site is connected with another one. */
  async connected(other: string): Promise<void> {
    for (;;) {
      const sites = await this.json<{ id: string; connected: boolean }[]>('site', 'ls');
      if (sites.some((site) => site.id === other && site.connected)) return;
      await sleep(100);
    }
  }

  async log(): Promise<string> {
    return readFile(`${this.paths.dataDir}/agent.log`, 'utf8').catch(() => '');
  }

  /** Stops the VMs and the agent, whatever state the test left them in. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#agent) await this.start().catch(() => {});
    const vms = await this.json<{ id: string; pid: number | null }[]>('vm', 'ls').catch(() => []);
    for (const { id, pid } of vms) if (pid !== null) await this.cli('vm', 'stop', id, '--force');
    await this.end();
  }
}
