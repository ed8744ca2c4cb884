import { processOutput, type Output } from './output.ts';

/** What every command gets; a file of its own, so that `cloudap --help` loads nothing else. */
export interface CliContext {
  output: Output;
  env: NodeJS.ProcessEnv;
  setExitCode(code: number): void;
}

export const processContext: CliContext = {
  output: processOutput,
  env: process.env,
  setExitCode: (code) => {
    process.exitCode = code;
  },
};
