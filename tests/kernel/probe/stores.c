// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Stores through /proc/self/mem while a region is sealed. */
#include "probe.h"
#include <pthread.h>

static char *volatile target;		/* where to store, NULL: nowhere */
static volatile int storing, finished;

static void *store_through_mem(void *unused)
{
	static char pages[2][PAGE];
	int mem = open("/proc/self/mem", O_RDWR);
	unsigned int n = 0;
	char *at;

	CHECK(mem >= 0);
	have_cpu(last_cpu());
	memset(pages[1], 1, PAGE);
	while (!finished) {
		at = target;
		if (!at) {
			storing = 0;
			continue;
		}
		storing = 1;
		if (pwrite(mem, pages[n++ % 2], PAGE, (uintptr_t)at) < 0)
			target = NULL;		/* sealed */
	}
	return NULL;
}

int stores(const char *path, int seconds)
{
	double end = now() + seconds;
	int regions = 0, busy = 0, changed = 0;
	static char seen[PAGE];
	pthread_t thread;
	char name[128];

	CHECK(!pthread_create(&thread, NULL, store_through_mem, NULL));
	have_cpu(0);
	for (; now() < end; regions++) {
		double limit = now() + 60;
		char *p;
		int fd;

		snprintf(name, sizeof(name), "%s.%d", path, regions);
		fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		CHECK(fd >= 0);
		CHECK(!fallocate(fd, 0, 0, PAGE));
		p = attach(fd, PROT_READ | PROT_WRITE);
		target = p;
		while (!storing)
			CHECK(now() < limit);
		while (ioctl(fd, MSHARE_IOC_SEAL)) {
			CHECK(errno == EBUSY && now() < limit);
			busy++;
		}
		memcpy(seen, p, PAGE);
		while (storing)		/* until it was told that this is over */
			CHECK(now() < limit);
		changed += !!memcmp(seen, p, PAGE);
		CHECK(!munmap(p, UNIT) && !close(fd) && !unlink(name));
	}
	finished = 1;
	CHECK(!pthread_join(thread, NULL));
	printf("regions=%d busy=%d changed=%d\n", regions, busy, changed);
	return 0;
}
