import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  STAGE_CANCELLED: {
    summary: 'the push was cancelled',
    remedy: 'What has arrived stays at the target for some days: the same push again goes on from there.',
  },
  STAGE_PROTOCOL: {
    summary: 'the other site broke the protocol of a push',
    remedy: 'Update both sites to the same version of CloudAP; if they are, report a defect.',
  },
  STAGE_MANIFEST: {
    summary: 'the manifest of what is to be pushed is not valid',
    remedy: '`cloudap image verify` at the source tells more; update both sites to the same version.',
  },
  STAGE_SOURCE: {
    summary: 'a file of what is to be pushed cannot be read at the source',
    remedy: '`cloudap image verify` (or `template verify`) at the source tells more.',
  },
  STAGE_DAMAGED: {
    summary: 'a file arrived whole and does not have the checksum that its manifest says',
    remedy:
      'It was thrown away. The source’s copy is damaged: `cloudap image verify` (or `template verify`) there, and make it again.',
  },
  STAGE_NO_SPACE: {
    summary: 'the target has no space for it',
    remedy:
      'Remove images that nobody needs there (`cloudap image rm`), then push again: it goes on where it was.',
  },
  STAGE_WRITE_FAILED: {
    summary: 'the target cannot write what arrives',
    remedy: 'Check the storage below its imageDir, then push again: it goes on where it was.',
  },
  STAGE_BUSY: {
    summary: 'the same is being pushed to that site already',
    remedy: 'Wait for it; `cloudap image push --ls` shows it.',
  },
  STAGE_PRESENT_DAMAGED: {
    summary: 'the target has this and it is damaged',
    remedy: 'Remove its folder there (the message names it), then push again.',
  },
  STAGE_REQUIRES: {
    summary: 'the target lacks what this is based on',
    remedy: 'Push the base image first: `cloudap image push`; the message has its digest.',
  },
  STAGE_TOO_MANY: {
    summary: 'too many pushes are under way',
    remedy: 'Wait for one to end; `cloudap image push --ls` shows them.',
  },
  STAGE_TO_SELF: { summary: 'the target of a push is this site itself', remedy: 'Name another site.' },
  STAGE_UNKNOWN: {
    summary: 'there is no such push',
    remedy: '`cloudap image push --ls` shows those of this agent’s life.',
  },
  STAGE_ENDED: { summary: 'the push has ended already', remedy: '`cloudap image push --ls` shows how.' },
  STAGE_PROCESS: {
    summary: 'the process of a push ended unexpectedly',
    remedy: 'Push again: it goes on where it was. If it repeats, the agent’s log has what it said.',
  },
  STAGE_PEER_FAILED: {
    summary: 'the push failed at the other site',
    remedy: 'Push again: it goes on where it was. The other agent’s log has the reason.',
  },
});
