// SPDX-License-Identifier: GPL-2.0
/* msharefs: inodes, the directory, and the pages of a region. */
#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/migrate.h>
#include "mshare.h"

/*
 * Facts: a leaf entry holds no reference of its own; the page cache's keeps
 * the page.  Reclaim passes over unevictable mappings and over dirty pages
 * without write-back, but migration and compaction would replace a page that
 * nobody holds.
 * Consequence: a page must leave the cache through mshare_drop_range() only,
 * after mshare_unmap_pages() has removed its leaves and flushed.
 * Decision: pages are dirty from birth, the mapping is unevictable, and
 * migration is refused.  There is no read_folio, so that neither read-ahead
 * nor a read of a hole can add pages behind the mount's limit.
 */
static int mshare_migrate_folio(struct address_space *mapping, struct folio *dst,
				struct folio *src, enum migrate_mode mode)
{
	return -EBUSY;
}

static const struct address_space_operations mshare_aops = {
	.dirty_folio	= noop_dirty_folio,
	.migrate_folio	= mshare_migrate_folio,
};

/**
 * mshare_get_page - find or make a page of a region
 * @inode: the region
 * @index: which page
 * @gfp: how to allocate
 * @prepaid: pages already charged to the mount, of which one is taken; or
 *	NULL to charge
 *
 * The caller excludes truncation: it holds the inode lock, or the invalidate
 * lock of the mapping.  Returns the page with a reference, or an error pointer.
 */
struct page *mshare_get_page(struct inode *inode, pgoff_t index, gfp_t gfp,
			     s64 *prepaid)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio *folio;
	struct page *page;
	int err;

	for (;;) {
		page = find_get_page(mapping, index);
		if (page)
			return page;

		if (!prepaid) {
			err = mshare_charge_pages(inode->i_sb, 1);
			if (err)
				return ERR_PTR(err);
		}
		err = -ENOMEM;
		folio = filemap_alloc_folio(gfp | __GFP_ZERO, 0);
		if (folio) {
			folio_mark_uptodate(folio);
			err = filemap_add_folio(mapping, folio, index, gfp);
			if (!err) {
				folio_mark_dirty(folio);
				folio_unlock(folio);
				if (prepaid)
					--*prepaid;
				return folio_page(folio, 0);
			}
			folio_put(folio);
		}
		if (!prepaid)
			mshare_uncharge_pages(inode->i_sb, 1);
		if (err != -EEXIST)
			return ERR_PTR(err);
	}
}

/*
 * Remove the pages of [@start, @end] (bytes; @end inclusive, -1 for all) and
 * clear the parts of pages at its ends.  The caller holds the inode lock and
 * the invalidate lock, so that nothing is added meanwhile, and has unmapped
 * the range; or it is evicting the inode.
 */
void mshare_drop_range(struct inode *inode, loff_t start, loff_t end)
{
	unsigned long before = inode->i_mapping->nrpages;

	truncate_inode_pages_range(inode->i_mapping, start, end);
	mshare_uncharge_pages(inode->i_sb, before - inode->i_mapping->nrpages);
}

/* Give the region an address of its own, when it first has a size. */
void mshare_choose_base(struct mshare_inode *mi, loff_t size)
{
	struct mshare_sb_info *sbi = MSHARE_SB(mi->vfs_inode.i_sb);
	unsigned long units = DIV_ROUND_UP_ULL(size, MSHARE_UNIT);
	unsigned long first;

	if (mi->base || !units)
		return;
	spin_lock(&sbi->bases_lock);
	first = bitmap_find_next_zero_area(sbi->bases, MSHARE_BASE_UNITS, 0, units, 0);
	/* Without a free range the region stays without an address. */
	if (first + units <= MSHARE_BASE_UNITS) {
		bitmap_set(sbi->bases, first, units);
		mi->base_units = units;
		WRITE_ONCE(mi->base, MSHARE_BASE_FIRST + first * MSHARE_UNIT);
	}
	spin_unlock(&sbi->bases_lock);
}

void mshare_forget_base(struct mshare_inode *mi)
{
	struct mshare_sb_info *sbi = MSHARE_SB(mi->vfs_inode.i_sb);

	if (mi->base_units) {
		spin_lock(&sbi->bases_lock);
		bitmap_clear(sbi->bases, (mi->base - MSHARE_BASE_FIRST) / MSHARE_UNIT,
			     mi->base_units);
		spin_unlock(&sbi->bases_lock);
	}
	mi->base_units = 0;
	WRITE_ONCE(mi->base, 0);
}

struct inode *mshare_new_inode(struct super_block *sb, struct inode *dir, umode_t mode)
{
	struct mshare_sb_info *sbi = MSHARE_SB(sb);
	struct inode *inode;

	if (atomic64_inc_return(&sbi->used_inodes) > sbi->max_inodes) {
		atomic64_dec(&sbi->used_inodes);
		return ERR_PTR(-ENOSPC);
	}
	inode = new_inode(sb);
	if (!inode) {
		atomic64_dec(&sbi->used_inodes);
		return ERR_PTR(-ENOMEM);
	}
	inode->i_ino = get_next_ino();
	inode_init_owner(&nop_mnt_idmap, inode, dir, mode);
	simple_inode_init_ts(inode);
	if (S_ISDIR(mode)) {
		inode->i_op = &mshare_dir_inode_operations;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
	} else {
		inode->i_op = &mshare_file_inode_operations;
		inode->i_fop = &mshare_file_operations;
		inode->i_mapping->a_ops = &mshare_aops;
		/* Pages stay where they are: keep them out of movable zones. */
		mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
		mapping_set_unevictable(inode->i_mapping);
	}
	return inode;
}

static int mshare_create(struct mnt_idmap *idmap, struct inode *dir,
			 struct dentry *dentry, umode_t mode, bool excl)
{
	struct inode *inode = mshare_new_inode(dir->i_sb, dir, mode | S_IFREG);

	if (IS_ERR(inode))
		return PTR_ERR(inode);
	d_instantiate(dentry, inode);
	dget(dentry);			/* the name keeps the inode */
	mshare_touch_dir(dir);
	return 0;
}

static int mshare_tmpfile(struct mnt_idmap *idmap, struct inode *dir,
			  struct file *file, umode_t mode)
{
	struct inode *inode = mshare_new_inode(dir->i_sb, dir, mode | S_IFREG);

	if (IS_ERR(inode))
		return finish_open_simple(file, PTR_ERR(inode));
	d_tmpfile(file, inode);
	return finish_open_simple(file, 0);
}

/* A flat directory of regular files: no subdirectories, links to names, devices. */
const struct inode_operations mshare_dir_inode_operations = {
	.create		= mshare_create,
	.lookup		= simple_lookup,
	.link		= simple_link,
	.unlink		= simple_unlink,
	.rename		= simple_rename,
	.tmpfile	= mshare_tmpfile,
};

static ssize_t mshare_info_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	char text[24];
	int n = scnprintf(text, sizeof(text), "%llu\n", MSHARE_UNIT);

	return simple_read_from_buffer(buf, len, pos, text, n);
}

static const struct file_operations mshare_info_operations = {
	.owner	= THIS_MODULE,
	.read	= mshare_info_read,
	.llseek	= default_llseek,
};

static const struct inode_operations mshare_info_inode_operations = {
	.getattr	= simple_getattr,
};

/* mshare_info: the alignment of addresses and lengths, in bytes, as decimal text. */
int mshare_make_info_file(struct super_block *sb)
{
	struct dentry *dentry;
	struct inode *inode;

	dentry = d_alloc_name(sb->s_root, "mshare_info");
	if (!dentry)
		return -ENOMEM;
	inode = mshare_new_inode(sb, NULL, S_IFREG | 0444);
	if (IS_ERR(inode)) {
		dput(dentry);
		return PTR_ERR(inode);
	}
	inode->i_op = &mshare_info_inode_operations;
	inode->i_fop = &mshare_info_operations;
	/* Not removed or renamed, by the owner of the directory neither. */
	inode->i_flags |= S_IMMUTABLE;
	inode->i_uid = GLOBAL_ROOT_UID;
	inode->i_gid = GLOBAL_ROOT_GID;
	d_add(dentry, inode);
	return 0;
}
