// SPDX-License-Identifier: MIT
/*
 * Calls about shared memory, one line each: what they return and what memory
 * holds afterwards.  It prints the same lines with and without the preload
 * library.  Addresses and sizes of the machine are not printed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL
#define SIZE (66 * MIB + 3 * PAGE) /* not a multiple of 2 MiB */
#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf fault;

static void on_fault(int signal)
{
	siglongjmp(fault, signal);
}

/* What a load or a store at @addr does: its value, or the signal. */
static void touch(const char *what, volatile char *addr, int store)
{
	int signal = sigsetjmp(fault, 1);

	if (signal)
		printf("%s: %s\n", what, signal == SIGBUS ? "SIGBUS" : "SIGSEGV");
	else if (store)
		printf("%s: stored %d\n", what, *addr = (char)store);
	else
		printf("%s: loaded %d\n", what, *addr);
}

static void say(const char *what, long result)
{
	int error = errno;

	if (result == -1)
		printf("%s: -1 %s\n", what, strerrorname_np(error));
	else
		printf("%s: %ld\n", what, result);
	errno = 0;
}

static char *say_map(const char *what, void *addr)
{
	say(what, addr == MAP_FAILED ? -1 : 0);
	return addr;
}

/* Run @work in a child and print how the child ended. */
static void in_child(const char *what, void (*work)(char *), char *addr)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		work(addr);
		fflush(stdout);
		_exit(7);
	}
	waitpid(child, &status, 0);
	printf("%s: child ended %s %d\n", what, WIFEXITED(status) ? "with status" : "by signal",
	       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void child_writes(char *addr)
{
	touch("child reads", addr, 0);
	addr[0] = 2;
	addr[SIZE - 1] = 3;
}

static void child_unmaps(char *addr)
{
	say("child unmaps", munmap(addr, SIZE));
	touch("child reads what it unmapped", addr, 0);
}

/* Everything that can be done to a writable mapping of SIZE bytes. */
static void exercise(const char *what, char *addr, int anonymous)
{
	unsigned char present[4];
	char *moved;

	printf("-- %s\n", what);
	touch("first byte", addr, 0);
	touch("first byte", addr, 1);
	touch("last byte", addr + SIZE - 1, 1);
	touch("middle", addr + 33 * MIB, 5);
	in_child("fork", child_writes, addr);
	touch("what the child wrote", addr, 0);
	touch("what the child wrote at the end", addr + SIZE - 1, 0);
	in_child("unmapping", child_unmaps, addr);
	touch("after the child unmapped", addr, 0);
	say("msync", msync(addr, SIZE, MS_SYNC));
	say("mincore", mincore(addr, 4 * PAGE, present));
	say("MADV_DONTNEED", madvise(addr, SIZE / PAGE * PAGE, MADV_DONTNEED));
	touch("after MADV_DONTNEED", addr + 33 * MIB, 0);
	say("MADV_DONTDUMP", madvise(addr, SIZE, MADV_DONTDUMP));
	say("MADV_DODUMP", madvise(addr, SIZE, MADV_DODUMP));
	say("MADV_HUGEPAGE", madvise(addr, SIZE, MADV_HUGEPAGE));
	say("an unknown advice", madvise(addr, SIZE, 9999));
	say("an unaligned advice", madvise(addr + 1, PAGE, MADV_NORMAL));
	say("mprotect to read", mprotect(addr, 2 * MIB, PROT_READ));
	touch("store where only reading is allowed", addr, 4);
	say("mprotect back", mprotect(addr, 2 * MIB, RW));
	touch("store again", addr, 4);
	say("mprotect of one page to nothing", mprotect(addr + 40 * MIB, PAGE, PROT_NONE));
	touch("load where nothing is allowed", addr + 40 * MIB, 0);
	touch("load beside", addr + 40 * MIB + PAGE, 0);
	say("mprotect back", mprotect(addr + 40 * MIB, PAGE, RW));
	say("MADV_REMOVE", madvise(addr + 32 * MIB, 2 * MIB, MADV_REMOVE));
	touch("after MADV_REMOVE", addr + 33 * MIB, 0);
	say("mremap to half", mremap(addr, SIZE, 34 * MIB, 0) == addr ? 0 : -1);
	touch("first half", addr, 0);
	touch("second half", addr + 40 * MIB, 0);
	if (!anonymous) {
		moved = say_map("mremap to twice", mremap(addr, 34 * MIB, SIZE, MREMAP_MAYMOVE));
		if (moved != MAP_FAILED)
			addr = moved;
		touch("end of the grown mapping", addr + SIZE - 1, 0);
	}
	say("munmap of the first MiB", munmap(addr, MIB));
	touch("what was unmapped", addr, 0);
	touch("what was not", addr + MIB, 0);
	say("munmap of the middle", munmap(addr + 10 * MIB, MIB));
	touch("the middle", addr + 10 * MIB, 0);
	touch("behind the middle", addr + 11 * MIB, 0);
	say("munmap of all, holes and all", munmap(addr, SIZE));
	touch("after munmap", addr + 20 * MIB, 0);
	say("munmap again", munmap(addr, SIZE));
	say("munmap of no length", munmap(addr, 0));
	say("munmap unaligned", munmap(addr + 1, PAGE));
}

static void anonymous(void)
{
	char *addr = mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *fixed;

	exercise("shared anonymous memory", addr, 1);
	addr = say_map("read-only", mmap(NULL, SIZE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	touch("load", addr, 0);
	touch("store", addr, 1);
	say("mprotect to write", mprotect(addr, SIZE, RW));
	touch("store", addr, 1);
	munmap(addr, SIZE);
	addr = say_map("PROT_NONE", mmap(NULL, SIZE, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	touch("load", addr, 0);
	fixed = say_map("MAP_FIXED over a part",
			mmap(addr + 4 * MIB, 40 * MIB, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	touch("store in the part", fixed, 1);
	munmap(addr, SIZE);
	addr = say_map("private", mmap(NULL, SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	touch("store", addr, 1);
	munmap(addr, SIZE);
	addr = say_map("once more", mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	say_map("MAP_FIXED_NOREPLACE over a part",
		mmap(addr + 4 * MIB, 40 * MIB, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	touch("store in the part", addr + 4 * MIB, 1);
	say("munmap of an odd length", munmap(addr, SIZE - 100));
	touch("last byte", addr + SIZE - 1, 1);
	fixed = say_map("MAP_FIXED_NOREPLACE where nothing is",
			mmap(addr, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	printf("at that address: %d\n", fixed == addr);
	munmap(addr, SIZE);
	fixed = say_map("MAP_FIXED_NOREPLACE at address 0",
			mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	printf("at another address: %d\n", fixed != MAP_FAILED && fixed);
	if (fixed != MAP_FAILED)
		munmap(fixed, SIZE);
	addr = say_map("populated", mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
	touch("load", addr + SIZE - 1, 0);
	munmap(addr, SIZE);
	addr = say_map("no reserve", mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	touch("store", addr + SIZE - 1, 1);
	munmap(addr, SIZE);
#ifdef MAP_32BIT
	addr = say_map("low", mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
	printf("below 4 GiB: %d\n", (unsigned long)addr >> 32 == 0);
	munmap(addr, SIZE);
#endif
	say_map("no length", mmap(NULL, 0, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	say_map("too long", mmap(NULL, 1UL << 60, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	say_map("neither shared nor private", mmap(NULL, SIZE, RW, MAP_ANONYMOUS, -1, 0));
	say_map("unaligned and fixed",
		mmap((void *)1, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

static void files(const char *what, int fd)
{
	struct stat status;
	char *addr, *other;

	say("ftruncate", ftruncate(fd, (off_t)SIZE));
	addr = mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0);
	other = say_map("second mapping", mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0));
	addr[9] = 9;
	touch("seen through the other", other + 9, 0);
	touch("store through the read-only one", other, 1);
	say("munmap of the other", munmap(other, SIZE));
	exercise(what, addr, 0);
	addr = say_map("from the second page", mmap(NULL, SIZE - PAGE, RW, MAP_SHARED, fd, PAGE));
	touch("its first byte", addr, 6);
	munmap(addr, SIZE - PAGE);
	addr = say_map("beyond the end", mmap(NULL, SIZE + 40 * MIB, RW, MAP_SHARED, fd, 0));
	touch("before the end", addr + SIZE - 1, 1);
	touch("beyond the end", addr + SIZE, 1);
	say("shrink", ftruncate(fd, (off_t)(33 * MIB)));
	touch("what was cut off", addr + 40 * MIB, 0);
	say("grow", ftruncate(fd, (off_t)SIZE));
	touch("zeros", addr + 40 * MIB, 0);
	munmap(addr, SIZE + 40 * MIB);
	say_map("at an odd offset", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 17));
	say_map("private", addr = mmap(NULL, SIZE, RW, MAP_PRIVATE, fd, 0));
	touch("store", addr, 8);
	munmap(addr, SIZE);
	fstat(fd, &status);
	printf("size: %ld\n", (long)status.st_size);
}

static void posix_file(void)
{
	char name[64];
	int fd, reader;

	snprintf(name, sizeof(name), "/mshare-api-%d", getpid());
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	files("POSIX shared memory", fd);
	reader = shm_open(name, O_RDONLY, 0);
	say_map("writable from a read-only descriptor", mmap(NULL, SIZE, RW, MAP_SHARED, reader, 0));
	say("shm_unlink", shm_unlink(name));
	close(reader);
	close(fd);
}

static void memfd(void)
{
	int fd = memfd_create("api", MFD_ALLOW_SEALING);

	files("a memfd", fd);
	say("seals", fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
	say_map("writable, sealed", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0));
	say("grow, sealed", ftruncate(fd, (off_t)(2 * SIZE)));
	close(fd);
	say_map("a closed descriptor", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0));
}

/* Shared memory of a driver, on the file system of devices: the kernel makes tmpfs
 * and devtmpfs look alike. */
static void device(void)
{
	int fd = open("/dev/zero", O_RDWR);
	char *addr = say_map("a device", mmap(NULL, SIZE, RW, MAP_SHARED, fd, 0));

	close(fd);
	touch("first byte", addr, 0);
	in_child("fork", child_writes, addr);
	touch("what the child wrote", addr, 0);
	say("munmap", munmap(addr, SIZE));
}

static void say_attached(const char *what, int id)
{
	struct shmid_ds segment;

	say(what, shmctl(id, IPC_STAT, &segment));
	printf("nattch %lu, size %lu\n", (unsigned long)segment.shm_nattch,
	       (unsigned long)segment.shm_segsz);
}

static void sysv(void)
{
	int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	char *addr = shmat(id, NULL, 0), *other;

	say("shmget", id < 0 ? -1 : 0);
	say_attached("attached once", id);
	other = say_map("shmat read-only", shmat(id, NULL, SHM_RDONLY));
	say_attached("attached twice", id);
	addr[5] = 5;
	touch("seen through the other", other + 5, 0);
	touch("store through the read-only one", other, 1);
	say("shmdt", shmdt(other));
	say("shmdt again", shmdt(other));
	say_attached("attached once", id);
	in_child("fork", child_writes, addr);
	touch("what the child wrote", addr, 0);
	other = say_map("shmat at an address", shmat(id, addr + (1UL << 30), 0));
	printf("at that address: %d\n", other == addr + (1UL << 30));
	say("shmdt", shmdt(other));
	say_map("shmat where something is", shmat(id, addr, 0));
	other = say_map("SHM_REMAP", shmat(id, addr, SHM_REMAP));
	touch("its contents", other + 5, 0);
	say_map("SHM_REMAP without an address", shmat(id, NULL, SHM_REMAP));
	say("IPC_RMID", shmctl(id, IPC_RMID, NULL));
	touch("after IPC_RMID", addr + 5, 0);
	say("mprotect", mprotect(addr, SIZE, PROT_READ));
	touch("store", addr, 1);
	say("shmdt", shmdt(addr));
	touch("after shmdt", addr, 0);
	say_map("shmat of what is gone", shmat(id, NULL, 0));
	say_map("shmat of no segment", shmat(-1, NULL, 0));
}

static void *map_in_thread(void *unused)
{
	char *addr;
	int round;

	for (round = 0; round < 50; round++) {
		addr = mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (addr == MAP_FAILED)
			return addr;
		addr[(unsigned long)round * MIB] = 1;
		if (munmap(addr, SIZE))
			return MAP_FAILED;
	}
	return unused;
}

static void threads(void)
{
	pthread_t all[4];
	void *result;
	int at;

	for (at = 0; at < 4; at++)
		pthread_create(&all[at], NULL, map_in_thread, NULL);
	for (at = 0; at < 4; at++) {
		pthread_join(all[at], &result);
		say("thread", result ? -1 : 0);
	}
}

static volatile int passed;

/* None of these calls is a point where a thread ends that has been cancelled. */
static void *be_cancelled(void *segment)
{
	char *addr;

	pthread_cancel(pthread_self());
	addr = mmap(NULL, SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	passed = 1;
	munmap(addr, SIZE);
	passed = 2;
	addr = shmat(*(int *)segment, NULL, 0);
	passed = 3;
	shmdt(addr);
	passed = 4;
	pthread_testcancel();
	passed = 5;
	return NULL;
}

static void cancellation(void)
{
	int segment = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);
	pthread_t thread;
	void *result;

	pthread_create(&thread, NULL, be_cancelled, &segment);
	pthread_join(thread, &result);
	shmctl(segment, IPC_RMID, NULL);
	printf("cancelled: %d, after call %d\n", result == PTHREAD_CANCELED, passed);
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_fault };

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	anonymous();
	posix_file();
	memfd();
	device();
	sysv();
	threads();
	cancellation();
	return 0;
}
