// SPDX-License-Identifier: GPL-2.0
/* msharefs: map-only handles, descriptors that can attach a region and do nothing else to it. */
#include <linux/file.h>
#include <linux/module.h>
#include "internal.h"

/*
 * Facts: /proc/PID/fd and map_files open a file again by its inode, and root
 * passes every mode.  ftruncate, fchmod and link act on the inode.  Mappings
 * of a file are found by its f_mapping, which need not be its inode's.
 * Consequence: whatever shares the region's inode can become more than it is.
 * Decision: a map-only handle has an inode of its own, which cannot be opened,
 * changed or linked, and shows the region's number and size; it has the
 * f_mapping of the region, and keeps the region by a reference.
 */
static int mshare_handle_open(struct inode *inode, struct file *file)
{
	return -ENXIO;
}

static long mshare_handle_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case MSHARE_IOC_INFO:
	case MSHARE_IOC_PIDS:
		return mshare_ioctl(file, cmd, arg);
	}
	return -ENOTTY;
}

static const struct file_operations mshare_handle_file_operations = {
	.owner			= THIS_MODULE,
	.open			= mshare_handle_open,
	.llseek			= generic_file_llseek,
	.read_iter		= mshare_read_iter,
	.mmap			= mshare_mmap,
	.get_unmapped_area	= mshare_get_unmapped_area,
	.unlocked_ioctl		= mshare_handle_ioctl,
	.compat_ioctl		= compat_ptr_ioctl,
};

static int mshare_handle_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
				 struct iattr *attr)
{
	return -EPERM;
}

static int mshare_handle_getattr(struct mnt_idmap *idmap, const struct path *path,
				 struct kstat *stat, u32 request_mask, unsigned int flags)
{
	struct inode *region = d_inode(path->dentry)->i_private;
	int err = simple_getattr(idmap, path, stat, request_mask, flags);

	stat->size = i_size_read(region);
	stat->blocks = (u64)region->i_mapping->nrpages << (PAGE_SHIFT - 9);
	return err;
}

static const struct inode_operations mshare_handle_inode_operations = {
	.setattr	= mshare_handle_setattr,
	.getattr	= mshare_handle_getattr,
};

bool mshare_is_handle(struct file *file)
{
	return file->f_op == &mshare_handle_file_operations;
}

/* A new descriptor, or a negative error. */
long mshare_make_handle(struct file *file, u32 flags)
{
	bool write = flags & MSHARE_HANDLE_WRITE;
	struct inode *region = file_inode(file);
	struct file *handle;
	struct inode *inode;
	int fd;

	if (flags & ~MSHARE_HANDLE_WRITE)
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ) || (write && !(file->f_mode & FMODE_WRITE)))
		return -EBADF;
	if (write && mshare_sealed(MSHARE_I(region)))
		return -EPERM;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	/* Not charged to nr_inodes=: who may read a region could take them all. */
	inode = mshare_new_inode(region->i_sb, region->i_mode);
	if (IS_ERR(inode)) {
		put_unused_fd(fd);
		return PTR_ERR(inode);
	}
	ihold(region);
	inode->i_private = region;
	/* For FIONREAD, which looks here: the size of this moment. */
	i_size_write(inode, i_size_read(region));
	inode->i_ino = region->i_ino;
	inode->i_uid = region->i_uid;
	inode->i_gid = region->i_gid;
	inode->i_op = &mshare_handle_inode_operations;
	inode->i_fop = &mshare_handle_file_operations;
	clear_nlink(inode);

	__module_get(THIS_MODULE);	/* the file's, given back when it is freed */
	handle = alloc_file_pseudo(inode, file->f_path.mnt, "mshare-handle",
				   write ? O_RDWR : O_RDONLY, &mshare_handle_file_operations);
	if (IS_ERR(handle)) {
		module_put(THIS_MODULE);
		iput(inode);
		put_unused_fd(fd);
		return PTR_ERR(handle);
	}
	handle->f_mapping = region->i_mapping;
	handle->f_mode |= FMODE_LSEEK | FMODE_PREAD;
	fd_install(fd, handle);
	return fd;
}
