// SPDX-License-Identifier: GPL-2.0
/* msharefs: inodes, the directory, and the pages of a region. */
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/migrate.h>
#include "internal.h"

/*
 * Facts: a leaf entry holds no reference of its own; the page cache's keeps
 * the page.  Reclaim passes over unevictable mappings and over dirty pages
 * without write-back, but migration and compaction would replace a page that
 * nobody holds.
 * Consequence: a page must leave the cache through mshare_drop_range() only,
 * after mshare_restrict() has removed its leaves and flushed.
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

/* The first range of addresses that no region has, or 0.  Under bases_lock. */
static u64 mshare_free_base(struct mshare_sb_info *sbi, u64 bytes)
{
	u64 start = MSHARE_BASE_FIRST;
	struct mshare_inode *other;

	list_for_each_entry(other, &sbi->bases, base_node) {
		if (other->base >= start + bytes)
			break;
		start = max(start, other->base_end);
	}
	return start + bytes <= MSHARE_BASE_END ? start : 0;
}

/*
 * Facts: anybody may make files, sparse ones of any size cost nothing, and an
 * owner may set any base.  A base is advice; overlapping ones do harm only to
 * who wants both regions in one process.
 * Consequence: if an address that is taken were refused, one user could keep
 * it from another; if all were reserved, one user could leave none to give.
 * Decision: what owners set may overlap; a user other than root reserves up to
 * a share.  Beyond it a region has a base that the next one may get, too.
 */
static void mshare_reserve_base(struct mshare_inode *mi, u64 base, u64 bytes)
{
	struct mshare_sb_info *sbi = MSHARE_SB(mi->vfs_inode.i_sb);
	struct list_head *place = &sbi->bases;
	kuid_t uid = mi->vfs_inode.i_uid;
	struct mshare_inode *other;
	u64 held = bytes;

	list_del_init(&mi->base_node);
	list_for_each_entry(other, &sbi->bases, base_node) {
		if (uid_eq(other->vfs_inode.i_uid, uid))
			held += other->base_end - other->base;
		if (other->base <= base)
			place = &other->base_node;
	}
	if (held <= MSHARE_BASE_SHARE || uid_eq(uid, GLOBAL_ROOT_UID))
		list_add(&mi->base_node, place);
	WRITE_ONCE(mi->base, base);
	mi->base_end = base + bytes;
}

/* Set the size; a region that has outgrown its addresses gets some, or more of them. */
void mshare_set_size(struct inode *inode, loff_t size)
{
	struct mshare_sb_info *sbi = MSHARE_SB(inode->i_sb);
	u64 base, bytes = round_up(size, MSHARE_UNIT);
	struct mshare_inode *mi = MSHARE_I(inode);

	i_size_write(inode, size);
	if (bytes <= mi->base_end - mi->base)
		return;
	mutex_lock(&sbi->bases_lock);
	base = mi->base ?: mshare_free_base(sbi, bytes);
	/* Without a free range the region stays without an address. */
	if (base)
		mshare_reserve_base(mi, base, bytes);
	mutex_unlock(&sbi->bases_lock);
}

/* 0: none any more. */
void mshare_set_base(struct mshare_inode *mi, u64 base)
{
	struct mutex *lock = &MSHARE_SB(mi->vfs_inode.i_sb)->bases_lock;

	mutex_lock(lock);
	list_del_init(&mi->base_node);
	if (base)
		mshare_reserve_base(mi, base,
				    round_up((u64)i_size_read(&mi->vfs_inode), MSHARE_UNIT));
	mutex_unlock(lock);
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
	inode->i_fop = &mshare_info_operations;
	/* Not removed or renamed, by the owner of the directory neither. */
	inode->i_flags |= S_IMMUTABLE;
	inode->i_uid = GLOBAL_ROOT_UID;
	inode->i_gid = GLOBAL_ROOT_GID;
	d_add(dentry, inode);
	return 0;
}
