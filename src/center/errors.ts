import { errorCatalogue } from '../base/errors.ts';

export const failCenter = errorCatalogue({
  MOVE_UNKNOWN: {
    summary: 'there is no such move',
    remedy: '`cloudap center moves` lists the moves; those that ended long ago are forgotten.',
  },
  MOVE_BUSY: {
    summary: 'the VM is being moved already',
    remedy: 'Wait for that move, or abort it with `cloudap center abort`.',
  },
  MOVE_VM_UNKNOWN: {
    summary: 'no host says that it owns this VM',
    remedy:
      'Its host may be cut off or down (`cloudap center hosts`); the VM can be moved once the host is back.',
  },
  MOVE_SAME_SITE: {
    summary: 'the VM is at that site already',
    remedy: 'Nothing needs to be done. To move it to another host of the site, name the host.',
  },
  MOVE_SITE_UNKNOWN: {
    summary: 'there is no such site',
    remedy: '`cloudap center hosts` lists the sites.',
  },
  MOVE_LOST: {
    summary: 'neither host of the move has answered for long',
    remedy: 'The VM is where its ownership says, once a host answers: `cloudap vm ls`. Look after the hosts.',
  },
  MOVE_ABORTED: {
    summary: 'the move was aborted',
    remedy: 'The VM is where it was; ask for the move again when you like.',
  },
  VM_NAME_IN_USE: {
    summary: 'another VM has this name',
    remedy: 'Choose another name: it goes with the VM to every site.',
  },
  HOST_UNKNOWN: {
    summary: 'there is no such host at this site',
    remedy: '`cloudap center hosts` lists the hosts and their sites; write SITE/HOST.',
  },
  SITE_HAS_NO_HOST: {
    summary: 'no host of the site is there',
    remedy: 'Start one with `cloudap host --config FILE`; `cloudap center hosts` shows those that are there.',
  },
  MOVE_TOO_MANY: {
    summary: 'too many moves wait',
    remedy: 'Ask again when some have ended.',
  },
});
