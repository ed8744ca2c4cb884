/** Numbers of QEMU's migration stream (migration/{savevm,ram,migration}.c, QEMU 7.2 to 10), and our own limits. */

// File and sections (migration/savevm.h)
export const FILE_MAGIC = 0x5145564d; // "QEVM"
export const FILE_VERSION = 3;
export const SECTION_EOF = 0;
export const SECTION_START = 1;
export const SECTION_PART = 2;
export const SECTION_END = 3;
export const SECTION_FULL = 4;
export const SECTION_SUBSECTION = 5;
export const SECTION_CONFIGURATION = 7;
export const SECTION_COMMAND = 8;
export const SECTION_FOOTER = 0x7e;

// RAM records (migration/ram.c): u64 = offset in the block | flags
export const RAM_VERSION = 4;
export const RAM_NAME = 'ram';
export const RAM_ZERO = 0x02;
export const RAM_MEM_SIZE = 0x04;
export const RAM_PAGE = 0x08;
export const RAM_EOS = 0x10;
export const RAM_CONTINUE = 0x20;
export const RAM_XBZRLE = 0x40;
export const RAM_COMPRESS_PAGE = 0x100;
export const RAM_MULTIFD_FLUSH = 0x200;
export const PAGE_BITS = 12;
export const PAGE_BYTES = 4096;
/** Offsets are u64 with 12 bits of flags: page numbers stay exact in a JavaScript number. */
export const PAGE_NUMBER_LIMIT = 2 ** 52;

// Commands (enum qemu_vm_cmd)
export const COMMAND_OPEN_RETURN_PATH = 1;
export const COMMAND_PING = 2;
export const COMMAND_POSTCOPY_ADVISE = 3;
export const COMMAND_POSTCOPY_LISTEN = 4;
export const COMMAND_POSTCOPY_RUN = 5;
export const COMMAND_POSTCOPY_RAM_DISCARD = 6;
export const COMMAND_PACKAGED = 7;
export const COMMAND_POSTCOPY_RESUME = 9;
export const COMMAND_RECV_BITMAP = 10;

// Limits
/** Largest device package (the PACKAGED blob) that the encoder takes; a real one is 0.1 to a few MB. */
export const PACKAGED_MAX_BYTES = 64 * 1024 * 1024;
/** Most RAM blocks in one machine. */
export const RAM_BLOCKS_MAX = 4096;
/** Longest machine name in the CONFIGURATION section. */
export const MACHINE_NAME_MAX_BYTES = 1024;
/** Most capabilities listed in the CONFIGURATION section. */
export const CAPABILITIES_MAX = 64;
/** Longest body of an XBZRLE record or of a page compressed by QEMU itself. */
export const PACKED_PAGE_MAX_BYTES = 8192;
/** Pages of one block whose repetition is noticed: 256 GiB, 8 MiB of bitmap. */
export const TRACKED_PAGES_MAX = 2 ** 26;
/** Raw stream bytes after which the encoder closes a frame, unless told otherwise. */
export const FRAME_RAW_BYTES = 256 * 1024;
/** Smallest and largest frame size that may be asked for. */
export const FRAME_RAW_MIN_BYTES = 8 * 1024;
export const FRAME_RAW_MAX_BYTES = 1024 * 1024;
/** Bodies of fewer bytes are packed on the spot: another thread would cost more than it takes over. */
export const PACK_LATER_MIN_BYTES = 64 * 1024;
/** Most stream bytes that a memory frame may decode to: the largest frame size and one record of overshoot. */
export const MEMORY_FRAME_RAW_LIMIT_BYTES = FRAME_RAW_MAX_BYTES + 72 * 1024;
/** A device package travels whole in one frame up to this size (its command header included), else in several. */
export const PACKAGED_FRAME_RAW_BYTES = 4 * 1024 * 1024;
/** Most stream bytes that a device frame may decode to: a piece of a package, or commands and one of overshoot. */
export const DEVICE_FRAME_RAW_LIMIT_BYTES = PACKAGED_FRAME_RAW_BYTES + 72 * 1024;
/** Longest received-pages bitmap on the return path: 64 MiB is a block of 2 TiB. */
export const RECV_BITMAP_MAX_BYTES = 64 * 1024 * 1024;
/** Bodies that a channel keeps at either end for repeats unless told otherwise (16 MiB), and at most (64 MiB). */
export const REPEAT_WINDOW_PAGES = 4 * 1024;
export const REPEAT_WINDOW_MAX_PAGES = 16 * 1024;
