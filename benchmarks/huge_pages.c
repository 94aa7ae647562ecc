// SPDX-License-Identifier: MIT
/*
 * What pages of 2 MiB save in a region, in instructions, faults and bytes.
 * huge_pages.py runs this program in a guest whose clock counts instructions.
 *
 * A line on standard output is one figure: "CASE <tab> MECHANISM <tab> NUMBER",
 * once for each round.  The program ends at the first call that fails.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/msharefs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "counting.h"

#define PAGE 4096UL
#define MIB (1UL << 20)
#define GIB (1UL << 30)
#define POOL "/proc/sys/vm/nr_hugepages"

static const int rounds = 3;

enum kind { MEMFD, HUGETLB, SINGLE, HUGE };
static const char *const kinds[] = { "memfd", "hugetlb", "region, 4 KiB", "region, 2 MiB" };

static void report_as(const char *what, const char *mechanism, double number)
{
	printf("%s\t%s\t%.1f\n", what, mechanism, number);
	fflush(stdout);
}

static void report(const char *what, enum kind kind, double number)
{
	report_as(what, kinds[kind], number);
}

static void set_pool(int pages)
{
	FILE *file = fopen(POOL, "w");

	if (!file || fprintf(file, "%d", pages) < 0 || fclose(file)) {
		perror(POOL);
		exit(1);
	}
}

static int make_file(enum kind kind)
{
	__u32 huge = kind == HUGE;
	int fd;

	if (kind == MEMFD)
		return CHECK(memfd_create("memfd", 0));
	if (kind == HUGETLB)
		return CHECK(memfd_create("hugetlb", MFD_HUGETLB | MFD_HUGE_2MB));
	fd = CHECK(open("/sys/fs/mshare", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
	CHECK(ioctl(fd, MSHARE_IOC_HUGE, &huge));
	return fd;
}

static char *map(int fd, size_t bytes)
{
	return (char *)CHECK(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

static void touch(volatile char *from, size_t bytes, size_t step)
{
	for (size_t at = 0; at < bytes; at += step)
		from[at] = 1;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static uint64_t table_bytes(int fd)
{
	struct mshare_info info;

	CHECK(ioctl(fd, MSHARE_IOC_INFO, &info));
	return info.table_bytes;
}

static void reserve(enum kind kind)
{
	const size_t bytes = 512 * MIB;
	int fd = make_file(kind);
	uint64_t start;

	CHECK(ftruncate(fd, bytes));
	start = count();
	if (kind == HUGETLB)
		set_pool(bytes / (2 * MIB));
	CHECK(fallocate(fd, 0, 0, bytes));
	report("fallocate of 512 MiB", kind, count() - start);
	close(fd);
	if (kind == HUGETLB)
		set_pool(0);
}

static void first_touch(enum kind kind)
{
	int fd = make_file(kind);
	uint64_t start, end;
	long before, taken;
	char *at;

	CHECK(ftruncate(fd, GIB));
	at = map(fd, GIB);
	before = faults();
	start = count();
	touch(at, GIB, PAGE);
	end = count();
	taken = faults() - before; /* before the first report, which takes faults of its own */
	report("first touch of 1 GiB", kind, end - start);
	report("faults of the first touch of 1 GiB", kind, taken);
	if (kind != MEMFD)
		report("bytes of tables of 1 GiB", kind, table_bytes(fd));
	IN_CHILD(
		long mine = faults();
		touch(map(fd, GIB), GIB, PAGE);
		report("faults of a further process", kind, faults() - mine));
	IN_CHILD(
		long mine = faults();
		touch(at, GIB, PAGE);
		report("faults of a forked child", kind, faults() - mine));
	close(fd);
}

static void attach(int fd, enum kind kind, const char *what, size_t bytes, int touches)
{
	const int times = touches ? 1 : 10;
	uint64_t start, sum = 0;

	for (int i = -1; i < times; i++) {
		char *at;

		start = count();
		at = map(fd, bytes);
		if (touches)
			touch(at, bytes, PAGE);
		CHECK(munmap(at, bytes));
		if (i >= 0)
			sum += count() - start;
	}
	report(what, kind, (double)sum / times);
}

static void attaches(enum kind kind)
{
	int fd = make_file(kind);

	CHECK(fallocate(fd, 0, 0, GIB));
	munmap(map(fd, GIB), GIB);
	for (int round = 0; round < rounds; round++) {
		attach(fd, kind, "mmap and munmap of 1 GiB, all pages there", GIB, 0);
		if (kind == MEMFD)
			attach(fd, kind, "mmap, touch and munmap of 1 GiB", GIB, 1);
	}
	close(fd);
}

/* One page, or block, per GiB. */
static void sparse(void)
{
	const size_t bytes = 300 * GIB;
	int fd = make_file(HUGE);
	char *at;

	CHECK(ftruncate(fd, bytes));
	at = map(fd, bytes);
	touch(at, bytes, GIB);
	report("bytes of tables of 300 GiB, touched once per GiB", HUGE, table_bytes(fd));
	CHECK(munmap(at, bytes));
	for (int round = 0; round < rounds; round++)
		attach(fd, HUGE, "mmap and munmap of 300 GiB, touched once per GiB", bytes, 0);
	close(fd);
}

static void forks(int attached)
{
	const int times = 20;
	uint64_t start = 0;
	int status;

	if (attached) {
		int fd = make_file(HUGE);

		CHECK(fallocate(fd, 0, 0, GIB));
		touch(map(fd, GIB), GIB, PAGE);
	}
	for (int i = -3; i < times; i++) {
		pid_t pid;

		if (!i)
			start = count();
		pid = CHECK(fork());
		if (!pid)
			_exit(0);
		CHECK(waitpid(pid, &status, 0));
	}
	report_as("fork and exit", attached ? kinds[HUGE] : "nothing", (double)(count() - start) / times);
}

static int compare(const void *one, const void *other)
{
	const uint64_t *a = one, *b = other;

	return (*a > *b) - (*a < *b);
}

static void dontneed(size_t bytes, const char *what)
{
	enum { TIMES = 21 };
	uint64_t numbers[TIMES];
	int fd = make_file(HUGE);
	volatile char *at;

	CHECK(ftruncate(fd, bytes));
	at = map(fd, bytes);
	for (int i = -2; i < TIMES; i++) {
		uint64_t start;

		*at = 1;
		start = count();
		CHECK(madvise((void *)at, PAGE, MADV_DONTNEED));
		numbers[i < 0 ? 0 : i] = count() - start;
	}
	qsort(numbers, TIMES, sizeof(*numbers), compare);
	report(what, HUGE, numbers[TIMES / 2]);
	close(fd);
}

int main(void)
{
	for (int round = 0; round < rounds; round++) {
		for (enum kind kind = MEMFD; kind <= HUGE; kind++)
			IN_CHILD(reserve(kind));
		for (enum kind kind = MEMFD; kind <= HUGE; kind++)
			if (kind != HUGETLB)
				IN_CHILD(first_touch(kind));
		IN_CHILD(forks(0));
		IN_CHILD(forks(1));
		IN_CHILD(dontneed(GIB, "MADV_DONTNEED of a page of 1 GiB"));
		IN_CHILD(dontneed(1024 * GIB, "MADV_DONTNEED of a page of 1 TiB"));
	}
	for (enum kind kind = MEMFD; kind <= HUGE; kind++)
		if (kind != HUGETLB)
			IN_CHILD(attaches(kind));
	IN_CHILD(sparse());
	return 0;
}
