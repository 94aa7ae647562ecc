// SPDX-License-Identifier: MIT
/*
 * 2 MiB leaves in the program's own shared memory.
 *
 * Facts: MADV_COLLAPSE (Linux 6.1) makes 2 MiB pages of shared memory in place,
 * for any user, whatever shmem_enabled says except "deny".  A block must lie at
 * an address that is congruent to its offset modulo 2 MiB, and one of its pages
 * must be touched.  The kernel places shared anonymous memory at any page.
 * Consequence: the address is all that a program lacks.
 * Decision: nothing is replaced and no state is kept.  Identifiers, rights, and
 * what the program does with its memory stay the kernel's.
 */
#include "preload.h"

#include <errno.h>
#include <time.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define AHEAD_BYTES (1UL << 30) /* FILL_AUTO fills at most that much ahead: 0.2 s or so */
#define CHECK_BLOCKS 256 /* look for room again after 512 MiB */
#define TRIES 3 /* a page in some processor's queue is EAGAIN; the call empties the queues */
#define SAY_SECONDS 2

/*
 * Facts: MAP_FIXED replaces what is mapped there, and where the kernel then fails
 * (more memory than the machine has), nothing is mapped there.  Another thread
 * can get these addresses before this one knows.
 * Decision: nothing is replaced.  Addresses that were free a moment ago are a
 * hint, and where another thread was faster the kernel maps elsewhere.
 */
void *free_address(size_t length, off_t offset, int flags)
{
	size_t all = round_up(length, PAGE) + PMD, wanted;
	void *start = kernel_mmap(NULL, all, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
#ifdef MAP_32BIT
					  (flags & MAP_32BIT),
#else
					  (flags & 0),
#endif
				  -1, 0);

	if (start == MAP_FAILED)
		return NULL;
	kernel_munmap(start, all);
	wanted = round_up((size_t)start, PMD) + ((size_t)offset & (PMD - 1));
	return (void *)(wanted >= (size_t)start + PMD ? wanted - PMD : wanted);
}

void *map_aligned(size_t length, int prot, int flags, int fd, off_t offset)
{
	void *wanted, *got;
	int tries;

	for (tries = 0; tries < RACES; tries++) {
		wanted = free_address(length, offset, flags);
		if (!wanted)
			return MAP_FAILED;
		got = kernel_mmap(wanted, length, prot, flags, fd, offset);
		if (got == wanted || got == MAP_FAILED)
			return got;
		kernel_munmap(got, length);
	}
	return MAP_FAILED;
}

static char *first_block(const struct memory *memory)
{
	size_t inside = (size_t)memory->offset & (PMD - 1);

	return (char *)memory->addr + (inside ? PMD - inside : 0);
}

static bool is_aligned(const struct memory *memory)
{
	return !(((size_t)memory->addr - (size_t)memory->offset) & (PMD - 1));
}

static bool make_block(char *block, bool writable, int *error)
{
	int tries;

	if (kernel_madvise(block, PAGE, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ)) {
		*error = errno;
		return false;
	}
	for (tries = 0; tries < TRIES; tries++) {
		if (!kernel_madvise(block, PMD, MADV_COLLAPSE))
			return true;
		*error = errno;
		if (errno != EAGAIN)
			return false;
	}
	return false;
}

static void say_progress(const struct memory *memory, const struct blocks *blocks)
{
	struct line line = { .length = 0 };

	add(&line, "filling ");
	add_size(&line, memory->length);
	add(&line, ": ");
	add_number(&line, blocks->made);
	add(&line, " of ");
	add_number(&line, blocks->all);
	add(&line, " blocks are done");
	say(&line);
}

/* Touch and collapse every block.  It ends early where there is no room. */
static struct blocks fill(const struct memory *memory, struct line *why)
{
	char *block = first_block(memory), *end = (char *)memory->addr + memory->whole;
	struct blocks blocks = { .all = block < end ? (size_t)(end - block) / PMD : 0 };
	struct timespec now, said;
	unsigned long done;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &said);
	for (done = 0; done < blocks.all; done++, block += PMD) {
		if (done && done % CHECK_BLOCKS == 0 && !has_room((blocks.all - done) * PMD, why))
			break;
		blocks.made += make_block(block, memory->writable, &blocks.error);
		clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
		if (now.tv_sec - said.tv_sec >= SAY_SECONDS) {
			say_progress(memory, &blocks);
			said = now;
		}
	}
	/* Else this process alone would look as large as the memory. */
	kernel_madvise(memory->addr, memory->length, MADV_DONTNEED);
	return blocks;
}

static void describe(struct line *line, const struct memory *memory)
{
	static const char *const names[] = { "shared anonymous memory", "SysV shared memory",
					     "a memfd", "a tmpfs file" };

	add(line, names[memory->kind]);
	add(line, " of ");
	add_size(line, memory->length);
	add(line, " at ");
	add_address(line, memory->addr);
}

/* What FILL_AUTO picks; the reason is added to @why. */
static enum fill pick(const struct memory *memory, struct line *why)
{
	char setting[32];

	if (memory->kind != POSIX_FILE && huge_on_touch(setting)) {
		kernel_madvise(memory->addr, memory->length, MADV_HUGEPAGE);
		add(why, "the kernel makes 2 MiB pages as the program touches them, shmem_enabled is ");
		add(why, setting);
		return FILL_NEVER;
	}
	if (memory->noreserve) {
		add(why, "MAP_NORESERVE asks for memory only where it is touched");
		return FILL_LATER;
	}
	if (memory->whole > AHEAD_BYTES) {
		add(why, "filling more than ");
		add_size(why, AHEAD_BYTES);
		add(why, " ahead takes long");
		return FILL_LATER;
	}
	return has_room(memory->whole, why) ? FILL_AHEAD : FILL_LATER;
}

static void say_blocks(struct line *line, const struct blocks *blocks)
{
	add(line, "2 MiB leaves, filled ahead (");
	add_number(line, blocks->made);
	add(line, " of ");
	add_number(line, blocks->all);
	add(line, " blocks)");
	if (blocks->made < blocks->all && blocks->error) {
		add(line, "; the others have 4 KiB pages: ");
		add_error(line, blocks->error);
	}
}

bool make_leaves(const struct memory *memory, const struct line *note)
{
	const struct config *asked = config();
	struct line line = { .length = 0 }, why = { .length = 0 };
	struct blocks blocks = { .all = 1 };
	enum fill how = asked->fill;
	bool done = false;

	describe(&line, memory);
	add(&line, ": ");
	if (memory->hugetlb) {
		add(&line, "hugetlb pages, as the program asked");
		done = true;
	} else if (!is_aligned(memory)) {
		add(&line, "4 KiB pages: ");
		add(&line, memory->asked ? memory->asked : "the address is not aligned to 2 MiB");
	} else {
		if (how == FILL_AUTO)
			how = pick(memory, &why);
		else if (how == FILL_AHEAD && !has_room(memory->whole, &why))
			how = FILL_LATER;
		if (how == FILL_AHEAD) {
			blocks = fill(memory, &why);
			say_blocks(&line, &blocks);
			done = blocks.made == blocks.all;
		} else if (how == FILL_LATER && collapse_later(memory)) {
			add(&line, "aligned, 2 MiB leaves come later, as memory is touched");
			done = asked->fill != FILL_AHEAD;
		} else {
			add(&line, "aligned to 2 MiB, not filled");
			done = asked->fill == FILL_NEVER || how == FILL_NEVER;
		}
	}
	if (why.length) {
		add(&line, "; ");
		add(&line, why.text);
	}
	if (note->length) {
		add(&line, "; ");
		add(&line, note->text);
	}
	if (asked->require && asked->backend == BACKEND_MSHAREFS && memory->kind == ANONYMOUS)
		done = false;
	if (asked->require && !done)
		add(&line, "; --require: the call fails with ENOMEM");
	say(&line);
	return done || !asked->require;
}
