// SPDX-License-Identifier: MIT
/*
 * Shared anonymous memory as a file without a name on msharefs, where processes
 * share the page tables.
 *
 * Facts: only fork passes such memory on, so that nobody has to find the file.
 * msharefs maps whole GiB and unmaps whole mappings; the program unmaps, in one
 * call or several, the length that it asked for.
 * Decision: a table of such mappings.  The file has the size that the program
 * asked for: what lies behind it is SIGBUS.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define MSHAREFS_MAGIC 0x6d736872
#define SLOTS 1024 /* the kernel takes no more attachments per process */
#define AHEAD_BYTES (8UL << 30) /* FILL_AUTO reserves at most that much ahead: a second or two */

#ifndef MADV_DONTDUMP
#define MADV_DONTDUMP 16
#define MADV_DODUMP 17
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* A mapping: taken by @addr; 0 is free, 1 is being written. */
static struct slot {
	_Atomic size_t addr;
	_Atomic size_t start, end; /* what the program has not unmapped yet */
	_Atomic size_t mapped; /* bytes, whole GiB */
} slots[SLOTS];

static _Atomic unsigned int used; /* slots below that were ever taken */

static struct slot *take_slot(void)
{
	unsigned int at, most;
	size_t empty;

	for (at = 0; at < SLOTS; at++) {
		empty = 0;
		if (!atomic_compare_exchange_strong(&slots[at].addr, &empty, 1))
			continue;
		for (most = used; most <= at;)
			if (atomic_compare_exchange_strong(&used, &most, at + 1))
				break;
		return &slots[at];
	}
	return NULL;
}

/* The first mapping that overlaps the range; NULL: none. */
static struct slot *find_slot(size_t addr, size_t length)
{
	unsigned int at;
	size_t start;

	for (at = 0; at < used; at++) {
		start = slots[at].addr;
		if (start > 1 && addr < start + slots[at].mapped && start < addr + length)
			return &slots[at];
	}
	return NULL;
}

static int open_file(const char *root, size_t length, bool reserve, struct line *why)
{
	struct statfs fs;
	int fd, error;

	if (statfs(root, &fs)) {
		add(why, "nothing is mounted on ");
		add(why, root);
		return -1;
	}
	if (fs.f_type != MSHAREFS_MAGIC) {
		add(why, "no msharefs is mounted on ");
		add(why, root);
		return -1;
	}
	if (length / PAGE > fs.f_bavail) {
		add(why, "msharefs has ");
		add_size(why, fs.f_bavail * PAGE);
		add(why, " left of its size=");
		return -1;
	}
	fd = kernel_open(root, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		add(why, "no file could be made on msharefs: ");
		add_error(why, errno);
		return -1;
	}
	if (ftruncate(fd, (off_t)length) ||
	    (reserve && syscall(SYS_fallocate, fd, 0, 0L, (long)length))) {
		error = errno;
		add(why, "msharefs did not give the memory: ");
		add_error(why, error);
		kernel_close(fd);
		return -1;
	}
	return fd;
}

static bool reserves_ahead(size_t length, int flags, struct line *how)
{
	enum fill fill = config()->fill;

	if (fill == FILL_AUTO && flags & MAP_NORESERVE)
		fill = FILL_NEVER;
	if (fill == FILL_AHEAD || (fill == FILL_AUTO && length <= AHEAD_BYTES)) {
		add(how, "reserved");
		return true;
	}
	add(how, "not reserved, other regions may take what msharefs has left");
	return false;
}

void *map_on_msharefs(size_t length, int prot, int flags, struct line *why)
{
	const struct config *asked = config();
	size_t mapped = round_up(length, PUD);
	struct line line = { .length = 0 }, how = { .length = 0 };
	struct slot *slot;
	bool reserve;
	void *addr;
	int fd;

	length = round_up(length, PAGE);
	if ((prot & (PROT_READ | PROT_WRITE | PROT_EXEC)) != (PROT_READ | PROT_WRITE)) {
		add(why, "msharefs only has memory to read and write");
		return MAP_FAILED;
	}
	if (flags & (MAP_LOCKED | MAP_GROWSDOWN
#ifdef MAP_32BIT
		     | MAP_32BIT
#endif
		     | MAP_FIXED | MAP_FIXED_NOREPLACE)) {
		add(why, "msharefs has no memory with these flags of mmap");
		return MAP_FAILED;
	}
	reserve = reserves_ahead(length, flags, &how);
	if (reserve && !has_room(length, why))
		return MAP_FAILED;
	fd = open_file(asked->root, length, reserve, why);
	if (fd < 0)
		return MAP_FAILED;
	slot = take_slot();
	addr = slot ? kernel_mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) :
		      MAP_FAILED;
	if (addr == MAP_FAILED) {
		add(why, slot ? "msharefs could not be mapped: " : "too many mappings of msharefs");
		if (slot) {
			add_error(why, errno);
			slot->addr = 0;
		}
		kernel_close(fd);
		return MAP_FAILED;
	}
	kernel_close(fd);
	slot->start = (size_t)addr;
	slot->end = (size_t)addr + length;
	slot->mapped = mapped;
	slot->addr = (size_t)addr;
	add(&line, "shared anonymous memory of ");
	add_size(&line, length);
	add(&line, " at ");
	add_address(&line, addr);
	add(&line, ": shared page tables (msharefs), ");
	add(&line, how.text);
	if (why->length) {
		add(&line, "; ");
		add(&line, why->text);
	}
	say(&line);
	return addr;
}

/* What the program has not unmapped of the mapping shrinks at an end.  A part in
 * the middle stays mapped. */
static int unmap_part(struct slot *slot, size_t start, size_t end)
{
	size_t addr = slot->addr, mapped = slot->mapped;

	if (start <= slot->start && end > slot->start)
		slot->start = end;
	if (end >= slot->end && start < slot->end)
		slot->end = start;
	if (slot->start < slot->end)
		return 0;
	/* The slot is free before another thread can get these addresses. */
	slot->addr = 1;
	if (kernel_munmap((void *)addr, mapped)) {
		slot->addr = addr;
		return -1;
	}
	slot->addr = 0;
	return 0;
}

bool msharefs_munmap(void *addr, size_t length, int *result)
{
	size_t start = (size_t)addr, end = start + round_up(length, PAGE), below;
	struct slot *slot = used ? find_slot(start, end - start) : NULL;

	if (!slot || start & (PAGE - 1) || end <= start)
		return false;
	*result = 0;
	/* The kernel unmaps what lies around our mappings. */
	for (; slot && !*result; slot = start < end ? find_slot(start, end - start) : NULL) {
		below = slot->addr;
		if (start < below && kernel_munmap((void *)start, below - start)) {
			*result = -1;
			return true;
		}
		start = below + slot->mapped;
		*result = unmap_part(slot, below > (size_t)addr ? below : (size_t)addr,
				     start < end ? start : end);
	}
	if (!*result && start < end)
		*result = kernel_munmap((void *)start, end - start);
	return true;
}

/* The mapping that the range lies in; NULL: none, or not wholly, and the kernel answers. */
static struct slot *slot_around(void *addr, size_t length)
{
	struct slot *slot = used ? find_slot((size_t)addr, length) : NULL;
	size_t start = (size_t)addr;

	if (!slot || start & (PAGE - 1) || start < slot->addr ||
	    length > slot->addr + slot->mapped - start)
		return NULL;
	return slot;
}

bool msharefs_mprotect(void *addr, size_t length, int prot, int *result)
{
	if (!slot_around(addr, length))
		return false;
	if (prot != (PROT_READ | PROT_WRITE) && !config()->ignore_mprotect)
		return false; /* the kernel refuses with EACCES */
	*result = 0;
	return true;
}

bool msharefs_madvise(void *addr, size_t length, int advice, int *result)
{
	if (!slot_around(addr, length))
		return false;
	switch (advice) {
	/* Advice that changes nothing that a program can see. */
	case MADV_NORMAL:
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
	case MADV_WILLNEED:
	case MADV_DONTNEED: /* shared memory keeps its contents */
	case MADV_DODUMP:
	case MADV_DONTDUMP:
	case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE:
	case MADV_COLLAPSE:
		*result = 0;
		return true;
	default:
		return false;
	}
}

bool msharefs_mremap(void *addr, size_t length, size_t new_length, int flags, void **result)
{
	struct slot *slot = used ? find_slot((size_t)addr, length ? length : 1) : NULL;
	size_t start = (size_t)addr, end = start + round_up(new_length, PAGE);

	if (!slot)
		return false;
	*result = MAP_FAILED;
	if (!length || !new_length || flags & MREMAP_FIXED || start < slot->start ||
	    start + round_up(length, PAGE) > slot->end) {
		errno = EINVAL;
		return true;
	}
	if (end > slot->end) { /* shared anonymous memory does not grow either: SIGBUS behind it */
		errno = ENOMEM;
		return true;
	}
	if (start + round_up(length, PAGE) == slot->end)
		slot->end = end;
	*result = addr;
	return true;
}
