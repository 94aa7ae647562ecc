// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Loads and stores without system calls, while something changes the page that they touch. */
#include "client.h"
#include <pthread.h>
#include <sched.h>

/* A context switch or a move to another CPU could hide a missing flush. */
static void have_last_cpu(void)
{
	have_cpu(last_cpu());
}

int spin(const char *path, size_t offset, const char *what)
{
	int writing = !strcmp(what, "write");
	size_t size;
	volatile char *p = attach(path, writing ? RW : PROT_READ, &size);
	char first;

	have_last_cpu();
	catch_faults();
	first = p[offset];
	printf("ready\n");
	fflush(stdout);
	if (sigsetjmp(escape, 1)) {
		printf("signal %d\n", last_fault.si_signo);
		return 0;
	}
	if (writing)
		for (;;)
			p[offset] = first;
	while (p[offset] == first)
		;
	printf("value %d\n", p[offset]);
	return 0;
}

static void *spin_thread(void *arg)
{
	volatile char *p = arg;

	have_last_cpu();
	if (sigsetjmp(escape, 1)) {
		printf("signal %d\n", last_fault.si_signo);
		fflush(stdout);
		return NULL;
	}
	p[1] = 1;	/* tells that it is going round */
	for (;;)
		(void)p[0];
}

int detach(const char *path, const char *how)
{
	char *base = (char *)0x300000000000, *p;
	int fd = open(path, O_RDWR);
	pthread_t thread;

	CHECK(fd >= 0);
	/* The neighbour keeps the tables above, so that the kernel has no reason to flush. */
	CHECK(mmap(base + UNIT, UNIT, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == base + UNIT);
	p = mmap(base, UNIT, RW, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(p == base);
	catch_faults();
	CHECK(!pthread_create(&thread, NULL, spin_thread, p));
	while (!((volatile char *)p)[1])
		sched_yield();
	if (!strcmp(how, "munmap"))
		CHECK(!munmap(p, UNIT));
	else
		CHECK(mremap(p, UNIT, UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, base + 2 * UNIT) ==
		      base + 2 * UNIT);
	CHECK(!pthread_join(thread, NULL));
	return 0;
}
