/*
 * A disk and memory workload that checks itself, for guests that are migrated while it runs.
 *
 * Freestanding on purpose (no libc, no headers): `tcc -nostdlib -static` turns it into a 20 KB static ELF that runs
 * as it is in a busybox initramfs, beside a desktop and on the build machine (tests, and `fill` for the base disk).
 *
 * Three processes share one page of counters: `control` answers line commands, `disk` and `memory` work. So a disk
 * read that waits for the WAN stops neither the memory writer nor the answers.
 *
 * Every 4 KiB block is a pure function of (index, version). The version that each block must have is kept in guest
 * memory, so a lost, stale, misplaced or torn write, and a memory page that was lost on the way, all show up as `bad`.
 *
 *   workload guest            parameters wl.NAME=VALUE from /proc/cmdline
 *   workload run NAME=VALUE.. the same from the arguments (ctl=- is stdin and stdout)
 *   workload fill FILE        writes version 0 of every block of FILE (its size is given by the file)
 *
 * Commands (one line each, one line back): ping, start, stop, rate, stat, verify, bad, beat, quit. docs/GUESTS.md has them.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

/* System calls: the arguments of a C call, moved to where the kernel wants them. */
asm(".globl _start\n"
    "_start:\n"
    "  mov %rsp, %rdi\n"
    "  and $-16, %rsp\n"
    "  call entry\n"
    ".globl sys\n"
    "sys:\n"
    "  mov %rdi, %rax\n"
    "  mov %rsi, %rdi\n"
    "  mov %rdx, %rsi\n"
    "  mov %rcx, %rdx\n"
    "  mov %r8, %r10\n"
    "  mov %r9, %r8\n"
    "  mov 8(%rsp), %r9\n"
    "  syscall\n"
    "  ret\n");
i64 sys(i64 number, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f);
#define SYS1(n, a) sys(n, (i64)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys(n, (i64)(a), (i64)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys(n, (i64)(a), (i64)(b), (i64)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys(n, (i64)(a), (i64)(b), (i64)(c), (i64)(d), 0, 0)

#define NR_READ 0
#define NR_WRITE 1
#define NR_OPEN 2
#define NR_CLOSE 3
#define NR_POLL 7
#define NR_LSEEK 8
#define NR_MMAP 9
#define NR_IOCTL 16
#define NR_PREAD 17
#define NR_PWRITE 18
#define NR_NANOSLEEP 35
#define NR_FORK 57
#define NR_WAIT4 61
#define NR_KILL 62
#define NR_FDATASYNC 75
#define NR_PRCTL 157
#define NR_CLOCK_GETTIME 228
#define NR_EXIT_GROUP 231
#define NR_FALLOCATE 285
#define NR_GETRANDOM 318

#define O_RDWR 2
#define O_NOCTTY 0400
#define O_DIRECT 040000
#define BLKDISCARD 0x1277
#define TCGETS 0x5401
#define TCSETS 0x5402
#define MAP_SHARED_ANON 0x21
#define MAP_PRIVATE_ANON 0x22
#define ENOTTY (-25)

#define BLOCK 4096
#define EXTENT_BLOCKS 16 /* 64 KiB: one qcow2 cluster, so that some discards really free one */
#define NOT_DISCARDED 0x7fffffffu
#define DISCARDED 0x80000000u
#define UNKNOWN 0xffffffffu /* a failed write: either version may be there */
#define ADOPT 0xfffffffeu   /* written before this boot: take whatever whole version is found */
#define RATE_MAX 0xffffffffu
#define MAGIC_DISK 0x6b736964ul
#define MAGIC_MEMORY 0x6d656d6ful
#define BAD_RECORDS 8

struct bad_record {
  u64 kind, index, expected, found_index, found_version;
};

/* The one page that the three processes share. Each field has one writer. */
struct shared {
  volatile u32 running, disk_rate, mem_rate, verify_wanted, generation, full_memory;
  volatile u32 disk_verified, disk_seen, mem_verified, mem_seen;
  volatile u64 disk_ops, disk_written, disk_discarded, disk_checked, disk_skipped, disk_bad, disk_errors;
  volatile u64 mem_written, mem_checked, mem_bad;
  struct bad_record disk_records[BAD_RECORDS], mem_records[BAD_RECORDS];
};

static struct shared *shared;
static const char *ctl_path, *device;
static u64 region_offset, region_length, memory_bytes;
static u32 discard_percent, write_percent, zero_region, check_below, autostart, seed_value, beat_ms;
static i64 disk_pid, mem_pid;
static u64 boot_id;

/* ---- small things that a libc would have ---- */

static void die(const char *text) {
  u64 n = 0;
  while (text[n]) n++;
  SYS3(NR_WRITE, 2, text, n);
  SYS3(NR_WRITE, 2, "\n", 1);
  SYS1(NR_EXIT_GROUP, 1);
}

static u64 now_ms(void) {
  i64 ts[2];
  SYS2(NR_CLOCK_GETTIME, 1, ts);
  return (u64)ts[0] * 1000 + (u64)ts[1] / 1000000;
}

static void sleep_ms(u64 ms) {
  i64 ts[2];
  ts[0] = ms / 1000;
  ts[1] = (ms % 1000) * 1000000;
  SYS2(NR_NANOSLEEP, ts, 0);
}

static void *pages(u64 bytes, int flags) {
  i64 p = sys(NR_MMAP, 0, (i64)bytes, 3, flags, -1, 0);
  if (p < 0) die("workload: out of memory");
  return (void *)p;
}

/* If `s` starts with `prefix`, what follows it. */
static const char *after(const char *s, const char *prefix) {
  while (*prefix)
    if (*s++ != *prefix++) return 0;
  return s;
}

static int ends(char c) { return c == 0 || c == ' ' || c == '\n' || c == ','; }

static int same(const char *s, const char *word) {
  s = after(s, word);
  return s && ends(*s);
}

/* Decimal, with K, M or G behind it. */
static u64 number(const char *s) {
  u64 n = 0;
  while (*s >= '0' && *s <= '9') n = n * 10 + (u64)(*s++ - '0');
  if (*s == 'K') n <<= 10;
  if (*s == 'M') n <<= 20;
  if (*s == 'G') n <<= 30;
  return n;
}

static u32 rate(const char *s) { return same(s, "max") ? RATE_MAX : (u32)number(s); }

/* ---- what a block holds ---- */

static u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

static u32 block_seed(u64 magic, u64 index, u32 version) {
  u32 s = mix((u32)index * 0x9e3779b1u ^ mix(version + (u32)magic) ^ (u32)(index >> 32));
  return s ? s : 1;
}

static void zero_block(u64 *p) {
  u32 i;
  for (i = 0; i < BLOCK / 8; i++) p[i] = 0;
}

static int is_zero(const u64 *p) {
  u32 i;
  for (i = 0; i < BLOCK / 8; i++)
    if (p[i]) return 0;
  return 1;
}

/* Header (magic, index, version, seed), then one of three bodies: random, a repeated line, or nothing. */
static void fill_block(u64 *block, u64 magic, u64 index, u32 version) {
  u32 seed = block_seed(magic, index, version), x = seed, i;
  u32 *p = (u32 *)block;
  block[0] = magic;
  block[1] = index;
  block[2] = version;
  block[3] = seed;
  if (seed % 8 == 7) {
    for (i = 4; i < BLOCK / 8; i++) block[i] = 0;
  } else if (seed % 8 >= 5) {
    for (i = 8; i < 24; i++) {
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      p[i] = x;
    }
    for (i = 24; i < BLOCK / 4; i++) p[i] = p[i - 16];
  } else {
    for (i = 8; i < BLOCK / 4; i++) {
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      p[i] = x;
    }
  }
}

/* One memory page in eight is zero and one is a copy of a block of the base disk, as in a real guest's page cache. */
static void fill_memory(u64 *page, u64 index, u32 version) {
  u32 kind = block_seed(MAGIC_MEMORY, index, version) >> 29;
  if (kind == 0) zero_block(page);
  else if (kind == 1 && check_below) fill_block(page, MAGIC_DISK, mix((u32)index + version) % (u32)(region_offset / BLOCK), 0);
  else fill_block(page, MAGIC_MEMORY, index, version);
}

static int equal(const u64 *a, const u64 *b) {
  u32 i;
  for (i = 0; i < BLOCK / 8; i++)
    if (a[i] != b[i]) return 0;
  return 1;
}

static void record(struct bad_record *list, u64 nth, u64 kind, u64 index, u64 expected, const u64 *found) {
  if (nth >= BAD_RECORDS) return;
  list[nth].kind = kind;
  list[nth].index = index;
  list[nth].expected = expected;
  list[nth].found_index = found[1];
  list[nth].found_version = found[2];
}

static u32 random_state;
static u32 random32(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  random_state ^= random_state << 5;
  return random_state;
}

/* ---- pacing: operations owed since the last call; never more than a fifth of a second's worth, so no burst after a pause ---- */

static u64 paced_at, paced_rest;
static u64 owed(u32 per_second) {
  u64 now = now_ms(), passed = now - paced_at, n;
  paced_at = now;
  if (per_second == RATE_MAX) return 32;
  if (passed > 200) passed = 200;
  n = passed * per_second + paced_rest;
  paced_rest = n % 1000;
  return n / 1000;
}

/* ---- disk ---- */

static int disk_fd;
static u32 *disk_version;
static u64 *disk_buffer, *disk_expected;
static u64 disk_blocks;

/* `block` counts from the start of the device. */
static void check_disk_block(const u64 *found, u64 block) {
  u64 first = region_offset / BLOCK;
  u32 *slot = block < first ? 0 : disk_version + (block - first);
  u32 state = slot ? *slot : 0, version = state & NOT_DISCARDED;
  if (state == UNKNOWN) {
    shared->disk_skipped++;
    return;
  }
  shared->disk_checked++;
  if (state == ADOPT) {
    if (is_zero(found)) return;
    version = (u32)found[2];
  } else if (state & DISCARDED) {
    if (is_zero(found)) return;
  }
  if (version == 0 && slot && zero_region) zero_block(disk_expected);
  else fill_block(disk_expected, MAGIC_DISK, block, version);
  if (equal(found, disk_expected)) {
    if (state == ADOPT && slot) *slot = version;
    return;
  }
  record(shared->disk_records, shared->disk_bad, 'd', block, state, found);
  shared->disk_bad++;
  if (slot) *slot = UNKNOWN;
}

static void read_extent(u64 block, u64 count) {
  u64 i;
  i64 got = SYS4(NR_PREAD, disk_fd, disk_buffer, count * BLOCK, block * BLOCK);
  if (got != (i64)(count * BLOCK)) {
    shared->disk_errors++;
    return;
  }
  for (i = 0; i < count; i++) check_disk_block(disk_buffer + i * (BLOCK / 8), block + i);
}

static void write_extent(u64 block, u64 count) {
  u64 first = region_offset / BLOCK, i;
  u32 *slot = disk_version + (block - first), next;
  i64 put;
  for (i = 0; i < count; i++) {
    next = slot[i] >= ADOPT ? mix((u32)now_ms()) & 0xffffff | 1 : (slot[i] & NOT_DISCARDED) + 1;
    fill_block(disk_buffer + i * (BLOCK / 8), MAGIC_DISK, block + i, next);
  }
  put = SYS4(NR_PWRITE, disk_fd, disk_buffer, count * BLOCK, block * BLOCK);
  if (put != (i64)(count * BLOCK)) {
    shared->disk_errors++;
    for (i = 0; i < count; i++) slot[i] = UNKNOWN;
    return;
  }
  for (i = 0; i < count; i++) slot[i] = (u32)disk_buffer[i * (BLOCK / 8) + 2];
  shared->disk_written += count;
}

/* A device may ignore a discard: afterwards the last version or zeros are both right, an older version is not. */
static void discard_extent(u64 block, u64 count) {
  u64 range[2], i;
  u32 *slot;
  i64 done;
  if (block == region_offset / BLOCK) { /* it tells the next boot that there was one: never zeros */
    block++;
    count--;
  }
  if (count == 0) return;
  slot = disk_version + (block - region_offset / BLOCK);
  range[0] = block * BLOCK;
  range[1] = count * BLOCK;
  done = SYS3(NR_IOCTL, disk_fd, BLKDISCARD, range);
  if (done == ENOTTY) done = SYS4(NR_FALLOCATE, disk_fd, 3, range[0], range[1]);
  if (done < 0) {
    shared->disk_errors++;
    return;
  }
  for (i = 0; i < count; i++)
    if (slot[i] < ADOPT) slot[i] |= DISCARDED;
  shared->disk_discarded += count;
}

static void disk_operation(void) {
  u64 first = region_offset / BLOCK, count = random32() % EXTENT_BLOCKS + 1, block;
  u32 dice = random32() % 100;
  if (count > disk_blocks) count = disk_blocks;
  block = first + random32() % (disk_blocks - count + 1);
  shared->disk_ops++;
  if (dice < discard_percent) {
    if (dice % 2 == 0 && disk_blocks >= EXTENT_BLOCKS * 2) { /* a whole aligned extent, which can really be freed */
      block = (first + EXTENT_BLOCKS - 1) / EXTENT_BLOCKS * EXTENT_BLOCKS;
      block += random32() % ((first + disk_blocks - block) / EXTENT_BLOCKS) * EXTENT_BLOCKS;
      count = EXTENT_BLOCKS;
    }
    discard_extent(block, count);
    return;
  }
  if (dice < discard_percent + write_percent) {
    write_extent(block, count);
    if (dice % 4 == 0) read_extent(block, count);
    if (shared->disk_ops % 64 == 0 && SYS1(NR_FDATASYNC, disk_fd) < 0) shared->disk_errors++;
    return;
  }
  if (check_below && dice % 4 == 0) { /* the part that nobody writes: the base image itself */
    if (count > first) count = first;
    block = random32() % (first - count + 1);
  }
  read_extent(block, count);
}

static void verify_disk(void) {
  u64 first = region_offset / BLOCK, end = first + disk_blocks, block, count;
  for (block = check_below ? 0 : first; block < end; block += count) {
    count = end - block < EXTENT_BLOCKS ? end - block : EXTENT_BLOCKS;
    read_extent(block, count);
  }
}

/* Block 0 of the region says whether an earlier boot already wrote here; then versions are learned, not assumed. */
static void open_disk(void) {
  u64 i, tries;
  u32 initial = 0;
  i64 size;
  disk_fd = -1;
  for (tries = 0; tries < 100 && disk_fd < 0; tries++) {
    disk_fd = (int)SYS3(NR_OPEN, device, O_RDWR | O_DIRECT, 0);
    if (disk_fd < 0) disk_fd = (int)SYS3(NR_OPEN, device, O_RDWR, 0);
    if (disk_fd < 0) sleep_ms(50);
  }
  if (disk_fd < 0) die("workload: the disk cannot be opened");
  size = SYS3(NR_LSEEK, disk_fd, 0, 2);
  if (region_length == 0) region_length = (u64)size - region_offset;
  if (size < 0 || region_offset + region_length > (u64)size) die("workload: the region is beyond the end of the disk");
  disk_blocks = region_length / BLOCK;
  if (disk_blocks == 0) die("workload: the region is empty");
  disk_version = pages(disk_blocks * 4 + BLOCK, MAP_PRIVATE_ANON);
  disk_buffer = pages(EXTENT_BLOCKS * BLOCK, MAP_PRIVATE_ANON);
  disk_expected = pages(BLOCK, MAP_PRIVATE_ANON);
  if (SYS4(NR_PREAD, disk_fd, disk_buffer, BLOCK, region_offset) != BLOCK) die("workload: the disk cannot be read");
  if (disk_buffer[0] == MAGIC_DISK && disk_buffer[2] != 0) initial = ADOPT;
  for (i = 0; i < disk_blocks; i++) disk_version[i] = initial;
  write_extent(region_offset / BLOCK, 1);
}

static void disk_worker(void) {
  u64 n;
  u32 wanted, open = 0;
  for (;;) {
    wanted = shared->verify_wanted;
    if (!open && (shared->running || wanted)) { /* until then nothing is read and nothing is written */
      open_disk();
      open = 1;
    }
    if (wanted != shared->disk_verified) {
      verify_disk();
      shared->disk_verified = wanted;
    }
    shared->disk_seen = shared->generation;
    n = shared->running ? owed(shared->disk_rate) : 0;
    if (n == 0) sleep_ms(shared->running ? 5 : 2);
    for (; n > 0 && shared->running; n--) disk_operation();
  }
}

/* ---- memory ---- */

static u64 *memory, *memory_expected;
static u32 *memory_version;
static u64 memory_pages;

static void check_memory_page(u64 index) {
  u64 *page = memory + index * (BLOCK / 8);
  fill_memory(memory_expected, index, memory_version[index]);
  shared->mem_checked++;
  if (equal(page, memory_expected)) return;
  record(shared->mem_records, shared->mem_bad, 'm', index, memory_version[index], page);
  shared->mem_bad++;
  fill_memory(page, index, memory_version[index]);
}

static void memory_operation(void) {
  u64 index = random32() % (u32)memory_pages;
  check_memory_page(index);
  fill_memory(memory + index * (BLOCK / 8), index, ++memory_version[index]);
  shared->mem_written++;
}

/* Memory is touched on the first start only, so that an idle workload costs a demonstration nothing. */
static void fill_all_memory(void) {
  u64 i;
  memory = pages(memory_pages * BLOCK, MAP_PRIVATE_ANON);
  for (i = 0; i < memory_pages; i++) fill_memory(memory + i * (BLOCK / 8), i, 0);
  shared->full_memory = 1;
}

static void memory_worker(void) {
  u64 n, i;
  u32 wanted;
  memory_pages = memory_bytes / BLOCK;
  memory_version = pages(memory_pages * 4 + BLOCK, MAP_PRIVATE_ANON);
  memory_expected = pages(BLOCK, MAP_PRIVATE_ANON);
  for (;;) {
    if (shared->running && memory_pages && !memory) fill_all_memory();
    wanted = shared->verify_wanted;
    if (wanted != shared->mem_verified) {
      for (i = 0; memory && i < memory_pages; i++) check_memory_page(i);
      shared->mem_verified = wanted;
    }
    shared->mem_seen = shared->generation;
    n = shared->running && memory ? owed(shared->mem_rate) : 0;
    if (n == 0) sleep_ms(shared->running ? 5 : 2);
    for (; n > 0 && shared->running; n--) memory_operation();
  }
}

/* ---- control ---- */

static int ctl_in, ctl_out;
static char out[1024];
static u32 out_length;

static void put(const char *s) {
  while (*s && out_length < sizeof(out) - 1) out[out_length++] = *s++;
}

static void put_number(u64 n) {
  char digits[24];
  u32 i = 0;
  do digits[i++] = (char)('0' + n % 10);
  while (n /= 10);
  while (i && out_length < sizeof(out) - 1) out[out_length++] = digits[--i];
}

static void put_field(const char *name, u64 n) {
  put(" ");
  put(name);
  put("=");
  put_number(n);
}

static void send_line(void) {
  u32 sent = 0;
  i64 n;
  out[out_length++] = '\n';
  while (sent < out_length) {
    n = SYS3(NR_WRITE, ctl_out, out + sent, out_length - sent);
    if (n <= 0) break;
    sent += (u32)n;
  }
  out_length = 0;
}

static void put_counters(void) {
  put_field("disk_checked", shared->disk_checked);
  put_field("disk_bad", shared->disk_bad);
  put_field("disk_errors", shared->disk_errors);
  put_field("mem_checked", shared->mem_checked);
  put_field("mem_bad", shared->mem_bad);
}

static u32 dead_workers(void) {
  static u32 dead;
  while (SYS4(NR_WAIT4, -1, 0, 1, 0) > 0) dead++;
  return dead;
}

static void reply_stat(void) {
  put("stat ok");
  put_field("boot", boot_id);
  put_field("up_ms", now_ms());
  put_field("running", shared->running);
  put_field("dead", dead_workers());
  put_counters();
  put_field("disk_skipped", shared->disk_skipped);
  put_field("disk_ops", shared->disk_ops);
  put_field("disk_written", shared->disk_written);
  put_field("disk_discarded", shared->disk_discarded);
  put_field("mem_written", shared->mem_written);
  send_line();
}

static void put_records(const struct bad_record *list, u64 count) {
  u64 i;
  if (count > BAD_RECORDS) count = BAD_RECORDS;
  for (i = 0; i < count; i++) {
    put(list[i].kind == 'd' ? " disk:" : " mem:");
    put_number(list[i].index);
    put(":expected:");
    put_number(list[i].expected);
    put(":found:");
    put_number(list[i].found_index);
    put(":");
    put_number(list[i].found_version);
  }
}

static void set_rates(const char *line) {
  const char *value;
  for (; *line; line++) {
    if ((value = after(line, " disk="))) shared->disk_rate = rate(value);
    if ((value = after(line, " mem="))) shared->mem_rate = rate(value);
  }
}

static u64 verify_started;
static u32 verify_pending, stop_pending, start_pending;

static void quit(void) {
  SYS2(NR_KILL, disk_pid, 9);
  SYS2(NR_KILL, mem_pid, 9);
  SYS1(NR_EXIT_GROUP, 0);
}

static void command(const char *line) {
  const char *value;
  if (same(line, "ping")) {
    put("ping ok");
    put_field("boot", boot_id);
    put_field("up_ms", now_ms());
    send_line();
  } else if (same(line, "start")) {
    set_rates(line);
    shared->running = 1;
    start_pending = 1;
  } else if (same(line, "stop")) {
    shared->running = 0;
    shared->generation++;
    stop_pending = 1;
  } else if (same(line, "rate")) {
    set_rates(line);
    put("rate ok");
    put_field("disk", shared->disk_rate);
    put_field("mem", shared->mem_rate);
    send_line();
  } else if (same(line, "stat")) {
    reply_stat();
  } else if (same(line, "verify")) {
    if (verify_pending) {
      put("verify error a pass is already running");
      send_line();
      return;
    }
    shared->verify_wanted++;
    verify_started = now_ms();
    verify_pending = 1;
  } else if (same(line, "bad")) {
    put("bad ok");
    put_records(shared->disk_records, shared->disk_bad);
    put_records(shared->mem_records, shared->mem_bad);
    send_line();
  } else if ((value = after(line, "beat "))) {
    beat_ms = (u32)number(value);
    put("beat ok");
    put_field("ms", beat_ms);
    send_line();
  } else if (same(line, "quit")) {
    put("quit ok");
    send_line();
    quit();
  } else if (*line) {
    put("error unknown command");
    send_line();
  }
}

/* Answers that wait for the workers. */
static void answer_pending(void) {
  u32 dead = (start_pending || stop_pending || verify_pending) ? dead_workers() : 0;
  if (start_pending && (dead || !memory_bytes || shared->full_memory)) {
    start_pending = 0;
    put(dead ? "start error a worker has died" : "start ok");
    put_field("disk", shared->disk_rate);
    put_field("mem", shared->mem_rate);
    send_line();
  }
  if (stop_pending && (dead || (shared->disk_seen == shared->generation && shared->mem_seen == shared->generation))) {
    stop_pending = 0;
    put(dead ? "stop error a worker has died" : "stop ok");
    put_counters();
    send_line();
  }
  if (verify_pending && (dead || (shared->disk_verified == shared->verify_wanted && shared->mem_verified == shared->verify_wanted))) {
    verify_pending = 0;
    put(dead ? "verify error a worker has died" : shared->disk_bad || shared->mem_bad || shared->disk_errors ? "verify bad" : "verify ok");
    put_counters();
    put_field("ms", now_ms() - verify_started);
    send_line();
  }
}

static void open_control(void) {
  u32 termios[16];
  u8 *cc = (u8 *)termios;
  char path[64];
  const char *p = ctl_path;
  u32 n;
  if (same(p, "-")) {
    ctl_in = 0;
    ctl_out = 1;
    return;
  }
  for (;;) { /* the first of a comma-separated list that is really there */
    for (n = 0; !ends(p[n]) && n < sizeof(path) - 1; n++) path[n] = p[n];
    path[n] = 0;
    ctl_in = (int)SYS3(NR_OPEN, path, O_RDWR | O_NOCTTY, 0);
    if (ctl_in >= 0 && SYS3(NR_IOCTL, ctl_in, TCGETS, termios) == 0) break;
    if (ctl_in >= 0) SYS1(NR_CLOSE, ctl_in);
    if (p[n] != ',') die("workload: no control port");
    p += n + 1;
  }
  termios[0] = 0;                  /* iflag: bytes as they come */
  termios[1] = 0;                  /* oflag: no CR before LF */
  termios[2] = 0x1cb2;             /* cflag: 115200 8N1, CREAD, CLOCAL */
  termios[3] = 0;                  /* lflag: no echo, no line editing */
  cc[17 + 5] = 0;                  /* VTIME */
  cc[17 + 6] = 1;                  /* VMIN */
  SYS3(NR_IOCTL, ctl_in, TCSETS, termios);
  ctl_out = ctl_in;
}

static void control(void) {
  static char line[256];
  u32 length = 0, beats = 0, timeout;
  u64 next_beat = 0, now;
  struct { int fd; short events, revents; } waiting;
  char c[64];
  i64 n, i;
  put("ready");
  put_field("boot", boot_id);
  send_line();
  for (;;) {
    waiting.fd = ctl_in;
    waiting.events = 1;
    waiting.revents = 0;
    timeout = start_pending || stop_pending || verify_pending ? 3 : beat_ms && beat_ms < 1000 ? beat_ms : 1000;
    if (beat_ms) {
      now = now_ms();
      if (now >= next_beat) {
        put("tick");
        put_field("n", ++beats);
        put_field("up_ms", now);
        send_line();
        next_beat = now + beat_ms;
      }
      if (next_beat - now < timeout) timeout = (u32)(next_beat - now);
    }
    n = SYS3(NR_POLL, &waiting, 1, timeout);
    if (n > 0) {
      n = SYS3(NR_READ, ctl_in, c, sizeof(c));
      if (n == 0 && ctl_in == 0) quit();
      if (n <= 0) sleep_ms(20);
      for (i = 0; i < n; i++) {
        if (c[i] == '\r') continue;
        if (c[i] != '\n') {
          if (length < sizeof(line) - 1) line[length++] = c[i];
          continue;
        }
        line[length] = 0;
        length = 0;
        command(line);
      }
    }
    answer_pending();
  }
}

/* ---- start ---- */

static void parameter(const char *p) {
  const char *v;
  if ((v = after(p, "ctl="))) ctl_path = v;
  if ((v = after(p, "dev="))) device = v;
  if ((v = after(p, "off="))) region_offset = number(v);
  if ((v = after(p, "len="))) region_length = number(v);
  if ((v = after(p, "ram="))) memory_bytes = number(v);
  if ((v = after(p, "diskrate="))) shared->disk_rate = rate(v);
  if ((v = after(p, "memrate="))) shared->mem_rate = rate(v);
  if ((v = after(p, "discard="))) discard_percent = (u32)number(v);
  if ((v = after(p, "write="))) write_percent = (u32)number(v);
  if ((v = after(p, "zero="))) zero_region = (u32)number(v);
  if ((v = after(p, "below="))) check_below = (u32)number(v);
  if ((v = after(p, "start="))) autostart = (u32)number(v);
  if ((v = after(p, "seed="))) seed_value = (u32)number(v);
  if ((v = after(p, "beat="))) beat_ms = (u32)number(v);
}

static char kernel_line[4096];
static char device_path[256];

static void read_kernel_line(void) {
  int fd = (int)SYS3(NR_OPEN, "/proc/cmdline", 0, 0);
  i64 n = SYS3(NR_READ, fd, kernel_line, sizeof(kernel_line) - 1), i;
  if (fd < 0 || n < 0) die("workload: no /proc/cmdline");
  for (i = 0; i < n; i++)
    if ((i == 0 || kernel_line[i - 1] == ' ') && after(kernel_line + i, "wl.")) parameter(kernel_line + i + 3);
}

static void fill_file(const char *path) {
  u64 *block = pages(BLOCK, MAP_PRIVATE_ANON), i;
  i64 size;
  int fd = (int)SYS3(NR_OPEN, path, O_RDWR, 0);
  if (fd < 0) die("workload: the file cannot be opened");
  size = SYS3(NR_LSEEK, fd, 0, 2);
  for (i = 0; i < (u64)size / BLOCK; i++) {
    fill_block(block, MAGIC_DISK, i, 0);
    if (SYS4(NR_PWRITE, fd, block, BLOCK, i * BLOCK) != BLOCK) die("workload: the file cannot be written");
  }
  SYS1(NR_EXIT_GROUP, 0);
}

static i64 spawn(void (*worker)(void), u32 salt) {
  i64 pid = SYS1(NR_FORK, 0);
  if (pid < 0) die("workload: cannot fork");
  if (pid > 0) return pid;
  SYS2(NR_PRCTL, 1, 9); /* dies with its parent */
  random_state = mix(seed_value + salt);
  if (!random_state) random_state = 1;
  paced_at = now_ms();
  worker();
  return 0;
}

void entry(u64 *stack) {
  u64 argc = stack[0], i;
  char **argv = (char **)(stack + 1);
  if (argc == 3 && same(argv[1], "fill")) fill_file(argv[2]);
  if (argc < 2) die("usage: workload guest | run NAME=VALUE... | fill FILE");
  shared = pages(BLOCK, MAP_SHARED_ANON);
  ctl_path = "-";
  device = "/dev/vda";
  shared->disk_rate = 20;
  shared->mem_rate = 200;
  memory_bytes = 32 << 20;
  discard_percent = 6;
  write_percent = 46;
  if (SYS3(NR_GETRANDOM, &boot_id, 4, 4) < 0) boot_id = now_ms();
  seed_value = (u32)boot_id;
  if (same(argv[1], "guest")) {
    read_kernel_line();
  } else {
    for (i = 2; i < argc; i++) parameter(argv[i]);
  }
  for (i = 0; i < sizeof(device_path) - 1 && !ends(device[i]); i++) device_path[i] = device[i];
  device = device_path;
  region_offset = region_offset / BLOCK * BLOCK;
  if (!region_offset) check_below = 0;
  shared->running = autostart;
  disk_pid = spawn(disk_worker, 1);
  mem_pid = spawn(memory_worker, 2);
  open_control();
  control();
}
