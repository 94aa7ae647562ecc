// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Processes that attach and die while others punch, protect and look. */
#include "client.h"
#include <time.h>

static void drain(pid_t pid, const char *what, off_t at)
{
	static char buffer[16384];
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/%s", pid, what);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;
	if (at)
		pread(fd, buffer, sizeof(buffer), at);
	else
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
	close(fd);
}

static volatile pid_t *partners;	/* shared: the processes that come and go */

static void *const at = (void *)0x300000000000;

static void come_and_go(int fd, int prot, int die, unsigned int seed)
{
	size_t len = length_of(fd);
	unsigned char vec[64];
	char *p;
	int i;

	p = mmap(at, len, prot, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(p == at);
	/* The links of a child are cut in exit, and the links of its parent in munmap. */
	if (die && seed % 2)
		kill(getpid(), SIGKILL);
	for (i = 0; i < 64; i += 7)
		((volatile char *)p)[i * PAGE];
	mincore(p, 64 * PAGE, vec);
	madvise(p, len, seed % 3 ? MADV_DONTNEED : 20 /* COLD */);
	if (!die)
		CHECK(!munmap(p, len));
}

/* One of those below, until the time is over; each is a process of its own. */
static void race(const char *path, int role, struct timespec end)
{
	int fd = open(path, role == 1 ? O_RDONLY : O_RDWR), prot = role == 1 ? PROT_READ : RW;
	struct mshare_protect request = { .offset = 0, .length = 32 * PAGE };
	struct timespec now;
	unsigned int n;
	pid_t pid;

	CHECK(fd >= 0);
	for (n = 0;; n++) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec >= end.tv_sec)
			_exit(0);
		switch (role) {
		case 0: case 1:		/* map and unmap, writable and read-only */
			come_and_go(fd, prot, 0, n);
			break;
		case 2:			/* attach in children that exit or die */
			pid = fork();
			if (!pid) {
				come_and_go(fd, prot, 1, n);
				_exit(0);
			}
			CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
			break;
		case 3:
			CHECK(!fallocate(fd, PUNCH, 0, 64 * PAGE));
			CHECK(!fallocate(fd, 0, 0, 48 * PAGE));
			break;
		case 4:
			request.prot = n % 2 ? MSHARE_PROT_READWRITE : MSHARE_PROT_READ;
			if (ioctl(fd, MSHARE_IOC_PROTECT, &request))
				_exit(1);
			break;
		case 5:
			drain(partners[n % 2], "smaps", 0);
			drain(partners[n % 2], "pagemap", (uintptr_t)at / PAGE * 8);
			drain(partners[n % 2], "numa_maps", 0);
			break;
		}
	}
}

int races(const char *path, int seconds)
{
	/* Role 4 makes role 3 fail with EACCES, so they take turns. */
	static const int roles[2][6] = { { 0, 1, 2, 3, 5, 0 }, { 0, 1, 2, 4, 5, 1 } };
	int turn, i, bad = 0, status;
	struct timespec end;
	pid_t pid;

	partners = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(partners != MAP_FAILED);
	for (turn = 0; turn < 2; turn++) {
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += seconds;
		for (i = 0; i < 6; i++) {
			pid = fork();
			CHECK(pid >= 0);
			if (!pid) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				race(path, roles[turn][i], end);
			}
			if (i < 2)
				partners[i] = pid;
		}
		for (i = 0; i < 6; i++) {
			CHECK(wait(&status) > 0);
			if (status) {
				printf("process ended with status %#x\n", status);
				bad = 1;
			}
		}
	}
	return bad;
}
