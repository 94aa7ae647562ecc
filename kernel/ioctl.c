// SPDX-License-Identifier: GPL-2.0
/* msharefs: ioctls, see uapi/linux/msharefs.h for what they promise. */
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "internal.h"

#define MSHARE_MAX_PIDS	65536

static long mshare_ioctl_info(struct file *file, void __user *arg)
{
	struct inode *inode = file->f_mapping->host;
	struct mshare_inode *mi = MSHARE_I(inode);
	struct mshare_info info = {
		.abi		= MSHARE_ABI,
		.flags		= (READ_ONCE(mi->protected) ? MSHARE_INFO_PROTECTED : 0) |
				  (READ_ONCE(mi->sealed) ? MSHARE_INFO_SEALED : 0) |
				  (mshare_is_handle(file) ? MSHARE_INFO_MAP_ONLY : 0),
		.size		= i_size_read(inode),
		.base		= READ_ONCE(mi->base),
		.unit_bytes	= MSHARE_UNIT,
		.pages		= READ_ONCE(inode->i_mapping->nrpages),
		.table_bytes	= atomic_long_read(&mi->table_pages) * PAGE_SIZE,
		.generation	= atomic64_read(&mi->generation),
		.filled		= atomic64_read(&mi->filled),
	};

	mshare_count_maps(mi, &info.attachments, &info.processes, NULL, 0);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long mshare_ioctl_pids(struct inode *inode, void __user *arg)
{
	struct mshare_pids request;
	u32 attachments, copied;
	s32 *pids = NULL;
	long err = 0;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.capacity > MSHARE_MAX_PIDS)
		return -EINVAL;
	if (request.capacity) {
		pids = kvcalloc(request.capacity, sizeof(*pids), GFP_KERNEL_ACCOUNT);
		if (!pids)
			return -ENOMEM;
	}
	mshare_count_maps(MSHARE_I(inode), &attachments, &request.count, pids, request.capacity);
	copied = min(request.count, request.capacity);
	if ((copied && copy_to_user(u64_to_user_ptr(request.pids), pids, copied * sizeof(*pids))) ||
	    copy_to_user(arg, &request, sizeof(request)))
		err = -EFAULT;
	kvfree(pids);
	return err;
}

/* May this caller change what holds for all?  Writable descriptor, owner, and not sealed. */
static int mshare_may_control(struct file *file)
{
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (!inode_owner_or_capable(file_mnt_idmap(file), file_inode(file)) ||
	    READ_ONCE(MSHARE_I(file_inode(file))->sealed))
		return -EPERM;
	return 0;
}

static long mshare_ioctl_protect(struct file *file, void __user *arg)
{
	struct inode *inode = file_inode(file);
	struct mshare_protect request;
	u64 end;
	long err;

	err = mshare_may_control(file);
	if (err)
		return err;
	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || !request.length ||
	    !PAGE_ALIGNED(request.offset) || !PAGE_ALIGNED(request.length) ||
	    check_add_overflow(request.offset, request.length, &end))
		return -EINVAL;
	if (request.prot != MSHARE_PROT_NONE && request.prot != MSHARE_PROT_READ &&
	    request.prot != MSHARE_PROT_READWRITE)
		return -EINVAL;

	inode_lock(inode);
	err = -EINVAL;
	if (end <= round_up(i_size_read(inode), PAGE_SIZE)) {
		filemap_invalidate_lock(inode->i_mapping);
		err = mshare_protect_pages(MSHARE_I(inode), request.offset >> PAGE_SHIFT,
					   (end >> PAGE_SHIFT) - 1, request.prot);
		filemap_invalidate_unlock(inode->i_mapping);
	}
	inode_unlock(inode);
	return err;
}

static long mshare_ioctl_set_base(struct file *file, void __user *arg)
{
	struct inode *inode = file_inode(file);
	struct mshare_inode *mi = MSHARE_I(inode);
	u64 base, end;
	long err;

	err = mshare_may_control(file);
	if (err)
		return err;
	if (copy_from_user(&base, arg, sizeof(base)))
		return -EFAULT;

	inode_lock(inode);
	err = -EINVAL;
	if (!base || base & (MSHARE_UNIT - 1) ||
	    check_add_overflow(base, round_up((u64)i_size_read(inode), MSHARE_UNIT), &end) ||
	    end > DEFAULT_MAP_WINDOW)
		goto unlock_inode;
	err = -EBUSY;
	if (mapping_mapped(inode->i_mapping))
		goto unlock_inode;
	mshare_set_base(mi, base);
	atomic64_inc(&mi->generation);
	err = 0;
unlock_inode:
	inode_unlock(inode);
	return err;
}

static long mshare_ioctl_seal(struct file *file)
{
	struct inode *inode = file_inode(file);
	long err = mshare_may_control(file);

	if (err)
		return READ_ONCE(MSHARE_I(inode)->sealed) ? 0 : err;
	inode_lock(inode);
	filemap_invalidate_lock(inode->i_mapping);
	err = mshare_seal_pages(MSHARE_I(inode));
	filemap_invalidate_unlock(inode->i_mapping);
	inode_unlock(inode);
	return err;
}

static long mshare_ioctl_handle(struct file *file, void __user *arg)
{
	u32 flags;

	if (copy_from_user(&flags, arg, sizeof(flags)))
		return -EFAULT;
	return mshare_make_handle(file, flags);
}

long mshare_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case MSHARE_IOC_INFO:
		return mshare_ioctl_info(file, argp);
	case MSHARE_IOC_PIDS:
		return mshare_ioctl_pids(file->f_mapping->host, argp);
	case MSHARE_IOC_PROTECT:
		return mshare_ioctl_protect(file, argp);
	case MSHARE_IOC_SET_BASE:
		return mshare_ioctl_set_base(file, argp);
	case MSHARE_IOC_SEAL:
		return mshare_ioctl_seal(file);
	case MSHARE_IOC_HANDLE:
		return mshare_ioctl_handle(file, argp);
	}
	return -ENOTTY;
}
