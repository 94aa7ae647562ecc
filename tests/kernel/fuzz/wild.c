// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Operations on a few files that all workers change, and on a range of
 * addresses of their own where those are attached.  Anything may happen, except
 * a complaint of the kernel, an errno that the call does not have, and a word
 * that none of the workers has written.
 */
#include "fuzz.h"
#include <sys/file.h>

#define FILES 4
#define WINDOWS 4
#define WINDOW (2 * UNIT)
#define ARENA ((char *)0x380000000000)

static int files[FILES] = { -1, -1, -1, -1 };
static char buffer[PAGE];
static uint64_t words[WORDS];

static int *pick_file(void)
{
	unsigned int i = below(FILES);
	char path[160];
	int fd;

	if (files[i] < 0 || chance(20)) {
		snprintf(path, sizeof(path), "%s/wild%u", root, i);
		fd = am_reader ? open(path, O_RDONLY | O_CLOEXEC) : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
		if (fd < 0) {
			MUST(errno == ENOENT || errno == EACCES || errno == ENOSPC || errno == ENOMEM);
		} else {
			if (files[i] >= 0)
				close(files[i]);
			files[i] = fd;
		}
	}
	return files[i] < 0 ? NULL : &files[i];
}

static char *pick_addr(void)
{
	char *addr = ARENA + below(WINDOWS) * WINDOW;

	if (chance(3))
		addr += below(2) * UNIT;
	return chance(3) ? addr + below(32) * PAGE : addr;
}

/* A page, more often than not of an attachment. */
static char *pick_page_addr(void)
{
	return (char *)((uintptr_t)pick_addr() & -UNIT) + below(32) * PAGE;
}

static size_t pick_len(void)
{
	static const size_t lengths[] = { UNIT, UNIT, UNIT, UNIT, UNIT, 2 * UNIT, 2 * UNIT, 3 * UNIT, PAGE,
		16 * PAGE, UNIT + PAGE, 0 };

	return lengths[below(12)];
}

/* Where the kernel put it by itself it is in nobody's way for long. */
static void keep_in_arena(char *addr, size_t len)
{
	if (addr < ARENA || addr >= ARENA + 64 * UNIT)
		MUST(!munmap(addr, len));
}

int op_wild_mmap(void)
{
	static const int extra[] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		MAP_POPULATE | MAP_NONBLOCK, MAP_LOCKED | MAP_NONBLOCK, MAP_GROWSDOWN, MAP_NORESERVE, MAP_STACK,
		MAP_SYNC, MAP_NONBLOCK, MAP_32BIT };
	static const off_t offsets[] = { 0, 0, 0, 0, 0, UNIT, UNIT, 2 * UNIT, PAGE, 1L << 44, (1L << 44) - UNIT };
	int prot = chance(8) ? (int)below(16) : chance(2) ? RW : PROT_READ, flags = chance(6) ? 1 + (int)below(3) : MAP_SHARED;
	char *addr = chance(4) ? pick_addr() : (char *)((uintptr_t)pick_addr() & -UNIT), *got;
	size_t len = pick_len();
	off_t offset = offsets[below(11)];
	int *fd = pick_file();

	if (!fd)
		return 0;
	flags |= extra[below(20)] | (chance(2) ? MAP_FIXED : chance(4) ? MAP_FIXED_NOREPLACE : 0);
	note("%p + %#zx prot %d flags %#x offset %#lx", addr, len, prot, flags, offset);
	got = mmap(addr, len, prot, flags, *fd, offset);
	if (!MAY(got, EINVAL, EPERM, EACCES, ENOMEM, EOVERFLOW, EEXIST, EAGAIN, EOPNOTSUPP, EBUSY))
		return 0;
	MUST(!((uintptr_t)got % UNIT) && !(len % UNIT) && !(prot & PROT_EXEC) && prot & RW);
	keep_in_arena(got, len);
	return 1;
}

int op_wild_munmap(void)
{
	char *addr = pick_addr();
	size_t len = pick_len();

	note("%p + %#zx", addr, len);
	return MAY(munmap(addr, len), EINVAL, ENOMEM);
}

int op_wild_mremap(void)
{
	char *from = chance(4) ? pick_addr() : (char *)((uintptr_t)pick_addr() & -UNIT), *to = ARENA + below(WINDOWS) * WINDOW, *got;
	size_t len = pick_len(), new_len = chance(4) ? pick_len() : len;
	int flags = chance(2) ? 3 : below(8);

	if (chance(2))
		to += UNIT;
	if (chance(8))
		to += PAGE;
	if (from + len > to && to + new_len > from && flags & 2)
		return 0;
	note("%p + %#zx to %p + %#zx flags %d", from, len, to, new_len, flags);
	got = mremap(from, len, new_len, flags, to);
	if (!MAY(got, EINVAL, EFAULT, ENOMEM, EAGAIN, EACCES))
		return 0;
	keep_in_arena(got, new_len);
	return 1;
}

int op_wild_mprotect(void)
{
	return MAY(mprotect(pick_addr(), pick_len(), below(8)), EINVAL, EACCES, ENOMEM);
}

int op_wild_madvise(void)
{
	int advice = below(33);
	char *addr = pick_addr();
	size_t len = pick_len();

	advice = advice < 31 ? advice : 102 + advice - 31;
	if (chance(2)) {
		addr = pick_page_addr();
		len = 8 * PAGE;
	}
	if (len > 16 * PAGE && (advice == 3 || (advice >= 22 && advice <= 25)))
		len = 16 * PAGE;
	note("advice %d %p + %#zx", advice, addr, len);
	return MAY(madvise(addr, len, advice), EINVAL, EACCES, ENOMEM, EPERM, EBUSY, EAGAIN, EFAULT, EBADF, EIO,
		   EOPNOTSUPP, ENOSPC, EHWPOISON);
}

/* Memory errors by software, not many: the pages are lost to the machine. */
int op_wild_poison(void)
{
	char *addr = pick_page_addr();
	int advice = 100 + below(2), ret;

	if (geteuid() || !chance(2) || load_page(addr, words) != OK ||
	    (advice == 100 && __atomic_fetch_add(&world->poisoned, 1, __ATOMIC_RELAXED) >= 8))
		return 0;
	note("advice %d %p", advice, addr);
	poisoning = true;
	ret = madvise(addr, PAGE, advice);
	poisoning = false;
	return MAY(ret, EINVAL, EPERM, EBUSY, EIO, EFAULT, ENOMEM, EHWPOISON, EAGAIN, EOPNOTSUPP);
}

int op_wild_remap(void)
{
	char *addr = pick_addr();
	size_t len = pick_len(), pgoff = chance(2) ? UNIT_PAGES * below(3) : below(100);

	note("%p + %#zx page %zu", addr, len, pgoff);
	return MAY(syscall(__NR_remap_file_pages, addr, len, 0, pgoff, chance(2) ? 0 : MAP_NONBLOCK),
		   EINVAL, EAGAIN, ENOMEM, EPERM, EACCES, EOVERFLOW);
}

int op_wild_mseal(void)
{
	pid_t pid = child();

	if (!pid) {
		MAY(syscall(462, pick_addr(), pick_len(), 0), ENOSYS, EPERM, ENOMEM, EINVAL);
		MAY(munmap(pick_addr(), pick_len()), EPERM, EINVAL, ENOMEM);
		MAY(mremap(pick_addr(), UNIT, UNIT, 3, ARENA + 16 * UNIT), EPERM, EINVAL, EFAULT, ENOMEM);
		_exit(0);
	}
	reap(pid, false);
	return 1;
}

int op_wild_policy(void)
{
	unsigned long nodes = below(4);
	void *pages[3] = { pick_page_addr(), pick_page_addr(), pick_page_addr() };
	int where[3] = { 0, 0, 1 }, status[3];

	MAY(syscall(__NR_mbind, pick_addr(), pick_len(), below(8), &nodes, 8, below(8)), EINVAL, EIO, EPERM, EFAULT, ENOMEM);
	MAY(syscall(450 /* set_mempolicy_home_node */, pick_addr(), pick_len(), 0, 0), EINVAL, ENOENT, EOPNOTSUPP, ENOSYS, ENOMEM);
	return MAY(syscall(__NR_move_pages, 0, 3, pages, chance(2) ? where : NULL, status, 2), ENOENT, EPERM, EINVAL,
		   EACCES, ENODEV);
}

/* More attachments than a process may have, or than one looks at; some are moved. */
int op_wild_many(void)
{
	char *first = (char *)0x3a0000000000;
	int *fd = pick_file(), i, n, moves = below(8);

	if (!fd || !chance(4))
		return 0;
	for (n = 0; n < 1100; n++)
		if (mmap(first + n * UNIT, UNIT, PROT_READ, MAP_SHARED | MAP_FIXED, *fd, below(2) * UNIT) == MAP_FAILED)
			break;
	note("%d attachments, %d moves", n, moves);
	MUST(n == 1100 || errno == ENOMEM);
	for (i = 0; i < moves && n > 8; i++) {
		char *from = first + below(n) * UNIT, *to = first + (n + i) * UNIT;

		if (MAY(mremap(from, UNIT, UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, to), ENOMEM, EFAULT)) {
			load_page(to, words);
			if (chance(2))
				munmap(first + below(n) * UNIT, UNIT);
			MAY(mremap(to, UNIT, UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, from), ENOMEM, EFAULT);
			load_page(from, words);
		}
	}
	MUST(!munmap(first, 1200 * UNIT));
	return n > 0;
}

static int tight_fd;

/* Shares the address space; the kernel kills nobody for lack of memory here, but lets calls fail. */
static int tight_body(void *unused)
{
	char *addr = ARENA + below(WINDOWS) * WINDOW, *to = ARENA + below(WINDOWS) * WINDOW;

	if (write(tight_fd, "0", 1) == 1) {
		mremap(addr, WINDOW, WINDOW, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		mremap(addr, UNIT, UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, to + UNIT);
		if (files[0] >= 0)
			mmap(addr, WINDOW, PROT_READ, MAP_SHARED | MAP_FIXED, files[0], 0);
	}
	syscall(__NR_exit, 0);
	return 0;
}

/* Attaching fails at some point in the middle; afterwards the mappings are used as ever. */
int op_wild_tight(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	char path[160], limit[16];
	unsigned int i, kib = 4 * below(32);
	pid_t pid;
	int fd;

	if (!tight || geteuid() || my_limit)
		return 0;
	note("%u KiB", kib);
	snprintf(path, sizeof(path), "%s/memory.max", tight);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	MUST(fd >= 0 && write(fd, limit, snprintf(limit, sizeof(limit), "%uK", kib)) > 0);
	close(fd);
	snprintf(path, sizeof(path), "%s/cgroup.procs", tight);
	tight_fd = open(path, O_WRONLY | O_CLOEXEC);
	MUST(tight_fd >= 0);
	pid = clone(tight_body, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	MUST(pid > 0);
	reap(pid, true);
	close(tight_fd);
	for (i = 0; i < 2 * WINDOWS; i++)
		load_page(ARENA + i * UNIT + below(32) * PAGE, words);
	for (i = 0; i < 3; i++)
		op_wild_mremap();
	return 1;
}

static void check_words(const uint64_t *words, const char *how)
{
	unsigned int k;

	for (k = 0; k < WORDS; k++)
		if (!is_ours(words[k], k, -1))
			die("%s: byte %u is %#lx, which nobody has written", how, word_at[k], words[k]);
}

static void check_buffer(const char *how)
{
	unsigned int k;

	for (k = 0; k < WORDS; k++)
		memcpy(&words[k], buffer + word_at[k], sizeof(words[k]));
	check_words(words, how);
}

int op_wild_touch(void)
{
	char *addr = pick_page_addr();
	enum touch touch;

	note("%p", addr);
	if (chance(2)) {
		touch = load_page(addr, words);
		if (touch == OK)
			check_words(words, "load");
	} else {
		fresh(words);
		touch = store_page(addr, words);
	}
	return touch == OK;
}

int op_wild_file(void)
{
	off_t pos = (chance(8) ? UNIT : 0) + below(64) * PAGE, size = (chance(8) ? UNIT : 0) + below(64 * 512) * 8;
	int *fd = pick_file(), what = below(14);
	ssize_t got;

	if (!fd)
		return 0;
	note("what %d pos %#lx size %#lx", what, pos, size);
	switch (what) {
	case 0: case 1:
		memset(buffer, 0, PAGE);
		got = pread(*fd, buffer, PAGE, pos);
		if (got > 0)
			check_buffer("pread");
		return MAY(got, EACCES, EIO);
	case 2: case 3: case 12: case 13:
		fresh(words);
		memset(buffer, 0, PAGE);
		put_words(buffer, words);
		return MAY(pwrite(*fd, buffer, PAGE, pos), EACCES, EPERM, ENOSPC, ENOMEM, EBADF, EIO, EFBIG);
	case 4:
		return MAY(pwrite(*fd, (char *)((uintptr_t)pick_addr() & -PAGE), PAGE, pos), EACCES, EPERM, ENOSPC,
			   ENOMEM, EBADF, EIO, EFBIG, EFAULT);
	case 5:
		if (chance(3))	/* what a populating call has filled */
			MAY(fallocate(*fd, PUNCH, 64 * PAGE, 4 * UNIT), EACCES, EPERM, EBADF);
		return MAY(fallocate(*fd, PUNCH, pos, size), EACCES, EPERM, EBADF, EINVAL);
	case 6:
		return MAY(fallocate(*fd, 0, pos, (1 + below(64)) * PAGE), EPERM, EBADF, ENOSPC, ENOMEM, EFBIG);
	case 7:
		return MAY(ftruncate(*fd, chance(3) ? size : (off_t)(2 * UNIT)), EACCES, EPERM, EINVAL, EBADF);
	case 8: {
		int *to = pick_file();
		off_t from = pos;

		return to && MAY(syscall(__NR_copy_file_range, *fd, &from, *to, &pos, PAGE, 0), EACCES, EPERM, ENOSPC,
				 ENOMEM, EBADF, EIO, EFBIG, EINVAL, EOPNOTSUPP, EXDEV);
	}
	case 9:
		MAY(fsync(*fd), EINVAL);
		return MAY(posix_fadvise(*fd, 0, 0, below(6)) ? -1 : 0, EINVAL, EIO, EBADF, 0);
	case 10:
		return MAY(readahead(*fd, 0, size), EINVAL, EBADF);
	default:
		return MAY(fchmod(*fd, chance(2) ? 0666 : 0644), EPERM);
	}
}

/* Take what the mount has, so that the others know ENOSPC and SIGBUS. */
int op_wild_fill(void)
{
	int *fd = pick_file();
	off_t size;

	if (!fd || !chance(4))
		return 0;
	for (size = 1 << 20; size < 1 << 30; size *= 2)
		if (!MAY(fallocate(*fd, 0, 0, size), EPERM, EBADF, ENOSPC, ENOMEM))
			break;
	MAY(ftruncate(*fd, 16 * PAGE), EACCES, EPERM, EINVAL);
	MAY(fallocate(*fd, PUNCH, 16 * PAGE, 1 << 30), EACCES, EPERM);
	return 1;
}

int op_wild_ioctl(void)
{
	struct mshare_protect request = { below(64) * PAGE, (1 + below(64)) * PAGE, chance(2) ? 3 : below(2), 0 };
	uint64_t base = 0x200000000000 + below(64) * UNIT;
	struct mshare_info info;
	int *fd = pick_file(), handle;
	uint32_t flags = below(2);

	if (!fd)
		return 0;
	switch (below(5)) {
	case 4:
		return MAY(ioctl(*fd, MSHARE_IOC_HUGE, &flags), EPERM, EBADF);
	case 0:
		note("protect %#llx + %#llx prot %u", request.offset, request.length, request.prot);
		return MAY(ioctl(*fd, MSHARE_IOC_PROTECT, &request), EPERM, EINVAL, EBADF, ENOMEM, ENOSPC);
	case 1:
		return MAY(ioctl(*fd, MSHARE_IOC_SET_BASE, &base), EPERM, EBADF, EBUSY, EINVAL);
	case 2:
		MUST(!ioctl(*fd, MSHARE_IOC_INFO, &info));
		return 1;
	default:
		handle = ioctl(*fd, MSHARE_IOC_HANDLE, &flags);
		if (!MAY(handle, EPERM, EBADF, ENOSPC, ENOMEM))
			return 0;
		MAY(mmap(pick_addr(), UNIT, flags ? RW : PROT_READ, MAP_SHARED | MAP_FIXED, handle, 0), EINVAL, ENOMEM, EPERM);
		close(handle);
		return 1;
	}
}

int op_wild_names(void)
{
	char a[160], b[160], link[64];
	int fd;

	snprintf(a, sizeof(a), "%s/wild%u", root, below(FILES));
	snprintf(b, sizeof(b), "%s/wild%u", root, below(FILES));
	switch (below(4)) {
	case 0:
		return MAY(rename(a, b), ENOENT, EPERM, EACCES);
	case 1:
		return MAY(unlink(a), ENOENT, EPERM, EACCES);
	case 2:
		return MAY(renameat2(AT_FDCWD, a, AT_FDCWD, b, below(3)), ENOENT, EPERM, EACCES, EEXIST, EINVAL);
	default:
		fd = open(root, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
		if (!MAY(fd, ENOSPC, ENOMEM))
			return 0;
		MAY(ftruncate(fd, 32 * PAGE), ENOSPC);
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		MAY(linkat(AT_FDCWD, link, AT_FDCWD, a, AT_SYMLINK_FOLLOW), EEXIST);
		close(fd);
		return 1;
	}
}

/* A sealed file is of no more use: make place for another of that name. */
int op_wild_seal(void)
{
	char path[160];
	int *fd = pick_file();

	if (!fd || !chance(4))
		return 0;
	if (!MAY(ioctl(*fd, MSHARE_IOC_SEAL), EPERM, EBADF, EBUSY, ENOMEM))
		return 0;
	snprintf(path, sizeof(path), "%s/wild%ld", root, (long)(fd - files));
	MAY(unlink(path), ENOENT, EPERM);
	return 1;
}

int op_wild_fork(void)
{
	static int (*const some[])(void) = { op_wild_mmap, op_wild_munmap, op_wild_mremap, op_wild_touch,
		op_wild_touch, op_wild_madvise, op_wild_file, op_wild_ioctl };
	int i, n = below(12);
	bool suicide = chance(3);
	pid_t pid = child();

	if (!pid) {
		for (i = 0; i < n; i++)
			some[below(8)]();
		if (suicide)
			kill(getpid(), SIGKILL);
		_exit(0);
	}
	reap(pid, suicide);
	return 1;
}

/* ---- other workers ---- */

int op_peer_proc(void)
{
	static const char *const names[] = { "smaps", "numa_maps", "maps", "pagemap", "smaps_rollup", "clear_refs" };
	pid_t peer = world->worker[below(world->workers)].pid;
	static char large[16384];
	unsigned int which = below(6);
	char path[64], what = '1' + below(4);
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", peer, names[which]);
	note("%s", path);
	fd = open(path, (which == 5 ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
	if (!MAY(fd, ENOENT, EACCES, EPERM, ESRCH))
		return 0;
	if (which == 3)
		MAY(pread(fd, large, PAGE, (uintptr_t)ARENA / PAGE * 8), ESRCH, EINVAL);
	else if (which == 5)
		MAY(write(fd, &what, 1), ESRCH, EINVAL);
	else
		while (read(fd, large, sizeof(large)) > 0)
			;
	close(fd);
	return 1;
}

int op_peer_memory(void)
{
	static const int advised[] = { 3, 4, 20, 21, 25 };
	pid_t peer = world->worker[below(world->workers)].pid;
	char *addr = (char *)((uintptr_t)(ARENA + below(WINDOWS) * WINDOW) + below(32) * PAGE), path[64];
	struct iovec local = { buffer, PAGE }, remote = { addr, PAGE };
	bool store = chance(2), done = false;
	void *pages[1] = { addr };
	int status[1], node[1] = { 0 }, fd;

	note("of %d at %p%s", peer, addr, store ? ", store" : "");
	if (store) {
		fresh(words);
		memset(buffer, 0, PAGE);
		put_words(buffer, words);
	}
	switch (below(4)) {
	case 0:
		done = MAY(store ? process_vm_writev(peer, &local, 1, &remote, 1, 0) :
				   process_vm_readv(peer, &local, 1, &remote, 1, 0), EFAULT, EPERM, ESRCH, ENOMEM);
		break;
	case 1:
		snprintf(path, sizeof(path), "/proc/%d/mem", peer);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (!MAY(fd, ENOENT, EACCES, EPERM, ESRCH))
			return 0;
		done = MAY(store ? pwrite(fd, buffer, PAGE, (uintptr_t)addr) : pread(fd, buffer, PAGE, (uintptr_t)addr),
			   EIO, EFAULT, ESRCH);
		/* 0: its memory is gone */
		close(fd);
		break;
	case 2:
		fd = syscall(__NR_pidfd_open, peer, 0);
		if (!MAY(fd, ESRCH, EINVAL))
			return 0;
		remote.iov_len = chance(2) ? PAGE : UNIT;
		MAY(syscall(__NR_process_madvise, fd, &remote, 1, advised[below(5)], 0), EINVAL, EPERM, EAGAIN, EBUSY,
		    ENOMEM, EFAULT, ESRCH, EACCES);
		close(fd);
		return 1;
	case 3:
		return MAY(syscall(__NR_move_pages, peer, 1, pages, chance(2) ? node : NULL, status, 2), ENOENT, EPERM,
			   EINVAL, EACCES, ESRCH);
	}
	if (done && !store)
		check_buffer("a peer's memory");
	return done;
}
