// SPDX-License-Identifier: GPL-2.0
/* msharefs: the operations on a region's file. */
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/uio.h>
#include "internal.h"

ssize_t mshare_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = iocb->ki_filp->f_mapping->host;
	ssize_t done = 0;
	int err = 0;

	while (iov_iter_count(to) && !err) {
		loff_t left = i_size_read(inode) - iocb->ki_pos;
		pgoff_t index = iocb->ki_pos >> PAGE_SHIFT;
		size_t offset = offset_in_page(iocb->ki_pos);
		size_t want, got;
		struct page *page;

		if (left <= 0)
			break;
		want = min3((size_t)left, PAGE_SIZE - offset, iov_iter_count(to));
		if (mshare_page_prot(MSHARE_I(inode), index) == MSHARE_PROT_NONE)
			return done ?: -EACCES;
		page = find_get_page(inode->i_mapping, index);
		if (page && PageHWPoison(page)) {
			put_page(page);
			return done ?: -EIO;
		}
		if (page) {
			got = copy_page_to_iter(page, offset, want, to);
			put_page(page);
		} else {
			got = iov_iter_zero(want, to);
		}
		iocb->ki_pos += got;
		done += got;
		err = got < want ? -EFAULT : mshare_pause();
	}
	file_accessed(iocb->ki_filp);
	return done ?: err;
}

/* What came, or came back, need not be faulted in; failing that, it is. */
void mshare_refill(struct inode *inode, pgoff_t first, pgoff_t last)
{
	filemap_invalidate_lock_shared(inode->i_mapping);
	mshare_fill_range(MSHARE_I(inode), first, last);
	filemap_invalidate_unlock_shared(inode->i_mapping);
}

/*
 * Give up the bytes of [@start, @end], and tables that nobody needs; with
 * @shrink the file ends at @start.  Under the inode lock.
 */
static int mshare_discard(struct inode *inode, loff_t start, loff_t end, bool shrink)
{
	pgoff_t first = DIV_ROUND_UP(start, PAGE_SIZE), beyond = (end + 1) >> PAGE_SHIFT;
	pgoff_t head = round_down(start >> PAGE_SHIFT, BLOCK_PAGES);
	pgoff_t tail = round_down(end >> PAGE_SHIFT, BLOCK_PAGES);
	struct address_space *mapping = inode->i_mapping;
	struct mshare_inode *mi = MSHARE_I(inode);
	int err = 0;

	filemap_invalidate_lock(mapping);
	if (!mshare_range_writable(mi, start >> PAGE_SHIFT, end >> PAGE_SHIFT)) {
		err = -EACCES;
		goto unlock_mapping;
	}
	/* What is to be split must not be reached, even where the bytes stay. */
	if (mshare_block_has_large(mi, head))
		first = head;
	if (mshare_block_has_large(mi, tail))
		beyond = tail + BLOCK_PAGES;
	if (first < beyond)
		mshare_remove(mi, first, beyond - 1);
	mshare_drop_range(inode, start, end);
	/* A fault that waits for the lock will see the end. */
	if (shrink)
		i_size_write(inode, start);
	mshare_sweep(mi, start >> PAGE_SHIFT, min(end, MSHARE_MAX_BYTES - 1) >> PAGE_SHIFT);
	atomic64_inc(&mi->generation);
unlock_mapping:
	filemap_invalidate_unlock(mapping);
	if (!err && mi->had_huge) {
		mshare_refill(inode, head, head + BLOCK_PAGES - 1);
		mshare_refill(inode, tail, tail + BLOCK_PAGES - 1);
	}
	return err;
}

/* A call failed: give back pages past the end, and what pages cost that were not made. */
static void mshare_undo(struct inode *inode, pgoff_t first, pgoff_t last)
{
	mshare_discard(inode, round_up(i_size_read(inode), PAGE_SIZE), MSHARE_TO_END, false);
	filemap_invalidate_lock(inode->i_mapping);
	mshare_sweep(MSHARE_I(inode), first, last);
	filemap_invalidate_unlock(inode->i_mapping);
}

/* The page, and its leaves written; failing that, the first touch writes them. */
static struct page *mshare_have_page(struct inode *inode, pgoff_t index, pgoff_t end, gfp_t gfp,
				     s64 *prepaid)
{
	struct page *page;

	filemap_invalidate_lock_shared(inode->i_mapping);
	page = mshare_get_page(inode, index, end, gfp, prepaid);
	if (!IS_ERR(page))
		mshare_fill_page(MSHARE_I(inode), index, page);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return page;
}

static ssize_t mshare_write_pages(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct mshare_inode *mi = MSHARE_I(inode);
	pgoff_t index = 0;
	ssize_t done = 0;
	int err = 0;

	while (iov_iter_count(from) && !err) {
		size_t offset = offset_in_page(iocb->ki_pos);
		size_t want = min(PAGE_SIZE - offset, iov_iter_count(from));
		struct page *page;
		size_t got;

		index = iocb->ki_pos >> PAGE_SHIFT;
		if (mshare_page_prot(mi, index) != MSHARE_PROT_READWRITE) {
			err = -EACCES;
			break;
		}
		page = mshare_have_page(inode, index, mshare_end(mi),
					mapping_gfp_mask(inode->i_mapping), NULL);
		if (IS_ERR(page)) {
			err = PTR_ERR(page);
			break;
		}
		got = PageHWPoison(page) ? 0 : copy_page_from_iter(page, offset, want, from);
		err = PageHWPoison(page) ? -EIO : got < want ? -EFAULT : mshare_pause();
		put_page(page);
		iocb->ki_pos += got;
		done += got;
		if (got && iocb->ki_pos > i_size_read(inode))
			mshare_set_size(inode, iocb->ki_pos);
	}
	if (err)
		mshare_undo(inode, index, index);
	return done ?: err;
}

static ssize_t mshare_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t done;

	inode_lock(inode);
	done = mshare_sealed(MSHARE_I(inode)) ? -EPERM : generic_write_checks(iocb, from);
	if (done > 0)
		done = file_modified(iocb->ki_filp) ?: mshare_write_pages(iocb, from);
	inode_unlock(inode);
	return done;
}

/* Have every page of the range now, or fail with nothing reserved past the end. */
static int mshare_reserve(struct inode *inode, loff_t offset, loff_t len)
{
	struct address_space *mapping = inode->i_mapping;
	struct mshare_inode *mi = MSHARE_I(inode);
	pgoff_t first = offset >> PAGE_SHIFT;
	pgoff_t last = (offset + len - 1) >> PAGE_SHIFT, old_end = mshare_end(mi);
	/* Running out must be an error to this caller, not an OOM kill. */
	gfp_t gfp = mapping_gfp_mask(mapping) | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	struct page *page;
	pgoff_t index;
	s64 prepaid;
	int err;

	err = inode_newsize_ok(inode, offset + len);
	if (err)
		return err;
	filemap_invalidate_lock_shared(mapping);
	prepaid = mshare_count_missing(mi, first, last);
	err = mshare_charge(mi, prepaid, NULL);
	filemap_invalidate_unlock_shared(mapping);
	if (err)
		return err;
	for (index = first; index <= last && !err; ) {
		page = mshare_have_page(inode, index, max(old_end, last + 1), gfp, &prepaid);
		if (IS_ERR(page)) {
			err = PTR_ERR(page);
			break;
		}
		index = folio_next_index(page_folio(page));
		put_page(page);
		err = mshare_pause();
	}
	mshare_uncharge(mi, prepaid);
	if (err) {
		mshare_undo(inode, first, last);
		return err;
	}
	if (offset + len > i_size_read(inode)) {
		mshare_set_size(inode, offset + len);
		/* The leaf of a block could not be written while the end was before it. */
		if (mi->had_huge)
			mshare_refill(inode, old_end, last);
	}
	return 0;
}

static long mshare_fallocate(struct file *file, int mode, loff_t offset, loff_t len)
{
	struct inode *inode = file_inode(file);
	int err;

	if (mode && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	inode_lock(inode);
	err = mshare_sealed(MSHARE_I(inode)) ? -EPERM : file_modified(file);
	if (!err)
		err = mode ? mshare_discard(inode, offset, offset + len - 1, false) :
			     mshare_reserve(inode, offset, len);
	inode_unlock(inode);
	return err;
}

static int mshare_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	loff_t size = attr->ia_size;
	int err;

	err = setattr_prepare(idmap, dentry, attr);
	if (!err && attr->ia_valid & ATTR_SIZE && mshare_sealed(MSHARE_I(inode)))
		err = -EPERM;
	if (!err && attr->ia_valid & ATTR_SIZE && size != i_size_read(inode)) {
		if (size < i_size_read(inode))
			err = mshare_discard(inode, size, MSHARE_TO_END, true);
		else
			mshare_set_size(inode, size);
		if (!err)
			mshare_touch(inode);
	}
	if (!err)
		setattr_copy(idmap, inode, attr);
	return err;
}

const struct inode_operations mshare_file_inode_operations = {
	.setattr	= mshare_setattr,
	.getattr	= simple_getattr,
};

const struct file_operations mshare_file_operations = {
	.owner			= THIS_MODULE,
	.open			= generic_file_open,
	.llseek			= generic_file_llseek,
	.read_iter		= mshare_read_iter,
	.write_iter		= mshare_write_iter,
	.splice_read		= copy_splice_read,
	.splice_write		= iter_file_splice_write,
	.fsync			= noop_fsync,
	.fallocate		= mshare_fallocate,
	.mmap			= mshare_mmap,
	.get_unmapped_area	= mshare_get_unmapped_area,
	.unlocked_ioctl		= mshare_ioctl,
	.compat_ioctl		= compat_ptr_ioctl,
};
