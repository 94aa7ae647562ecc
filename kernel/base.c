// SPDX-License-Identifier: GPL-2.0
/* msharefs: the address at which everybody should attach a region. */
#include <linux/fs.h>
#include "internal.h"

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
 * owner may set any base.  A base is advice; overlapping bases do harm only to
 * a process that wants both regions.
 * Consequence: if an address that is taken were refused, one user could keep
 * it from another; if all were reserved, one user could leave none to give.
 * Decision: what owners set may overlap; a user other than root reserves up to
 * a share.  Beyond that share, the base of a region may also be given to the
 * next region.
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
