// SPDX-License-Identifier: GPL-2.0 OR MIT
/* An attachment moves in a control group that has no memory left. */
#include "attack.h"
#include <sched.h>

static const char *starving_group;
static size_t starving_len;
static char *starving_result;

/* In the address space of its parent, which waits for it, so nobody can be killed for lack of memory. */
static int starving_child(void *unused)
{
	join_group(starving_group);
	starving_result = move(HOME, AWAY, starving_len);
	_exit(0);
}

int starve(const char *path, const char *group, const char *limit, size_t units, const char *then)
{
	static char stack[65536] __attribute__((aligned(16)));
	int fd = open(path, O_RDWR), max, status;
	char name[256], *at;
	long before, after;
	pid_t pid;

	CHECK(fd >= 0);
	catch_faults();
	snprintf(name, sizeof(name), "%s/memory.max", group);
	max = open(name, O_WRONLY);
	CHECK(max >= 0 && write(max, limit, strlen(limit)) > 0);
	starving_group = group;
	starving_len = units * UNIT;
	CHECK(attach(fd, HOME, starving_len, RW) == HOME);
	CHECK_SAME(load(HOME), 'x');
	before = page_tables_kb();
	pid = clone(starving_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
	after = page_tables_kb();
	at = starving_result == AWAY ? AWAY : HOME;
	printf("moved=%d kb=%ld", at == AWAY, after - before);
	if (!strcmp(then, "touch")) {
		printf(" touched=%d\n", load(at));
		fflush(stdout);
		CHECK_SAME(load(at), 'x');
		CHECK_SAME(load(at + starving_len - UNIT), 'x');
	}
	printf("\n");
	fflush(stdout);
	CHECK(move(at, THIRD, starving_len) == THIRD);
	CHECK_SAME(load(THIRD), 'x');
	CHECK_SAME(load(THIRD + starving_len - UNIT), 'x');
	/* A PUD page for 512 GiB or a part of them, of source and destination. */
	CHECK_AT_MOST(after - before, (long)(units / 512 + 2) * 4);
	CHECK(!munmap(THIRD, starving_len));
	CHECK_SAME(info(fd).attachments, 0);
	return 0;
}
