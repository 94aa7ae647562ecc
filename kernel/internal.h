/* SPDX-License-Identifier: GPL-2.0 */
/* Internal interfaces of the msharefs module. */
#ifndef _MSHARE_INTERNAL_H
#define _MSHARE_INTERNAL_H

#include <linux/fs.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>
#include "uapi/linux/msharefs.h"

/*
 * A region has two sets of tables over the same pages.  A read-only leaf and a
 * writable one cannot be the same entry: get_user_pages_fast() looks at the
 * leaf alone, so clearing the write bit further up would not stop it.
 */
enum mshare_tree { MSHARE_TREE_RW, MSHARE_TREE_RO, MSHARE_NR_TREES };

#define MSHARE_MAX_BYTES	(1LL << 44)	/* of one file: 16 TiB */
#define MSHARE_TO_END		(2 * MSHARE_MAX_BYTES - 1)	/* past any page */

struct mshare_sb_info {
	atomic64_t used_pages;		/* charged, <= max_pages */
	s64 max_pages;
	atomic64_t used_inodes;
	s64 max_inodes;
	umode_t mode;			/* of the root directory */
	kuid_t uid;
	kgid_t gid;
	struct mutex bases_lock;
	struct list_head bases;		/* reserved: mshare_inode.base_node by base */
};

struct mshare_inode {
	struct inode vfs_inode;
	struct mutex table_lock;	/* protects making trees */
	struct xarray trees;		/* PMD pages; they go with the inode */
	struct maple_tree prot;		/* MSHARE_PROT_* of pages with less than all */
	/* Protects: maps, and vm_ops of the mappings on it. */
	spinlock_t maps_lock;
	struct list_head maps;		/* struct mshare_map.region_node, by process */
	atomic_long_t table_pages;
	atomic64_t generation;
	atomic64_t filled;
	/*
	 * Some page has been made read-only; set once, under maps_lock.
	 * Until then no mapping needs a page_mkwrite.
	 */
	bool strict;
	/* Some page has had a protection; under invalidate_lock. */
	bool protected;
	/* Read-only for good; set under inode lock and invalidate lock. */
	bool sealed;
	/* Under inode lock and sb_info.bases_lock; base is read anywhere. */
	u64 base, base_end;
	struct list_head base_node;
};

static inline struct mshare_inode *MSHARE_I(struct inode *inode)
{
	return container_of(inode, struct mshare_inode, vfs_inode);
}

static inline struct mshare_sb_info *MSHARE_SB(struct super_block *sb)
{
	return sb->s_fs_info;
}

/* Between two steps of something long: 0 or -EINTR. */
static inline int mshare_pause(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

/* super.c */
int mshare_super_init(void);
void mshare_super_exit(void);
int mshare_charge_pages(struct super_block *sb, s64 pages);
void mshare_uncharge_pages(struct super_block *sb, s64 pages);

/* inode.c */
extern const struct inode_operations mshare_dir_inode_operations;
struct inode *mshare_new_inode(struct super_block *sb, struct inode *dir,
			       umode_t mode);
int mshare_make_info_file(struct super_block *sb);
struct page *mshare_get_page(struct inode *inode, pgoff_t index, gfp_t gfp,
			     s64 *prepaid);
void mshare_drop_range(struct inode *inode, loff_t start, loff_t end);
void mshare_set_size(struct inode *inode, loff_t size);
void mshare_set_base(struct mshare_inode *mi, u64 base);

/* file.c */
extern const struct file_operations mshare_file_operations;
extern const struct inode_operations mshare_file_inode_operations;

ssize_t mshare_read_iter(struct kiocb *iocb, struct iov_iter *to);
int mshare_mmap(struct file *file, struct vm_area_struct *vma);
unsigned long mshare_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long pgoff, unsigned long flags);

/* handle.c */
bool mshare_is_handle(struct file *file);
long mshare_make_handle(struct file *file, u32 flags);

/* ioctl.c */
long mshare_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* pagetable.c */
int mshare_pagetable_init(void);
void mshare_pagetable_exit(void);
void mshare_tables_init(struct mshare_inode *mi);
void mshare_tables_free(struct mshare_inode *mi);
int mshare_attach(struct vm_area_struct *vma);
int mshare_fill_page(struct mshare_inode *mi, pgoff_t index, struct page *page);
void mshare_restrict(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
		     unsigned int prot);
unsigned int mshare_page_prot(struct mshare_inode *mi, pgoff_t index);
bool mshare_range_writable(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
int mshare_protect_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
			 unsigned int prot);
int mshare_seal_pages(struct mshare_inode *mi);
void mshare_count_maps(struct mshare_inode *mi, u32 *attachments, u32 *processes,
		       s32 *pids, u32 capacity);

#endif /* _MSHARE_INTERNAL_H */
