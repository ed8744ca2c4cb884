import type { Logger } from 'pino';
import { errorCode } from '../../base/errors.ts';
import type { ResidueStore } from '../../content/residue/store.ts';
import { PEER_CALL_TIMEOUT_MS } from '../constants.ts';
import type { Peers } from '../peers.ts';
import { forgetSchema } from './messages.ts';
import { parseParams } from './params.ts';

/**
 * The VM has been removed for good: what this site kept of it goes, and the sites that it came from are told. One that is
 * not connected keeps its residue until the quota makes it go. Never rejects.
 */
export async function forgetVm(
  site: { residue: ResidueStore; log: Logger; peers: () => Peers },
  vmId: string,
): Promise<void> {
  const { residue, log } = site;
  try {
    await residue.dropIndexes(vmId);
    await removeIfThere(residue, vmId);
    const peers = site.peers();
    const told = peers
      .list()
      .filter(({ connected }) => connected)
      .map(({ id }) => peers.get(id).call('residue.forget', { vmId }, { timeoutMs: PEER_CALL_TIMEOUT_MS }));
    await Promise.allSettled(told);
  } catch (err) {
    log.warn({ err, vm: vmId }, 'residue');
  }
}

/** RPC `residue.forget`: the word of the site that the VM left to counts, no other. @throws PREPARE_BAD_REQUEST */
export async function forgetResidue(
  residue: ResidueStore,
  caller: string,
  params: unknown,
): Promise<{ forgotten: boolean }> {
  const { vmId } = parseParams(forgetSchema, params);
  const found = (await residue.list()).find((one) => one.vmId === vmId && one.leftTo === caller);
  return { forgotten: found !== undefined && (await removeIfThere(residue, vmId)) };
}

async function removeIfThere(residue: ResidueStore, vmId: string): Promise<boolean> {
  try {
    await residue.remove(vmId);
    return true;
  } catch (error) {
    if (errorCode(error) === 'RESIDUE_UNKNOWN') return false;
    throw error;
  }
}
