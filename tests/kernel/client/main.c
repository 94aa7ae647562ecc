// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What a test must do without Python's own memory traffic in the way.
 *
 *   client fleet FILE N MODE	N processes attach and read every page
 *				(MODE: rw, ro, fork, none); prints figures
 *   client spin FILE OFFSET WHAT	load (read) or store (write) one byte in a
 *				loop without system calls; prints what ended it
 *   client detach FILE HOW	one thread loads in a loop, the other detaches
 *				(munmap, mremap); prints what ended the loop
 *   client signals FILE N	N forks into which a signal comes, from a process
 *				that sends all the time; counts children without
 *				the region, and mmaps that failed with EINTR
 *   client victim FILE ACTION	do ACTION in a loop, to be killed at any time
 *   client races FILE SECONDS	attach, detach, fork and die while others punch,
 *				protect, and look at the page tables
 *   client stress FILE SECONDS SEED PROCS   random operations against a model
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../../../kernel/uapi/linux/msharefs.h"

#define UNIT MSHARE_UNIT
#define PAGE 4096UL
#define CHECK(what) do { if (!(what)) { \
	printf("FAIL %s:%d %s errno=%d\n", __func__, __LINE__, #what, errno); \
	fflush(stdout); _exit(1); } } while (0)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static size_t length_of(int fd)
{
	struct stat st;

	CHECK(!fstat(fd, &st));
	return (st.st_size + UNIT - 1) / UNIT * UNIT;
}

static char *attach(const char *path, int prot, size_t *size)
{
	int fd = open(path, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	struct stat st;
	char *p;

	CHECK(fd >= 0);
	CHECK(!fstat(fd, &st));
	p = mmap(NULL, length_of(fd), prot, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	CHECK(!((uintptr_t)p & (UNIT - 1)));
	close(fd);
	*size = st.st_size;
	return p;
}

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static long page_tables_kb(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "PageTables: %ld kB", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

static unsigned long read_all(const char *p, size_t size)
{
	unsigned long sum = 0;
	size_t i;

	for (i = 0; i < size; i += PAGE)
		sum += *(const volatile unsigned char *)(p + i);
	return sum;
}

static int fleet(const char *path, int n, const char *mode)
{
	int ready[2], go[2], i, prot = strcmp(mode, "ro") ? PROT_READ | PROT_WRITE : PROT_READ;
	int attached = strcmp(mode, "none"), forked = !strcmp(mode, "fork");
	long before, after, worst = 0;
	size_t size = 0;
	char *p = NULL;

	CHECK(!pipe(ready) && !pipe(go));
	if (forked)
		p = attach(path, prot, &size);
	before = page_tables_kb();
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			long faults = 0, first;
			volatile unsigned long sum;
			char byte;

			close(go[1]);
			minor_faults();		/* touch what this itself touches */
			write(ready[1], &faults, 0);
			if (attached) {
				first = minor_faults();
				if (!forked)
					p = attach(path, prot, &size);
				first = minor_faults();
				sum = read_all(p, size);
				faults = minor_faults() - first;
				(void)sum;
			}
			write(ready[1], &faults, sizeof(faults));
			read(go[0], &byte, 1);
			_exit(0);
		}
	}
	for (i = 0; i < n; i++) {
		long faults;

		CHECK(read(ready[0], &faults, sizeof(faults)) == sizeof(faults));
		if (faults > worst)
			worst = faults;
	}
	after = page_tables_kb();
	close(go[1]);
	for (i = 0; i < n; i++) {
		int status;

		CHECK(wait(&status) > 0);
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	}
	printf("pagetables_kb=%ld worst_faults=%ld\n", after - before, worst);
	return 0;
}

/* ---- spin ---- */

static sigjmp_buf escape;
static volatile int last_signal;

static void on_signal(int sig)
{
	last_signal = sig;
	siglongjmp(escape, 1);
}

static void catch_faults(void)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };

	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

/* A context switch or a move to another CPU could hide a missing flush. */
static void have_last_cpu(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &cpus);
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
}

static int spin(const char *path, size_t offset, const char *what)
{
	int writing = !strcmp(what, "write");
	size_t size;
	volatile char *p = attach(path, writing ? PROT_READ | PROT_WRITE : PROT_READ, &size);
	char first;

	have_last_cpu();
	catch_faults();
	first = p[offset];
	printf("ready\n");
	fflush(stdout);
	if (sigsetjmp(escape, 1)) {
		printf("signal %d\n", last_signal);
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
		printf("signal %d\n", last_signal);
		fflush(stdout);
		return NULL;
	}
	p[1] = 1;	/* tells that it is going round */
	for (;;)
		(void)p[0];
}

static int detach(const char *path, const char *how)
{
	char *base = (char *)0x300000000000, *p;
	int fd = open(path, O_RDWR);
	pthread_t thread;

	CHECK(fd >= 0);
	/* The neighbour keeps the tables above, so that the kernel has no reason to flush. */
	CHECK(mmap(base + UNIT, UNIT, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == base + UNIT);
	p = mmap(base, UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
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

/* ---- signals ---- */

static volatile sig_atomic_t caught;

static void on_usr1(int sig)
{
	caught++;
}

/* The kernel has work in fork that gives up when a signal is pending; fork itself does not. */
static int signals(const char *path, int n)
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

		while ((p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
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

/* ---- victim ---- */

static int victim(const char *path, const char *action)
{
	int fd = open(path, O_RDWR);
	size_t len, i = 0;
	char *p;

	CHECK(fd >= 0);
	len = length_of(fd);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	printf("ready\n");
	fflush(stdout);
	for (;; i++) {
		struct mshare_protect request = { .offset = 16 * PAGE, .length = 16 * PAGE,
			.prot = i % 2 ? MSHARE_PROT_READWRITE : MSHARE_PROT_READ };

		if (!strcmp(action, "map")) {
			munmap(p, len);
			p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		} else if (!strcmp(action, "fault")) {
			size_t page = 64 + i % 64;

			p[page * PAGE] = 1;
			if (!(i % 64))
				fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					  64 * PAGE, 64 * PAGE);
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
			static char *places[] = { (char *)0x500000000000, (char *)0x510000000000 };

			p = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, places[i % 2]);
			p[PAGE * 2] = 1;
		} else if (!strcmp(action, "dontneed")) {
			madvise(p, len, MADV_DONTNEED);
			p[PAGE * 2] = 1;
		}
	}
}

/* ---- races ---- */

static void drain(pid_t pid, const char *what, off_t at)
{
	static char buffer[16384];
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/%s", pid, what);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;
	if (at)
		pread(fd, buffer, sizeof(buffer), at);
	else
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
	close(fd);
}

static volatile pid_t *partners;	/* shared: the processes that come and go */

static void *const at = (void *)0x300000000000;

static void come_and_go(int fd, int prot, int die, unsigned int seed)
{
	size_t len = length_of(fd);
	unsigned char vec[64];
	char *p;
	int i;

	p = mmap(at, len, prot, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(p == at);
	if (die && seed % 2)	/* the links of a child are cut in exit, those of its parent in munmap */
		kill(getpid(), SIGKILL);
	for (i = 0; i < 64; i += 7)
		((volatile char *)p)[i * PAGE];
	mincore(p, 64 * PAGE, vec);
	madvise(p, len, seed % 3 ? MADV_DONTNEED : 20 /* COLD */);
	if (!die)
		CHECK(!munmap(p, len));
}

/* One of those below, until the time is over; each is a process of its own. */
static void race(const char *path, int role, struct timespec end)
{
	int fd = open(path, role == 1 ? O_RDONLY : O_RDWR), prot = role == 1 ? PROT_READ : PROT_READ | PROT_WRITE;
	struct mshare_protect request = { .offset = 0, .length = 32 * PAGE };
	struct timespec now;
	unsigned int n;
	pid_t pid;

	CHECK(fd >= 0);
	for (n = 0;; n++) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec >= end.tv_sec)
			_exit(0);
		switch (role) {
		case 0: case 1:		/* map and unmap, writable and read-only */
			come_and_go(fd, prot, 0, n);
			break;
		case 2:			/* attach in children that exit or die */
			pid = fork();
			if (!pid) {
				come_and_go(fd, prot, 1, n);
				_exit(0);
			}
			CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
			break;
		case 3:
			CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 64 * PAGE));
			CHECK(!fallocate(fd, 0, 0, 48 * PAGE));
			break;
		case 4:
			request.prot = n % 2 ? MSHARE_PROT_READWRITE : MSHARE_PROT_READ;
			if (ioctl(fd, MSHARE_IOC_PROTECT, &request))
				_exit(1);
			break;
		case 5:
			drain(partners[n % 2], "smaps", 0);
			drain(partners[n % 2], "pagemap", (uintptr_t)at / PAGE * 8);
			drain(partners[n % 2], "numa_maps", 0);
			break;
		}
	}
}

static int races(const char *path, int seconds)
{
	/* Role 4 makes role 3 fail with EACCES, so they take turns. */
	static const int roles[2][6] = { { 0, 1, 2, 3, 5, 0 }, { 0, 1, 2, 4, 5, 1 } };
	int turn, i, bad = 0, status;
	struct timespec end;
	pid_t pid;

	partners = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(partners != MAP_FAILED);
	for (turn = 0; turn < 2; turn++) {
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += seconds;
		for (i = 0; i < 6; i++) {
			pid = fork();
			CHECK(pid >= 0);
			if (!pid) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				race(path, roles[turn][i], end);
			}
			if (i < 2)
				partners[i] = pid;
		}
		for (i = 0; i < 6; i++) {
			CHECK(wait(&status) > 0);
			if (status) {
				printf("process ended with status %#x\n", status);
				bad = 1;
			}
		}
	}
	return bad;
}

/* ---- stress ---- */

/*
 * Each process owns the pages whose number is its own modulo PROCS, and knows
 * what is in them; the others only read.  Page content: owner, version, at both
 * ends; a page is zeroes after a punch.
 */
struct stamp { uint32_t owner, version; };

static void put_stamp(char *page, uint32_t owner, uint32_t version)
{
	struct stamp s = { owner, version };

	memcpy(page, &s, sizeof(s));
	memcpy(page + PAGE - sizeof(s), &s, sizeof(s));
}

static void check_stamp(const char *page, uint32_t owner, uint32_t version)
{
	struct stamp want = { version ? owner : 0, version }, a, b;

	memcpy(&a, page, sizeof(a));
	memcpy(&b, page + PAGE - sizeof(b), sizeof(b));
	CHECK(!memcmp(&a, &want, sizeof(a)) && !memcmp(&b, &want, sizeof(b)));
}

static void *thread_body(const char *p, size_t pages, unsigned int *seed)
{
	volatile unsigned long sum = 0;
	int i;

	for (i = 0; i < 200; i++)
		sum += *(const volatile char *)(p + rand_r(seed) % pages * PAGE);
	return NULL;
}

static unsigned long stress_one(const char *path, int seconds, unsigned int seed, uint32_t me,
				uint32_t procs)
{
	int fd = open(path, O_RDWR), rofd = open(path, O_RDONLY), op;
	size_t len, pages, mine;
	uint32_t *version, next = 1;
	struct timespec now, end;
	unsigned long n = 0;
	char *p, *r = NULL;
	struct stat st;

	CHECK(fd >= 0 && rofd >= 0 && !fstat(fd, &st));
	len = length_of(fd);
	pages = st.st_size / PAGE;
	mine = pages / procs;
	version = calloc(mine, sizeof(*version));
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	do {
		size_t i = rand_r(&seed) % mine, number = i * procs + me;
		char *page = p + number * PAGE, buffer[PAGE];
		struct mshare_protect request = { number * PAGE, PAGE, MSHARE_PROT_READ, 0 };
		pid_t pid;

		op = rand_r(&seed) % 22;
		switch (op) {
		case 0 ... 4:
			put_stamp(page, me, ++next);
			version[i] = next;
			break;
		case 5 ... 6:
			check_stamp(page, me, version[i]);
			break;
		case 7:
			CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					 number * PAGE, PAGE));
			version[i] = 0;
			check_stamp(page, me, 0);
			break;
		case 8:
			CHECK(!munmap(p, len));
			p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			CHECK(p != MAP_FAILED);
			break;
		case 9:
			pid = fork();
			CHECK(pid >= 0);
			if (!pid) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				check_stamp(page, me, version[i]);
				if (seed % 3 == 0)
					kill(getpid(), SIGKILL);
				_exit(0);
			}
			CHECK(waitpid(pid, NULL, 0) == pid);
			break;
		case 10:
			pid = vfork();
			if (!pid) {
				execl("/bin/true", "true", NULL);
				_exit(127);
			}
			CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
			break;
		case 11:
			CHECK(!madvise(p, len, MADV_DONTNEED));
			check_stamp(page, me, version[i]);
			break;
		case 12:
			madvise(p, len, rand_r(&seed) % 2 ? 20 /* COLD */ : 21 /* PAGEOUT */);
			madvise(p, len, MADV_COLLAPSE);
			break;
		case 13:
			CHECK(!madvise(page, PAGE, MADV_POPULATE_WRITE));
			break;
		case 14:
			request.prot = MSHARE_PROT_READ;
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
			check_stamp(page, me, version[i]);
			CHECK(pwrite(fd, "x", 1, number * PAGE) == -1 && errno == EACCES);
			request.prot = MSHARE_PROT_READWRITE;
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
			break;
		case 15:
			CHECK(pread(fd, buffer, PAGE, number * PAGE) == PAGE);
			check_stamp(buffer, me, version[i]);
			put_stamp(buffer, me, ++next);
			CHECK(pwrite(fd, buffer, PAGE, number * PAGE) == PAGE);
			version[i] = next;
			check_stamp(page, me, next);
			break;
		case 16:
			r = mmap(NULL, len, PROT_READ, MAP_SHARED, rofd, 0);
			CHECK(r != MAP_FAILED);
			check_stamp(r + number * PAGE, me, version[i]);
			CHECK(!munmap(r, len));
			break;
		case 17: {
			void *target = mmap(NULL, len + 2 * UNIT, PROT_NONE,
					    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
			char *to = (char *)(((uintptr_t)target + UNIT - 1) & ~(UNIT - 1));

			CHECK(target != MAP_FAILED);
			r = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
			CHECK(r == to);
			p = r;
			page = p + number * PAGE;
			check_stamp(page, me, version[i]);
			if (to > (char *)target)
				munmap(target, to - (char *)target);
			munmap(to + len, (char *)target + len + 2 * UNIT - to - len);
			break;
		}
		case 18: {
			int refs = open("/proc/self/clear_refs", O_WRONLY);

			CHECK(refs >= 0);
			CHECK(write(refs, rand_r(&seed) % 2 ? "4" : "1", 1) == 1);
			close(refs);
			check_stamp(page, me, version[i]);
			break;
		}
		case 19: {
			struct iovec local = { buffer, PAGE }, remote = { page, PAGE };

			CHECK(process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == PAGE);
			check_stamp(buffer, me, version[i]);
			break;
		}
		case 20:
			mlock(page, PAGE);
			munlock(page, PAGE);
			CHECK(munmap(p, PAGE) == -1 && errno == EINVAL);
			CHECK(mprotect(p, len, PROT_READ) == -1 && errno == EACCES);
			break;
		case 21:
			thread_body(p, pages, &seed);
			break;
		}
		n++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	return n;
}

static int stress(const char *path, int seconds, unsigned int seed, int procs)
{
	unsigned long total = 0, n;
	int result[2], i, bad = 0;

	CHECK(!pipe(result));
	for (i = 0; i < procs; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			n = stress_one(path, seconds, seed + i * 7919, i, procs);
			write(result[1], &n, sizeof(n));
			_exit(0);
		}
	}
	for (i = 0; i < procs; i++) {
		int status;

		CHECK(wait(&status) > 0);
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			printf("process ended with status %#x\n", status);
			bad = 1;
		} else {
			read(result[0], &n, sizeof(n));
			total += n;
		}
	}
	printf("operations=%lu\n", total);
	return bad;
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "fleet"))
		return fleet(argv[2], atoi(argv[3]), argv[4]);
	if (argc == 5 && !strcmp(argv[1], "spin"))
		return spin(argv[2], strtoul(argv[3], NULL, 0), argv[4]);
	if (argc == 4 && !strcmp(argv[1], "detach"))
		return detach(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "signals"))
		return signals(argv[2], atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "victim"))
		return victim(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "races"))
		return races(argv[2], atoi(argv[3]));
	if (argc == 6 && !strcmp(argv[1], "stress"))
		return stress(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	fprintf(stderr, "see the comment at the top of client/main.c\n");
	return 2;
}
