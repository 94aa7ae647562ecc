// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Random operations against a model: each process knows what its own pages hold. */
#include "client.h"
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

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
	p = mmap(NULL, len, RW, MAP_SHARED, fd, 0);
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
			CHECK(!fallocate(fd, PUNCH, number * PAGE, PAGE));
			version[i] = 0;
			check_stamp(page, me, 0);
			break;
		case 8:
			CHECK(!munmap(p, len));
			p = mmap(NULL, len, RW, MAP_SHARED, fd, 0);
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

int stress(const char *path, int seconds, unsigned int seed, int procs)
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
