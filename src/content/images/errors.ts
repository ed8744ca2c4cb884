import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  IMAGE_MISSING_FILE: {
    summary: 'a file of the image cannot be read',
    remedy: 'Check the path and its permissions.',
  },
  IMAGE_NOT_AN_IMAGE: {
    summary: 'this is not a disk image',
    remedy: 'Give a raw disk image (a multiple of 512 bytes) or a qcow2 image.',
  },
  IMAGE_FORMAT: {
    summary: 'this disk format or feature is not taken',
    remedy: 'Convert it first: `qemu-img convert -O qcow2 OLD NEW.qcow2`.',
  },
  IMAGE_TOO_LARGE: {
    summary: 'a file or the disk it describes is larger than the limit',
    remedy: 'See docs/LIMITS.md; a qcow2 header that claims such a size is probably damaged or hostile.',
  },
  IMAGE_HAS_BACKING: {
    summary: 'the image depends on another file',
    remedy: 'If you trust the image and the files that it names, import it with --flatten.',
  },
  IMAGE_BACKING_UNSAFE: {
    summary: 'the image names a backing file that is not a plain local image',
    remedy: 'Flatten it yourself with `qemu-img convert -O qcow2 OLD NEW.qcow2`, then import the result.',
  },
  IMAGE_CORRUPT: {
    summary: 'the image is damaged',
    remedy: 'Import it again from a good copy; `qemu-img check` tells more about a qcow2 file.',
  },
  IMAGE_NAME: {
    summary: 'this is not a usable image name',
    remedy: 'Use 1 to 64 of a-z, A-Z, 0-9, dot, dash and underscore, beginning with a letter.',
  },
  IMAGE_COMMAND_LINE: {
    summary: 'the kernel command line cannot be used',
    remedy: 'It needs a kernel, is one line and has at most 2048 characters.',
  },
  IMAGE_UNKNOWN: {
    summary: 'there is no such image',
    remedy: '`cloudap image ls` shows what there is; `cloudap image build` and `import` make more.',
  },
  IMAGE_AMBIGUOUS: {
    summary: 'several images match',
    remedy: 'Give more characters of the digest; `cloudap image ls` shows them.',
  },
  IMAGE_EXISTS: {
    summary: 'the same content is already stored under another name',
    remedy: 'Use that image, or remove it first.',
  },
  IMAGE_IN_USE: {
    summary: 'the image is in use',
    remedy: 'Remove what the message names first: `cloudap vm rm`, `cloudap template rm`.',
  },
  IMAGE_STORE: {
    summary: 'the image store cannot be used',
    remedy: 'Check that its folder (imageDir in the configuration) exists, is writable and has space.',
  },
});
