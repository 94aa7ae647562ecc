// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Operations on the file of a region whose contents and rights the worker knows. */
#include "fuzz.h"
#include <linux/io_uring.h>
#include <sys/file.h>
#include <sys/sendfile.h>

static char buffer[PAGE] __attribute__((aligned(PAGE)));
static uint64_t words[WORDS];

int op_load(void)
{
	struct target t;
	enum touch touch;

	if (!pick_mapped(&t))
		return 0;
	touch = load_page(t.at, words);
	if (!(predict(&t, false) & 1 << touch))
		die("load: outcome %d, prot %d, size %ld", touch, t.p->prot, t.r->size);
	put_words(buffer, words);
	settle_load(&t, touch == OK, buffer);
	return touch == OK;
}

int op_store(void)
{
	struct target t;
	enum touch touch;

	if (!pick_mapped(&t))
		return 0;
	fresh(words);
	touch = store_page(t.at, words);
	if (!(predict(&t, true) & 1 << touch))
		die("store: outcome %d, prot %d, sealed %d, size %ld", touch, t.p->prot, t.r->sealed, t.r->size);
	settle_store(&t, touch == OK, words);
	verify(&t);
	return touch == OK;
}

int op_pread(void)
{
	struct target t;

	pick_page(&t);
	verify(&t);
	return 1;
}

int op_pwrite(void)
{
	struct target t;
	ssize_t done;

	pick_page(&t);
	fresh(words);
	put_words(buffer, words);
	done = pwrite(t.r->fd, buffer, PAGE, t.pos);
	settle_write(&t, done, words);
	verify(&t);
	return done > 0;
}

/* The source of a write lies in a region, perhaps in the page that is written. */
int op_write_from_region(void)
{
	struct target from, to;
	ssize_t done;

	if (!pick_mapped(&from))
		return 0;
	pick_page(&to);
	memcpy(words, from.p->word, sizeof(words));
	done = pwrite(to.r->fd, from.at, PAGE, to.pos);
	if (done > 0) {
		/*
		 * A write past the end makes the page, zeroed and with its leaf, before the data is copied and the
		 * size grows. The write can then read that page as its own source.
		 */
		MUST((predict(&from, false) & MAY_OK) || from.p == to.p);
		from.p->have = PRESENT;
	} else if (errno == EFAULT) {
		MUST(predict(&from, false) & (MAY_SEGV | MAY_BUS));
	}
	if (done < 0 && from.p->have == ABSENT && (predict(&from, false) & MAY_OK))
		from.p->have = MAYBE;
	settle_write(&to, done, words);
	verify(&to);
	return done > 0;
}

/* The file that is read is the scratch file or the region itself. */
int op_read_into_region(void)
{
	struct target t;
	ssize_t done;
	int fds[2];

	if (!pick_mapped(&t))
		return 0;
	fresh(words);
	put_words(buffer, words);
	MUST(!pipe(fds));
	MUST(write(fds[1], buffer, PAGE) == (ssize_t)PAGE);
	done = read(fds[0], t.at, PAGE);
	MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
	settle_store(&t, done > 0, words);
	close(fds[0]);
	close(fds[1]);
	verify(&t);
	return done > 0;
}

int op_punch(void)
{
	static const unsigned int offsets[] = { 0, 0, 0, 8, 2040, 2048 };
	struct target t;
	off_t from, to;
	bool legal;
	long ret;

	pick_page(&t);
	from = t.pos;
	to = t.pos + PAGE;
	if (t.r->step == 1) {	/* whatever lies between belongs to this worker, too */
		from += offsets[below(6)];
		to += below(4) * PAGE + (chance(4) ? 3 * UNIT : 0) + offsets[below(6)];
	}
	note("punch %#lx to %#lx", from, to);
	legal = range_writable(t.r, from, to);
	ret = fallocate(t.r->fd, PUNCH, from, to - from);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else if (t.r->sealed)
		MUST(ret == -1 && errno == EPERM);
	else if (!legal)
		MUST(ret == -1 && errno == EACCES);
	else
		MUST(!ret);
	if (!ret)
		model_cut(t.r, from, to);
	verify(&t);
	return !ret;
}

int op_reserve(void)
{
	struct target t;
	unsigned int s, end;
	off_t to;
	long ret;

	pick_page(&t);
	end = t.r->step == 1 ? t.slot + below(16 - t.slot % 16) : t.slot;
	to = (slot_index[end] + 1) * PAGE;
	note("reserve %#lx to %#lx", t.pos, to);
	ret = fallocate(t.r->fd, 0, t.pos, to - t.pos);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else if (t.r->sealed)
		MUST(ret == -1 && errno == EPERM);
	else
		MUST(!ret || errno == ENOSPC || errno == ENOMEM);
	if (!ret && to > t.r->size)
		t.r->size = to;
	for (s = t.slot; s <= end; s++) {
		if (!ret)
			t.r->page[s].have = PRESENT;
		else if (t.r->page[s].have == ABSENT && (off_t)(slot_index[s] * PAGE) < t.r->size)
			t.r->page[s].have = MAYBE;
	}
	verify(&t);
	return !ret;
}

int op_fallocate_mode(void)
{
	static const int modes[] = { 0x1, 0x2, 0x8, 0x10, 0x11, 0x20, 0x40, 0x80, 0xff, -1, 0x40000000 };
	struct target t;

	pick_page(&t);
	REFUSED(fallocate(t.r->fd, modes[below(11)], t.pos, PAGE), EOPNOTSUPP, EINVAL, EPERM, EBADF);
	REFUSED(fallocate(t.r->fd, 0, t.pos, 0), EINVAL, EBADF);
	REFUSED(fallocate(t.r->fd, 0, -PAGE, PAGE), EINVAL, EBADF);
	REFUSED(fallocate(t.r->fd, 0, 0, 1L << 46), EFBIG, EBADF, EPERM, ENOSPC);
	verify(&t);
	return 1;
}

int op_truncate(void)
{
	static const unsigned int offsets[] = { 0, 0, 8, 2040, 2048, 4088 };
	struct target t;
	off_t size, old;
	bool legal;
	long ret;

	pick_page(&t);
	if (!t.r->exclusive && t.r->writable)	/* "shared" keeps its size */
		return 0;
	size = chance(8) ? 0 : t.pos + offsets[below(6)];
	old = t.r->size;
	if (size / PAGE > slot_index[SLOTS - 1])
		size = (slot_index[SLOTS - 1] + 1) * PAGE;
	note("size %#lx to %#lx", old, size);
	legal = size >= old || range_writable(t.r, size, INT64_MAX);
	ret = ftruncate(t.r->fd, size);
	if (!t.r->writable)
		MUST(ret == -1 && (errno == EINVAL || errno == EBADF));
	else if (t.r->sealed)
		MUST(ret == -1 && errno == EPERM);
	else if (!legal)
		MUST(ret == -1 && errno == EACCES);
	else
		MUST(!ret);
	if (!ret && size < old)
		model_cut(t.r, size, INT64_MAX);
	if (!ret)
		t.r->size = size;
	verify(&t);
	return !ret;
}

int op_names(void)
{
	char a[160], b[160];
	struct stat st;
	int fd;

	snprintf(a, sizeof(a), "%s/name.%u.a", root, my_index);
	snprintf(b, sizeof(b), "%s/name.%u.b", root, my_index);
	unlink(a);
	unlink(b);
	fd = open(a, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		MUST(errno == ENOSPC || errno == ENOMEM);
		return 0;
	}
	REFUSED(open(a, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	if (chance(2))
		MUST(!link(a, b) && !unlink(a));
	else
		MUST(!rename(a, b));
	REFUSED(unlink(a), ENOENT);
	REFUSED(mkdir(a, 0700), EPERM);
	REFUSED(symlink("x", a), EPERM);
	REFUSED(mknod(a, S_IFIFO | 0600, 0), EPERM);
	MUST(!fstat(fd, &st) && st.st_nlink == 1 && st.st_size == 0);
	MUST(!fchmod(fd, 0640));
	MAY(rename(b, chance(2) ? a : b), ENOENT);
	unlink(a);
	unlink(b);
	MUST(!fstat(fd, &st) && st.st_nlink == 0);
	close(fd);
	return 1;
}

int op_recycle(void)
{
	struct region *r = &regions[1 + below(REGIONS - 1)];

	if (regions[1].sealed || regions[2].sealed)	/* which is of little more use */
		r = &regions[regions[1].sealed ? 1 : 2];
	note("%s", r->name);
	drop_region(r);
	make_region(r);
	return 1;
}

int op_locks(void)
{
	struct flock lock = { .l_type = below(3), .l_whence = SEEK_SET, .l_start = below(9), .l_len = below(9) };
	struct target t;

	pick_page(&t);
	MAY(fcntl(t.r->fd, chance(2) ? F_SETLK : F_GETLK, &lock), EAGAIN, EACCES, EINVAL, EBADF);
	lock.l_pid = 0;
	lock.l_type = below(3);
	MAY(fcntl(t.r->fd, 37 /* F_OFD_SETLK */, &lock), EAGAIN, EINVAL, EBADF);
	MAY(flock(t.r->fd, (chance(2) ? LOCK_EX : LOCK_UN) | LOCK_NB), EAGAIN);
	MAY(fcntl(t.r->fd, F_SETLEASE, F_RDLCK), EAGAIN, EACCES, EINVAL);
	MAY(fcntl(t.r->fd, F_SETLEASE, F_UNLCK), EAGAIN, EACCES, EINVAL);
	REFUSED(fcntl(t.r->fd, F_ADD_SEALS, F_SEAL_WRITE), EINVAL, EPERM);
	MUST(!flock(t.r->fd, LOCK_UN));
	return 1;
}

int op_vmsplice(void)
{
	struct target t;
	struct iovec iov;
	ssize_t done;
	int fds[2];

	if (!pick_mapped(&t))
		return 0;
	MUST(!pipe(fds));
	iov = (struct iovec){ t.at, PAGE };
	done = vmsplice(fds[1], &iov, 1, chance(2) ? SPLICE_F_GIFT : 0);
	MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
	if (done > 0)
		MUST(read(fds[0], buffer, PAGE) == (ssize_t)PAGE);
	settle_load(&t, done > 0, buffer);
	/* Into memory: the page is written by the kernel. */
	fresh(words);
	put_words(buffer, words);
	MUST(write(fds[1], buffer, PAGE) == (ssize_t)PAGE);
	done = vmsplice(fds[0], &iov, 1, 0);
	MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
	settle_store(&t, done > 0, words);
	close(fds[0]);
	close(fds[1]);
	verify(&t);
	return done > 0;
}

int op_splice_out(void)
{
	struct target t;
	ssize_t done;
	int fds[2];

	pick_page(&t);
	MUST(!pipe(fds));
	done = splice(t.r->fd, &t.pos, fds[1], NULL, PAGE, 0);
	t.pos = t.index * PAGE;
	if (t.pos + (off_t)PAGE <= t.r->size) {
		if (t.p->prot == MSHARE_PROT_NONE) {
			MUST(done == -1 && errno == EACCES);
		} else {
			MUST(done == (ssize_t)PAGE && read(fds[0], buffer, PAGE) == done);
			MUST(!memcmp(buffer, t.p->word, 8));
		}
	}
	close(fds[0]);
	close(fds[1]);
	verify(&t);
	return done > 0;
}

int op_splice_in(void)
{
	struct target t;
	ssize_t done;
	int fds[2];

	pick_page(&t);
	MUST(!pipe(fds));
	fresh(words);
	put_words(buffer, words);
	MUST(write(fds[1], buffer, PAGE) == (ssize_t)PAGE);
	done = splice(fds[0], NULL, t.r->fd, &t.pos, PAGE, 0);
	t.pos = t.index * PAGE;
	settle_write(&t, done, words);
	close(fds[0]);
	close(fds[1]);
	verify(&t);
	return done > 0;
}

int op_sendfile(void)
{
	int fds[2];
	struct target t;
	ssize_t done;
	off_t pos;

	pick_page(&t);
	MUST(!pipe(fds));
	pos = t.pos;
	done = sendfile(fds[1], t.r->fd, &pos, PAGE);
	if (t.p->prot == MSHARE_PROT_NONE && t.pos < t.r->size)
		MUST(done == -1 && errno == EACCES);
	else
		MUST(done >= 0);
	close(fds[0]);
	close(fds[1]);
	return done > 0;
}

int op_direct_write(void)
{
	struct target t;
	ssize_t done;

	if (!pick_mapped(&t))
		return 0;
	done = pwrite(scratch_fd, t.at, PAGE, 0);
	MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
	if (done > 0)
		MUST(pread(scratch_fd, buffer, PAGE, 0) == (ssize_t)PAGE);
	settle_load(&t, done > 0, buffer);
	verify(&t);
	return done > 0;
}

int op_direct_read(void)
{
	struct target t;
	ssize_t done;

	if (!pick_mapped(&t))
		return 0;
	fresh(words);
	put_words(buffer, words);
	MUST(pwrite(scratch_fd, buffer, PAGE, PAGE) == (ssize_t)PAGE);
	done = pread(scratch_fd, t.at, PAGE, PAGE);
	MUST(done == (ssize_t)PAGE || (done == -1 && errno == EFAULT));
	settle_store(&t, done > 0, words);
	verify(&t);
	return done > 0;
}

/* One request through a ring of its own: by address, or through a fixed buffer where the kernel takes it. */
int op_io_uring(void)
{
	struct io_uring_params params = { 0 };
	struct target t;
	struct iovec iov;
	struct io_uring_sqe *sqes;
	char *rings;
	bool fixed = chance(2), store = chance(2);
	unsigned int *tail;
	int fd, result;

	if (!pick_mapped(&t))
		return 0;
	fd = syscall(__NR_io_uring_setup, 1, &params);
	if (fd < 0) {
		MUST(errno == ENOSYS || errno == EPERM || errno == ENOMEM);
		return 0;
	}
	rings = mmap(NULL, PAGE, RW, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, PAGE, RW, MAP_SHARED, fd, IORING_OFF_SQES);
	MUST(rings != MAP_FAILED && sqes != MAP_FAILED);
	iov = (struct iovec){ t.at, PAGE };
	if (fixed)
		fixed = MAY(syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, &iov, 1),
			    EFAULT, EOPNOTSUPP, ENOMEM, EINVAL);
	if (fixed && t.p->have == ABSENT)
		t.p->have = MAYBE;
	fresh(words);
	put_words(buffer, words);
	MUST(pwrite(scratch_fd, buffer, PAGE, PAGE) == (ssize_t)PAGE);
	note("%s%s", fixed ? "fixed " : "", store ? "into the region" : "from the region");
	memset(sqes, 0, sizeof(*sqes));
	sqes->opcode = store ? (fixed ? IORING_OP_READ_FIXED : IORING_OP_READ) :
			       (fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE);
	sqes->fd = scratch_fd;
	sqes->addr = (uintptr_t)t.at;
	sqes->len = PAGE;
	sqes->off = store ? PAGE : 0;
	((unsigned int *)(rings + params.sq_off.array))[0] = 0;
	tail = (unsigned int *)(rings + params.sq_off.tail);
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	while (syscall(__NR_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		MUST(errno == EINTR || errno == EAGAIN);
	while (!__atomic_load_n((unsigned int *)(rings + params.cq_off.tail), __ATOMIC_ACQUIRE))
		syscall(__NR_io_uring_enter, fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	result = ((struct io_uring_cqe *)(rings + params.cq_off.cqes))->res;
	errno = -result;
	/*
	 * io_uring/io-wq.c cancels a request, which then does nothing, if its first thread cannot be made: copy_process()
	 * fails where a signal is pending, four times at most, or where a memory cgroup is full.  Measured on stock 6.1
	 * without the module: with an alarm every 150 us, 45 of 200 processes had their only request cancelled.
	 */
	MUST(result == (int)PAGE || result == -EFAULT || (result == -ECANCELED && (my_alarms || my_limit)));
	if (result == -ECANCELED) {
		note("cancelled");
	} else if (store) {
		settle_store(&t, result > 0, words);
	} else {
		if (result > 0)
			MUST(pread(scratch_fd, buffer, PAGE, 0) == (ssize_t)PAGE);
		settle_load(&t, result > 0, buffer);
	}
	munmap(rings, PAGE);
	munmap(sqes, PAGE);
	close(fd);
	verify(&t);
	return result > 0;
}

/* ---- ioctls ---- */

int op_protect(void)
{
	static const int prots[] = { MSHARE_PROT_NONE, MSHARE_PROT_READ, MSHARE_PROT_READWRITE,
		MSHARE_PROT_READWRITE, MSHARE_PROT_READWRITE, MSHARE_PROT_READWRITE };
	struct mshare_protect request = { .prot = prots[below(6)] };
	unsigned int s, end;
	struct target t;
	long ret;

	pick_page(&t);
	end = t.r->step == 1 ? t.slot + below(request.prot == MSHARE_PROT_READWRITE ? 16 - t.slot % 16 : 1 + (15 - t.slot % 16) / 3) : t.slot;
	request.offset = t.pos;
	request.length = (slot_index[end] + 1) * PAGE - t.pos;
	note("prot %u, %llu pages", request.prot, request.length / PAGE);
	ret = ioctl(t.r->fd, MSHARE_IOC_PROTECT, &request);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else if (t.r->sealed || (!t.r->exclusive && geteuid()))
		MUST(ret == -1 && errno == EPERM);
	else if (request.offset + request.length > (uint64_t)(t.r->size + PAGE - 1) / PAGE * PAGE)
		MUST(ret == -1 && errno == EINVAL);
	else
		MUST(!ret || errno == ENOMEM || errno == ENOSPC);
	for (s = t.slot; s <= end && !ret; s++)
		t.r->page[s].prot = request.prot;
	verify(&t);
	return !ret;
}

int op_seal(void)
{
	struct target t;
	bool all;
	long ret;

	pick_page(&t);
	if (!t.r->exclusive && t.r->writable)
		return 0;
	all = t.r->sealed;
	ret = ioctl(t.r->fd, MSHARE_IOC_SEAL);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else
		MUST(!ret || (errno == EBUSY && !all) || errno == ENOMEM);
	if (!ret)
		t.r->sealed = true;
	verify(&t);
	return !ret;
}

int op_huge(void)
{
	uint32_t on = chance(8) ? 2 + below(3) : !chance(3);
	struct target t;
	long ret;

	pick_page(&t);
	note("huge %u", on);
	ret = ioctl(t.r->fd, MSHARE_IOC_HUGE, &on);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else if (t.r->sealed || (!t.r->exclusive && geteuid()))
		MUST(ret == -1 && errno == EPERM);
	else if (on > 1)
		MUST(ret == -1 && errno == EINVAL);
	else
		MUST(!ret);
	if (!ret && on)
		t.r->loose = true;
	return !ret;
}

int op_set_base(void)
{
	static const uint64_t bad[] = { 0, 1, PAGE, UNIT + 1, 1UL << 47, -UNIT, 1UL << 63 };
	uint64_t base = chance(2) ? bad[below(7)] : 0x200000000000 + below(4096) * UNIT;
	struct mshare_info info;
	struct target t;
	bool legal;
	long ret;

	pick_page(&t);
	if (!t.r->exclusive && t.r->writable)
		return 0;
	note("base %#lx", base);
	legal = base && !(base % UNIT) && base < 0x300000000000;
	ret = ioctl(t.r->fd, MSHARE_IOC_SET_BASE, &base);
	if (!t.r->writable)
		MUST(ret == -1 && errno == EBADF);
	else if (t.r->sealed)
		MUST(ret == -1 && errno == EPERM);
	else if (!legal)
		MUST(ret == -1 && (errno == EINVAL || errno == EBUSY));
	else if (attached(t.r))
		MUST(ret == -1 && errno == EBUSY);
	else
		MUST(!ret || errno == EBUSY);	/* the mm of a child that was killed may be about to go */
	if (!ret)
		MUST(!ioctl(t.r->fd, MSHARE_IOC_INFO, &info) && info.base == base);
	return !ret;
}

int op_handle(void)
{
	uint32_t flags = chance(8) ? rng() : below(2);
	struct mshare_info info;
	struct target t;
	char path[64];
	ssize_t got;
	int fd, i;

	pick_page(&t);
	note("flags %#x", flags);
	fd = ioctl(t.r->fd, MSHARE_IOC_HANDLE, &flags);
	if (fd < 0) {
		MUST((errno == EINVAL && flags > 1) || errno == ENOMEM || errno == ENOSPC ||
		     (errno == EBADF && flags && !t.r->writable) || (errno == EPERM && flags && t.r->sealed));
		return 0;
	}
	MUST(flags < 2 && (!flags || (t.r->writable && !t.r->sealed)));
	MUST(!ioctl(fd, MSHARE_IOC_INFO, &info) && info.flags & MSHARE_INFO_MAP_ONLY);
	MUST(info.size == (uint64_t)t.r->size);
	got = pread(fd, buffer, 8, t.pos);
	if (t.p->prot != MSHARE_PROT_NONE && t.pos < t.r->size)
		MUST(got == 8 && !memcmp(buffer, t.p->word, 8));
	REFUSED(pwrite(fd, "x", 1, 0), EBADF, EINVAL, ESPIPE);
	REFUSED(write(fd, "x", 1), EBADF, EINVAL);
	REFUSED(ftruncate(fd, 0), EINVAL, EPERM);
	REFUSED(fchmod(fd, 0777), EPERM);
	REFUSED(fallocate(fd, PUNCH, 0, PAGE), EBADF, EOPNOTSUPP, EPERM, ENODEV);
	REFUSED(ioctl(fd, MSHARE_IOC_SEAL), ENOTTY);
	REFUSED(ioctl(fd, MSHARE_IOC_HANDLE, &flags), ENOTTY);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	REFUSED(open(path, O_RDWR), ENXIO, EACCES, EPERM);
	REFUSED(linkat(AT_FDCWD, path, AT_FDCWD, "/sys/fs/mshare-fuzz", AT_SYMLINK_FOLLOW), ENOENT, EXDEV, EPERM, EACCES);
	for (i = 0; i < ATTACHMENTS; i++) {
		struct attachment *a = &attachments[i];

		if (a->r)
			continue;
		a->units = 1 + below(2);
		a->offset = below(2);
		a->addr = free_window(a);
		if (flags == 0)
			REFUSED(mmap(a->addr, a->units * UNIT, RW, MAP_SHARED | MAP_FIXED, fd, 0), EACCES, EPERM);
		if (MAY(mmap(a->addr, a->units * UNIT, flags ? RW : PROT_READ, MAP_SHARED | MAP_FIXED, fd,
			     a->offset * UNIT), ENOMEM)) {
			a->r = t.r;
			a->writable = flags;
			a->handle = true;
		}
		break;
	}
	close(fd);
	verify(&t);
	return 1;
}

int op_info(void)
{
	struct target t;

	pick_page(&t);
	check_info(t.r);
	return 1;
}

int op_pids(void)
{
	int32_t pids[64] = { 0 };
	struct mshare_pids request = { (uintptr_t)pids, below(64), 0 };
	struct target t;

	pick_page(&t);
	if (chance(8)) {
		request.capacity = 65537 + below(1000);
		REFUSED(ioctl(t.r->fd, MSHARE_IOC_PIDS, &request), EINVAL);
		request = (struct mshare_pids){ (uintptr_t)t.at, 64, 0 };
	}
	if (!MAY(ioctl(t.r->fd, MSHARE_IOC_PIDS, &request), EFAULT, ENOMEM))
		return 0;
	if (t.r->exclusive) {
		check_info(t.r);	/* waits for children that are on their way out */
		request = (struct mshare_pids){ (uintptr_t)pids, 64, 0 };
		MUST(!ioctl(t.r->fd, MSHARE_IOC_PIDS, &request));
		MUST(request.count == !!attached(t.r));
		MUST(!request.count || pids[0] == getpid());
	}
	return 1;
}

/* Numbers and pointers that nobody would pass; no struct is valid here. */
int op_hostile_ioctl(void)
{
	static const unsigned long arguments[] = { 0, 1, 0xfff, 0x800000000000, -1UL, -4096UL, 0xffff888000000000 };
	static const unsigned int known[] = { MSHARE_IOC_INFO, MSHARE_IOC_PIDS, MSHARE_IOC_PROTECT,
		MSHARE_IOC_SET_BASE, MSHARE_IOC_HANDLE };
	struct mshare_protect request = { rng() << below(40), rng() << below(40), below(5), 1 };
	struct target t;

	pick_page(&t);
	REFUSED(ioctl(t.r->fd, known[below(5)], arguments[below(7)]), EFAULT, EBADF, EPERM);
	REFUSED(ioctl(t.r->fd, (rng() & ~0xff00U) | 0xbd00, &request), ENOTTY, EFAULT, EINVAL);
	REFUSED(ioctl(t.r->fd, _IOWR(MSHARE_IOC_MAGIC, 6 + below(200), uint64_t), &request), ENOTTY);
	REFUSED(ioctl(t.r->fd, MSHARE_IOC_PROTECT, &request), EINVAL, EBADF, EPERM);
	request.flags = 0;
	request.offset |= 1;
	REFUSED(ioctl(t.r->fd, MSHARE_IOC_PROTECT, &request), EINVAL, EBADF, EPERM);
	if (pick_mapped(&t)) {	/* the argument itself lies in a region */
		int fd = ioctl(t.r->fd, MSHARE_IOC_HANDLE, t.at + PAGE - 4);

		if (fd >= 0)
			close(fd);
		if (t.p->have == ABSENT && t.pos < t.r->size)
			t.p->have = MAYBE;
		if (predict(&t, true) == MAY_OK && word_at[0] == 0) {
			memset(buffer, 0, PAGE);
			MUST(!ioctl(t.r->fd, MSHARE_IOC_INFO, t.at + 8));
			put_words(buffer, t.p->word);	/* bytes that the model does not look at */
		}
	}
	verify(&t);
	return 1;
}
