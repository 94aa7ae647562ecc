/* SPDX-License-Identifier: GPL-2.0 */
/* Internal interfaces of the msharefs module. */
#ifndef _MSHARE_INTERNAL_H
#define _MSHARE_INTERNAL_H

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/interval_tree.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/rbtree.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>
#include "uapi/linux/msharefs.h"

/*
 * Locks, outermost first:
 *   mmap_lock of the process (write)	its set of attachments
 *   inode lock				size, removal and protection of pages
 *   invalidate_lock of the mapping	shared: pages, units, trees and leaves
 *					may be added, attachments linked;
 *					exclusive: they are taken away, and the
 *					state of the region changes
 *   block lock (a region has 8)	who makes a page of 2 MiB
 *   folio lock				held by the kernel when it tells of a
 *					memory error
 *   table_lock of the region		which trees and PTE pages there are
 *   i_mmap_rwsem of the mapping	the kernel walks the attachments, or a
 *					link is cut
 *   mshare_map.lock			the links of one attachment
 *   mm->page_table_lock		one PUD entry
 *   maps_lock of the region		its set of attachments
 *   split lock of a shared PMD page	one PMD entry
 *   split lock of a shared PTE page	leaves; the kernel's walkers take it too
 * bases_lock of the mount comes inside the inode lock.  (mmap_lock comes inside
 * the inode lock when write(2) faults on its source, so nothing takes the inode
 * lock under an mmap lock.)
 */

/*
 * A region has two sets of tables over the same pages.  A read-only leaf and a
 * writable one cannot be the same entry: get_user_pages_fast() looks at the
 * leaf alone, so clearing the write bit further up would not stop it.
 */
enum mshare_tree { MSHARE_TREE_RW, MSHARE_TREE_RO, MSHARE_NR_TREES };

#define MSHARE_MAX_BYTES	((s64)BIT_ULL(44))	/* of one file: 16 TiB */
#define MSHARE_TO_END		(2 * MSHARE_MAX_BYTES - 1)	/* past any page */

/* A unit is what one PUD entry maps (1 GiB), a block what one PMD entry maps (2 MiB). */
#define UNIT_PAGE_SHIFT		(PUD_SHIFT - PAGE_SHIFT)
#define UNIT_PAGES		BIT(UNIT_PAGE_SHIFT)
#define BLOCK_PAGE_SHIFT	(PMD_SHIFT - PAGE_SHIFT)
#define BLOCK_PAGES		BIT(BLOCK_PAGE_SHIFT)
#define UNIT_BLOCKS		(UNIT_PAGES / BLOCK_PAGES)

/* Whether a block gets one page of 2 MiB: no region's, a region's that asked, each region's. */
enum mshare_huge { MSHARE_HUGE_NEVER, MSHARE_HUGE_ADVISE, MSHARE_HUGE_ALWAYS };

/* Who makes a page of 2 MiB waits for others of the same block, seldom for others. */
#define BLOCK_LOCKS		8

struct mshare_sb_info {
	atomic64_t used_pages;		/* charged, <= max_pages */
	s64 max_pages;			/* size=: pages and page tables together */
	atomic64_t used_inodes;		/* names and nameless files; no map-only handles */
	s64 max_inodes;
	umode_t mode;			/* of the root directory */
	kuid_t uid;
	kgid_t gid;
	enum mshare_huge huge;		/* huge=, of regions that are made from now on */
	bool has_mode, has_uid, has_gid, has_huge;	/* the options were given */
	struct mutex bases_lock;	/* the bases of all regions */
	struct list_head bases;		/* reserved: mshare_inode.base_node by base */
};

/*
 * What a region may do to its leaves.  It changes under the inode lock and the
 * invalidate lock, held exclusively; either of them makes reading it exact.
 */
enum mshare_state {
	MSHARE_OPEN,		/* every page may be written */
	MSHARE_PROTECTED,	/* some page has been protected */
	MSHARE_SEALED,		/* no page may be written, for good */
};

/*
 * One unit of a region that has pages, or had.  It is made under the invalidate
 * lock, shared, and freed under that lock, exclusive, and table_lock.
 */
struct mshare_unit {
	pmd_t *tree[MSHARE_NR_TREES];	/* PMD pages; made under table_lock */
	bool filled[MSHARE_NR_TREES];	/* the tree has a leaf for each page */
	bool stale;			/* a block lost its pages, not its charge */
	DECLARE_BITMAP(blocks, UNIT_BLOCKS);	/* their PTE pages are charged */
};

struct mshare_inode {
	struct inode vfs_inode;
	struct mutex table_lock;	/* the trees and PTE pages of all units */
	struct xarray units;		/* struct mshare_unit, by number */
	atomic_t stale_units;
	struct maple_tree prot;		/* MSHARE_PROT_* of pages with less than all */
	u64 prot_ranges;		/* entries of prot; inode lock */
	enum mshare_state state;
	/* Protects: the attachments, and vm_ops of their mappings. */
	spinlock_t maps_lock;
	struct rb_root maps_by_mm;
	struct rb_root_cached maps_by_page;
	u32 attachments, processes;	/* read anywhere */
	struct mutex block_locks[BLOCK_LOCKS];
	bool huge;			/* a new block is one page, if it can be; inode lock */
	bool had_huge;			/* some block was one page */
	atomic_long_t huge_pages;	/* blocks that are one page */
	atomic64_t huge_fallbacks;	/* blocks that should have been one, and are not */
	atomic64_t charged;		/* pages of used_pages that are this region's */
	atomic_long_t table_pages;
	atomic64_t generation;
	atomic64_t filled;
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

/* The first page beyond the end of the file. */
static inline pgoff_t mshare_end(struct mshare_inode *mi)
{
	return DIV_ROUND_UP_ULL(i_size_read(&mi->vfs_inode), PAGE_SIZE);
}

/* Can this kernel have folios of 2 MiB? */
static inline bool mshare_has_huge(void)
{
	return IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE);
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

/* inode.c */
extern const struct inode_operations mshare_dir_inode_operations;
struct inode *mshare_new_inode(struct super_block *sb, umode_t mode);
int mshare_make_info_file(struct super_block *sb);

/* base.c */
void mshare_set_size(struct inode *inode, loff_t size);
void mshare_set_base(struct mshare_inode *mi, u64 base);

/* pages.c */
extern const struct address_space_operations mshare_aops;
int mshare_charge(struct mshare_inode *mi, s64 pages, s64 *prepaid);
void mshare_uncharge(struct mshare_inode *mi, s64 pages);
int mshare_charge_inode(struct super_block *sb);
s64 mshare_count_missing(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
struct page *mshare_get_page(struct inode *inode, pgoff_t index, pgoff_t end, gfp_t gfp,
			     s64 *prepaid);
bool mshare_block_has_large(struct mshare_inode *mi, pgoff_t index);
void mshare_drop_range(struct inode *inode, loff_t start, loff_t end);
bool mshare_wait_for_references(struct mshare_inode *mi);

/* file.c */
extern const struct file_operations mshare_file_operations;
extern const struct inode_operations mshare_file_inode_operations;

ssize_t mshare_read_iter(struct kiocb *iocb, struct iov_iter *to);
void mshare_refill(struct inode *inode, pgoff_t first, pgoff_t last);

/* handle.c */
bool mshare_is_handle(struct file *file);
long mshare_make_handle(struct file *file, u32 flags);

/* ioctl.c */
long mshare_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* tree.c */
extern pmd_t *mshare_parking;

int mshare_tree_init(void);
void mshare_tree_exit(void);
void mshare_trees_init(struct mshare_inode *mi);
void mshare_trees_free(struct mshare_inode *mi);
unsigned int mshare_free_table(pmd_t *table);
void mshare_make_trees(struct mshare_inode *mi, pgoff_t first, pgoff_t last, enum mshare_tree tree);
int mshare_fill_page(struct mshare_inode *mi, pgoff_t index, struct page *page);
int mshare_fill_range(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
void mshare_restrict(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
		     unsigned int prot);
void mshare_remove(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
void mshare_hide_page(struct mshare_inode *mi, pgoff_t index);
int mshare_charge_pages(struct mshare_inode *mi, pgoff_t index, s64 pages, s64 *prepaid);
void mshare_uncharge_pages(struct mshare_inode *mi, pgoff_t index, s64 pages, s64 *prepaid);
s64 mshare_count_tables(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
void mshare_sweep(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
unsigned int mshare_page_prot(struct mshare_inode *mi, pgoff_t index);
bool mshare_range_writable(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
int mshare_protect_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
			 unsigned int prot);
int mshare_seal_pages(struct mshare_inode *mi);

static inline bool mshare_sealed(struct mshare_inode *mi)
{
	return READ_ONCE(mi->state) == MSHARE_SEALED;
}

/* The table of a unit that a link may point to, or NULL. */
static inline pmd_t *mshare_unit_tree(struct mshare_inode *mi, pgoff_t index, enum mshare_tree tree)
{
	struct mshare_unit *unit = xa_load(&mi->units, index >> UNIT_PAGE_SHIFT);

	return unit ? READ_ONCE(unit->tree[tree]) : NULL;
}

/* link.c */
int mshare_attach(struct vm_area_struct *vma);
int mshare_attach_later(struct mm_struct *mm, unsigned long addr, struct file *file);
void mshare_detach(struct vm_area_struct *vma);
bool mshare_attached(struct vm_area_struct *vma);
bool mshare_link_unit(struct vm_area_struct *vma, unsigned long addr);
void mshare_flush_attached(struct mshare_inode *mi);
void mshare_walk_attached(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
bool mshare_unit_attached(struct mshare_inode *mi, pgoff_t first, pgoff_t last);
void mshare_set_vm_ops(struct mshare_inode *mi, const struct vm_operations_struct *ops);
u32 mshare_collect_pids(struct mshare_inode *mi, s32 *pids, u32 capacity);

/* vma.c */
extern const struct vm_operations_struct mshare_vm_ops;
extern const struct vm_operations_struct mshare_strict_vm_ops;

int mshare_mmap(struct file *file, struct vm_area_struct *vma);
unsigned long mshare_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long pgoff, unsigned long flags);

#endif /* _MSHARE_INTERNAL_H */
