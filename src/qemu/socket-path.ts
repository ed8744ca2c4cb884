import { MAX_SOCKET_PATH_BYTES } from './constants.ts';
import { fail } from './errors.ts';

/** @throws QEMU_BAD_PATH for a path that is relative, or holds a control character */
export function checkPath(path: string): string {
  // oxlint-disable-next-line no-control-regex
  if (!path.startsWith('/') || /[\u0000-\u001f\u007f]/u.test(path) || !path.isWellFormed()) {
    throw fail('QEMU_BAD_PATH', JSON.stringify(path), { fields: { path } });
  }
  return path;
}

/** @throws QEMU_BAD_PATH, QEMU_SOCKET_PATH_TOO_LONG */
export function checkSocketPath(path: string): string {
  checkPath(path);
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes > MAX_SOCKET_PATH_BYTES) {
    throw fail('QEMU_SOCKET_PATH_TOO_LONG', `${path} has ${lengthBytes} bytes`, {
      fields: { path, lengthBytes, limitBytes: MAX_SOCKET_PATH_BYTES },
    });
  }
  return path;
}
