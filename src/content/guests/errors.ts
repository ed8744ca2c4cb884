import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  GUEST_SILENT: {
    summary: 'the workload in the guest does not answer',
    remedy: 'Look at the VM’s serial log: the guest may not have booted, or its disk may hang.',
  },
  GUEST_UNKNOWN: {
    summary: 'there is no recipe of this name',
    remedy: '`cloudap image build --help` lists the recipes.',
  },
  GUEST_PACKAGE: {
    summary: 'a Debian package that the guest needs was not found',
    remedy: 'Guests are built from the Debian suite of this machine; check its apt sources.',
  },
  GUEST_SOURCES: {
    summary: 'this machine has no usable apt sources for its Debian suite',
    remedy: 'Guests are built on Debian; add its main archive to /etc/apt/sources.list.d.',
  },
  GUEST_DOWNLOAD: {
    summary: 'a package could not be downloaded',
    remedy: 'Check the network and the apt sources, and run the same command again: it goes on where it was.',
  },
  GUEST_MODULE: {
    summary: 'the kernel package lacks a driver that the guest needs',
    remedy: 'Report this with the version of the kernel package.',
  },
  GUEST_TOOL: {
    summary: 'a program that builds guests is missing or unusable',
    remedy: 'Run `npm run setup`.',
  },
  GUEST_STEP: {
    summary: 'building the guest failed',
    remedy: 'The message holds the end of what the program said; mend that and run the same command again.',
  },
  GUEST_UNPRIVILEGED: {
    summary: 'this user cannot build a root file system',
    remedy: 'Install uidmap and allow user namespaces with subordinate ids (/etc/subuid), or run it as root.',
  },
});
