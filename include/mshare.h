/* SPDX-License-Identifier: MIT */
/*
 * mshare() and mshare_unlink(), the two calls of the proposal, over msharefs.
 *
 *	#include "mshare.h"
 *	void *addr = (void *)0x300000000000;
 *
 *	mshare("sga", addr, 4UL << 30, O_CREAT | O_EXCL | O_RDWR, 0600);
 *	...				memory, shared by all who call the same
 *	mshare_unlink("sga");
 *
 * Header-only; needs the module (mount -t msharefs msharefs /sys/fs/mshare).
 * Both return 0, or -1 with errno.  They are not async-signal-safe.  The table
 * of regions is one per translation unit that includes this: call both from the
 * same one.
 *
 * Differences to the proposal: @addr and @length come in units of 1 GiB instead
 * of 512 GiB; a process that dies holds nothing; a region is reserved in full at
 * creation, so that lack of memory is ENOSPC here and not a signal later.
 */
#ifndef MSHARE_H
#define MSHARE_H

#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before the first #include: O_TMPFILE is needed"
#endif

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/types.h>

#define MSHARE_UNIT_BYTES	(1UL << 30)
#define MSHARE_FS_MAGIC		0x6d736872
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE	0x100000
#endif

/* As in uapi/linux/msharefs.h, which need not be installed. */
struct mshare_header_info {
	__u32 abi, flags;
	__u64 size, base, unit_bytes, pages, table_bytes, generation, filled;
	__u32 attachments, processes;
	__u64 charged_bytes, reserved[3];
};
#define MSHARE_HEADER_IOC_INFO		_IOR(0xBC, 0, struct mshare_header_info)
#define MSHARE_HEADER_IOC_SET_BASE	_IOW(0xBC, 3, __u64)

struct mshare_attachment {
	struct mshare_attachment *next;
	void *addr;
	size_t length;
	dev_t dev;
	ino_t ino;
	char name[256];
};

static struct mshare_attachment *mshare_attachments;
static pthread_mutex_t mshare_attachments_lock = PTHREAD_MUTEX_INITIALIZER;

/* Open the directory, $MSHAREFS_ROOT or /sys/fs/mshare; ENODEV if it is not a msharefs. */
static inline int mshare_open_root(void)
{
	const char *path = getenv("MSHAREFS_ROOT");
	struct statfs fs;
	int root;

	root = open(path && *path ? path : "/sys/fs/mshare", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return -1;
	if (fstatfs(root, &fs) || fs.f_type != MSHARE_FS_MAGIC) {
		close(root);
		errno = ENODEV;
		return -1;
	}
	return root;
}

static inline int mshare_check_name(const char *name)
{
	size_t length = name ? strlen(name) : 0;

	if (!length || name[0] == '.' || strchr(name, '/')) {
		errno = EINVAL;
		return -1;
	}
	if (length > 255) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return 0;
}

/* A complete file under @name, or none: it gets its name last. */
static inline int mshare_make(int root, const char *name, void *addr, size_t length, mode_t mode)
{
	__u64 base = (uintptr_t)addr;
	char self[32];
	int fd;

	fd = openat(root, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
	if (fd < 0)
		return -1;
	if (fallocate(fd, 0, 0, length) ||
	    (base && ioctl(fd, MSHARE_HEADER_IOC_SET_BASE, &base)))
		goto close_file;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, self, root, name, AT_SYMLINK_FOLLOW))
		goto close_file;
	return fd;

close_file:
	base = errno;
	close(fd);
	errno = (int)base;
	return -1;
}

/**
 * mshare - create a region or attach to one
 * @name: its name: 1 to 255 bytes, no '/', not beginning with '.'
 * @addr: where to attach: a multiple of 1 GiB; NULL: where the region belongs
 * @length: bytes; 0 to attach to what there is
 * @oflags: O_RDONLY or O_RDWR, with O_CREAT and O_EXCL as in open(2)
 * @mode: permissions of a new region, before umask
 *
 * EINVAL: name, alignment, flags, or @length is not the region's; EEXIST: the
 * region exists (O_EXCL), this process attached it already, or something else
 * is mapped there; ENOENT; EACCES; ENOSPC: does not fit; ENODEV: no msharefs.
 */
static inline int mshare(const char *name, void *addr, size_t length, int oflags, mode_t mode)
{
	int access = oflags & O_ACCMODE, prot = PROT_READ, root, fd = -1, saved;
	struct mshare_attachment *attachment, *other;
	struct mshare_header_info info;
	struct stat st;
	size_t mapped;
	void *at;

	if (mshare_check_name(name))
		return -1;
	if (oflags & ~(O_ACCMODE | O_CREAT | O_EXCL) || access == O_WRONLY ||
	    (uintptr_t)addr & (MSHARE_UNIT_BYTES - 1) || (oflags & O_CREAT && !length)) {
		errno = EINVAL;
		return -1;
	}
	attachment = calloc(1, sizeof(*attachment));
	if (!attachment)
		return -1;
	root = mshare_open_root();
	if (root < 0)
		goto free_attachment;

	for (;;) {
		if (!(oflags & O_EXCL) || !(oflags & O_CREAT)) {
			fd = openat(root, name, access | O_NOFOLLOW | O_CLOEXEC);
			if (fd >= 0 || errno != ENOENT || !(oflags & O_CREAT))
				break;
		}
		fd = mshare_make(root, name, addr, length, mode);
		if (fd >= 0 || errno != EEXIST || oflags & O_EXCL)
			break;
	}
	if (fd < 0)
		goto close_root;

	if (ioctl(fd, MSHARE_HEADER_IOC_INFO, &info) || fstat(fd, &st))
		goto close_file;
	if (length && length != info.size) {
		errno = EINVAL;
		goto close_file;
	}
	if (access == O_RDWR)
		prot |= PROT_WRITE;
	at = addr ? addr : (void *)(uintptr_t)info.base;
	mapped = (info.size + MSHARE_UNIT_BYTES - 1) & ~(MSHARE_UNIT_BYTES - 1);

	pthread_mutex_lock(&mshare_attachments_lock);
	for (other = mshare_attachments; other; other = other->next) {
		if (other->dev == st.st_dev && other->ino == st.st_ino) {
			errno = EEXIST;
			goto unlock_attachments;
		}
	}
	at = mmap(at, mapped, prot, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);
	if (at == MAP_FAILED)
		goto unlock_attachments;
	attachment->addr = at;
	attachment->length = mapped;
	attachment->dev = st.st_dev;
	attachment->ino = st.st_ino;
	strcpy(attachment->name, name);
	attachment->next = mshare_attachments;
	mshare_attachments = attachment;
	pthread_mutex_unlock(&mshare_attachments_lock);
	close(fd);
	close(root);
	return 0;

unlock_attachments:
	saved = errno;
	pthread_mutex_unlock(&mshare_attachments_lock);
	errno = saved;
close_file:
	saved = errno;
	close(fd);
	errno = saved;
close_root:
	saved = errno;
	close(root);
	errno = saved;
free_attachment:
	saved = errno;
	free(attachment);
	errno = saved;
	return -1;
}

/* Where this process has attached @name, or NULL. */
static inline void *mshare_address(const char *name)
{
	struct mshare_attachment *each;
	void *addr = NULL;

	pthread_mutex_lock(&mshare_attachments_lock);
	for (each = mshare_attachments; each && !addr; each = each->next)
		if (!strcmp(each->name, name))
			addr = each->addr;
	pthread_mutex_unlock(&mshare_attachments_lock);
	return addr;
}

/**
 * mshare_unlink - end this process's access; the last one removes the region
 * @name: as given to mshare()
 *
 * A process that is not attached may remove a region nobody is attached to;
 * else EBUSY.  ENOENT.  When the last process has no right to remove the name
 * (EACCES, EPERM), its access has ended all the same.
 * Each detaches before it looks, so of two last processes at least one finds
 * nobody left.  A process that attaches between that look and the removal keeps
 * the memory, without a name.
 */
static inline int mshare_unlink(const char *name)
{
	struct mshare_attachment **link, *mine = NULL;
	struct mshare_header_info info;
	int root, fd, result = -1, saved;
	struct stat st, own;

	if (mshare_check_name(name))
		return -1;
	root = mshare_open_root();
	if (root < 0)
		return -1;

	pthread_mutex_lock(&mshare_attachments_lock);
	for (link = &mshare_attachments; *link; link = &(*link)->next) {
		if (!strcmp((*link)->name, name)) {
			mine = *link;
			*link = mine->next;
			break;
		}
	}
	pthread_mutex_unlock(&mshare_attachments_lock);
	memset(&own, 0, sizeof(own));
	if (mine) {
		own.st_dev = mine->dev;
		own.st_ino = mine->ino;
		munmap(mine->addr, mine->length);
	}

	fd = openat(root, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		goto close_root;
	if (ioctl(fd, MSHARE_HEADER_IOC_INFO, &info) || fstat(fd, &st))
		goto close_file;
	if (mine && (st.st_dev != own.st_dev || st.st_ino != own.st_ino)) {
		result = 0;	/* the name means another region by now */
	} else if (info.attachments) {
		errno = EBUSY;
		result = mine ? 0 : -1;
	} else {
		result = unlinkat(root, name, 0);
	}
close_file:
	saved = errno;
	close(fd);
	errno = saved;
close_root:
	/* Somebody removed the name while we were attached: that is all there was to do. */
	if (mine && fd < 0 && errno == ENOENT)
		result = 0;
	saved = errno;
	close(root);
	free(mine);
	errno = saved;
	return result;
}

#endif /* MSHARE_H */
