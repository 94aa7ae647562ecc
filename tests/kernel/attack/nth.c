// SPDX-License-Identifier: GPL-2.0 OR MIT
/* One step of a region's life, again and again, while its first, second, ... allocation fails. */
#include "attack.h"

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

int nth(const char *path, const char *step)
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
