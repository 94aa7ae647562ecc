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
		.flags		= (mtree_empty(&mi->prot) ? 0 : MSHARE_INFO_PROTECTED) |
				  (mshare_sealed(mi) ? MSHARE_INFO_SEALED : 0) |
				  (mshare_is_handle(file) ? MSHARE_INFO_MAP_ONLY : 0) |
				  (READ_ONCE(mi->huge) ? MSHARE_INFO_HUGE : 0),
		.size		= i_size_read(inode),
		.base		= READ_ONCE(mi->base),
		.unit_bytes	= MSHARE_UNIT,
		.pages		= READ_ONCE(inode->i_mapping->nrpages),
		.table_bytes	= atomic_long_read(&mi->table_pages) * PAGE_SIZE,
		.generation	= atomic64_read(&mi->generation),
		.filled		= atomic64_read(&mi->filled),
		.attachments	= READ_ONCE(mi->attachments),
		.processes	= READ_ONCE(mi->processes),
		.charged_bytes	= atomic64_read(&mi->charged) * PAGE_SIZE,
		.huge_pages	= atomic_long_read(&mi->huge_pages),
		.huge_fallbacks	= atomic64_read(&mi->huge_fallbacks),
	};

	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long mshare_ioctl_pids(struct inode *inode, void __user *arg)
{
	struct mshare_pids request;
	u32 copied;
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
	request.count = mshare_collect_pids(MSHARE_I(inode), pids, request.capacity);
	copied = min(request.count, request.capacity);
	if ((copied && copy_to_user(u64_to_user_ptr(request.pids), pids, copied * sizeof(*pids))) ||
	    copy_to_user(arg, &request, sizeof(request)))
		err = -EFAULT;
	kvfree(pids);
	return err;
}

/*
 * May this caller change what holds for all?  Writable descriptor, owner, and
 * not sealed; that must be asked again under the locks.
 */
static int mshare_may_control(struct file *file)
{
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	if (!inode_owner_or_capable(file_mnt_idmap(file), file_inode(file)) ||
	    mshare_sealed(MSHARE_I(file_inode(file))))
		return -EPERM;
	return 0;
}

static long mshare_ioctl_protect(struct file *file, void __user *arg)
{
	struct inode *inode = file_inode(file);
	struct mshare_protect request;
	pgoff_t first, last;
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

	first = request.offset >> PAGE_SHIFT;
	last = (end >> PAGE_SHIFT) - 1;

	inode_lock(inode);
	err = -EINVAL;
	if (end > round_up(i_size_read(inode), PAGE_SIZE))
		goto unlock_inode;
	filemap_invalidate_lock(inode->i_mapping);
	err = mshare_protect_pages(MSHARE_I(inode), first, last, request.prot);
	filemap_invalidate_unlock(inode->i_mapping);
	if (!err && MSHARE_I(inode)->had_huge) {
		/* The rest of a block may have lost its leaf. */
		first = round_down(first, BLOCK_PAGES);
		last |= BLOCK_PAGES - 1;
	}
	if (!err)
		mshare_refill(inode, first, last);
unlock_inode:
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
	err = -EPERM;
	if (mshare_sealed(mi))
		goto unlock_inode;
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
		return mshare_sealed(MSHARE_I(inode)) ? 0 : err;
	inode_lock(inode);
	filemap_invalidate_lock(inode->i_mapping);
	err = mshare_seal_pages(MSHARE_I(inode));
	filemap_invalidate_unlock(inode->i_mapping);
	mshare_refill(inode, 0, (MSHARE_MAX_BYTES >> PAGE_SHIFT) - 1);
	inode_unlock(inode);
	return err;
}

static long mshare_ioctl_huge(struct file *file, void __user *arg)
{
	struct inode *inode = file_inode(file);
	struct mshare_inode *mi = MSHARE_I(inode);
	u32 huge;
	long err;

	err = mshare_may_control(file);
	if (err)
		return err;
	if (copy_from_user(&huge, arg, sizeof(huge)))
		return -EFAULT;
	if (huge > 1)
		return -EINVAL;
	if (huge && (!mshare_has_huge() ||
		     READ_ONCE(MSHARE_SB(inode->i_sb)->huge) == MSHARE_HUGE_NEVER))
		return -EOPNOTSUPP;
	inode_lock(inode);
	err = -EPERM;
	if (!mshare_sealed(mi)) {
		WRITE_ONCE(mi->huge, huge);
		err = 0;
	}
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
	case MSHARE_IOC_HUGE:
		return mshare_ioctl_huge(file, argp);
	case MSHARE_IOC_HANDLE:
		return mshare_ioctl_handle(file, argp);
	}
	return -ENOTTY;
}
