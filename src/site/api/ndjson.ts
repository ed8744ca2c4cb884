import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';

/** Answers with one line of JSON for each view, until they end or the client goes. */
export function sendLines(
  request: FastifyRequest,
  reply: FastifyReply,
  follow: (signal: AbortSignal) => AsyncIterable<unknown>,
): FastifyReply {
  const gone = new AbortController();
  request.raw.once('close', () => gone.abort());
  async function* lines() {
    for await (const view of follow(gone.signal)) yield `${JSON.stringify(view)}\n`;
  }
  const stream = Readable.from(lines());
  stream.on('error', () => {});
  return reply.type('application/x-ndjson').send(stream);
}
