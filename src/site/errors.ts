import { errorCatalogue } from '../base/errors.ts';

/** Configuration, agent and API. */
export const failSite = errorCatalogue({
  CONFIG_UNREADABLE: {
    summary: 'the site configuration cannot be read',
    remedy: 'Check the path; `cloudap site init --id center --dir DIR` writes a configuration to start from.',
  },
  CONFIG_INVALID: {
    summary: 'the site configuration is not valid',
    remedy: 'Correct the keys named above; docs/SITE.md explains each.',
  },
  CONFIG_PATH_TOO_LONG: {
    summary: 'runtimeDir is too long for the sockets in it',
    remedy: 'Set a shorter runtimeDir, such as /run/cloudap/center (Unix socket paths hold 107 bytes).',
  },
  SITE_LOCKED: {
    summary: 'another agent is using this data directory',
    remedy: 'Stop that agent first, or give this site a dataDir of its own.',
  },
  SITE_RUNTIME_DIR: {
    summary: 'the runtime directory cannot be used',
    remedy: 'It must be a directory of your own with mode 0700; remove it or choose another runtimeDir.',
  },
  SITE_TLS: {
    summary: 'the certificate files of this site cannot be used',
    remedy:
      'Check the files under `tls`; `cloudap site add --dir NEW` at the center makes new ones to copy there.',
  },
  SITE_GATEWAY: {
    summary: 'the gateway did not start to listen',
    remedy: 'Choose a free address and port for link.listen; gateway.log in the dataDir has more.',
  },
  SITE_UNREACHABLE: {
    summary: 'the agent of this site does not answer',
    remedy: 'Start it with `cloudap site --config FILE`, or name the right one with --site-config FILE.',
  },
  SITE_UNKNOWN: {
    summary: 'this site knows no such site',
    remedy: 'See `cloudap site ls`; a site is known once it has connected or stands under link.dial.',
  },
  SITE_NOT_CONNECTED: {
    summary: 'the other site is not connected now',
    remedy:
      'Check that its agent runs and that its gateway can be reached; `cloudap site ls` shows when it is back.',
  },
  SITE_EXISTS: {
    summary: 'a site with these files exists already',
    remedy: 'Choose another --id or --dir, or use the configuration that is there.',
  },
  SITE_SETUP: {
    summary: 'the site cannot be set up like this',
    remedy: 'See `cloudap site init --help` and `cloudap site add --help`.',
  },
  API_BAD_REQUEST: {
    summary: 'the request is not valid',
    remedy: 'Correct the fields named above; docs/SITE.md lists them.',
  },
  API_NO_SUCH_ROUTE: {
    summary: 'there is no such request',
    remedy: 'See docs/SITE.md; the agent and the command line may be of different versions.',
  },
  API_BAD_ANSWER: {
    summary: 'the agent gave an answer that is not understood',
    remedy: 'The agent and the command line may be of different versions; restart the agent.',
  },
});

/** VMs of this site. */
export const failVm = errorCatalogue({
  VM_UNKNOWN: {
    summary: 'this site has no such VM',
    remedy: 'See `cloudap vm ls`; it may live at another site.',
  },
  VM_NAME_TAKEN: {
    summary: 'this site has a VM with this name already',
    remedy: 'Choose another --name, or remove that VM with `cloudap vm rm`.',
  },
  VM_RUNNING: { summary: 'the VM is running', remedy: 'Stop it first with `cloudap vm stop`.' },
  VM_NOT_RUNNING: { summary: 'the VM is not running', remedy: 'Start it first with `cloudap vm start`.' },
  VM_NOT_OWNED: {
    summary: 'this site does not own the VM now, so it must not run or change it',
    remedy: 'It is being handed over, or has been; `cloudap vm ls` at both sites shows the owner.',
  },
  VM_BUSY: {
    summary: 'the VM is busy with another operation',
    remedy: 'Wait for that to end; a migration can be cancelled with `cloudap migrate --cancel ID`.',
  },
  VM_CAPACITY: {
    summary: 'the site has no capacity left for this VM',
    remedy: 'Stop or move another VM, or raise `capacity` in the configuration.',
  },
  VM_START_FAILED: {
    summary: 'QEMU did not start the VM',
    remedy: 'The message and qemu.log in the VM directory hold what QEMU said.',
  },
  VM_DEGRADED: {
    summary: 'the VM waits for an interrupted migration, and what its QEMU holds may exist nowhere else',
    remedy: 'See docs/SITE.md, "After the switch"; `--force` ends it all the same.',
  },
  VM_NO_SCREEN: {
    summary: 'the VM has no screen',
    remedy: 'Its image asks for serial ports only; look at serial.log in the VM directory instead.',
  },
  VM_DAMAGED: {
    summary: 'the files of the VM cannot be read',
    remedy: 'Look at the directory named above; restore vm.json and ownership.json from a backup.',
  },
});

/** Building templates and starting from them. */
export const failTemplate = errorCatalogue({
  TEMPLATE_NO_IMAGE: {
    summary: 'the base image of the template is not at this site',
    remedy: 'Stage it first: `cloudap image import` or `cloudap image build`.',
  },
  TEMPLATE_ACCELERATOR: {
    summary: 'the template was made with another accelerator than this site has',
    remedy: 'Build one here: a frozen VM cannot change between KVM and TCG.',
  },
  TEMPLATE_QEMU_TOO_OLD: {
    summary: 'the template was made by a newer QEMU than this site has',
    remedy:
      'Upgrade QEMU here, or build the template with this one: QEMU reads the state of older versions only.',
  },
  TEMPLATE_MACHINE: {
    summary: 'this site’s QEMU cannot make the template’s machine',
    remedy: 'Build the template with a machine type and CPU model that all sites know.',
  },
  TEMPLATE_BUSY: {
    summary: 'this site is building a template already',
    remedy: 'Wait for that to end: each build boots a VM and hashes its memory.',
  },
  TEMPLATE_NOT_READY: {
    summary: 'the guest does not say when it is ready',
    remedy:
      'Give `--after SECONDS`, or build the image from a recipe: those say how a guest looks when it is up.',
  },
  TEMPLATE_GUEST_ENDED: {
    summary: 'the guest ended before it was ready',
    remedy: 'The message holds the end of what it printed; try the image with `cloudap vm create --start`.',
  },
  TEMPLATE_BUILD_UNKNOWN: {
    summary: 'this site knows no such build',
    remedy:
      'Builds that have ended are forgotten when the agent ends; `cloudap template ls` shows what came of them.',
  },
  TEMPLATE_CANCELLED: { summary: 'the build was cancelled', remedy: 'Nothing of it is left.' },
});

/** A target's coded no to `migration.prepare`, given before anything is touched. */
export const failPrepare = errorCatalogue({
  PREPARE_BAD_REQUEST: {
    summary: 'the request of the other site is not valid',
    remedy: 'Run the same version of CloudAP at both sites.',
  },
  PREPARE_NOT_FOR_ME: {
    summary: 'the request is meant for another site, or comes from one that it does not name',
    remedy: 'Check the ids in both configurations: each must be the one in the certificate.',
  },
  PREPARE_NO_IMAGE: {
    summary: 'the base image is not at the target',
    remedy: 'Bring it there first: `cloudap image push IMAGE --to SITE`.',
  },
  PREPARE_IMAGE_DAMAGED: {
    summary: 'the base image at the target differs from the source’s',
    remedy: 'Run `cloudap image verify` at the target, then stage the image again.',
  },
  PREPARE_MACHINE_UNKNOWN: {
    summary: 'the target’s QEMU does not know the machine type',
    remedy:
      'Install the same QEMU version at both sites, or create the VM with a machine type that both know.',
  },
  PREPARE_CPU_UNKNOWN: {
    summary: 'the target’s QEMU cannot offer the CPU model',
    remedy: 'Create the VM with a CPU model that all sites support, such as qemu64.',
  },
  PREPARE_ACCELERATOR: {
    summary: 'the target runs VMs with another accelerator than the source',
    remedy: 'Set the same `accelerator` at both sites: a running VM cannot change between KVM and TCG.',
  },
  PREPARE_QEMU_TOO_OLD: {
    summary: 'the target’s QEMU is older than the source’s',
    remedy: 'Upgrade QEMU at the target: QEMU reads the state of older versions, not of newer ones.',
  },
  PREPARE_NO_MEMORY: {
    summary: 'the target has too little memory left for the VM',
    remedy: 'Stop or move a VM there, or raise capacity.memoryMiB at the target if the machine has more.',
  },
  PREPARE_NO_DISK: {
    summary: 'the target has too little disk space for the VM',
    remedy: 'Free space in the dataDir of the target, or raise capacity.diskMiB there.',
  },
  PREPARE_TOO_MANY_VMS: {
    summary: 'the target has as many VMs as it may have',
    remedy: 'Remove or move a VM there, or raise capacity.vms at the target.',
  },
  PREPARE_NAME_TAKEN: {
    summary: 'the target has a VM with this name already',
    remedy: 'Remove the VM of that name at the target with `cloudap vm rm`, if it is not needed.',
  },
  PREPARE_VM_EXISTS: {
    summary: 'the target has files of this VM already',
    remedy: 'Look at `cloudap vm ls` at the target: an earlier migration may still be under way there.',
  },
  PREPARE_BUSY: {
    summary: 'the target takes part in as many migrations as it may',
    remedy: 'Try again when one of them has ended.',
  },
  PREPARE_NO_ROUTE: {
    summary: 'neither site can dial the other for the data link',
    remedy: 'Give one of them the address of the other under link.dial, and that one link.listen.',
  },
  PREPARE_FAILED: {
    summary: 'the target could not get ready',
    remedy: 'The message holds the cause; the log of the target’s agent has more.',
  },
  PREPARE_ABANDONED: {
    summary: 'no source mover connected in time, so the target cleaned up',
    remedy: 'Start the migration again; check the link between the sites.',
  },
});

/** Migrations as an agent sees them. */
export const failMigrate = errorCatalogue({
  MIGRATE_TO_SELF: { summary: 'the VM is at this site already', remedy: 'Name another site with --to.' },
  MIGRATE_BUSY: {
    summary: 'a migration of this VM is under way',
    remedy: 'Follow or cancel it: `cloudap migrate --cancel ID`.',
  },
  MIGRATE_TOO_MANY: {
    summary: 'this site takes part in as many migrations as it may',
    remedy: 'Try again when one of them has ended.',
  },
  MIGRATE_UNKNOWN: { summary: 'this site knows no such migration', remedy: 'See `cloudap migrate --ls`.' },
  MIGRATE_ENDED: { summary: 'the migration has ended already', remedy: 'There is nothing to cancel.' },
  MIGRATE_TOO_LATE: {
    summary: 'the VM runs at the target already, so the migration can no longer be cancelled',
    remedy: 'Let it end, then move the VM back if you want it here.',
  },
  MIGRATE_CANCELLED: { summary: 'the migration was cancelled', remedy: 'The VM goes on at the source.' },
  MIGRATE_MOVER_LOST: {
    summary: 'the mover process of this migration ended without a result',
    remedy:
      'Its log is in the migrations directory of the site; before the switch the VM goes on at the source.',
  },
  MIGRATE_DEGRADED: {
    summary: 'the migration was interrupted after the switch; both sites keep what they have',
    remedy: 'Do not remove anything at either site. docs/SITE.md, "After the switch", says what to do.',
  },
  MIGRATE_FAILED: {
    summary: 'the migration failed',
    remedy: 'See `cloudap migrate --ls` for its state, and migrations/<id>.log in the dataDir of the site.',
  },
});
