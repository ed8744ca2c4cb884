import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  RESIDUE_LOG_SLOW: {
    summary: 'the disk was slower than the migration, so what travelled is not kept',
    remedy: 'Nothing is lost: the VM’s return will cost as much as this migration did.',
  },
  RESIDUE_LOG_FULL: {
    summary: 'more has travelled than residue may take, so it is not kept',
    remedy: 'Set residue.maxMiB in site.yaml higher, or free disk space, for the VM’s return to be cheap.',
  },
  RESIDUE_LOG_FAILED: {
    summary: 'what travelled could not be written down, so it is not kept',
    remedy:
      'Check that dataDir can be written and has space. Nothing is lost but the cheap return of the VM.',
  },
  RESIDUE_NOT_KEPT: {
    summary: 'the residue of a VM could not be kept',
    remedy:
      'Check that dataDir can be written and has space. Nothing is lost but the cheap return of the VM.',
  },
  RESIDUE_UNKNOWN: {
    summary: 'this site keeps no residue of that VM',
    remedy: '`cloudap residue ls` lists what it keeps.',
  },
});
