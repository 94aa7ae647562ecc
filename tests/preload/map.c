// SPDX-License-Identifier: MIT
/* A program that maps 66 MiB of shared memory, touches one page, and ends. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>

int main(void)
{
	char *addr = mmap(NULL, 66UL << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return 1;
	addr[0] = 1;
	puts("mapped");
	return 0;
}
