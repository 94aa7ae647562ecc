// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Processes that read the page tables of each other, and take pages of each other, while pages come and go. */
#include "probe.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#define PARTNERS 3	/* processes that are attached, die, and come again */
#define PAGES 61
#define STAY 16		/* pages that are never taken away */

static struct {
	volatile pid_t pid[PARTNERS];
	volatile unsigned long rounds[8];
} *shared;

static char *const place = (char *)0x300000000000;

static void swallow(pid_t pid, const char *what)
{
	static char buffer[1 << 16];
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/%s", pid, what);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;		/* it has died */
	if (!strcmp(what, "pagemap"))
		pread(fd, buffer, PAGES * 8, (uintptr_t)place / PAGE * 8);
	else
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
	close(fd);
}

/* struct pm_scan_arg of 6.7 and later; older headers lack it. */
static void scan_and_protect(pid_t pid)
{
	uint64_t arg[12] = { 96, 1 /* WP_MATCHING */, (uintptr_t)place,
			     (uintptr_t)place + PAGES * PAGE, [9] = 1 << 3 };
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/pagemap", pid);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;
	ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96), arg);
	close(fd);
}

static void copy_from(pid_t pid, int write)
{
	static char bytes[PAGES * PAGE];
	struct iovec local = { bytes, sizeof(bytes) }, remote = { place + STAY * PAGE, (PAGES - STAY) * PAGE };

	if (write)
		process_vm_writev(pid, &local, 1, &remote, 1, 0);
	remote.iov_base = place;
	process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

static void query_nodes(pid_t pid)
{
	int status[PAGES], i;
	void *pages[PAGES];

	for (i = 0; i < PAGES; i++)
		pages[i] = place + i * PAGE;
	syscall(SYS_move_pages, pid, (unsigned long)PAGES, pages, NULL, status, 0);
}

/* A process that is attached; what it does to itself. */
static void partner(const char *path, unsigned int n)
{
	int fd = open(path, n % 3 ? O_RDWR : O_RDONLY), i;
	int prot = n % 3 ? PROT_READ | PROT_WRITE : PROT_READ;
	struct timespec none = { 0 };
	unsigned char vec[PAGES];
	volatile char *p = place;

	CHECK(fd >= 0);
	CHECK(mmap(place, UNIT, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) == place);
	catch_faults();
	for (i = 0; i < 7; i++) {
		if (!sigsetjmp(escape, 1))	/* it is SIGBUS beyond the end */
			for (int page = 0; page < PAGES; page++)
				(void)p[page * PAGE];
		for (int page = 0; page < STAY; page++)
			CHECK(p[page * PAGE] == page + 1);
		mincore(place, PAGES * PAGE, vec);
		syscall(SYS_futex, place + (STAY + i) * PAGE, FUTEX_WAIT, 77, &none, NULL, 0);
		syscall(SYS_futex, place + (STAY + i) * PAGE, FUTEX_WAKE, 1, NULL, NULL, 0);
		mlock(place, PAGES * PAGE);
		munlock(place, PAGES * PAGE);
		query_nodes(0);
	}
	if (n % 5 == 1)
		CHECK(!munmap(place, UNIT));
	if (n % 5 == 2)
		raise(SIGKILL);
	_exit(0);
}

static void walk_role(const char *path, int role, double end)
{
	static const char *const files[] = { "pagemap", "smaps", "smaps_rollup", "numa_maps" };
	struct mshare_protect request = { .length = STAY * PAGE };
	int fd = open(path, O_RDWR), status;
	unsigned int n;

	CHECK(fd >= 0);
	for (n = role; now() < end; n++) {
		pid_t pid = shared->pid[n % PARTNERS];

		if (role < PARTNERS) {
			pid = fork();
			CHECK(pid >= 0);
			if (!pid)
				partner(path, n);
			shared->pid[role] = pid;
			CHECK(waitpid(pid, &status, 0) == pid);
			CHECK(!status || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
		} else if (role == PARTNERS && pid) {
			swallow(pid, files[n % 4]);
		} else if (role == PARTNERS + 1 && pid) {
			copy_from(pid, n % 2);
			query_nodes(pid);
			scan_and_protect(pid);
		} else if (role == PARTNERS + 2) {
			CHECK(!fallocate(fd, PUNCH, STAY * PAGE, (PAGES - STAY) * PAGE));
			CHECK(!ftruncate(fd, STAY * PAGE));
			CHECK(!ftruncate(fd, PAGES * PAGE));
		} else if (role == PARTNERS + 3) {
			request.prot = n % 2 ? MSHARE_PROT_READ : MSHARE_PROT_READWRITE;
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
		}
		shared->rounds[role]++;
	}
	_exit(0);
}

int walk(const char *path, int seconds)
{
	double end = now() + seconds;
	int fd = open(path, O_RDWR), role, status, bad = 0;
	pid_t pids[PARTNERS + 4];

	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, PAGES * PAGE));
	for (int page = 0; page < STAY; page++)
		CHECK(pwrite(fd, &(char){ page + 1 }, 1, page * PAGE) == 1);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	for (role = 0; role < PARTNERS + 4; role++) {
		pids[role] = fork();
		CHECK(pids[role] >= 0);
		if (!pids[role]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			walk_role(path, role, end);
		}
	}
	for (role = 0; role < PARTNERS + 4; role++) {
		CHECK(waitpid(pids[role], &status, 0) == pids[role]);
		if (status) {
			printf("role %d ended with status %#x\n", role, status);
			bad = 1;
		}
	}
	printf("rounds:");
	for (role = 0; role < PARTNERS + 4; role++) {
		printf(" %lu", shared->rounds[role]);
		bad |= !shared->rounds[role];
	}
	printf("\n");
	return bad;
}
