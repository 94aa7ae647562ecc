// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Programs that make the module's calls fail, or get in their way.
 *
 *   attack starve FILE GROUP LIMIT UNITS THEN
 *				move an attachment in a memory cgroup that has
 *				LIMIT bytes; then touch or move it outside of it
 *   attack nth FILE STEP	do STEP again and again while its first, second,
 *				... allocation fails (/proc/self/fail-nth)
 *   attack reserve VICTIM OTHER TOUCHES
 *				touch, write and reserve pages of VICTIM while two
 *				processes ask for 16 TiB in OTHER; counts failures
 *   attack inodes DIRECTORY HANDLES
 *				make handles while two processes try to create
 *				files on a mount that has no inode left
 *   attack faults FILE WHAT BY	count the faults after a change of one page by the
 *				process itself or by another
 *   attack flood FILE VMAS GROUP
 *				attach and fork while a signal comes every tenth of
 *				a millisecond, in GROUP unless that is "-"
 *
 * A line that begins with FAIL tells what went wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
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
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../../kernel/uapi/linux/msharefs.h"

#define UNIT MSHARE_UNIT
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define NOBODY 65534

/* Three addresses in three different 512 GiB, each with a PUD page of its own. */
#define HOME ((char *)0x300000000000)
#define AWAY ((char *)0x380000000000)
#define THIRD ((char *)0x400000000000)

#define CHECK(what) do { if (!(what)) { \
	printf("FAIL %s:%d %s errno=%d\n", __func__, __LINE__, #what, errno); \
	fflush(stdout); _exit(1); } } while (0)
/* The same for two numbers, which it tells. */
#define CHECK_SAME(one, other) do { long a_ = (one), b_ = (other); if (a_ != b_) { \
	printf("FAIL %s:%d %s is %ld, %s is %ld\n", __func__, __LINE__, #one, a_, #other, b_); \
	fflush(stdout); _exit(1); } } while (0)
#define CHECK_AT_MOST(one, other) do { long a_ = (one), b_ = (other); if (a_ > b_) { \
	printf("FAIL %s:%d %s is %ld, %s is %ld\n", __func__, __LINE__, #one, a_, #other, b_); \
	fflush(stdout); _exit(1); } } while (0)

/* VmPTE of this process, in kB. */
static long page_tables_kb(void)
{
	static char text[8192];
	int fd = open("/proc/self/status", O_RDONLY);
	ssize_t got;
	char *line;

	CHECK(fd >= 0);
	got = read(fd, text, sizeof(text) - 1);
	CHECK(got > 0);
	text[got] = 0;
	close(fd);
	line = strstr(text, "VmPTE:");
	CHECK(line);
	return atol(line + 6);
}

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static struct mshare_info info(int fd)
{
	struct mshare_info facts;

	CHECK(!ioctl(fd, MSHARE_IOC_INFO, &facts));
	return facts;
}

static struct statvfs space(int fd)
{
	struct statvfs fs;

	CHECK(!fstatvfs(fd, &fs));
	return fs;
}

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

/* What a load finds, or minus the signal that it ends with. */
static int load(const volatile char *p)
{
	if (sigsetjmp(escape, 1))
		return -last_signal;
	return *(const volatile unsigned char *)p;
}

static int store(volatile char *p, char value)
{
	if (sigsetjmp(escape, 1))
		return -last_signal;
	*p = value;
	return value;
}

static char *attach(int fd, char *where, size_t len, int prot)
{
	return mmap(where, len, prot, MAP_SHARED | (where ? MAP_FIXED : 0), fd, 0);
}

static char *move(char *from, char *to, size_t len)
{
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

static void join_group(const char *group)
{
	char name[256], pid[16];
	int fd, len;

	snprintf(name, sizeof(name), "%s/cgroup.procs", group);
	len = snprintf(pid, sizeof(pid), "%d", getpid());
	fd = open(name, O_WRONLY);
	CHECK(fd >= 0);
	CHECK(write(fd, pid, len) == len);
	close(fd);
}

/* ---- starve ---- */

static const char *starving_group;
static size_t starving_len;
static char *starving_result;

/* In the address space of its parent, which waits for it, so nobody can be killed for lack of memory. */
static int starving_child(void *unused)
{
	join_group(starving_group);
	starving_result = move(HOME, AWAY, starving_len);
	_exit(0);
}

static int starve(const char *path, const char *group, const char *limit, size_t units, const char *then)
{
	static char stack[65536] __attribute__((aligned(16)));
	int fd = open(path, O_RDWR), max, status;
	char name[256], *at;
	long before, after;
	pid_t pid;

	CHECK(fd >= 0);
	catch_faults();
	snprintf(name, sizeof(name), "%s/memory.max", group);
	max = open(name, O_WRONLY);
	CHECK(max >= 0 && write(max, limit, strlen(limit)) > 0);
	starving_group = group;
	starving_len = units * UNIT;
	CHECK(attach(fd, HOME, starving_len, RW) == HOME);
	CHECK_SAME(load(HOME), 'x');
	before = page_tables_kb();
	pid = clone(starving_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
	after = page_tables_kb();
	at = starving_result == AWAY ? AWAY : HOME;
	printf("moved=%d kb=%ld", at == AWAY, after - before);
	if (!strcmp(then, "touch")) {
		printf(" touched=%d\n", load(at));
		fflush(stdout);
		CHECK_SAME(load(at), 'x');
		CHECK_SAME(load(at + starving_len - UNIT), 'x');
	}
	printf("\n");
	fflush(stdout);
	CHECK(move(at, THIRD, starving_len) == THIRD);
	CHECK_SAME(load(THIRD), 'x');
	CHECK_SAME(load(THIRD + starving_len - UNIT), 'x');
	/* A PUD page for 512 GiB or a part of them, of source and destination. */
	CHECK_AT_MOST(after - before, (long)(units / 512 + 2) * 4);
	CHECK(!munmap(THIRD, starving_len));
	CHECK_SAME(info(fd).attachments, 0);
	return 0;
}

/* ---- nth ---- */

static int fail_nth;	/* of this thread; of the process that opened it */

static void have_fail_nth(void)
{
	fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
	CHECK(fail_nth >= 0);
}

static void inject(int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n), written;

	do	/* copying the text can be what fails, once */
		written = pwrite(fail_nth, text, len, 0);
	while (written < 0 && errno == EFAULT);
	CHECK(written == len);
}

/* Whether an allocation has been made to fail since inject().  errno stays. */
static int injected(int n)
{
	int saved = errno, hit;
	char text[16] = "";

	/* Copying the answer can be what fails, and then nothing else did. */
	hit = pread(fail_nth, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
	inject(0);
	errno = saved;
	return n && hit;
}

#define UNITS 3
#define LEN (UNITS * UNIT)

static struct { long first, attached, detached; } *normal;	/* VmPTE of a child that is not disturbed */

static void data_is_there(char *p)
{
	CHECK_SAME(load(p), 'x');
	CHECK_SAME(load(p + UNIT), 'y');
}

/* Everything a mapping can do, where nothing fails any more. */
static void works(char *p)
{
	data_is_there(p);
	CHECK_SAME(store(p + PAGE, 'z'), 'z');
	CHECK_SAME(load(p + PAGE), 'z');
	CHECK(move(p, THIRD, LEN) == THIRD);
	data_is_there(THIRD);
	CHECK_SAME(load(THIRD + PAGE), 'z');
	CHECK(move(THIRD, p, LEN) == p);
	data_is_there(p);
}

/* The child of a fork that was disturbed. */
static void forked(int n)
{
	long first = page_tables_kb(), attached, detached;
	int got;

	have_fail_nth();
	inject(n ? 1 : 0);
	got = load(HOME);	/* the first touch is disturbed, too */
	injected(n);
	CHECK(got == 'x' || got == -SIGBUS);
	works(HOME);
	attached = page_tables_kb();
	CHECK(!munmap(HOME, LEN));
	detached = page_tables_kb();
	if (!n) {
		normal->first = first;
		normal->attached = attached;
		normal->detached = detached;
	}
	CHECK_AT_MOST(first, normal->first);
	CHECK_AT_MOST(attached, normal->attached);
	CHECK_AT_MOST(detached, normal->detached);
	_exit(0);
}

/* One step, its n-th allocation failing; 0: none.  Returns whether one failed. */
static int trial(const char *path, const char *step, int n)
{
	unsigned long made;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600), hit, got, status, mem, other, spare;
	struct mshare_protect request = { .offset = 0, .length = PAGE, .prot = MSHARE_PROT_NONE };
	struct mshare_info before, after;
	struct statvfs had, has;
	char buffer[8], *p;
	__u32 flags = 0;
	long kb;
	pid_t pid;

	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, LEN));
	CHECK(pwrite(fd, "x", 1, 0) == 1 && pwrite(fd, "y", 1, UNIT) == 1);
	if (strcmp(step, "attach"))
		CHECK(attach(fd, HOME, LEN, RW) == HOME);
	kb = page_tables_kb();
	before = info(fd);
	had = space(fd);
	mem = open("/proc/self/mem", O_RDONLY);
	CHECK(mem >= 0);

	inject(n);
	if (!strcmp(step, "attach")) {
		p = attach(fd, HOME, LEN, RW);
		hit = injected(n);
		if (p == MAP_FAILED) {
			CHECK(hit && errno == ENOMEM);
			CHECK_SAME(info(fd).attachments, 0);
			CHECK_SAME(page_tables_kb(), kb);
			CHECK(attach(fd, HOME, LEN, RW) == HOME);
		}
		works(HOME);
	} else if (!strcmp(step, "second")) {
		p = attach(fd, AWAY, LEN, RW);
		hit = injected(n);
		if (p == MAP_FAILED) {
			CHECK(hit && errno == ENOMEM);
			CHECK_SAME(info(fd).attachments, 1);
			CHECK_SAME(page_tables_kb(), kb);
			CHECK(attach(fd, AWAY, LEN, RW) == AWAY);
		}
		works(HOME);
		works(AWAY);
		CHECK(!munmap(AWAY, LEN));
		CHECK_SAME(page_tables_kb(), kb);
	} else if (!strcmp(step, "fork")) {
		pid = fork();
		if (!pid)
			forked(n);
		hit = injected(n);
		if (pid < 0)
			CHECK(hit && errno == ENOMEM);
		else
			CHECK(waitpid(pid, &status, 0) == pid && !status);
		CHECK_SAME(info(fd).attachments, 1);
		CHECK_SAME(info(fd).processes, 1);
		works(HOME);
	} else if (!strcmp(step, "mremap")) {
		p = move(HOME, AWAY, LEN);
		hit = injected(n);
		if (p == MAP_FAILED) {
			CHECK(hit && errno == ENOMEM);
			p = HOME;
		}
		CHECK_AT_MOST(page_tables_kb(), kb);
		works(p);
		if (p == AWAY)
			CHECK(move(AWAY, HOME, LEN) == HOME);
		CHECK_SAME(page_tables_kb(), kb);
	} else if (!strcmp(step, "load") || !strcmp(step, "store") || !strcmp(step, "mem")) {
		/* The first page of the last unit. */
		if (!strcmp(step, "load")) {
			got = load(HOME + 2 * UNIT);
			hit = injected(n);
			CHECK(got == 0 || (hit && got == -SIGBUS));
		} else if (!strcmp(step, "store")) {
			got = store(HOME + 2 * UNIT, 1);
			hit = injected(n);
			CHECK(got == 1 || (hit && got == -SIGBUS));
		} else {
			got = pread(mem, buffer, 1, (uintptr_t)HOME + 2 * UNIT);
			hit = injected(n);
			CHECK(got == 1 || (hit && got < 0));
		}
		CHECK_SAME(page_tables_kb(), kb);
		CHECK(store(HOME + 2 * UNIT, 'q') == 'q' && load(HOME + 2 * UNIT) == 'q');
		CHECK_SAME(info(fd).pages, before.pages + 1);
		works(HOME);
	} else if (!strcmp(step, "fallocate") || !strcmp(step, "write")) {
		if (!strcmp(step, "fallocate"))
			got = fallocate(fd, 0, 2 * UNIT, 3 * PAGE);
		else
			got = pwrite(fd, "abc", 3, 2 * UNIT + 3 * PAGE - 3);
		hit = injected(n);
		if (got < 0) {
			CHECK(hit && (errno == ENOMEM || errno == EFAULT));
			has = space(fd);
			after = info(fd);
			/* Pages that were made in a hole before stay, with the charge of their tables. */
			made = after.pages - before.pages;
			CHECK(made <= 2);
			CHECK_SAME(has.f_bfree + made + (made ? 5 : 0), had.f_bfree);
			CHECK_SAME(has.f_bfree + after.charged_bytes / PAGE,
				   had.f_bfree + before.charged_bytes / PAGE);
		}
		CHECK(!fallocate(fd, 0, 2 * UNIT, 3 * PAGE));
		CHECK(pwrite(fd, "abc", 3, 2 * UNIT + 3 * PAGE - 3) == 3);
		CHECK(load(HOME + 2 * UNIT + 3 * PAGE - 1) == 'c');
		CHECK_SAME(info(fd).pages, before.pages + 3);
		works(HOME);
	} else if (!strcmp(step, "protect")) {
		got = ioctl(fd, MSHARE_IOC_PROTECT, &request);
		hit = injected(n);
		if (got) {
			CHECK(hit && (errno == ENOMEM || errno == EFAULT));
			CHECK_SAME(space(fd).f_bfree, had.f_bfree);
			works(HOME);
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
		}
		CHECK_SAME(load(HOME), -SIGSEGV);
		CHECK_SAME(load(HOME + UNIT), 'y');
		inject(n);
		request.prot = MSHARE_PROT_READWRITE;
		got = ioctl(fd, MSHARE_IOC_PROTECT, &request);
		hit |= injected(n);
		if (got) {
			CHECK_SAME(load(HOME), -SIGSEGV);
			CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
		}
		works(HOME);
	} else if (!strcmp(step, "seal")) {
		got = ioctl(fd, MSHARE_IOC_SEAL);
		hit = injected(n);
		if (got) {
			CHECK(hit && (errno == ENOMEM || errno == EBUSY));
			CHECK(!(info(fd).flags & MSHARE_INFO_SEALED));
			CHECK_SAME(space(fd).f_bfree, had.f_bfree);
			works(HOME);
			CHECK(!ioctl(fd, MSHARE_IOC_SEAL));
		}
		CHECK(info(fd).flags & MSHARE_INFO_SEALED);
		CHECK_SAME(store(HOME, 'n'), -SIGSEGV);
		data_is_there(HOME);
	} else if (!strcmp(step, "handle")) {
		spare = dup(fd);
		close(spare);
		other = ioctl(fd, MSHARE_IOC_HANDLE, &flags);
		hit = injected(n);
		if (other < 0) {
			CHECK(hit && (errno == ENOMEM || errno == EFAULT || errno == ENFILE));
			CHECK_SAME(space(fd).f_ffree, had.f_ffree);
			other = ioctl(fd, MSHARE_IOC_HANDLE, &flags);
		}
		CHECK_SAME(other, spare);	/* no descriptor was lost */
		CHECK(pread(other, buffer, 1, 0) == 1 && buffer[0] == 'x');
		close(other);
	} else {
		char name[256];

		CHECK(!strcmp(step, "create"));
		snprintf(name, sizeof(name), "%s.new", path);
		other = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		hit = injected(n);
		if (other < 0) {
			CHECK(hit && (errno == ENOMEM || errno == EFAULT || errno == ENFILE));
			/* The name may have been made before open failed. */
			if (unlink(name))
				CHECK(errno == ENOENT);
			CHECK_SAME(space(fd).f_ffree, had.f_ffree);
			other = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		}
		CHECK(other >= 0 && pwrite(other, "x", 1, 0) == 1);
		close(other);
		CHECK(!unlink(name));
	}
	CHECK(!munmap(HOME, LEN));
	CHECK_SAME(info(fd).attachments, 0);
	close(mem);
	close(fd);
	CHECK(!unlink(path));
	return hit;
}

static int nth(const char *path, const char *step)
{
	struct statvfs had, has;
	int n, status, failures = 0, done;
	long kb;

	normal = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(normal != MAP_FAILED);
	CHECK(!statvfs("/sys/fs/mshare", &had));
	for (n = 1, done = 0; !done; n++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			have_fail_nth();
			catch_faults();
			page_tables_kb();
			trial(path, step, 0);
			kb = page_tables_kb();
			status = trial(path, step, n);
			CHECK_SAME(page_tables_kb(), kb);
			_exit(status ? 0 : 42);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		done = WIFEXITED(status) && WEXITSTATUS(status) == 42;
		failures += !done;
		if (status && !done) {
			printf("FAIL allocation %d of %s: the process ended with %#x\n", n, step, status);
			unlink(path);
			return 1;
		}
		CHECK(!statvfs("/sys/fs/mshare", &has));
		CHECK_SAME(has.f_bfree, had.f_bfree);
		CHECK_SAME(has.f_ffree, had.f_ffree);
		CHECK(n < 5000);
	}
	printf("failures=%d\n", failures);
	return 0;
}

/* ---- reserve ---- */

static pid_t start_attacker(void (*attack)(const char *), const char *argument)
{
	int ready[2];
	char byte;
	pid_t pid;

	CHECK(!pipe(ready));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(!setresgid(NOBODY, NOBODY, NOBODY) && !setresuid(NOBODY, NOBODY, NOBODY));
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		write(ready[1], "r", 1);
		attack(argument);
		_exit(1);
	}
	close(ready[1]);
	CHECK(read(ready[0], &byte, 1) == 1);
	close(ready[0]);
	return pid;
}

static void stop_attacker(pid_t pid)
{
	int status;

	CHECK(!waitpid(pid, &status, WNOHANG));
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
}

static void ask_for_all(const char *path)
{
	int fd = open(path, O_RDWR);

	CHECK(fd >= 0);
	for (;;)
		CHECK(fallocate(fd, 0, 0, 1L << 44) == -1 && errno == ENOSPC);
}

static int reserve(const char *path, const char *other, long touches)
{
	long done, bus = 0, writes = 0, reservations = 0;
	int fd = open(path, O_RDWR), i;
	const int pages = 509;
	pid_t attackers[2];
	char *p;

	CHECK(fd >= 0);
	catch_faults();
	CHECK(!ftruncate(fd, UNIT));
	p = attach(fd, NULL, UNIT, RW);
	CHECK(p != MAP_FAILED);
	for (i = 0; i < 2; i++)
		attackers[i] = start_attacker(ask_for_all, other);
	for (done = 0; done < touches && !bus; done += pages) {
		for (i = 0; i < pages; i++)
			bus += store(p + i * PAGE, 1) != 1;
		for (i = 0; i < 16; i++)
			writes += pwrite(fd, "x", 1, (1024 + i) * PAGE) != 1;
		reservations += fallocate(fd, 0, 2048 * PAGE, 16 * PAGE) != 0;
		CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096 * PAGE));
	}
	for (i = 0; i < 2; i++)
		stop_attacker(attackers[i]);
	printf("touches=%ld sigbus=%ld writes=%ld reservations=%ld\n", done, bus, writes, reservations);
	return 0;
}

/* ---- inodes ---- */

static void create_in_vain(const char *directory)
{
	char name[256];
	unsigned int n;

	for (n = 0;; n++) {
		snprintf(name, sizeof(name), "%s/%d-%u", directory, getpid(), n % 7);
		CHECK(open(name, O_RDWR | O_CREAT, 0600) == -1 && errno == ENOSPC);
	}
}

static int inodes(const char *directory, int handles)
{
	char name[256];
	int fd, made, i, n, refused = 0;
	pid_t attackers[2];
	__u32 flags = 0;

	snprintf(name, sizeof(name), "%s/first", directory);
	fd = open(name, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, 1));
	for (i = 0; space(fd).f_ffree; i++) {
		snprintf(name, sizeof(name), "%s/full%d", directory, i);
		CHECK((made = open(name, O_RDWR | O_CREAT, 0600)) >= 0);
		close(made);
	}
	for (n = 0; n < 2; n++)
		attackers[n] = start_attacker(create_in_vain, directory);
	for (n = 0; n < handles && !refused; n++) {
		made = ioctl(fd, MSHARE_IOC_HANDLE, &flags);
		refused += made < 0;
		close(made);
		CHECK_SAME(space(fd).f_ffree, 0);
	}
	for (n = 0; n < 2; n++)
		stop_attacker(attackers[n]);
	CHECK(!unlink(name));
	CHECK_SAME(space(fd).f_ffree, 1);
	CHECK((made = open(name, O_RDWR | O_CREAT, 0600)) >= 0);
	printf("refused=%d\n", refused);
	return 0;
}

/* ---- faults ---- */

#define MANY 64
#define CHOSEN 7

static long faults_in_unit(const char *p, int unit)
{
	long before = minor_faults();

	CHECK_SAME(load(p + unit * UNIT), 'a' + unit % 26);
	CHECK_SAME(load(p + unit * UNIT + PAGE), 'a' + unit % 26);
	return minor_faults() - before;
}

/* The faults in the unit where something was done, and the most in any other. */
static void tell_faults(const char *p)
{
	long here = faults_in_unit(p, CHOSEN), elsewhere = 0, here_again = 0;
	int unit;

	for (unit = 0; unit < MANY; unit++) {
		long faults = faults_in_unit(p, unit);

		if (unit != CHOSEN && faults > elsewhere)
			elsewhere = faults;
		if (unit == CHOSEN)
			here_again = faults;
	}
	printf("here=%ld again=%ld elsewhere=%ld\n", here, here_again, elsewhere);
	fflush(stdout);
}

static void change(int fd, char *p, const char *what)
{
	struct mshare_protect request = { .offset = CHOSEN * UNIT + 5 * PAGE, .length = PAGE,
		.prot = MSHARE_PROT_READ };
	char *q;

	if (!strcmp(what, "dontneed")) {
		CHECK(!madvise(p + request.offset, PAGE, MADV_DONTNEED));
	} else if (!strcmp(what, "punch")) {
		CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request.offset, PAGE));
	} else if (!strcmp(what, "protect")) {
		CHECK(!ioctl(fd, MSHARE_IOC_PROTECT, &request));
	} else if (!strcmp(what, "private")) {	/* memory that is not the region's */
		q = mmap(NULL, 64 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(q != MAP_FAILED);
		memset(q, 1, 64 * PAGE);
		CHECK(!madvise(q, 64 * PAGE, MADV_DONTNEED) && !munmap(q, 64 * PAGE));
	} else {
		CHECK(!strcmp(what, "nothing"));
	}
}

static int faults(const char *path, const char *what, const char *by)
{
	int fd = open(path, O_RDWR), unit, status, turn[2], another = !strcmp(by, "another");
	char *p, byte = 0;
	pid_t pid = 0;

	CHECK(fd >= 0 && !pipe(turn));
	catch_faults();
	CHECK(!ftruncate(fd, MANY * UNIT));
	for (unit = 0; unit < MANY; unit++) {
		char c = 'a' + unit % 26;

		CHECK(pwrite(fd, &c, 1, unit * UNIT) == 1 && pwrite(fd, &c, 1, unit * UNIT + PAGE) == 1);
		CHECK(pwrite(fd, &c, 1, unit * UNIT + 5 * PAGE) == 1);
	}
	p = attach(fd, HOME, MANY * UNIT, RW);
	CHECK(p == HOME);
	if (another) {
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			CHECK(load(p + CHOSEN * UNIT) > 0);
			CHECK(read(turn[0], &byte, 1) == 1);
			change(fd, p, what);
			_exit(0);
		}
	}
	for (unit = 0; unit < MANY; unit++)
		faults_in_unit(p, unit);
	if (!strcmp(what, "fork")) {
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			load((char *)&escape);	/* pages of its own that it writes to */
			minor_faults();
			tell_faults(p);
			tell_faults(p);
			_exit(0);
		}
	} else if (another) {
		CHECK(write(turn[1], &byte, 1) == 1);
	} else {
		change(fd, p, what);
	}
	if (pid)
		CHECK(waitpid(pid, &status, 0) == pid && !status);
	if (strcmp(what, "fork"))
		tell_faults(p);
	return 0;
}

/* ---- flood ---- */

static void on_flood(int sig)
{
}

/* One CPU for the sender of the signals, another for their receiver. */
static void have_cpu(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
}

static void send_flood(pid_t target)
{
	struct timespec pace = { .tv_nsec = 100000 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!kill(target, SIGRTMIN))
		nanosleep(&pace, NULL);
	_exit(0);
}

static int flood(const char *path, size_t vmas, const char *group)
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
		have_cpu(sysconf(_SC_NPROCESSORS_ONLN) - 1);
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

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "starve"))
		return starve(argv[2], argv[3], argv[4], atol(argv[5]), argv[6]);
	if (argc == 4 && !strcmp(argv[1], "nth"))
		return nth(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "reserve"))
		return reserve(argv[2], argv[3], atol(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "inodes"))
		return inodes(argv[2], atoi(argv[3]));
	if (argc == 5 && !strcmp(argv[1], "faults"))
		return faults(argv[2], argv[3], argv[4]);
	if (argc == 5 && !strcmp(argv[1], "flood"))
		return flood(argv[2], atol(argv[3]), argv[4]);
	fprintf(stderr, "see the comment at the top of attack.c\n");
	return 2;
}
