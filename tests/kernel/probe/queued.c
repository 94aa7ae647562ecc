// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Two operations wait for the lock of one region. */
#include "probe.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

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
int queued(const char *path, const char *what)
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
