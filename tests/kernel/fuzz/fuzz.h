/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the files of the fuzzer; main.c describes the whole. */
#ifndef FUZZ_H
#define FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/falloc.h>
#include "../../../kernel/uapi/linux/msharefs.h"

#define PAGE 4096UL
#define UNIT MSHARE_UNIT
#define UNIT_PAGES (UNIT / PAGE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define RW (PROT_READ | PROT_WRITE)

/* ---- the operations ---- */

enum who { ALL, WRITER };	/* a reader has read-only descriptors and no file of its own */

#define OP(name, weight, who) int op_##name(void);
#include "ops.h"
#undef OP

enum {
#define OP(name, weight, who) OP_##name,
#include "ops.h"
#undef OP
	OPS
};

/* ---- what all processes see ---- */

#define MAX_WORKERS 32
#define RING 32
#define ERRNOS 134

struct note {
	unsigned long number;	/* of the operation */
	char text[112];
};

struct worker {
	pid_t pid;
	unsigned int incarnation;	/* grows with each restart */
	unsigned long number;		/* of the operation that runs */
	struct note ring[RING];
};

struct world {
	uint64_t seed;
	int workers, stop, poisoned;
	unsigned long called[OPS], succeeded[OPS], errors[OPS][ERRNOS];
	struct worker worker[MAX_WORKERS];
};

extern struct world *world;
extern const char *root;	/* the directory of the mount */
extern const char *scratch;	/* a directory for O_DIRECT files */
extern const char *tight;	/* a memory cgroup that has next to no memory, or NULL */
extern struct worker *me;
extern unsigned int my_index;
extern bool my_limit, my_alarms, am_reader;	/* in a small memory cgroup; gets signals; only reads */
extern bool poisoning;		/* calls madvise(MADV_HWPOISON) */
extern int scratch_fd;

/* ---- random numbers: those of one operation depend on nothing that happened before ---- */

void rng_start(uint64_t seed, uint64_t worker, uint64_t incarnation, uint64_t number);
uint64_t rng(void);
unsigned int below(unsigned int n);
bool chance(unsigned int one_in);

/* ---- failures ---- */

/* Add details to the entry of the running operation, for the report and the kernel's trace. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Whether a call succeeded.  A failure must be one of the 0-terminated errnos, a success must be allowed. */
bool settle(const char *call, long result, bool may_succeed, const int *errnos);

#define MUST(what) do { if (!(what)) die("%s:%d: %s (errno %d)", __FILE__, __LINE__, #what, errno); } while (0)
/* The call may succeed, or fail with one of these; and it must fail with one of these. */
#define MAY(call, ...) settle(#call, (long)(call), true, (const int[]){ __VA_ARGS__, 0 })
#define REFUSED(call, ...) settle(#call, (long)(call), false, (const int[]){ __VA_ARGS__, 0 })

/* ---- memory accesses that may fault ---- */

enum touch { OK, SEGV, BUS };
#define MAY_OK (1 << OK)
#define MAY_SEGV (1 << SEGV)
#define MAY_BUS (1 << BUS)
#define WORDS 3			/* of a page are looked at */
extern const unsigned int word_at[WORDS];	/* bytes from its start */

void catch_faults(void);
enum touch load_page(const void *page, uint64_t words[WORDS]);
enum touch store_page(void *page, const uint64_t words[WORDS]);
void put_words(void *buffer, const uint64_t words[WORDS]);

/* A value that nobody has stored before, and whether a value can come from one of us. */
void fresh(uint64_t words[WORDS]);
bool is_ours(uint64_t word, unsigned int position, int worker);	/* worker: -1 for any */

/* ---- the model: model.c ---- */

enum have { ABSENT, PRESENT, MAYBE };

struct page {
	uint64_t word[WORDS];
	uint8_t prot, have;
};

#define SLOTS 48
extern const unsigned long slot_index[SLOTS];	/* page numbers in the file that are used */

struct region {
	int fd;
	bool exclusive;		/* nobody else uses the file */
	bool writable;		/* the descriptor */
	bool sealed;
	bool loose;		/* the number of pages is not known */
	unsigned int step, first;	/* slots first, first + step, ... are this worker's */
	off_t size;
	char name[64];		/* "" for a file without a name */
	struct page page[SLOTS];
};

struct attachment {
	struct region *r;	/* NULL: unused */
	char *addr;
	unsigned long units, offset;
	bool writable, handle;
};

#define REGIONS 3
#define ATTACHMENTS 5
extern struct region regions[REGIONS];
extern struct attachment attachments[ATTACHMENTS];

/* One page of a region, and where an attachment has it. */
struct target {
	struct attachment *a;
	struct region *r;
	struct page *p;
	unsigned int slot;
	unsigned long index;
	off_t pos;
	char *at;
};

void model_start(void);
bool pick_page(struct target *t);	/* a region and a page of it; a and at are unset */
bool pick_mapped(struct target *t);	/* the same through an attachment */
struct attachment *pick_attachment(void);
int attached(const struct region *r);
int predict(const struct target *t, bool store);	/* MAY_* */
void settle_load(struct target *t, bool done, const void *buffer);
void settle_store(struct target *t, bool done, const uint64_t words[WORDS]);
void settle_write(struct target *t, ssize_t done, const uint64_t words[WORDS]);
void model_cut(struct region *r, off_t from, off_t to);
bool range_writable(const struct region *r, off_t from, off_t to);
void verify(struct target *t);		/* by pread and through every attachment */
void verify_all(void);
void blur(void);
void check_info(struct region *r);
char *free_window(const struct attachment *a);
void make_region(struct region *r);
void drop_region(struct region *r);
void sweep(void);			/* give back pages that lie between the slots */

double seconds(void);

/* A child that runs what follows; it dies with its parent. */
pid_t child(void);
void reap(pid_t pid, bool may_be_killed);

#endif
