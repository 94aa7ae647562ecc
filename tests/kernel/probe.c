// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Helper of test_seal, test_poison and test_walkers: what needs threads at
 * exact places, or the details of a signal.
 *
 *   probe queued FILE OPERATION	hold the inode lock, queue a SEAL and behind
 *				it OPERATION, let the lock go; prints both results
 *   probe stores FILE SECONDS	stores through /proc/self/mem while a SEAL runs,
 *				on one file of FILE.0, FILE.1, ... after another
 *   probe touch FILE MODE	attach (rw or ro), then for each line "r PAGE" or
 *				"w PAGE" of the input print what the access did
 *   probe worker FILE SOURCE PAGE	let a worker thread of io_uring read SOURCE
 *				into a page of the region
 *   probe walk FILE SECONDS	everybody reads everybody's tables and takes pages
 *				of each other, while pages come and go
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../../kernel/uapi/linux/msharefs.h"

#define UNIT MSHARE_UNIT
#define PAGE 4096UL
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define CHECK(what) do { if (!(what)) { \
	printf("FAIL %s:%d %s errno=%d\n", __func__, __LINE__, #what, errno); \
	fflush(stdout); _exit(1); } } while (0)

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static char *attach(int fd, int prot)
{
	char *p = mmap(NULL, UNIT, prot, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static void have_cpu(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
}

static int last_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) - 1;
}

/* ---- queued ---- */

struct operation {
	const char *name;
	int fd;
	int late;		/* on the last CPU, which is kept busy */
	volatile pid_t tid;
	volatile int done;
	int result;
};

static volatile int hogging;

static void *hog(void *unused)
{
	struct sched_param param = { .sched_priority = 1 };

	have_cpu(last_cpu());
	CHECK(!sched_setscheduler(0, SCHED_FIFO, &param));
	hogging = 2;		/* it runs */
	while (hogging)
		;
	return NULL;
}

static int operate(int fd, const char *name)
{
	struct mshare_protect request = { .length = PAGE };
	__u64 base = 0x300000000000;
	int failed;

	if (!strcmp(name, "seal"))
		failed = ioctl(fd, MSHARE_IOC_SEAL);
	else if (!strcmp(name, "none") || !strcmp(name, "readwrite")) {
		request.prot = strcmp(name, "none") ? MSHARE_PROT_READWRITE : MSHARE_PROT_NONE;
		failed = ioctl(fd, MSHARE_IOC_PROTECT, &request);
	} else if (!strcmp(name, "base"))
		failed = ioctl(fd, MSHARE_IOC_SET_BASE, &base);
	else if (!strcmp(name, "write"))
		failed = pwrite(fd, "x", 1, 0) != 1;
	else if (!strcmp(name, "punch"))
		failed = fallocate(fd, PUNCH, 0, PAGE);
	else if (!strcmp(name, "reserve"))
		failed = fallocate(fd, 0, 0, 99 * PAGE);
	else {
		CHECK(!strcmp(name, "truncate"));
		failed = ftruncate(fd, 0);
	}
	return failed ? errno : 0;
}

static void *run_operation(void *arg)
{
	struct operation *op = arg;

	have_cpu(op->late ? last_cpu() : 0);
	op->tid = gettid();
	op->result = operate(op->fd, op->name);
	op->done = 1;
	return NULL;
}

static char state_of(pid_t tid)
{
	char name[64], line[512], state = '?', *end;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/task/%d/stat", tid);
	f = fopen(name, "r");
	if (!f)
		return '?';
	if (fgets(line, sizeof(line), f) && (end = strrchr(line, ')')))
		state = end[2];
	fclose(f);
	return state;
}

/* Until it waits for a lock, or has ended. */
static void until_it_waits(struct operation *op)
{
	double limit = now() + 60;

	while (!op->done && (!op->tid || state_of(op->tid) != 'D'))
		CHECK(now() < limit);
}

struct write_call {
	int fd;
	char *source;
};

static void *write_page(void *arg)
{
	struct write_call *call = arg;

	CHECK(pwrite(call->fd, call->source, PAGE, 9 * PAGE) == PAGE);
	return NULL;
}

/*
 * A write(2) whose source nobody has filled in yet holds the inode lock.  The
 * queue of that lock is first come, first served.  The second in it is kept off
 * its CPU by a thread of real-time priority.
 */
static int queued(const char *path, const char *what)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_zeropage zero = { 0 };
	struct operation first = { "seal" }, second = { what, .late = 1 };
	static struct iovec same[1024];
	struct mshare_info info;
	struct write_call call;
	pthread_t writer, threads[2], busy;
	struct pollfd event;
	int uffd, fds[2], i, refs = 0;
	char *p, *source;

	call.fd = first.fd = second.fd = open(path, O_RDWR);
	CHECK(call.fd >= 0);
	if (strcmp(what, "base")) {	/* it needs a region that is not attached */
		p = attach(call.fd, PROT_READ);
		for (i = 0; i < 1024; i++)
			same[i] = (struct iovec){ p, 1 };
	}
	CHECK(!pipe(fds));
	CHECK(fcntl(fds[1], F_SETPIPE_SZ, 2048 * PAGE) > 0);
	have_cpu(0);

	/* poll() of a descriptor without O_NONBLOCK says POLLERR at once. */
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	CHECK(uffd >= 0);
	CHECK(!ioctl(uffd, UFFDIO_API, &api));
	source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(source != MAP_FAILED);
	reg.range = zero.range = (struct uffdio_range){ (uintptr_t)source, PAGE };
	CHECK(!ioctl(uffd, UFFDIO_REGISTER, &reg));
	call.source = source;
	CHECK(!pthread_create(&writer, NULL, write_page, &call));
	event = (struct pollfd){ uffd, POLLIN };
	CHECK(poll(&event, 1, 60000) == 1 && event.revents == POLLIN);

	CHECK(!pthread_create(&threads[0], NULL, run_operation, &first));
	until_it_waits(&first);
	CHECK(!pthread_create(&threads[1], NULL, run_operation, &second));
	until_it_waits(&second);
	hogging = 1;
	CHECK(!pthread_create(&busy, NULL, hog, NULL));
	while (hogging == 1)
		sched_yield();
	CHECK(!ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	CHECK(!pthread_join(threads[0], NULL));
	/* Now that the region is sealed, take references to a page. */
	if (!first.result && !strcmp(what, "seal"))
		refs = vmsplice(fds[1], same, 1024, SPLICE_F_NONBLOCK);
	i = second.done;
	hogging = 0;
	CHECK(!pthread_join(threads[1], NULL));
	CHECK(!pthread_join(busy, NULL));
	CHECK(!pthread_join(writer, NULL));
	CHECK(!ioctl(call.fd, MSHARE_IOC_INFO, &info));
	printf("first=%d second=%d sealed=%d between=%d refs=%d\n", first.result, second.result,
	       !!(info.flags & MSHARE_INFO_SEALED), !i, refs);
	return 0;
}

/* ---- stores ---- */

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

static int stores(const char *path, int seconds)
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

/* ---- touch ---- */

static sigjmp_buf escape;
static volatile siginfo_t last;

static void on_fault(int sig, siginfo_t *info, void *unused)
{
	last = *info;
	siglongjmp(escape, 1);
}

static void catch_faults(void)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

static int touch(const char *path, const char *mode)
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
			printf("signal %d code %d page %ld\n", last.si_signo, last.si_code,
			       (long)((char *)last.si_addr - (char *)p) / (long)PAGE);
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

/* ---- worker ---- */

static int worker(const char *path, const char *source, unsigned long page)
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

/* ---- walk ---- */

#define PARTNERS 3	/* processes that are attached, die, and come again */
#define PAGES 61
#define STAY 16		/* pages that are never taken away */

static struct {
	volatile pid_t pid[PARTNERS];
	volatile unsigned long rounds[8];
} *shared;

static char *const place = (char *)0x300000000000;

static void swallow(pid_t pid, const char *what)
{
	static char buffer[1 << 16];
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/%s", pid, what);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;		/* it has died */
	if (!strcmp(what, "pagemap"))
		pread(fd, buffer, PAGES * 8, (uintptr_t)place / PAGE * 8);
	else
		while (read(fd, buffer, sizeof(buffer)) > 0)
			;
	close(fd);
}

/* struct pm_scan_arg of 6.7 and later; older headers lack it. */
static void scan_and_protect(pid_t pid)
{
	uint64_t arg[12] = { 96, 1 /* WP_MATCHING */, (uintptr_t)place,
			     (uintptr_t)place + PAGES * PAGE, [9] = 1 << 3 };
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/pagemap", pid);
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;
	ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96), arg);
	close(fd);
}

static void copy_from(pid_t pid, int write)
{
	static char bytes[PAGES * PAGE];
	struct iovec local = { bytes, sizeof(bytes) }, remote = { place + STAY * PAGE, (PAGES - STAY) * PAGE };

	if (write)
		process_vm_writev(pid, &local, 1, &remote, 1, 0);
	remote.iov_base = place;
	process_vm_readv(pid, &local, 1, &remote, 1, 0);
}

static void query_nodes(pid_t pid)
{
	int status[PAGES], i;
	void *pages[PAGES];

	for (i = 0; i < PAGES; i++)
		pages[i] = place + i * PAGE;
	syscall(SYS_move_pages, pid, (unsigned long)PAGES, pages, NULL, status, 0);
}

/* A process that is attached; what it does to itself. */
static void partner(const char *path, unsigned int n)
{
	int fd = open(path, n % 3 ? O_RDWR : O_RDONLY), i;
	int prot = n % 3 ? PROT_READ | PROT_WRITE : PROT_READ;
	struct timespec none = { 0 };
	unsigned char vec[PAGES];
	volatile char *p = place;

	CHECK(fd >= 0);
	CHECK(mmap(place, UNIT, prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) == place);
	catch_faults();
	for (i = 0; i < 7; i++) {
		if (!sigsetjmp(escape, 1))	/* it is SIGBUS beyond the end */
			for (int page = 0; page < PAGES; page++)
				(void)p[page * PAGE];
		for (int page = 0; page < STAY; page++)
			CHECK(p[page * PAGE] == page + 1);
		mincore(place, PAGES * PAGE, vec);
		syscall(SYS_futex, place + (STAY + i) * PAGE, FUTEX_WAIT, 77, &none, NULL, 0);
		syscall(SYS_futex, place + (STAY + i) * PAGE, FUTEX_WAKE, 1, NULL, NULL, 0);
		mlock(place, PAGES * PAGE);
		munlock(place, PAGES * PAGE);
		query_nodes(0);
	}
	if (n % 5 == 1)
		CHECK(!munmap(place, UNIT));
	if (n % 5 == 2)
		raise(SIGKILL);
	_exit(0);
}

static void walk_role(const char *path, int role, double end)
{
	static const char *const files[] = { "pagemap", "smaps", "smaps_rollup", "numa_maps" };
	struct mshare_protect request = { .length = STAY * PAGE };
	int fd = open(path, O_RDWR), status;
	unsigned int n;

	CHECK(fd >= 0);
	for (n = role; now() < end; n++) {
		pid_t pid = shared->pid[n % PARTNERS];

		if (role < PARTNERS) {
			pid = fork();
			CHECK(pid >= 0);
			if (!pid)
				partner(path, n);
			shared->pid[role] = pid;
			CHECK(waitpid(pid, &status, 0) == pid);
			CHECK(!status || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
		} else if (role == PARTNERS && pid) {
			swallow(pid, files[n % 4]);
		} else if (role == PARTNERS + 1 && pid) {
			copy_from(pid, n % 2);
			query_nodes(pid);
			scan_and_protect(pid);
		} else if (role == PARTNERS + 2) {
			CHECK(!fallocate(fd, PUNCH, STAY * PAGE, (PAGES - STAY) * PAGE));
			CHECK(!ftruncate(fd, STAY * PAGE));
			CHECK(!ftruncate(fd, PAGES * PAGE));
		} else if (role == PARTNERS + 3) {
			request.prot = n % 2 ? MSHARE_PROT_READ : MSHARE_PROT_READWRITE;
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
		}
		shared->rounds[role]++;
	}
	_exit(0);
}

static int walk(const char *path, int seconds)
{
	double end = now() + seconds;
	int fd = open(path, O_RDWR), role, status, bad = 0;
	pid_t pids[PARTNERS + 4];

	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, PAGES * PAGE));
	for (int page = 0; page < STAY; page++)
		CHECK(pwrite(fd, &(char){ page + 1 }, 1, page * PAGE) == 1);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	for (role = 0; role < PARTNERS + 4; role++) {
		pids[role] = fork();
		CHECK(pids[role] >= 0);
		if (!pids[role]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			walk_role(path, role, end);
		}
	}
	for (role = 0; role < PARTNERS + 4; role++) {
		CHECK(waitpid(pids[role], &status, 0) == pids[role]);
		if (status) {
			printf("role %d ended with status %#x\n", role, status);
			bad = 1;
		}
	}
	printf("rounds:");
	for (role = 0; role < PARTNERS + 4; role++) {
		printf(" %lu", shared->rounds[role]);
		bad |= !shared->rounds[role];
	}
	printf("\n");
	return bad;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	if (!strcmp(what, "queued") && argc == 4)
		return queued(argv[2], argv[3]);
	if (!strcmp(what, "stores") && argc == 4)
		return stores(argv[2], atoi(argv[3]));
	if (!strcmp(what, "touch") && argc == 4)
		return touch(argv[2], argv[3]);
	if (!strcmp(what, "worker") && argc == 5)
		return worker(argv[2], argv[3], strtoul(argv[4], NULL, 0));
	if (!strcmp(what, "walk") && argc == 4)
		return walk(argv[2], atoi(argv[3]));
	fprintf(stderr, "usage: see probe.c\n");
	return 2;
}
