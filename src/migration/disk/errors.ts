import { errorCatalogue } from '../../base/errors.ts';

const defect =
  'Update both sites to the same version of CloudAP; if they are, report a defect with both logs.';

export const fail = errorCatalogue({
  DISK_ORDER: { summary: 'a disk message or call came at the wrong moment', remedy: defect },
  DISK_UNSOLICITED: { summary: 'the source answered a pull that was not sent', remedy: defect },
  DISK_OVERLAP: { summary: 'the source sent metadata twice', remedy: defect },
  DISK_LIMIT: { summary: 'a limit of disk post-copy was exceeded', remedy: `See docs/LIMITS.md. ${defect}` },
  DISK_CORRUPT: {
    summary: 'disk data arrive damaged again and again',
    remedy: 'Check memory and network hardware of both hosts. The source still holds the whole disk.',
  },
  DISK_READ_FAILED: {
    summary: 'the source cannot read the overlay',
    remedy: 'Check the storage of the source host; its file is untouched and the migration can be recovered.',
  },
  DISK_WRITE_FAILED: {
    summary: 'the target cannot write the overlay',
    remedy: 'Check free space and storage of the target host. The source still holds the whole disk.',
  },
  DISK_SOURCE_CHANGED: {
    summary: 'the overlay changed at the source after the machine had stopped',
    remedy: 'Something else writes the file: the copy at the target is not usable, resume from the source.',
  },
  DISK_TOO_LARGE: {
    summary: 'the overlay is larger than the target announced to its machine',
    remedy: 'It grew faster than room was left for. Start the migration again: its size is measured anew.',
  },
  DISK_CLOSED: { summary: 'the disk transfer was closed', remedy: 'The migration ended before this read.' },
});
