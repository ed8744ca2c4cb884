import type { Lane, MessageHandler } from '../../link/types.ts';
import type { DiskLink } from '../../migration/disk/index.ts';

/** Marks a message that was meant to be urgent. Types of the disk are below it. */
const WAS_URGENT = 128;

/** The link without its urgent lane: everything is bulk, within the same credits, in one order. */
export function asBulk(link: DiskLink): DiskLink {
  return {
    send: (lane: Lane, type: number, payload: Buffer) =>
      link.send('bulk', lane === 'urgent' ? type + WAS_URGENT : type, payload),
  };
}

/** The far end of `asBulk`. */
export function fromBulk(handler: MessageHandler): MessageHandler {
  return (type, payload, lane) =>
    type >= WAS_URGENT ? handler(type - WAS_URGENT, payload, 'urgent') : handler(type, payload, lane);
}
