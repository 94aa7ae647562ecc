// SPDX-License-Identifier: MIT
/*
 * The costs of the kernel module, in instructions.  costs.py runs this program in a guest whose clocks
 * count instructions.
 *
 *	costs counts		everything but interrupts; one virtual CPU, QEMU with -icount shift=0
 *	costs interrupts	interrupts that CPU 1 takes from CPU 0; two virtual CPUs
 *
 * A line on standard output is one figure: "GROUP <tab> CASE <tab> MECHANISM <tab> NUMBER". The same three
 * names come once for each round. The program ends at the first call that fails, and says which.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/msharefs.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "counting.h"

#define DIRECTORY "/sys/fs/mshare"
#define PAGE 4096UL
#define MIB (1UL << 20)
#define GIB (1UL << 30)
#define SMALL (16 * MIB)
#define FURTHER 200 /* mappings of a process that is not small */

static const int rounds = 5;

static void report(const char *group, const char *what, const char *mechanism, double number)
{
	printf("%s\t%s\t%s\t%.3f\n", group, what, mechanism, number);
	fflush(stdout);
}

/* ---- the mechanisms ---- */

enum kind { NOTHING, MEMFD, REGION };
static const char *const kinds[] = { "nothing", "memfd", "region" };

static int make_file(enum kind kind)
{
	char path[64];
	int fd;

	if (kind == MEMFD)
		return CHECK(memfd_create("costs", 0));
	snprintf(path, sizeof(path), DIRECTORY "/costs-%d", getpid());
	fd = CHECK(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
	CHECK(unlink(path));
	return fd;
}

static char *map(int fd, size_t bytes)
{
	return (char *)CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

/* Read a byte of each step; a read and a write cost a region the same. */
static void touch(volatile char *from, size_t bytes, size_t step)
{
	for (size_t at = 0; at < bytes; at += step)
		(void)from[at];
}

/* Map so much, with pages in its first `reserved` bytes, or one page each `step` bytes. */
static char *make(enum kind kind, size_t bytes, size_t reserved, size_t step, int *file)
{
	int fd = make_file(kind);
	char *at;

	CHECK(ftruncate(fd, bytes));
	if (!step)
		CHECK(fallocate(fd, 0, 0, reserved));
	at = map(fd, bytes);
	for (size_t offset = 0; offset < reserved; offset += step ?: PAGE)
		at[offset] = 1;
	if (file)
		*file = fd;
	else
		close(fd);
	return at;
}

/* ---- the cost of a child ---- */

enum child { EXITS, TOUCHES, EXECUTES, CHILDREN };
static const char *const children[] = { "exit", "touch and exit", "exec" };

static void child_once(enum child child, volatile char *at)
{
	pid_t pid = fork();

	if (!pid) {
		if (child == TOUCHES)
			*at = 1;
		if (child == EXECUTES)
			execl("/proc/self/exe", "costs", "exit", NULL);
		_exit(child == EXECUTES);
	}
	CHECK(pid);
	int status;
	CHECK(waitpid(pid, &status, 0));
	if (status)
		exit(1);
}

static void measure_children(const char *mechanism, int further, volatile char *at)
{
	const int times = 20;
	char what[64];

	for (int i = 0; i < further; i++) /* of two kinds, or the kernel would merge them */
		CHECK(mmap(NULL, PAGE, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (enum child child = EXITS; child < CHILDREN; child++) {
		if (child == TOUCHES && !at)
			continue;
		for (int i = 0; i < 5; i++)
			child_once(child, at);
		uint64_t before = count();
		for (int i = 0; i < times; i++)
			child_once(child, at);
		uint64_t after = count();
		snprintf(what, sizeof(what), "%s%s", children[child], further ? ", 200 further mappings" : "");
		report("fork", what, mechanism, (double)(after - before) / times);
	}
}

static void forks(void)
{
	for (int further = 0; further <= FURTHER; further += FURTHER) {
		IN_CHILD(measure_children("nothing", further, NULL));
		IN_CHILD(measure_children("memfd", further, make(MEMFD, GIB, SMALL, 0, NULL)));
		IN_CHILD(measure_children("region", further, make(REGION, GIB, SMALL, 0, NULL)));
		IN_CHILD(measure_children("memfd, 64 GiB sparse", further, make(MEMFD, 64 * GIB, 64 * GIB, GIB, NULL)));
		IN_CHILD(measure_children("region, 64 GiB sparse", further, make(REGION, 64 * GIB, 64 * GIB, GIB, NULL)));
	}
}

/* ---- MADV_DONTNEED in an attachment ---- */

static int compare(const void *one, const void *other)
{
	const uint64_t *a = one, *b = other;

	return (*a > *b) - (*a < *b);
}

/* The median leaves out the kernel's work for others in the meantime, as in the timer's interrupt. */
static uint64_t middle_of(uint64_t *numbers, size_t length)
{
	qsort(numbers, length, sizeof(*numbers), compare);
	return numbers[length / 2];
}

/*
 * Have the processor forget the translations of this process. A table may go
 * out of sight while translations stay, and the next touch is then no fault.
 */
static void forget_translations(void)
{
	const size_t bytes = 64 * PAGE; /* for more than 33 pages the kernel flushes everything */
	char *pages = (char *)CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));

	CHECK(munmap(pages, bytes));
}

static void measure_dontneed(enum kind kind, size_t units)
{
	enum { TIMES = 21 };
	char what[64];
	volatile char *at = make(kind, units * GIB, PAGE, GIB, NULL);
	uint64_t advice[TIMES], fault[TIMES];

	for (int i = -2; i < TIMES; i++) {
		int n = i < 0 ? 0 : i; /* two to warm up */
		uint64_t start = count();
		CHECK(madvise((void *)at, PAGE, MADV_DONTNEED));
		advice[n] = count() - start;
		forget_translations();
		start = count();
		*at;
		fault[n] = count() - start;
	}
	snprintf(what, sizeof(what), "of a page in %zu GiB", units);
	report("dontneed", what, kinds[kind], middle_of(advice, TIMES));
	snprintf(what, sizeof(what), "touch after, %zu GiB", units);
	report("dontneed", what, kinds[kind], middle_of(fault, TIMES));
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* All existing pages are touched first.  One page is then dropped, and all are touched again. */
static void measure_faults(enum kind kind)
{
	const size_t units = 64, mine = 5, further = GIB / 2;
	volatile char *at = make(kind, units * GIB, units * GIB, GIB, NULL);

	for (size_t i = 0; i < units; i++)
		at[i * GIB + further] = 1;
	touch(at, units * GIB, GIB / 2);
	touch(at, units * GIB, GIB / 2);
	CHECK(madvise((void *)(at + mine * GIB), PAGE, MADV_DONTNEED));
	forget_translations();
	long start = faults();
	touch(at + mine * GIB, GIB, GIB / 2);
	long middle = faults();
	touch(at, units * GIB, GIB / 2);
	long end = faults();
	report("faults", "in the unit of the page", kinds[kind], middle - start);
	report("faults", "in 63 other units", kinds[kind], end - middle);
}

static void dontneeds(void)
{
	static const size_t units[] = { 1, 16, 256, 4096, 16384 };

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
		for (enum kind kind = MEMFD; kind <= REGION; kind++)
			IN_CHILD(measure_dontneed(kind, units[i]));
	for (enum kind kind = MEMFD; kind <= REGION; kind++)
		IN_CHILD(measure_faults(kind));
}

/* ---- MADV_DONTNEED of private memory ---- */

static void measure_private(enum kind kind, int attachments)
{
	enum { TIMES = 201 };
	char what[64];
	volatile char *own = (volatile char *)CHECK(
		mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint64_t numbers[TIMES];

	if (attachments) {
		int fd;
		make(kind, GIB, PAGE, 0, &fd);
		for (int i = 1; i < attachments; i++)
			map(fd, GIB);
	}
	for (int i = -5; i < TIMES; i++) {
		*own = 1;
		uint64_t start = count();
		CHECK(madvise((void *)own, PAGE, MADV_DONTNEED));
		numbers[i < 0 ? 0 : i] = count() - start;
	}
	snprintf(what, sizeof(what), "%d attachments", attachments);
	report("private", what, kinds[kind], middle_of(numbers, TIMES));
}

static void privates(void)
{
	static const int attachments[] = { 0, 1, 1000 };

	for (size_t i = 0; i < sizeof(attachments) / sizeof(*attachments); i++)
		for (enum kind kind = MEMFD; kind <= REGION; kind++)
			IN_CHILD(measure_private(kind, attachments[i]));
}

/* ---- mmap and munmap ---- */

static void measure_attach(enum kind kind, int fd, const char *name, size_t bytes, size_t step)
{
	char what[64];

	for (int touches = 0; touches <= 1; touches++) {
		const int times = touches ? 1 : 10;
		uint64_t sum = 0;

		for (int i = -1; i < times; i++) {
			uint64_t start = count();
			char *at = map(fd, bytes);
			if (touches)
				touch(at, bytes, step);
			CHECK(munmap(at, bytes));
			uint64_t end = count();
			if (i >= 0)
				sum += end - start;
		}
		snprintf(what, sizeof(what), "%s%s", name, touches ? ", all pages touched" : "");
		report("attach", what, kinds[kind], (double)sum / times);
	}
}

static void attaches(void)
{
	static const struct { const char *name; size_t bytes, reserved, step; } cases[] = {
		{ "1 GiB, all pages there", GIB, GIB, PAGE },
		{ "300 GiB, one page per GiB", 300 * GIB, 300 * GIB, GIB },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		for (enum kind kind = MEMFD; kind <= REGION; kind++) {
			int fd;
			size_t bytes = cases[i].bytes, step = cases[i].step;
			char *at = make(kind, bytes, cases[i].reserved, step == PAGE ? 0 : step, &fd);

			CHECK(munmap(at, bytes));
			for (int round = 0; round < rounds; round++)
				measure_attach(kind, fd, cases[i].name, bytes, step);
			close(fd);
		}
}

/* ---- MSHARE_IOC_INFO and MSHARE_IOC_PIDS ---- */

static void measure_info(int attachments)
{
	const int times = 50;
	struct mshare_info info;
	char what[64];
	int fd;

	make(REGION, GIB, PAGE, 0, &fd);
	for (int i = 1; i < attachments; i++)
		map(fd, GIB);
	CHECK(ioctl(fd, MSHARE_IOC_INFO, &info));
	if ((int)info.attachments != attachments)
		exit(1);
	uint64_t start = count();
	for (int i = 0; i < times; i++)
		CHECK(ioctl(fd, MSHARE_IOC_INFO, &info));
	uint64_t end = count();
	snprintf(what, sizeof(what), "INFO, %d attachments", attachments);
	report("ioctl", what, "region", (double)(end - start) / times);
}

static void measure_pids(int processes)
{
	const int times = 50;
	int32_t pid;
	struct mshare_pids pids = { .pids = (uintptr_t)&pid, .capacity = 1 };
	int fd, live[2];
	char what[64], byte;

	make(REGION, GIB, PAGE, 0, &fd);
	CHECK(pipe(live));
	for (int i = 1; i < processes; i++)
		if (!CHECK(fork())) { /* lives until the writing end is closed */
			close(live[1]);
			_exit(read(live[0], &byte, 1) != 0);
		}
	CHECK(ioctl(fd, MSHARE_IOC_PIDS, &pids));
	if ((int)pids.count != processes)
		exit(1);
	uint64_t start = count();
	for (int i = 0; i < times; i++)
		CHECK(ioctl(fd, MSHARE_IOC_PIDS, &pids));
	uint64_t end = count();
	snprintf(what, sizeof(what), "PIDS, capacity 1, %d processes", processes);
	report("ioctl", what, "region", (double)(end - start) / times);
	close(live[1]);
	for (int i = 1; i < processes; i++)
		CHECK(wait(NULL));
}

static void ioctls(void)
{
	static const int numbers[] = { 1, 100, 1000 };

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		IN_CHILD(measure_info(numbers[i]));
		IN_CHILD(measure_pids(numbers[i]));
	}
}

/* A loop of two million instructions, whose figure shows that the clock counts instructions. */
static void calibrate(void)
{
	unsigned long left = 1000000;
	uint64_t start = count();

	asm volatile("1: dec %0\n\tjnz 1b" : "+r"(left) : : "cc");
	report("check", "a loop of 2,000,000 instructions", "nothing", count() - start);
}

/* ---- interrupts ---- */

enum load { IDLE, STRANGER, ATTACHED, LOADS };
static const char *const loads[] = { "idle", "stranger", "attached" };

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(sched_setaffinity(0, sizeof(set), &set));
}

/* Interrupts of a kind that CPU 1 has taken. */
static unsigned long interrupts(const char *row)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[512], name[16];
	unsigned long first, second = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " %15[^:]: %lu %lu", name, &first, &second) == 3 && !strcmp(name, row)) {
			fclose(file);
			return second;
		}
	fprintf(stderr, "no row %s in /proc/interrupts\n", row);
	exit(1);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void protect_and_back(int fd, int times)
{
	struct mshare_protect protect = { .length = PAGE };

	for (int i = 0; i < 2 * times; i++) {
		protect.prot = i & 1 ? MSHARE_PROT_READWRITE : MSHARE_PROT_READ;
		CHECK(ioctl(fd, MSHARE_IOC_PROTECT, &protect));
	}
}

/* Calls that disturb nobody, for so many seconds. */
static void ask(int fd, double length)
{
	struct mshare_info info;

	for (double end = seconds() + length; seconds() < end;)
		CHECK(ioctl(fd, MSHARE_IOC_INFO, &info));
}

struct taken {
	unsigned long cal, tlb;
	uint64_t work;
};

static void take(struct taken *sum, const volatile uint64_t *work, int sign)
{
	sum->cal += sign * interrupts("CAL");
	sum->tlb += sign * interrupts("TLB");
	sum->work += sign * *work;
}

/*
 * The loop takes turns with an equal time without the loop.  The host's other work then meets both
 * alike.
 */
static void measure_interrupts(enum load load)
{
	const int turns = 20, times = 1000 / turns;
	volatile uint64_t *work = (volatile uint64_t *)CHECK(
		mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	struct taken with = { 0 }, without = { 0 };
	int fd = make_file(REGION);
	volatile char *at;
	pid_t pid = 0;

	CHECK(ftruncate(fd, GIB));
	CHECK(fallocate(fd, 0, 0, SMALL));
	if (load != IDLE) {
		pid = CHECK(fork());
		if (!pid) {
			pin(1);
			at = load == ATTACHED ? map(fd, GIB) : (char *)work;
			for (;;) {
				(void)at[PAGE];
				++*work;
			}
		}
	}
	map(fd, GIB);
	for (uint64_t seen = *work; pid && *work < seen + 1000;)
		;
	protect_and_back(fd, 10);
	for (int turn = 0; turn < turns; turn++) {
		take(&with, work, -1);
		double start = seconds();
		protect_and_back(fd, times);
		double length = seconds() - start;
		take(&with, work, 1);
		take(&without, work, -1);
		ask(fd, length);
		take(&without, work, 1);
	}
	report("interrupts", "CAL, 1,000 x (protect, unprotect)", loads[load], with.cal);
	report("interrupts", "CAL, without", loads[load], without.cal);
	report("interrupts", "TLB, 1,000 x (protect, unprotect)", loads[load], with.tlb);
	report("interrupts", "TLB, without", loads[load], without.tlb);
	if (pid) {
		report("interrupts", "work done, percent of that without", loads[load],
		       100.0 * with.work / without.work);
		CHECK(kill(pid, 9));
		CHECK(waitpid(pid, NULL, 0));
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "exit"))
		_exit(0);
	if (!strcmp(what, "interrupts")) {
		pin(0); /* before the first fork: CPU 1 never runs what is attached */
		for (int round = 0; round < rounds; round++)
			for (enum load load = IDLE; load < LOADS; load++)
				IN_CHILD(measure_interrupts(load));
		return 0;
	}
	if (!strcmp(what, "fork") || !strcmp(what, "counts"))
		for (int round = 0; round < rounds; round++)
			forks();
	if (strcmp(what, "counts"))
		return strcmp(what, "fork") != 0;
	for (int round = 0; round < rounds; round++) {
		calibrate();
		dontneeds();
		privates();
		ioctls();
	}
	attaches();
	return 0;
}
