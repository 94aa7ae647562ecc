/* SPDX-License-Identifier: MIT */
/*
 * The preload library of `mshare run`: what its files share.
 *
 * mmap() may be called before any constructor has run, by several threads, in a
 * signal handler and in a child of a threaded process.  The library therefore
 * takes no lock, calls no malloc and no stdio, and makes its own system calls
 * by syscall(2).  The exception is the start of a thread, for FILL_LATER.
 */
#ifndef MSHARE_PRELOAD_H
#define MSHARE_PRELOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#ifdef __linux__
#if !defined(__x86_64__) && !defined(__aarch64__)
#error "mshare needs a 64-bit processor: x86_64 or aarch64"
#endif
#endif

#define HIDDEN __attribute__((visibility("hidden")))
#define PUBLIC __attribute__((visibility("default")))

#define PAGE 4096UL
#define PMD (2UL << 20) /* what one 2 MiB leaf maps: a block */
#define PUD (1UL << 30) /* the unit of msharefs */

#define DEFAULT_MIN (32UL << 20)

static inline size_t round_up(size_t bytes, size_t unit)
{
	return (bytes + unit - 1) & ~(unit - 1);
}

/* config.c: what MSHARE_RUN asks for */

enum backend { BACKEND_AUTO, BACKEND_MSHAREFS, BACKEND_THP };
enum fill { FILL_AUTO, FILL_AHEAD, FILL_LATER, FILL_NEVER };

struct config {
	bool active; /* false: every call goes to the kernel as it is */
	enum backend backend;
	enum fill fill;
	size_t min; /* bytes; what is smaller is left alone */
	bool sysv, posix;
	bool answer_hugetlb, ignore_mprotect, require, quiet;
	char root[128]; /* where msharefs is mounted */
	char only[64];
	char name[64]; /* of the running program's file */
	char log[256]; /* "": stderr */
	dev_t stderr_dev; /* what descriptor 2 was at the start */
	ino_t stderr_ino;
	bool stderr_open;
	char unknown[64]; /* the first item of MSHARE_RUN that is not valid */
};

HIDDEN const struct config *config(void);

/* log.c: one line per decision */

struct line {
	char text[480];
	size_t length;
};

HIDDEN void add(struct line *line, const char *text);
HIDDEN void add_number(struct line *line, unsigned long number);
HIDDEN void add_address(struct line *line, const void *addr);
HIDDEN void add_size(struct line *line, size_t bytes);
HIDDEN void add_error(struct line *line, int error);
HIDDEN void say(const struct line *line);

/* room.c: how much memory may be taken */

/* Read at most @size - 1 bytes of @path as text; -1: it cannot be read. */
HIDDEN ssize_t read_text(const char *path, char *text, size_t size);

/*
 * Tell whether @bytes fit into what the machine has available, less a 64th of
 * its memory, and into every control group of this process.  If not, the reason
 * is added to @why.
 */
HIDDEN bool has_room(size_t bytes, struct line *why);

/* Tell whether the kernel makes 2 MiB pages of shared memory by itself. */
HIDDEN bool huge_on_touch(char setting[32]);

/* thp.c: the program's own shared memory, at an address that fits 2 MiB leaves */

enum kind { ANONYMOUS, SYSV, MEMFD, POSIX_FILE };

struct memory {
	enum kind kind;
	void *addr;
	size_t length; /* bytes, a multiple of PAGE */
	size_t whole; /* bytes that the object has there, at most @length */
	off_t offset; /* of @addr in its object */
	bool writable, noreserve;
	bool hugetlb; /* the kernel gave pages of hugetlb, as the program asked */
	const char *asked; /* why the address is the program's; NULL: it is ours */
};

#define RACES 16 /* how often another thread may take the addresses first */

/* An address, congruent to @offset modulo PMD, where @length bytes were free a
 * moment ago.  NULL: none. */
HIDDEN void *free_address(size_t length, off_t offset, int flags);

/* Map at such an address.  MAP_FAILED: not to be had, or the call itself fails. */
HIDDEN void *map_aligned(size_t length, int prot, int flags, int fd, off_t offset);

/*
 * Make 2 MiB leaves of @memory as configured, and say what was done.  @note is
 * said with it, for example why msharefs was not used.  False: --require asks
 * for more than could be had; the caller unmaps and fails.
 */
HIDDEN bool make_leaves(const struct memory *memory, const struct line *note);

struct blocks {
	unsigned long all, made;
	int error; /* of the last block that was not made */
};

/* later.c: a thread that collapses what has been touched */

HIDDEN bool collapse_later(const struct memory *memory);
HIDDEN void forget_later(const void *addr, size_t length);
HIDDEN void forget_attached(const void *addr);
HIDDEN void note_session(void);
HIDDEN void adopt_later(void);

/* msharefs.c: shared anonymous memory as a file without a name on msharefs */

/* MAP_FAILED: not to be had; the reason is in @why and the program's own
 * memory is used. */
HIDDEN void *map_on_msharefs(size_t length, int prot, int flags, struct line *why);

/* These return true if the call was about such a mapping; @result is then its
 * result, with errno set. */
HIDDEN bool msharefs_munmap(void *addr, size_t length, int *result);
HIDDEN bool msharefs_mprotect(void *addr, size_t length, int prot, int *result);
HIDDEN bool msharefs_madvise(void *addr, size_t length, int advice, int *result);
HIDDEN bool msharefs_mremap(void *addr, size_t length, size_t new_length, int flags,
			    void **result);

/* calls.c: the kernel's calls, past every other preloaded library */

HIDDEN void *kernel_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
HIDDEN int kernel_munmap(void *addr, size_t length);
HIDDEN int kernel_madvise(void *addr, size_t length, int advice);

/* libc's own of these are points where a thread may be cancelled; mmap is none. */
HIDDEN int kernel_open(const char *path, int flags, int mode);
HIDDEN ssize_t kernel_read(int fd, void *to, size_t size);
HIDDEN ssize_t kernel_write(int fd, const void *from, size_t size);
HIDDEN void kernel_close(int fd);

/* The next library's function of that name; NULL before constructors run. */
HIDDEN extern void *(*next_mmap)(void *, size_t, int, int, int, off_t);
HIDDEN bool start_thread(void *(*work)(void *));

#endif
