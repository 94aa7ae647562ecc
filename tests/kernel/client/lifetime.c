// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Signals that come into a fork, and processes that are killed at any time. */
#include "client.h"

static volatile sig_atomic_t caught;

static void on_usr1(int sig)
{
	caught++;
}

/* The kernel has work in fork that gives up when a signal is pending; fork itself does not. */
int signals(const char *path, int n)
{
	struct sigaction act = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	pid_t parent = getpid(), sender;
	int fd = open(path, O_RDWR), lost = 0, refused = 0, during = 0, before, status;
	size_t len;
	char *p;

	CHECK(fd >= 0);
	len = length_of(fd);
	sigaction(SIGUSR1, &act, NULL);
	sender = fork();
	CHECK(sender >= 0);
	if (!sender) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!kill(parent, SIGUSR1))
			;
		_exit(0);
	}
	while (during < n) {	/* forks that a signal came into */
		pid_t pid;

		while ((p = mmap(NULL, len, RW, MAP_SHARED, fd, 0)) == MAP_FAILED) {
			CHECK(errno == EINTR);
			refused++;
		}
		before = caught;
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			signal(SIGUSR1, SIG_IGN);
			_exit(p[0] != 'x');
		}
		during += caught != before;
		while (waitpid(pid, &status, 0) < 0)
			CHECK(errno == EINTR);
		lost += !WIFEXITED(status) || WEXITSTATUS(status);
		CHECK(!munmap(p, len));
	}
	kill(sender, SIGKILL);
	while (waitpid(sender, NULL, 0) < 0)
		CHECK(errno == EINTR);
	printf("lost=%d refused=%d\n", lost, refused);
	return 0;
}

int victim(const char *path, const char *action)
{
	int fd = open(path, O_RDWR);
	size_t len, i = 0;
	char *p;

	CHECK(fd >= 0);
	len = length_of(fd);
	p = mmap(NULL, len, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	printf("ready\n");
	fflush(stdout);
	for (;; i++) {
		struct mshare_protect request = { .offset = 16 * PAGE, .length = 16 * PAGE,
			.prot = i % 2 ? MSHARE_PROT_READWRITE : MSHARE_PROT_READ };

		if (!strcmp(action, "map")) {
			munmap(p, len);
			p = mmap(NULL, len, RW, MAP_SHARED, fd, 0);
		} else if (!strcmp(action, "fault")) {
			size_t page = 64 + i % 64;

			p[page * PAGE] = 1;
			if (!(i % 64))
				fallocate(fd, PUNCH, 64 * PAGE, 64 * PAGE);
		} else if (!strcmp(action, "fork")) {
			pid_t pid = fork();

			if (!pid) {
				p[PAGE * 2] = 1;
				_exit(0);
			}
			waitpid(pid, NULL, 0);
		} else if (!strcmp(action, "protect")) {
			ioctl(fd, MSHARE_IOC_PROTECT, &request);
		} else if (!strcmp(action, "mremap")) {
			static char *const places[] = { (char *)0x500000000000, (char *)0x510000000000 };

			p = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, places[i % 2]);
			p[PAGE * 2] = 1;
		} else if (!strcmp(action, "dontneed")) {
			madvise(p, len, MADV_DONTNEED);
			p[PAGE * 2] = 1;
		}
	}
}
