// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Operations on the address space, around attachments whose pages the worker knows. */
#include "fuzz.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ptrace.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define MADV_WILLNEED_ 3
#define MADV_REMOVE_ 9
#define MADV_DONTFORK_ 10
#define MADV_DOFORK_ 11
#define MADV_POPULATE_READ_ 22
#define MADV_POPULATE_WRITE_ 23
#define MADV_COLLAPSE_ 25
#define MADV_HWPOISON_ 100

static char buffer[PAGE];
static uint64_t words[WORDS];

static size_t length(const struct attachment *a)
{
	return a->units * UNIT;
}

int op_attach(void)
{
	static const int flags[] = { 0, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE };
	struct target t;
	int i, flag = flags[below(4)];
	bool write = !chance(3);
	char *addr, *hint;

	pick_page(&t);
	for (i = 0; i < ATTACHMENTS; i++) {
		struct attachment *a = &attachments[i];

		if (a->r)
			continue;
		*a = (struct attachment){ .units = 1 + below(3), .offset = below(2), .writable = write };
		hint = flag & (MAP_FIXED | MAP_FIXED_NOREPLACE) ? free_window(a) :
		       chance(2) ? free_window(a) + PAGE : NULL;
		note("%lu units at %p, offset %lu, flags %#x%s", a->units, hint, a->offset, flag, write ? "" : " (ro)");
		addr = mmap(hint, length(a), write ? RW : PROT_READ, MAP_SHARED | flag, t.r->fd, a->offset * UNIT);
		if (addr == MAP_FAILED) {
			if (!t.r->writable)
				MUST((errno == EACCES && write) || errno == ENOMEM);
			else
				MUST((errno == EPERM && write && t.r->sealed) || errno == ENOMEM);
			return 0;
		}
		MUST(!write || (t.r->writable && !t.r->sealed));
		MUST(!((uintptr_t)addr % UNIT));
		MUST(!(flag & (MAP_FIXED | MAP_FIXED_NOREPLACE)) || addr == hint);
		a->addr = addr;
		a->r = t.r;
		if (chance(4))
			check_info(t.r);
		verify(&t);
		return 1;
	}
	return 0;
}

int op_attach_bad(void)
{
	struct attachment *a = pick_attachment();
	char *free = (char *)0x320000000000;
	struct target t;
	int fd;

	pick_page(&t);
	fd = t.r->fd;
	REFUSED(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, UNIT + PAGE, PROT_READ, MAP_SHARED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, UNIT, PROT_READ, MAP_SHARED, fd, PAGE), EINVAL);
	REFUSED(mmap(free + PAGE, UNIT, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, UNIT, PROT_NONE, MAP_SHARED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, UNIT, PROT_READ, MAP_PRIVATE, fd, 0), EINVAL);
	REFUSED(mmap(NULL, UNIT, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0), EPERM);
	REFUSED(mmap(NULL, UNIT, PROT_READ, MAP_SHARED, fd, 1L << 44), EOVERFLOW);
	REFUSED(mmap(NULL, 1UL << 47, PROT_READ, MAP_SHARED, fd, 0), ENOMEM, EOVERFLOW);
	if (a) {	/* over an attachment that is there */
		REFUSED(mmap(a->addr, UNIT, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0), EEXIST);
		REFUSED(mmap(a->addr + PAGE * below(UNIT_PAGES - 1), PAGE, RW,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL, ENOMEM);
	}
	verify_all();
	return 1;
}

int op_detach(void)
{
	struct attachment *a = pick_attachment();
	struct region *r;

	if (!a)
		return 0;
	r = a->r;
	note("%s at %p", r->name, a->addr);
	if (chance(4)) {	/* by another mapping in its place */
		MUST(mmap(a->addr, length(a), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
			  -1, 0) == a->addr);
		MUST(load_page(a->addr, words) == SEGV);
	}
	MUST(!munmap(a->addr, length(a)));
	a->r = NULL;
	MUST(load_page(a->addr, words) == SEGV);
	check_info(r);
	return 1;
}

int op_detach_part(void)
{
	struct attachment *a = pick_attachment();
	unsigned long page;

	if (!a)
		return 0;
	page = below(length(a) / PAGE - 1);
	note("%p page %lu of %zu", a->addr, page, length(a) / PAGE);
	REFUSED(munmap(a->addr, PAGE * (1 + page)), EINVAL, ENOMEM);
	REFUSED(munmap(a->addr + (1 + page) * PAGE, length(a) - (1 + page) * PAGE), EINVAL, ENOMEM);
	REFUSED(munmap(a->addr + page * PAGE, PAGE), EINVAL, ENOMEM);
	if (a->units > 1)
		REFUSED(munmap(a->addr + (a->units - 1) * UNIT, UNIT), EINVAL, ENOMEM);
	verify_all();
	return 1;
}

int op_mremap(void)
{
	struct attachment *a = pick_attachment();
	char *to, *old;

	if (!a)
		return 0;
	old = a->addr;
	to = free_window(a);
	note("%p to %p, %lu units", old, to, a->units);
	if (!MAY(mremap(old, length(a), length(a), MREMAP_MAYMOVE | MREMAP_FIXED, to), ENOMEM))
		return 0;
	a->addr = to;
	MUST(load_page(old, words) == SEGV);
	MUST(mremap(to, length(a), length(a), MREMAP_MAYMOVE) == to);
	verify_all();
	check_info(a->r);
	return 1;
}

int op_mremap_bad(void)
{
	struct attachment *a = pick_attachment();
	char *to = (char *)0x328000000000;
	size_t len, other;
	int flags;

	if (!a)
		return 0;
	len = length(a);
	other = PAGE * (1 + below(len / PAGE - 1));
	flags = below(2) ? MREMAP_MAYMOVE : 0;
	note("%p %#zx other %#zx flags %d", a->addr, len, other, flags);
	REFUSED(mremap(a->addr, len, other, flags), EINVAL, EFAULT, ENOMEM);
	REFUSED(mremap(a->addr, len, len + PAGE, flags), EFAULT, ENOMEM, EINVAL);
	REFUSED(mremap(a->addr, len, len + UNIT, flags), EFAULT, ENOMEM, EINVAL);
	REFUSED(mremap(a->addr, 0, len, MREMAP_MAYMOVE), EFAULT, EINVAL, ENOMEM);
	REFUSED(mremap(a->addr, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), EINVAL);
	REFUSED(mremap(a->addr, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE), EINVAL, ENOMEM, EFAULT);
	REFUSED(mremap(a->addr, other, other, MREMAP_MAYMOVE | MREMAP_FIXED, to), EINVAL, ENOMEM, EFAULT);
	REFUSED(mremap(a->addr + PAGE, len - PAGE, len - PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), EINVAL, ENOMEM, EFAULT);
	REFUSED(mremap(a->addr, len, len, 8, to), EINVAL);
	if (a->units > 1)
		REFUSED(mremap(a->addr, len, len - UNIT, flags), EINVAL, ENOMEM);
	MUST(load_page(to, words) == SEGV);
	verify_all();
	return 1;
}

int op_mprotect(void)
{
	static const int prots[] = { PROT_NONE, PROT_READ, RW, PROT_READ | PROT_EXEC };
	struct attachment *a = pick_attachment();
	int prot = prots[below(4)];

	if (!a)
		return 0;
	note("%p prot %d", a->addr, prot);
	REFUSED(mprotect(a->addr, length(a), prot), EACCES, EINVAL, EPERM);
	REFUSED(mprotect(a->addr + PAGE * below(100), PAGE, prot), EACCES, EINVAL, EPERM);
	REFUSED(syscall(__NR_pkey_mprotect, a->addr, length(a), prot, below(3) - 1), EACCES, EINVAL, EPERM,
		ENOSYS);
	verify_all();
	return 1;
}

int op_madvise(void)
{
	int advice = below(35), ret;
	struct target t;
	char *start;
	size_t len;

	advice = advice < 31 ? advice : 100 + advice - 31;
	if (advice == MADV_HWPOISON_)
		return 0;	/* wild_poison */
	if (!pick_mapped(&t))
		return 0;
	start = t.at;
	len = PAGE;
	/* These would fill gigabytes, or free what is not this worker's alone. */
	if (advice != MADV_WILLNEED_ && advice != MADV_REMOVE_ && advice != MADV_POPULATE_READ_ &&
	    advice != MADV_POPULATE_WRITE_ && advice != MADV_COLLAPSE_ && advice < 100 && chance(2)) {
		start = t.a->addr;
		len = length(t.a);
	}
	note("advice %d for %p + %#zx", advice, start, len);
	/* From 7.x on MADV_DONTFORK cannot be undone on a mapping like ours. */
	if (advice == MADV_DONTFORK_ && madvise(start, len, MADV_DOFORK_))
		return 0;
	ret = madvise(start, len, advice);
	if (advice == MADV_DONTFORK_)
		MUST(ret || !madvise(start, len, MADV_DOFORK_));
	if (advice == MADV_REMOVE_ && !ret) {
		MUST(t.a->writable && !t.a->handle && t.r->writable && !t.r->sealed &&
		     t.p->prot == MSHARE_PROT_READWRITE);
		model_cut(t.r, t.pos, t.pos + PAGE);
	}
	if (advice == MADV_POPULATE_READ_ || advice == MADV_POPULATE_WRITE_) {
		int allowed = predict(&t, advice == MADV_POPULATE_WRITE_);

		if (!ret) {
			MUST(allowed & MAY_OK);
			t.p->have = PRESENT;
		} else if (errno != EINVAL && errno != EINTR && errno != EAGAIN) {	/* EINVAL: an old kernel */
			MUST(allowed & (MAY_SEGV | MAY_BUS));
		}
	}
	if (t.p->have == ABSENT && t.pos < t.r->size && advice >= 100)
		t.p->have = MAYBE;
	if (ret && advice != MADV_POPULATE_READ_ && advice != MADV_POPULATE_WRITE_)
		MUST(errno == EINVAL || errno == EACCES || errno == EPERM || errno == EBUSY || errno == EAGAIN ||
		     errno == EFAULT || errno == ENOMEM || errno == EBADF || errno == EIO || errno == EOPNOTSUPP ||
		     errno == EXDEV);
	verify(&t);
	return !ret;
}

int op_mlock(void)
{
	struct target t;

	if (!pick_mapped(&t))
		return 0;
	if (MAY(mlock(t.at, PAGE), ENOMEM, EPERM, EAGAIN, EINVAL) && t.p->have == ABSENT && t.pos < t.r->size)
		t.p->have = MAYBE;
	if (t.p->have == ABSENT && t.pos < t.r->size)
		t.p->have = MAYBE;
	MAY(syscall(__NR_mlock2, t.at, PAGE, 1 /* MLOCK_ONFAULT */), ENOMEM, EPERM, EAGAIN, EINVAL);
	MAY(munlock(t.at, PAGE), ENOMEM, EINVAL);
	verify(&t);
	return 1;
}

/* Populates every attachment, until there is no space left. */
int op_mlockall(void)
{
	unsigned int i;
	bool done;

	if (!chance(16))
		return 0;
	done = MAY(mlockall(1 + below(7)), EPERM, ENOMEM, EINVAL, EAGAIN);
	munlockall();
	for (i = 0; i < REGIONS; i++)
		regions[i].loose |= regions[i].sealed;	/* which cannot be swept */
	blur();
	sweep();
	verify_all();
	return done;
}

int op_mincore(void)
{
	unsigned char vec[64];
	struct target t;

	if (!pick_mapped(&t))
		return 0;
	MUST(!mincore(t.at, PAGE, vec));
	MUST(!mincore(t.a->addr, 64 * PAGE, vec));
	return 1;
}

int op_mempolicy(void)
{
	struct attachment *a = pick_attachment();
	unsigned long nodes = 1, mode = below(7);
	void *pages[2];
	int where[2] = { 0, 0 }, status[2];

	if (!a)
		return 0;
	note("%p mode %lu", a->addr, mode);
	MAY(syscall(__NR_mbind, a->addr, length(a), mode, &nodes, 8, below(8)), EINVAL, EIO, EPERM, EFAULT, ENOMEM);
	MAY(syscall(__NR_mbind, a->addr + PAGE, PAGE, mode, &nodes, 8, below(4)), EINVAL, EIO, EPERM, EFAULT, ENOMEM);
	pages[0] = a->addr;
	pages[1] = a->addr + PAGE;
	MAY(syscall(__NR_move_pages, 0, 2, pages, chance(2) ? where : NULL, status, 2), ENOENT, EPERM, EINVAL, EACCES);
	MAY(syscall(__NR_migrate_pages, 0, 8, &nodes, &nodes), EPERM, EINVAL);
	verify_all();
	return 1;
}

int op_mseal(void)
{
	struct attachment *a = pick_attachment();
	pid_t pid;

	if (!a)
		return 0;
	pid = child();	/* nobody could detach it again */
	if (!pid) {
		if (MAY(syscall(462, a->addr, length(a), 0), ENOSYS, EPERM, ENOMEM, EINVAL)) {
			REFUSED(munmap(a->addr, length(a)), EPERM);
			REFUSED(mremap(a->addr, length(a), length(a), MREMAP_MAYMOVE | MREMAP_FIXED, free_window(a)), EPERM);
			verify_all();
		}
		MAY(syscall(462, a->addr + PAGE, PAGE, 0), ENOSYS, EPERM, ENOMEM, EINVAL);
		_exit(0);
	}
	reap(pid, false);
	blur();
	return 1;
}

int op_userfaultfd(void)
{
	static const int modes[] = { 1, 2, 3, 4, 7 };
	struct uffdio_register range = { .mode = modes[below(5)] };
	struct uffdio_api api = { .api = UFFD_API, .features = below(2) ? 0 : 1 << 15 /* WP_ASYNC */ };
	struct attachment *a = pick_attachment();
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* UFFD_USER_MODE_ONLY */);

	if (fd < 0 || !a) {
		MUST(fd >= 0 || errno == EPERM || errno == ENOSYS || errno == EINVAL || errno == ENOMEM);
		if (fd >= 0)
			close(fd);
		return 0;
	}
	MAY(ioctl(fd, UFFDIO_API, &api), EINVAL, EPERM);
	range.range.start = (uintptr_t)a->addr;
	range.range.len = chance(2) ? length(a) : PAGE;
	note("%p + %#llx mode %llu", a->addr, range.range.len, range.mode);
	REFUSED(ioctl(fd, UFFDIO_REGISTER, &range), EINVAL, EPERM, EBUSY, ENOMEM);
	close(fd);
	verify_all();
	return 1;
}

int op_process_vm(void)
{
	struct iovec local = { buffer, PAGE }, remote;
	struct target t;
	ssize_t done;

	if (!pick_mapped(&t))
		return 0;
	remote = (struct iovec){ t.at, PAGE };
	if (chance(2)) {
		done = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
		MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
		settle_load(&t, done > 0, buffer);
	} else {
		fresh(words);
		put_words(buffer, words);
		done = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
		MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
		settle_store(&t, done > 0, words);
	}
	verify(&t);
	return done > 0;
}

int op_proc_mem(void)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	struct target t;
	ssize_t done = 0;

	MUST(fd >= 0);
	if (pick_mapped(&t)) {
		if (chance(2)) {
			done = pread(fd, buffer, PAGE, (uintptr_t)t.at);
			settle_load(&t, done == (ssize_t)PAGE, buffer);
		} else {
			fresh(words);
			put_words(buffer, words);
			done = pwrite(fd, buffer, PAGE, (uintptr_t)t.at);
			settle_store(&t, done == (ssize_t)PAGE, words);
		}
		verify(&t);
	}
	close(fd);
	return done > 0;
}

int op_clear_refs(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	char what = '1' + below(5);

	MUST(fd >= 0);
	note("%c", what);
	MAY(write(fd, &what, 1), EINVAL);
	close(fd);
	verify_all();
	return 1;
}

int op_proc_maps(void)
{
	static const char *const names[] = { "smaps", "smaps_rollup", "numa_maps", "maps" };
	static char large[65536];
	struct attachment *a = pick_attachment();
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s", names[below(4)]);
	note("%s", path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	MUST(fd >= 0);
	while (read(fd, large, sizeof(large)) > 0)
		;
	close(fd);
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	MUST(fd >= 0);
	if (a)
		MUST(pread(fd, large, PAGE, (uintptr_t)a->addr / PAGE * 8) == (ssize_t)PAGE);
	close(fd);
	return 1;
}

int op_process_madvise(void)
{
	static const int advised[] = { 3, 4, 20, 21, 25 };
	int advice = advised[below(5)], fd = syscall(__NR_pidfd_open, getpid(), 0);
	struct iovec iov;
	struct target t;
	bool done = false;

	MUST(fd >= 0);
	if (pick_mapped(&t)) {
		iov = (struct iovec){ t.at, PAGE };
		done = MAY(syscall(__NR_process_madvise, fd, &iov, 1, advice, 0), EINVAL, EPERM, EAGAIN, EBUSY,
			   ENOMEM, EFAULT);
		verify(&t);
	}
	close(fd);
	return done;
}

/* ---- children ---- */

int op_fork(void)
{
	struct target t;
	int how = below(5);
	pid_t pid;

	if (!pick_mapped(&t))
		return 0;
	note("how %d", how);
	fresh(words);
	pid = child();
	if (!pid) {
		enum touch touch;

		if (how == 0)	/* at once, while the parent may still be on its way back */
			kill(getpid(), SIGKILL);
		verify_all();
		touch = store_page(t.at, words);
		if (!(predict(&t, true) & 1 << touch))
			die("store in a child: outcome %d", touch);
		if (how == 1)
			kill(getpid(), SIGKILL);
		if (how == 2) {
			MUST(!munmap(t.a->addr, length(t.a)));
			MUST(load_page(t.at, words) == SEGV);
		}
		if (how == 3) {
			execl("/bin/true", "true", NULL);
			_exit(0);
		}
		_exit(0);
	}
	reap(pid, how < 2);
	blur();
	if (how > 0) {	/* with a hole or a limit the child may not have got that far */
		struct target after = t;
		enum touch touch = load_page(t.at, (uint64_t[WORDS]){ 0 });
		uint64_t seen[WORDS];

		if (touch == OK && (predict(&t, true) & MAY_OK)) {
			load_page(t.at, seen);
			if (!memcmp(seen, words, sizeof(words)))
				settle_store(&after, true, words);
			else
				MUST(predict(&t, true) & (MAY_BUS | MAY_SEGV));
		}
	}
	verify(&t);
	check_info(t.r);
	return 1;
}

/* Grandchildren that move and detach, and lose their parent. */
int op_fork_tree(void)
{
	struct attachment *a = pick_attachment();
	pid_t pid;

	if (!a)
		return 0;
	pid = child();
	if (!pid) {
		char *to = (char *)0x330000000000;
		bool leave = chance(2);
		pid_t grandchild = child();

		if (!grandchild && leave) {	/* dies soon, and must not compare: the worker goes on */
			for (;;) {
				load_page(a->addr, words);
				mremap(a->addr, length(a), length(a), MREMAP_MAYMOVE | MREMAP_FIXED, to);
				mremap(to, length(a), length(a), MREMAP_MAYMOVE | MREMAP_FIXED, a->addr);
			}
		}
		if (!grandchild) {
			verify_all();
			if (MAY(mremap(a->addr, length(a), length(a), MREMAP_MAYMOVE | MREMAP_FIXED, to), ENOMEM))
				a->addr = to;
			verify_all();
			_exit(0);
		}
		if (leave)
			_exit(0);
		MUST(!munmap(a->addr, length(a)));
		a->r = NULL;
		verify_all();
		reap(grandchild, true);
		_exit(0);
	}
	reap(pid, false);
	blur();
	return 1;
}

int op_vfork(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execl("/bin/true", "true", NULL);
		_exit(0);
	}
	MUST(pid > 0);
	reap(pid, false);
	verify_all();
	return 1;
}

static struct target clone_target;

static int clone_body(void *unused)
{
	store_page(clone_target.at, words);
	syscall(__NR_exit, 0);
	return 0;
}

/* A process that shares this address space, and nothing else. */
int op_clone_vm(void)
{
	static char stack[16384] __attribute__((aligned(16)));
	uint64_t seen[WORDS];
	enum touch touch;
	pid_t pid;

	if (!pick_mapped(&clone_target))
		return 0;
	if (predict(&clone_target, true) != MAY_OK)
		return 0;
	fresh(words);
	pid = clone(clone_body, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	if (pid < 0) {
		MUST(my_limit && errno == ENOMEM);
		return 0;
	}
	reap(pid, false);
	touch = load_page(clone_target.at, seen);
	MUST(touch == OK && !memcmp(seen, words, sizeof(words)));
	settle_store(&clone_target, true, words);
	return 1;
}

static volatile bool stop_threads;

static void *reader_thread(void *arg)
{
	uint64_t seen[WORDS];

	while (!stop_threads)
		load_page(arg, seen);
	return NULL;
}

/* A thread reads a page all the time while its tables are parked, cut and linked again. */
int op_threads(void)
{
	struct mshare_protect request = { .length = PAGE };
	pthread_t thread;
	struct target t;
	char *home;
	int i;

	if (!pick_mapped(&t))
		return 0;
	home = t.a->addr;
	stop_threads = false;
	if (pthread_create(&thread, NULL, reader_thread, t.at)) {
		MUST(my_limit);
		return 0;
	}
	for (i = 0; i < 8; i++) {
		/* At home or away: elsewhere the thread could read another page of the region. */
		char *to = t.a->addr == home ? free_window(t.a) : home;

		switch (below(4)) {
		case 0:
			MAY(madvise(t.a->addr, length(t.a), 4), EINVAL);
			break;
		case 1:
			if (MAY(mremap(t.a->addr, length(t.a), length(t.a), MREMAP_MAYMOVE | MREMAP_FIXED, to), ENOMEM)) {
				t.at += to - t.a->addr;
				t.a->addr = to;
			}
			break;
		case 2:
			request.offset = t.pos;
			request.prot = below(2);
			if (t.r->writable && !ioctl(t.r->fd, MSHARE_IOC_PROTECT, &request))
				t.p->prot = request.prot;
			request.prot = MSHARE_PROT_READWRITE;
			if (t.r->writable && !ioctl(t.r->fd, MSHARE_IOC_PROTECT, &request))
				t.p->prot = request.prot;
			break;
		case 3:
			if (t.r->writable && !fallocate(t.r->fd, PUNCH, t.pos, PAGE))
				model_cut(t.r, t.pos, t.pos + PAGE);
			break;
		}
		if (t.p->have == ABSENT && t.pos < t.r->size)
			t.p->have = MAYBE;
	}
	stop_threads = true;
	MUST(!pthread_join(thread, NULL));
	verify(&t);
	return 1;
}

int op_ptrace(void)
{
	struct target t;
	int status;
	long done;
	pid_t pid;

	if (!pick_mapped(&t))
		return 0;
	pid = child();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid);
	if (WIFSTOPPED(status)) {
		ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL);
		errno = 0;
		done = ptrace(PTRACE_PEEKDATA, pid, t.at, NULL);
		memset(buffer, 0, PAGE);
		put_words(buffer, t.p->word);
		memcpy(buffer, &done, sizeof(done));
		settle_load(&t, !errno, buffer);
		fresh(words);
		memcpy(words + 1, t.p->word + 1, (WORDS - 1) * sizeof(*words));
		done = ptrace(PTRACE_POKEDATA, pid, t.at, words[0]);
		settle_store(&t, !done, words);
		kill(pid, SIGKILL);
		reap(pid, true);
	} else {
		MUST(my_limit);
	}
	verify(&t);
	return 1;
}
