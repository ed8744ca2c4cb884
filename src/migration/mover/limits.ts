/**
 * The most memory that a mover may come to hold, whatever the VM's size: about 100 MiB of Node.js and code, what the
 * link's window and backlog hold (32 + 1 MiB at most), references under way and the window of repeats (12 + 16 MiB), what
 * came before QEMU was there (8 MiB), the log of what travels (12 MiB), one frame a channel, and garbage that waits for
 * its collection.
 */
export const MOVER_RSS_LIMIT_MIB = 224;

/**
 * A mover's garbage is buffers: they live outside of V8's heap, and go only when a collection of its young generation
 * finds them. With the young generation small (MiB) that is often: 120 instead of 190 MiB, and because memory is used
 * again while it is in the cache, twice the throughput. Whole collections are as good as useless here, and with a
 * larger old generation (MiB) to begin with far fewer of them are made: a quarter less time for references.
 */
export const MOVER_NODE_FLAGS = ['--max-semi-space-size=1', '--initial-old-space-size=64'] as const;
