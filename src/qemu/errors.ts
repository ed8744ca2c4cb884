import { errorCatalogue } from '../base/errors.ts';

export const fail = errorCatalogue({
  QMP_COMMAND_FAILED: {
    summary: 'QEMU refused a command',
    remedy: 'The message is QEMU’s own and mostly says why; qemu.log in the VM directory may say more.',
  },
  QMP_TIMEOUT: {
    summary: 'QEMU did not answer in time',
    remedy: 'QEMU may hang on its disk or on a page that has not arrived; look at its log and at the link.',
  },
  QMP_EVENT_TIMEOUT: {
    summary: 'an event of QEMU did not come in time',
    remedy: 'The message names the event; look at the state of the VM and of its migration.',
  },
  QMP_CONNECT_FAILED: {
    summary: 'QEMU’s monitor cannot be reached',
    remedy: 'Check that QEMU runs, and that no other client holds this monitor: it serves one at a time.',
  },
  QMP_DISCONNECTED: {
    summary: 'the connection to QEMU’s monitor was lost',
    remedy: 'QEMU has ended or was killed; its log says why.',
  },
  QMP_CLOSED: {
    summary: 'the QMP session was closed',
    remedy: 'Whoever used it has ended; run the command again.',
  },
  QMP_UNEXPECTED: {
    summary: 'QEMU answered with something that was not expected',
    remedy: 'This QEMU may be too new or too old; `cloudap doctor` shows the version.',
  },
  QMP_BUSY: {
    summary: 'too many QMP commands are waiting',
    remedy: 'QEMU does not answer; look at qemu.log in the VM directory.',
  },
  QMP_EVENTS_LOST: {
    summary: 'events were asked for that are no longer remembered',
    remedy: 'This is a defect in CloudAP (it waited too long to ask); report it with the log.',
  },
  QEMU_NOT_FOUND: {
    summary: 'QEMU is not installed',
    remedy: 'Install it: `apt-get install qemu-system-x86 qemu-utils`.',
  },
  QEMU_START_FAILED: {
    summary: 'QEMU did not start',
    remedy: 'The message holds the end of QEMU’s log; `cloudap doctor` shows what this machine lacks.',
  },
  QEMU_EXITED: {
    summary: 'QEMU has ended',
    remedy: 'The message holds the end of QEMU’s log; `cloudap vm start` starts the VM again.',
  },
  QEMU_NOT_OURS: {
    summary: 'the process is not the QEMU that it should be',
    remedy: 'That QEMU has ended and its process number belongs to another process now; start the VM again.',
  },
  QEMU_UNKILLABLE: {
    summary: 'QEMU does not end, not even when killed',
    remedy: 'It hangs in the kernel, mostly on a disk or network file system that does not answer.',
  },
  QEMU_SOCKET_PATH_TOO_LONG: {
    summary: 'the path of a Unix socket is too long for the kernel',
    remedy: 'Configure a shorter runtime directory, e.g. /run/cloudap.',
  },
  QEMU_BAD_PATH: {
    summary: 'a path cannot be given to QEMU',
    remedy: 'Use absolute paths without control characters.',
  },
  QEMU_SPEC_INVALID: {
    summary: 'the description of a virtual machine is not valid',
    remedy: 'Correct the field that the message names.',
  },
  QEMU_KVM_UNUSABLE: {
    summary: 'KVM was asked for but does not work here',
    remedy:
      'Load kvm_intel or kvm_amd and give access to /dev/kvm, or set `accelerator: tcg` in the configuration.',
  },
  QEMU_MACHINE_UNSUPPORTED: {
    summary: 'this site cannot run a machine of this kind',
    remedy:
      'Give the VM a machine type and CPU model that all its sites support; `cloudap doctor` shows QEMU’s version.',
  },
  QEMU_CHAIN_UNEXPECTED: {
    summary: 'the disk of the VM has another structure than expected',
    remedy: 'The fields hold the chain that was found; end the migration before changing disks by hand.',
  },
  QEMU_OVERLAY_INVALID: {
    summary: 'an overlay cannot be used',
    remedy: 'It is not the image of this VM, or it is damaged; `qemu-img check` says more.',
  },
  QEMU_STATE_NOT_SAVED: {
    summary: 'the state of a virtual machine’s devices could not be saved',
    remedy: 'The message is QEMU’s own, mostly a full disk; the VM is stopped but unharmed.',
  },
  QEMU_STATE_NOT_LOADED: {
    summary: 'QEMU cannot go on from the saved state',
    remedy: 'The state is damaged, or of another machine; make it anew with this QEMU.',
  },
  QEMU_BLOCK_JOB_FAILED: {
    summary: 'a block job of QEMU failed',
    remedy: 'The message is QEMU’s own, mostly a full disk; the VM goes on with the longer chain.',
  },
});
