// SPDX-License-Identifier: MIT
/* Another preloaded library that has its own mmap: it counts the calls for shared
 * memory and prints the count at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/mman.h>

static int calls;

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	static void *(*next)(void *, size_t, int, int, int, off_t);

	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "mmap");
	if (length >= 1UL << 20 && (flags & MAP_TYPE) == MAP_SHARED)
		calls++;
	return next(addr, length, prot, flags, fd, offset);
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
	__attribute__((alias("mmap")));

__attribute__((destructor)) static void end(void)
{
	printf("%d calls\n", calls);
}
