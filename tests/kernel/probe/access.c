// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Single accesses: by the program itself, and by a worker thread of io_uring. */
#include "probe.h"
#include <linux/io_uring.h>
#include <sys/syscall.h>

int touch(const char *path, const char *mode)
{
	int writable = !strcmp(mode, "rw");
	int fd = open(path, writable ? O_RDWR : O_RDONLY);
	unsigned long page;
	volatile char *p;
	char how;

	CHECK(fd >= 0);
	p = attach(fd, writable ? PROT_READ | PROT_WRITE : PROT_READ);
	catch_faults();
	printf("ready\n");
	fflush(stdout);
	while (scanf(" %c %lu", &how, &page) == 2) {
		if (sigsetjmp(escape, 1)) {
			printf("signal %d code %d page %ld\n", last_fault.si_signo, last_fault.si_code,
			       (long)((char *)last_fault.si_addr - (char *)p) / (long)PAGE);
		} else if (how == 'r') {
			printf("value %d\n", (unsigned char)p[page * PAGE]);
		} else {
			p[page * PAGE] = 'w';
			printf("stored\n");
		}
		fflush(stdout);
	}
	return 0;
}

int worker(const char *path, const char *source, unsigned long page)
{
	struct io_uring_params params = { 0 };
	int fd = open(path, O_RDWR), from = open(source, O_RDONLY), ring;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqe;
	char *p, *queues;

	CHECK(fd >= 0 && from >= 0);
	p = attach(fd, PROT_READ | PROT_WRITE);
	ring = syscall(SYS_io_uring_setup, 1, &params);
	CHECK(ring >= 0);
	CHECK(params.features & IORING_FEAT_SINGLE_MMAP);
	queues = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	CHECK(queues != MAP_FAILED && sqes != MAP_FAILED);
	sqes[0] = (struct io_uring_sqe){
		.opcode = IORING_OP_READ, .flags = IOSQE_ASYNC, .fd = from,
		.addr = (uintptr_t)(p + page * PAGE), .len = PAGE,
	};
	((unsigned int *)(queues + params.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned int *)(queues + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	cqe = (struct io_uring_cqe *)(queues + params.cq_off.cqes);
	printf("result=%d byte=%d\n", cqe->res, (unsigned char)p[page * PAGE]);
	return 0;
}
