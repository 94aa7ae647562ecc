// SPDX-License-Identifier: MIT
/*
 * The functions that programs call, in front of libc's.
 *
 * What the library does not take over goes to the next library in the order of
 * symbols: that may be another preloaded one.  Before this library's constructor
 * has run there is no next library, and the call goes to the kernel.
 */
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS_MAGIC 0x01021994
#define THREAD_STACK (128UL << 10)

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 0x03
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* The oldest version of each symbol, so that a built library also runs on older
 * systems. */
#ifdef __x86_64__
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#else
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
#endif

void *(*next_mmap)(void *, size_t, int, int, int, off_t);
static int (*next_munmap)(void *, size_t);
static int (*next_mprotect)(void *, size_t, int);
static int (*next_madvise)(void *, size_t, int);
static void *(*next_mremap)(void *, size_t, size_t, int, ...);
static void *(*next_shmat)(int, const void *, int);
static int (*next_shmdt)(const void *);
static void *(*next_dlopen)(const char *, int);
static pid_t (*next_fork)(void);
static pid_t (*next_setsid)(void);
static int (*next_daemon)(int, int);

void *kernel_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

int kernel_munmap(void *addr, size_t length)
{
	return (int)syscall(SYS_munmap, addr, length);
}

int kernel_madvise(void *addr, size_t length, int advice)
{
	return (int)syscall(SYS_madvise, addr, length, advice);
}

#define FIND(name) (*(void **)&next_##name = dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void)
{
	int kept = errno;

	FIND(mmap);
	FIND(munmap);
	FIND(mprotect);
	FIND(madvise);
	FIND(mremap);
	FIND(shmat);
	FIND(shmdt);
	FIND(dlopen);
	FIND(fork);
	FIND(setsid);
	FIND(daemon);
	config();
	errno = kept;
}

/* A detached thread with a small stack, which receives no signal.  Found by name: the symbols moved to libc
 * in glibc 2.34, and a program need not have threads before. */
bool start_thread(void *(*work)(void *))
{
	int (*init)(void *), (*set_detached)(void *, int), (*set_stack)(void *, size_t);
	int (*create)(pthread_t *, const void *, void *(*)(void *), void *);
	int (*set_mask)(void *, const void *);
	size_t (*least_stack)(const void *);
	unsigned long all = ~0UL, before = 0;
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t blocked;
	size_t stack = THREAD_STACK;
	bool started;

	*(void **)&init = dlsym(RTLD_DEFAULT, "pthread_attr_init");
	*(void **)&set_detached = dlsym(RTLD_DEFAULT, "pthread_attr_setdetachstate");
	*(void **)&set_stack = dlsym(RTLD_DEFAULT, "pthread_attr_setstacksize");
	*(void **)&create = dlsym(RTLD_DEFAULT, "pthread_create");
	*(void **)&set_mask = dlsym(RTLD_DEFAULT, "pthread_attr_setsigmask_np");
	*(void **)&least_stack = dlsym(RTLD_DEFAULT, "__pthread_get_minstack");
	if (!init || !set_detached || !set_stack || !create || init(&attributes))
		return false;
	if (least_stack) /* the program's thread-local variables lie in the stack */
		stack += round_up(least_stack(&attributes), PAGE);
	sigfillset(&blocked);
	if (!set_mask || set_mask(&attributes, &blocked)) { /* glibc before 2.32: the thread inherits */
		set_mask = NULL;
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof(all));
	}
	started = !set_detached(&attributes, PTHREAD_CREATE_DETACHED) &&
		  !set_stack(&attributes, stack) && !create(&thread, &attributes, work, NULL);
	if (!set_mask)
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(all));
	return started;
}

int kernel_open(const char *path, int flags, int mode)
{
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t kernel_read(int fd, void *to, size_t size)
{
	return syscall(SYS_read, fd, to, size);
}

ssize_t kernel_write(int fd, const void *from, size_t size)
{
	return syscall(SYS_write, fd, from, size);
}

void kernel_close(int fd)
{
	syscall(SYS_close, fd);
}

static void *pass_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return next_mmap ? next_mmap(addr, length, prot, flags, fd, offset) :
			   kernel_mmap(addr, length, prot, flags, fd, offset);
}

static bool is_anonymous(int flags)
{
	return flags & MAP_ANONYMOUS;
}

/* A memfd, or a file on tmpfs.  hugetlb has a file system of its own. */
static bool kind_of(int fd, enum kind *kind)
{
	static const char memfd[] = "/memfd:";
	char path[32] = "/proc/self/fd/", target[sizeof(memfd)] = "";
	struct line number = { .length = 0 };
	struct stat status;
	struct statfs fs;
	size_t at;

	if (fstatfs(fd, &fs) || fs.f_type != TMPFS_MAGIC || syscall(SYS_fstat, fd, &status) ||
	    !S_ISREG(status.st_mode)) /* devices lie on a tmpfs, too */
		return false;
	add_number(&number, (unsigned long)fd);
	for (at = 0; at <= number.length; at++)
		path[14 + at] = number.text[at];
	*kind = POSIX_FILE;
	if (readlink(path, target, sizeof(target) - 1) == sizeof(target) - 1) {
		*kind = MEMFD;
		for (at = 0; at < sizeof(target) - 1; at++)
			if (target[at] != memfd[at])
				*kind = POSIX_FILE;
	}
	return true;
}

/*
 * The bytes of the mapping that the object has.  A block that reaches beyond the
 * end of a file is not collapsed: the kernel would then let the program use
 * memory behind the end instead of sending SIGBUS.
 */
static size_t whole_length(const struct memory *memory, int fd, off_t offset)
{
	struct stat status;

	if (memory->kind == ANONYMOUS)
		return memory->length;
	if (syscall(SYS_fstat, fd, &status) || status.st_size <= offset)
		return 0;
	return (size_t)(status.st_size - offset) < memory->length ? (size_t)(status.st_size - offset) :
								     memory->length;
}

/* Map at an address that fits 2 MiB leaves, and make them. */
static void *map_thp(struct memory *memory, void *addr, size_t length, int prot, int flags,
		     int fd, off_t offset, const struct line *note)
{
	bool chosen = addr || flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	void *got = chosen ? MAP_FAILED : map_aligned(length, prot, flags, fd, offset);

	if (got == MAP_FAILED) {
		got = pass_mmap(addr, length, prot, flags, fd, offset);
		memory->asked = chosen ? "the program chose the address" :
					 "no range of addresses for alignment";
	}
	if (got == MAP_FAILED)
		return got;
	memory->addr = got;
	memory->length = round_up(length, PAGE);
	memory->whole = whole_length(memory, fd, offset);
	memory->offset = offset;
	memory->writable = prot & PROT_WRITE;
	memory->noreserve = flags & MAP_NORESERVE;
	if (make_leaves(memory, note))
		return got;
	kernel_munmap(got, length);
	errno = ENOMEM;
	return MAP_FAILED;
}

/* The program asked for hugetlb's pages: they are the kernel's to give. */
static void *map_hugetlb(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	const int bits = MAP_HUGETLB | (0x3f << 26); /* MAP_HUGE_SHIFT: the size of a page */
	const struct config *asked = config();
	struct memory memory = { .kind = ANONYMOUS };
	struct line why = { .length = 0 };
	void *got = pass_mmap(addr, length, prot, flags, fd, offset);

	if (got != MAP_FAILED || errno != ENOMEM || !asked->answer_hugetlb || !is_anonymous(flags))
		return got;
	add(&why, "instead of hugetlb pages, which the kernel refused");
	flags &= ~bits;
	length = round_up(length, PMD);
	if (!addr && asked->backend != BACKEND_THP) {
		got = map_on_msharefs(length, prot, flags, &why);
		if (got != MAP_FAILED)
			return got;
	}
	return map_thp(&memory, addr, length, prot, flags, fd, offset, &why);
}

PUBLIC void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	const struct config *asked;
	struct memory memory = { .kind = ANONYMOUS };
	struct line why = { .length = 0 };
	int error = errno;
	void *got;

	if (flags & MAP_FIXED)
		forget_later(addr, length); /* what lies there is replaced */
	if ((flags & MAP_TYPE) != MAP_SHARED && (flags & MAP_TYPE) != MAP_SHARED_VALIDATE)
		return pass_mmap(addr, length, prot, flags, fd, offset);
	asked = config();
	if (!asked->active || length < asked->min || length > SIZE_MAX / 2)
		return pass_mmap(addr, length, prot, flags, fd, offset);
	if (!is_anonymous(flags) && (!asked->posix || !kind_of(fd, &memory.kind))) {
		errno = error;
		return pass_mmap(addr, length, prot, flags, fd, offset);
	}
	errno = error;
	if (is_anonymous(flags)) {
		fd = -1;
		offset = 0;
		if (flags & MAP_HUGETLB)
			got = map_hugetlb(addr, length, prot, flags, fd, offset);
		else if (addr || asked->backend == BACKEND_THP ||
			 (got = map_on_msharefs(length, prot, flags, &why)) == MAP_FAILED)
			got = map_thp(&memory, addr, length, prot, flags, fd, offset, &why);
	} else {
		got = map_thp(&memory, addr, length, prot, flags, fd, offset, &why);
	}
	if (got != MAP_FAILED)
		errno = error;
	return got;
}

PUBLIC void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
	__attribute__((alias("mmap")));

PUBLIC int munmap(void *addr, size_t length)
{
	int result;

	if (msharefs_munmap(addr, length, &result))
		return result;
	forget_later(addr, length);
	return next_munmap ? next_munmap(addr, length) : kernel_munmap(addr, length);
}

PUBLIC int mprotect(void *addr, size_t length, int prot)
{
	int result;

	if (msharefs_mprotect(addr, length, prot, &result))
		return result;
	return next_mprotect ? next_mprotect(addr, length, prot) :
			       (int)syscall(SYS_mprotect, addr, length, prot);
}

PUBLIC int madvise(void *addr, size_t length, int advice)
{
	int result;

	if (msharefs_madvise(addr, length, advice, &result))
		return result;
	return next_madvise ? next_madvise(addr, length, advice) :
			      kernel_madvise(addr, length, advice);
}

PUBLIC void *mremap(void *addr, size_t length, size_t new_length, int flags, ...)
{
	void *result, *new_addr = NULL;
	va_list more;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(more, flags);
		new_addr = va_arg(more, void *);
		va_end(more);
	}
	if (msharefs_mremap(addr, length, new_length, flags, &result))
		return result;
	forget_later(addr, length);
	if (next_mremap)
		return next_mremap(addr, length, new_length, flags, new_addr);
	return (void *)syscall(SYS_mremap, addr, length, new_length, flags, new_addr);
}

static void *pass_shmat(int id, const void *addr, int flags)
{
	return next_shmat ? next_shmat(id, addr, flags) :
			    (void *)syscall(SYS_shmat, id, addr, flags);
}

/* Only hugetlb refuses this advice for a part of a large page.  Nothing is lost:
 * shared memory keeps its contents. */
static bool has_hugetlb_pages(char *addr)
{
	return kernel_madvise(addr + PAGE, PAGE, MADV_DONTNEED_LOCKED) && errno == EINVAL;
}

/*
 * Attach at an address that fits 2 MiB leaves; MAP_FAILED: the caller passes the
 * call on.
 *
 * Fact: a segment can have hugetlb's pages, and nothing tells before it is
 * attached.  The kernel then maps whole pages, more than the segment's size.
 * Decision: there is room for whole pages of 2 MiB.  The address is an odd
 * multiple of 2 MiB, where the kernel refuses larger pages.
 */
static void *attach_aligned(int id, size_t length, int flags)
{
	size_t wanted;
	void *got;
	int tries;

	for (tries = 0; tries < RACES; tries++) {
		wanted = (size_t)free_address(round_up(length, PMD) + PMD, 0, 0);
		if (!wanted)
			break;
		got = (void *)syscall(SYS_shmat, id, wanted | PMD, flags);
		if (got != MAP_FAILED || errno != EINVAL) /* EINVAL: another thread was faster */
			return got;
	}
	return MAP_FAILED;
}

PUBLIC void *shmat(int id, const void *addr, int flags)
{
	const struct config *asked = config();
	struct memory memory = { .kind = SYSV };
	struct line note = { .length = 0 };
	int error = errno;
	struct shmid_ds segment;
	void *got = MAP_FAILED;

	if (!asked->active || !asked->sysv || shmctl(id, IPC_STAT, &segment) ||
	    segment.shm_segsz < asked->min) {
		errno = error;
		return pass_shmat(id, addr, flags);
	}
	if (!addr && !(flags & SHM_REMAP))
		got = attach_aligned(id, segment.shm_segsz, flags);
	if (got == MAP_FAILED) {
		got = pass_shmat(id, addr, flags);
		memory.asked = addr ? "the program chose the address" :
				      "no range of addresses for alignment";
	}
	if (got == MAP_FAILED)
		return got;
	memory.addr = got;
	memory.length = memory.whole = round_up(segment.shm_segsz, PAGE);
	memory.writable = !(flags & SHM_RDONLY);
	memory.hugetlb = has_hugetlb_pages(got);
	if (make_leaves(&memory, &note)) {
		errno = error;
		return got;
	}
	syscall(SYS_shmdt, got);
	errno = ENOMEM;
	return MAP_FAILED;
}

PUBLIC int shmdt(const void *addr)
{
	forget_attached(addr);
	return next_shmdt ? next_shmdt(addr) : (int)syscall(SYS_shmdt, addr);
}

/*
 * RTLD_DEEPBIND makes a library find libc before any preloaded library, and then
 * nothing of that library is taken over, silently.  The call is a jump, so that
 * libc sees the program as its caller.
 */
PUBLIC void *dlopen(const char *file, int mode)
{
	if (config()->active)
		mode &= ~RTLD_DEEPBIND;
	if (!next_dlopen)
		FIND(dlopen);
	return next_dlopen(file, mode);
}

/* The calls by which a program becomes a server in the background: later.c. */

PUBLIC pid_t setsid(void)
{
	pid_t session;

	if (!next_setsid)
		FIND(setsid);
	session = next_setsid();
	if (session >= 0)
		note_session();
	return session;
}

PUBLIC pid_t fork(void)
{
	int error = errno;
	pid_t child;

	if (!next_fork)
		FIND(fork);
	child = next_fork();
	if (child > 0) {
		adopt_later();
		errno = error;
	}
	return child;
}

PUBLIC int daemon(int nochdir, int noclose)
{
	int result;

	if (!next_daemon)
		FIND(daemon);
	result = next_daemon(nochdir, noclose);
	if (!result)
		note_session();
	return result;
}
