import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import * as z from 'zod';
import { withTimeout } from '../../base/async.ts';
import type { QemuMonitor } from '../../qemu/monitor.ts';
import type { QmpEvent } from '../../wire/qmp/messages.ts';
import {
  COMMAND_POSTCOPY_RESUME,
  COMMAND_RECV_BITMAP,
  PAGE_BYTES,
  SECTION_COMMAND,
  SECTION_EOF,
  SECTION_FOOTER,
} from '../../wire/qemu-stream/constants.ts';
import { encodeReceivedBitmap, encodeResumeAck, encodeShut } from '../../wire/qemu-stream/returnPath.ts';
import { migrationFail } from '../messages.ts';

const COMMAND_HEADER_BYTES = 5;
/** The commands of a recovery are some hundred bytes. */
const MAX_COMMANDS_BYTES = 1024 * 1024;
const blocksSchema = z.object({ 'human-readable-text': z.string() });

/**
 * Ends a post-copy that has lost its connection, at the source, so that the frozen VM may go on there. QEMU 7.2 can
 * neither cancel nor end it in that state (migration.c, postcopy_pause), only recover it: so we stand in for the
 * target, claim to have every page (ram.c, ram_dirty_bitmap_reload), and QEMU completes with its memory as it is.
 * @throws MOVER_TIMEOUT, MOVER_QEMU_SOURCE, QMP_*
 */
export async function finishPaused(
  qmp: QemuMonitor,
  options: { streamSocket: string; timeoutMs: number },
): Promise<void> {
  const { streamSocket, timeoutMs } = options;
  const blocks = await ramBlocks(qmp);
  const sockets: Socket[] = [];
  const main = Promise.withResolvers<Socket>();
  // QEMU opens its main channel first, then the one for preemption, if it has one
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('error', () => {});
    if (sockets.length === 1) main.resolve(socket);
    else socket.resume();
  });
  await rm(streamSocket, { force: true });
  server.listen(streamSocket);
  await once(server, 'listening');
  try {
    await chmod(streamSocket, 0o600);
    const since = qmp.mark();
    await qmp.migrate(`unix:${streamSocket}`, { resume: true });
    const answered = main.promise.then((socket) => answer(socket, blocks));
    await withTimeout(answered, timeoutMs, () => migrationFail('MOVER_TIMEOUT', 'QEMU does not recover'));
    // with an error of the first connection in mind it may call that a failure: it has ended all the same
    const ended = (event: QmpEvent): boolean =>
      ['completed', 'failed'].includes(String(event.data['status']));
    await qmp.waitEvent('MIGRATION', ended, { since, timeoutMs });
  } finally {
    main.promise.catch(() => {});
    for (const socket of sockets) socket.destroy();
    server.close();
    await rm(streamSocket, { force: true });
  }
}

/** Block name to length (softmmu/physmem.c, ram_block_format). */
async function ramBlocks(qmp: QemuMonitor): Promise<Map<string, number>> {
  const { 'human-readable-text': text } = await qmp.query(blocksSchema, 'x-query-ramblock');
  const blocks = new Map<string, number>();
  for (const line of text.split('\n')) {
    const found = /^\s*(\S.*?)\s+\d+ \S+\s+0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+$/.exec(line);
    if (found?.[1] !== undefined) blocks.set(found[1], Number.parseInt(found[2] ?? '', 16));
  }
  return blocks;
}

/**
 * Answers the commands of a recovery (savevm.c): RECV_BITMAP for each block, then POSTCOPY_RESUME. With nothing left to
 * send the stream then ends, and only at its end may QEMU hear that all has arrived.
 */
async function answer(socket: Socket, blocks: ReadonlyMap<string, number>): Promise<void> {
  const resumed = Promise.withResolvers<void>();
  let pending = Buffer.alloc(0);
  let running = false;
  const take = (chunk: Buffer): void => {
    pending = Buffer.concat([pending, chunk]);
    while (!running && pending.length >= COMMAND_HEADER_BYTES) {
      const end = COMMAND_HEADER_BYTES + pending.readUInt16BE(3);
      if (pending.readUInt8(0) !== SECTION_COMMAND || pending.length > MAX_COMMANDS_BYTES) {
        throw migrationFail('MOVER_QEMU_SOURCE', `section ${pending.readUInt8(0)} in a recovery`);
      }
      if (pending.length < end) return;
      const command = pending.readUInt16BE(1);
      if (command === COMMAND_RECV_BITMAP) {
        const name = pending.toString('latin1', COMMAND_HEADER_BYTES + 1, end);
        socket.write(encodeReceivedBitmap(name, Math.ceil((blocks.get(name) ?? 0) / PAGE_BYTES)));
      } else if (command === COMMAND_POSTCOPY_RESUME) {
        running = true;
        socket.write(encodeResumeAck());
        resumed.resolve();
      }
      pending = pending.subarray(end);
    }
    if (!running) return;
    pending = pending.subarray(-STREAM_END_BYTES);
    if (isStreamEnd(pending)) socket.write(encodeShut(0));
  };
  socket.on('close', () => resumed.reject(migrationFail('MOVER_QEMU_SOURCE', 'it closed the recovery')));
  socket.on('data', (chunk: Buffer) => {
    try {
      take(chunk);
    } catch (error) {
      resumed.reject(error);
    }
  });
  await resumed.promise;
}

/** u8 FOOTER, u32 section, u8 EOF: qemu_savevm_state_complete_postcopy. */
const STREAM_END_BYTES = 6;

function isStreamEnd(last: Buffer): boolean {
  return (
    last.length === STREAM_END_BYTES &&
    last.readUInt8(0) === SECTION_FOOTER &&
    last.readUInt8(STREAM_END_BYTES - 1) === SECTION_EOF
  );
}
