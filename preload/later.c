// SPDX-License-Identifier: MIT
/*
 * A thread that makes 2 MiB leaves of what the program has touched.
 *
 * A block is collapsed when an eighth of its pages are in memory; of memory that
 * was mapped with MAP_NORESERVE, half.  mincore(2) tells, without touching
 * anything.  When nothing has become warm for a round, all blocks of a range that
 * have been touched are collapsed, if together they add at most a hundredth to the
 * range's memory: each of them would cost every process a page table.  The thread sleeps four times as long as a collapse took, holds no
 * lock, allocates nothing and blocks all signals, so that a fork at any moment
 * finds the library whole.  A child
 * has no such thread until it maps memory itself; it sees the leaves that the
 * parent's thread makes.  The thread does not keep a process whose main thread
 * has ended.
 *
 * Facts: nginx and PHP-FPM map their memory, fork, call setsid in the child and
 * end the parent, and the thread with it.  Each of PostgreSQL's backends calls
 * setsid, and none of them forks.
 * Decision: a process that forks after setsid takes the ranges that it has
 * inherited and gets a thread.  Its children are those that pay for page tables.
 */
#include "preload.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define RANGES 64
#define BLOCK_PAGES ((long)(PMD / PAGE))
#define WARM_PAGES (BLOCK_PAGES / 8) /* a block that is less used costs each process a table */
#define WARM_SPARSE_PAGES (BLOCK_PAGES / 2)
#define SPARE_PART 100 /* the pages that little-used blocks may add: one of that many */
#define FIRST_WAIT_MS 200
#define LONGEST_WAIT_MS 3000
#define CALMNESS 4 /* sleep that many times what a collapse, also a refused one, took */

/*
 * A slot belongs to the process in @owner; 0, or another process (before a
 * fork), is free.  @start is stored last.
 */
static struct range {
	_Atomic int owner;
	_Atomic size_t start; /* of the first whole block; 0: being written */
	_Atomic size_t end;
	_Atomic long warm; /* pages in memory that make a block warm */
} ranges[RANGES];

static _Atomic int worker; /* the process that has the thread; 0: none yet */
static atomic_bool has_session; /* this process, or one above it, called setsid */

static void wait_ms(long ms)
{
	struct timespec left = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The pages of a block that are in memory; -1: unmapped in the meantime. */
static long pages_of(size_t block)
{
	unsigned char present[BLOCK_PAGES];
	long page, count = 0;

	if (mincore((void *)block, PMD, present))
		return -1;
	for (page = 0; page < BLOCK_PAGES; page++)
		count += present[page] & 1;
	return count;
}

/* Which blocks of a range need no further look: the thread's own memory. */
struct seen {
	size_t start, end;
	unsigned char *done; /* one bit per block */
	long added; /* pages, by the collapse of little-used blocks */
	long spare; /* pages that this may add in the next round */
};

static size_t done_length(const struct seen *seen)
{
	return round_up((seen->end - seen->start) / PMD / 8 + 1, PAGE);
}

static void drop_seen(struct seen *seen)
{
	if (seen->done)
		kernel_munmap(seen->done, done_length(seen));
	seen->done = NULL;
}

static bool renew_seen(struct seen *seen, size_t start, size_t end)
{
	if (seen->done && seen->start == start && seen->end == end)
		return true;
	drop_seen(seen);
	seen->start = start;
	seen->end = end;
	seen->added = 0;
	seen->spare = 0;
	seen->done = kernel_mmap(NULL, done_length(seen), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (seen->done == MAP_FAILED)
		seen->done = NULL;
	return seen->done;
}

struct progress {
	unsigned long made, left; /* blocks: collapsed in this round, and not yet */
	unsigned long refused; /* of @left: warm, and the kernel did not collapse them */
	int error; /* of the last of these */
	bool no_room;
};

static bool collapse(size_t block, struct progress *progress)
{
	long began = now_us();
	int error = kernel_madvise((void *)block, PMD, MADV_COLLAPSE) ? errno : 0;

	wait_ms(1 + CALMNESS * (now_us() - began) / 1000);
	if (error) {
		progress->error = error;
		progress->refused++;
		progress->left++;
		return false;
	}
	progress->made++;
	return true;
}

/* Look at every block of a range that is not done, and collapse what is warm. */
static void look_at(struct range *range, struct seen *seen, struct progress *progress)
{
	struct line why = { .length = 0 };
	unsigned long before = progress->made + progress->refused;
	long pages, lacking, there = 0, cold = 0;
	size_t block, at;

	for (at = 0; seen->start + (at + 1) * PMD <= seen->end; at++) {
		block = seen->start + at * PMD;
		if (seen->done[at / 8] & (1 << at % 8)) {
			there += BLOCK_PAGES;
			continue;
		}
		if (range->start != seen->start)
			return; /* forgotten in the meantime */
		pages = pages_of(block);
		lacking = BLOCK_PAGES - pages;
		if (pages >= 0) {
			there += pages;
			if (pages < range->warm && (!pages || seen->spare < lacking)) {
				cold += pages ? lacking : 0;
				progress->left++;
				continue;
			}
			if (!has_room(2 * PMD, &why))
				progress->no_room = true;
			if (progress->no_room) {
				progress->left++;
				continue;
			}
			if (!collapse(block, progress))
				continue;
			if (pages < range->warm) {
				seen->spare -= lacking;
				seen->added += lacking;
			}
		}
		seen->done[at / 8] |= (unsigned char)(1 << at % 8);
	}
	seen->spare = there / SPARE_PART - seen->added;
	if (before != progress->made + progress->refused || seen->spare < cold ||
	    range->warm == WARM_SPARSE_PAGES)
		seen->spare = 0; /* not yet quiet, or too much */
}

static bool main_thread_has_ended(void)
{
	char text[64];
	size_t at;

	if (read_text("/proc/self/stat", text, sizeof(text)) <= 0)
		return false;
	for (at = 0; text[at]; at++)
		if (text[at] == ')' && text[at + 1] == ' ' && text[at + 2] == 'Z')
			return true;
	return false;
}

static void say_made(unsigned long made, const struct progress *progress)
{
	struct line line = { .length = 0 };

	add(&line, "2 MiB leaves for ");
	add_number(&line, made);
	add(&line, " of ");
	add_number(&line, made + progress->left);
	add(&line, " blocks, as the program touched them");
	if (progress->refused) {
		add(&line, "; ");
		add_number(&line, progress->refused);
		add(&line, " more were refused: ");
		add_error(&line, progress->error);
	}
	if (progress->no_room)
		add(&line, "; memory is short, the others wait");
	say(&line);
}

static void *work(void *unused)
{
	static struct seen seen[RANGES]; /* one thread at a time; a child's starts over */
	unsigned long made = 0, said = 0, refused = 0;
	bool no_room = false;
	long began, ms = FIRST_WAIT_MS, took;
	int at, me = getpid();

	prctl(PR_SET_NAME, "mshare-later");
	for (at = 0; at < RANGES; at++)
		drop_seen(&seen[at]);
	do {
		struct progress progress = { .made = 0 };

		wait_ms(ms);
		began = now_us();
		for (at = 0; at < RANGES; at++) {
			size_t start = ranges[at].start, end = ranges[at].end;

			if (ranges[at].owner != me || !start) {
				drop_seen(&seen[at]);
				continue;
			}
			if (!renew_seen(&seen[at], start, end)) {
				progress.left++;
				continue;
			}
			look_at(&ranges[at], &seen[at], &progress);
		}
		took = (now_us() - began) / 1000;
		made += progress.made;
		if (!progress.made && (made != said || progress.refused > refused ||
				       progress.no_room > no_room)) {
			say_made(made, &progress);
			said = made;
			refused = progress.refused;
			no_room = progress.no_room;
		}
		/* Nothing new: wait longer, and always a hundred times what looking took. */
		ms = progress.made ? FIRST_WAIT_MS : 2 * ms;
		if (ms > LONGEST_WAIT_MS)
			ms = LONGEST_WAIT_MS;
		if (!progress.made && ms < 100 * took)
			ms = 100 * took;
	} while (!main_thread_has_ended());
	return unused;
}

/* False: this process has no thread, and could not get one. */
static bool has_worker(int me)
{
	int before = worker;

	if (before == me || !atomic_compare_exchange_strong(&worker, &before, me) ||
	    start_thread(work))
		return true;
	worker = 0;
	return false;
}

bool collapse_later(const struct memory *memory)
{
	size_t first = (size_t)memory->addr + (-(size_t)memory->offset & (PMD - 1));
	size_t end = (size_t)memory->addr + memory->whole;
	int at, me = getpid(), owner;

	if (first + PMD > end)
		return true; /* no whole block */
	for (at = 0; at < RANGES; at++) {
		owner = ranges[at].owner;
		if (owner == me || !atomic_compare_exchange_strong(&ranges[at].owner, &owner, me))
			continue;
		ranges[at].start = 0;
		ranges[at].end = end;
		ranges[at].warm = memory->noreserve ? WARM_SPARSE_PAGES : WARM_PAGES;
		ranges[at].start = first;
		if (has_worker(me))
			return true;
		ranges[at].owner = 0;
		return false;
	}
	return false;
}

void note_session(void)
{
	has_session = true;
}

/* The process has forked.  Ranges without whole blocks were never stored. */
void adopt_later(void)
{
	int at, owner, me;
	bool any = false;

	if (!has_session || !worker)
		return;
	me = getpid();
	for (at = 0; at < RANGES; at++) {
		owner = ranges[at].owner;
		if (owner && owner != me && ranges[at].start &&
		    atomic_compare_exchange_strong(&ranges[at].owner, &owner, me))
			any = true;
	}
	if (any)
		has_worker(me);
}

static void drop_range(struct range *range)
{
	range->start = 0;
	range->owner = 0;
}

/*
 * The program unmaps a range or a part of it, which may be one that it has
 * inherited.  What remains of a range keeps the leaves that it has.  The thread
 * may collapse one more block of what the kernel then maps there: that costs time
 * and harms nothing.
 */
void forget_later(const void *addr, size_t length)
{
	size_t start = (size_t)addr, end = start + round_up(length, PAGE);
	int at;

	if (end - start < PMD || !worker)
		return;
	for (at = 0; at < RANGES; at++)
		if (ranges[at].owner && ranges[at].start < end && ranges[at].end > start)
			drop_range(&ranges[at]);
}

/* The program detaches the SysV segment at @addr. */
void forget_attached(const void *addr)
{
	size_t start = (size_t)addr;
	int at;

	for (at = 0; worker && at < RANGES; at++)
		if (ranges[at].owner && ranges[at].start >= start && ranges[at].start - start < PMD)
			drop_range(&ranges[at]);
}
