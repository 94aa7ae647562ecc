// SPDX-License-Identifier: MIT
/*
 * A program with one piece of shared memory of the kind and size that its
 * arguments name.  It touches every page, prints "ready", and ends when its
 * standard input ends.  It prints "refused ERROR" where memory is refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)

#ifdef THREAD_LOCAL
__thread char variables[THREAD_LOCAL]; /* the C library places them in each thread's stack */
#endif

static char *hold(const char *kind, size_t size)
{
	char name[64];
	int fd;

	if (!strcmp(kind, "anonymous"))
		return mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!strcmp(kind, "hugetlb"))
		return mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (!strcmp(kind, "sysv")) {
		fd = shmget(IPC_PRIVATE, size, IPC_CREAT | 0600);
		char *addr = shmat(fd, NULL, 0);

		shmctl(fd, IPC_RMID, NULL);
		return addr;
	}
	if (!strcmp(kind, "device"))
		return mmap(NULL, size, RW, MAP_SHARED, open("/dev/zero", O_RDWR), 0);
	if (!strcmp(kind, "memfd")) {
		fd = memfd_create("held", 0);
	} else {
		snprintf(name, sizeof(name), "/mshare-held-%d", getpid());
		fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		shm_unlink(name);
	}
	if (ftruncate(fd, (off_t)size))
		return MAP_FAILED;
	return mmap(NULL, size, RW, MAP_SHARED, fd, 0);
}

int main(int count, char **arguments)
{
	size_t size = strtoul(arguments[2], NULL, 10), at;
	char *addr, byte;

	if (count > 3 && !strcmp(arguments[3], "data-on-2")) {
		close(2);
		if (open(arguments[4], O_RDWR) != 2)
			return 3;
	}
	addr = hold(arguments[1], size);
	if (addr == MAP_FAILED) {
		printf("refused %s\n", strerrorname_np(errno));
		return 0;
	}
	for (at = 0; at < size; at += 4096)
		addr[at] = 1;
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
