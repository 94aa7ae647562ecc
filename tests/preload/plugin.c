// SPDX-License-Identifier: MIT
/* A library that maps shared memory: when `work` is called, and, built with
 * -DEARLY, in a constructor that runs before all others. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>

#define SIZE (40UL << 20)

int work(void)
{
	char *addr = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return 2;
	addr[0] = 1;
	printf("%s\n", (unsigned long)addr % (2UL << 20) ? "not aligned" : "aligned");
	fflush(stdout);
	return 0;
}

#ifdef EARLY
__attribute__((constructor(101))) static void early(void)
{
	work();
}
#endif
