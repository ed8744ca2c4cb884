import { errorCatalogue } from '../../base/errors.ts';

export const failBench = errorCatalogue({
  BENCH_USAGE: { summary: 'the benchmark was called wrongly', remedy: 'Run it with --help.' },
  BENCH_PROCESS: {
    summary: 'a process of the benchmark did not start',
    remedy: 'The message holds what it said; `./cloudap doctor` shows what this machine lacks.',
  },
  BENCH_OUTPUT: {
    summary: 'a program said something unexpected',
    remedy: 'Check its version against docs/BENCHMARKS.md.',
  },
  BENCH_RUN: {
    summary: 'a run of the benchmark did not end as it must',
    remedy: 'The message says which; run the benchmark again, or with --guest ci to narrow it down.',
  },
  BENCH_RESUME: {
    summary: 'what is in the file cannot be gone on with',
    remedy: 'Give the options that it was begun with, another file, or leave --resume out to begin anew.',
  },
  BENCH_INTERRUPTED: { summary: 'interrupted', remedy: 'Everything it had started was ended.' },
});
