// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A process attaches and forks while signals come all the time. */
#include "attack.h"
#include <sys/resource.h>
#include <time.h>

static void on_flood(int sig)
{
}

static void send_flood(pid_t target)
{
	struct timespec pace = { .tv_nsec = 100000 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!kill(target, SIGRTMIN))
		nanosleep(&pace, NULL);
	_exit(0);
}

int flood(const char *path, size_t vmas, const char *group)
{
	struct sigaction act = { .sa_handler = on_flood, .sa_flags = SA_RESTART };
	struct rlimit few = { 3, 3 };
	int fd = open(path, O_RDWR), status;
	pid_t me = getpid(), sender, pid;
	char *many, *p;
	size_t i;

	CHECK(fd >= 0);
	/* All that a registration in the address space has to lock: every second page is a mapping of its own. */
	many = mmap(NULL, vmas * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(many != MAP_FAILED);
	for (i = 0; i < vmas; i += 2)
		CHECK(!mprotect(many + i * PAGE, PAGE, PROT_READ));
	/* A full queue, so that each signal has its flag set again. */
	setrlimit(RLIMIT_SIGPENDING, &few);
	sigaction(SIGRTMIN, &act, NULL);
	sender = fork();
	CHECK(sender >= 0);
	if (!sender) {
		have_cpu(last_cpu());	/* its receiver has another */
		send_flood(me);
	}
	have_cpu(0);
	if (strcmp(group, "-"))
		join_group(group);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		p = attach(fd, NULL, UNIT, RW);
		CHECK(p != MAP_FAILED);
		printf("attached\n");
		fflush(stdout);
		CHECK(p[0] == 'x');
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			signal(SIGRTMIN, SIG_IGN);
			_exit(p[0] != 'x');
		}
		while (waitpid(pid, &status, 0) < 0)
			CHECK(errno == EINTR);
		CHECK(!status);
		CHECK(!munmap(p, UNIT));
		printf("forked\n");
		fflush(stdout);
	}
}
