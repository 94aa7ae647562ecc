// SPDX-License-Identifier: GPL-2.0 OR MIT
/* The faults that a change of one page costs. */
#include "attack.h"

#define MANY 64
#define CHOSEN 7

static long faults_in_unit(const char *p, int unit)
{
	long before = minor_faults();

	CHECK_SAME(load(p + unit * UNIT), 'a' + unit % 26);
	CHECK_SAME(load(p + unit * UNIT + PAGE), 'a' + unit % 26);
	return minor_faults() - before;
}

/* The faults in the unit where something was done, and the most in any other. */
static void tell_faults(const char *p)
{
	long here = faults_in_unit(p, CHOSEN), elsewhere = 0, here_again = 0;
	int unit;

	for (unit = 0; unit < MANY; unit++) {
		long faults = faults_in_unit(p, unit);

		if (unit != CHOSEN && faults > elsewhere)
			elsewhere = faults;
		if (unit == CHOSEN)
			here_again = faults;
	}
	printf("here=%ld again=%ld elsewhere=%ld\n", here, here_again, elsewhere);
	fflush(stdout);
}

static void change(int fd, char *p, const char *what)
{
	struct mshare_protect request = { .offset = CHOSEN * UNIT + 5 * PAGE, .length = PAGE,
		.prot = MSHARE_PROT_READ };
	char *q;

	if (!strcmp(what, "dontneed")) {
		CHECK(!madvise(p + request.offset, PAGE, MADV_DONTNEED));
	} else if (!strcmp(what, "punch")) {
		CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request.offset, PAGE));
	} else if (!strcmp(what, "protect")) {
		CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
	} else if (!strcmp(what, "private")) {	/* memory that is not the region's */
		q = mmap(NULL, 64 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(q != MAP_FAILED);
		memset(q, 1, 64 * PAGE);
		CHECK(!madvise(q, 64 * PAGE, MADV_DONTNEED) && !munmap(q, 64 * PAGE));
	} else {
		CHECK(!strcmp(what, "nothing"));
	}
}

int faults(const char *path, const char *what, const char *by)
{
	int fd = open(path, O_RDWR), unit, status, turn[2], another = !strcmp(by, "another");
	char *p, byte = 0;
	pid_t pid = 0;

	CHECK(fd >= 0 && !pipe(turn));
	catch_faults();
	CHECK(!ftruncate(fd, MANY * UNIT));
	for (unit = 0; unit < MANY; unit++) {
		char c = 'a' + unit % 26;

		CHECK(pwrite(fd, &c, 1, unit * UNIT) == 1 && pwrite(fd, &c, 1, unit * UNIT + PAGE) == 1);
		CHECK(pwrite(fd, &c, 1, unit * UNIT + 5 * PAGE) == 1);
	}
	p = attach(fd, HOME, MANY * UNIT, RW);
	CHECK(p == HOME);
	if (another) {
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			CHECK(load(p + CHOSEN * UNIT) > 0);
			CHECK(read(turn[0], &byte, 1) == 1);
			change(fd, p, what);
			_exit(0);
		}
	}
	for (unit = 0; unit < MANY; unit++)
		faults_in_unit(p, unit);
	if (!strcmp(what, "fork")) {
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			load((char *)&escape);	/* pages of its own that it writes to */
			minor_faults();
			tell_faults(p);
			tell_faults(p);
			_exit(0);
		}
	} else if (another) {
		CHECK(write(turn[1], &byte, 1) == 1);
	} else {
		change(fd, p, what);
	}
	if (pid)
		CHECK(waitpid(pid, &status, 0) == pid && !status);
	if (strcmp(what, "fork"))
		tell_faults(p);
	return 0;
}
