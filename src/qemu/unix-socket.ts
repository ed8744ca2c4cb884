import { connect, type Socket } from 'node:net';
import { fail } from './errors.ts';
import { checkSocketPath } from './socket-path.ts';

/** A connected Unix stream socket. @throws QMP_CONNECT_FAILED, QEMU_SOCKET_PATH_TOO_LONG, the signal's reason */
export async function connectUnix(path: string, signal?: AbortSignal): Promise<Socket> {
  checkSocketPath(path);
  signal?.throwIfAborted();
  const socket = connect({ path });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = (): void => reject(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  socket.once('connect', resolve);
  socket.once('error', (error: NodeJS.ErrnoException) => {
    reject(
      fail('QMP_CONNECT_FAILED', `${path}: ${error.message}`, {
        cause: error,
        fields: { path, errno: error.code },
      }),
    );
  });
  try {
    await promise;
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}
