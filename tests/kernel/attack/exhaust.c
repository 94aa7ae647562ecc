// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Others ask for all pages or all inodes while a program needs a few. */
#include "attack.h"
#include <sys/stat.h>

#define NOBODY 65534

static pid_t start_attacker(void (*attack)(const char *), const char *argument)
{
	int ready[2];
	char byte;
	pid_t pid;

	CHECK(!pipe(ready));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(!setresgid(NOBODY, NOBODY, NOBODY) && !setresuid(NOBODY, NOBODY, NOBODY));
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		write(ready[1], "r", 1);
		attack(argument);
		_exit(1);
	}
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	return pid;
}

static void stop_attacker(pid_t pid)
{
	int status;

	CHECK(!waitpid(pid, &status, WNOHANG));
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
}

static void ask_for_all(const char *path)
{
	int fd = open(path, O_RDWR);

	CHECK(fd >= 0);
	for (;;)
		CHECK(fallocate(fd, 0, 0, 1L << 44) == -1 && errno == ENOSPC);
}

int reserve(const char *path, const char *other, long touches)
{
	long done, bus = 0, writes = 0, reservations = 0;
	int fd = open(path, O_RDWR), i;
	const int pages = 509;
	pid_t attackers[2];
	char *p;

	CHECK(fd >= 0);
	catch_faults();
	CHECK(!ftruncate(fd, UNIT));
	p = attach(fd, NULL, UNIT, RW);
	CHECK(p != MAP_FAILED);
	for (i = 0; i < 2; i++)
		attackers[i] = start_attacker(ask_for_all, other);
	for (done = 0; done < touches && !bus; done += pages) {
		for (i = 0; i < pages; i++)
			bus += store(p + i * PAGE, 1) != 1;
		for (i = 0; i < 16; i++)
			writes += pwrite(fd, "x", 1, (1024 + i) * PAGE) != 1;
		reservations += fallocate(fd, 0, 2048 * PAGE, 16 * PAGE) != 0;
		CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096 * PAGE));
	}
	for (i = 0; i < 2; i++)
		stop_attacker(attackers[i]);
	printf("touches=%ld sigbus=%ld writes=%ld reservations=%ld\n", done, bus, writes, reservations);
	return 0;
}

static void create_in_vain(const char *directory)
{
	char name[256];
	unsigned int n;

	for (n = 0;; n++) {
		snprintf(name, sizeof(name), "%s/%d-%u", directory, getpid(), n % 7);
		CHECK(open(name, O_RDWR | O_CREAT, 0600) == -1 && errno == ENOSPC);
	}
}

int inodes(const char *directory, int handles)
{
	char name[256];
	int fd, made, i, n, refused = 0;
	pid_t attackers[2];
	__u32 flags = 0;

	snprintf(name, sizeof(name), "%s/first", directory);
	fd = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, 1));
	for (i = 0; space(fd).f_ffree; i++) {
		snprintf(name, sizeof(name), "%s/full%d", directory, i);
		CHECK((made = open(name, O_RDWR | O_CREAT, 0600)) >= 0);
		close(made);
	}
	for (n = 0; n < 2; n++)
		attackers[n] = start_attacker(create_in_vain, directory);
	for (n = 0; n < handles && !refused; n++) {
		made = ioctl(fd, MSHARE_IOC_HANDLE, &flags);
		refused += made < 0;
		close(made);
		CHECK_SAME(space(fd).f_ffree, 0);
	}
	for (n = 0; n < 2; n++)
		stop_attacker(attackers[n]);
	CHECK(!unlink(name));
	CHECK_SAME(space(fd).f_ffree, 1);
	CHECK((made = open(name, O_RDWR | O_CREAT, 0600)) >= 0);
	printf("refused=%d\n", refused);
	return 0;
}
