/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module is written for the newer interface; what an older kernel lacks is
 * made here.  Included before every source file.  To drop support for a kernel,
 * delete its branch.
 */
#ifndef _MSHARE_COMPAT_H
#define _MSHARE_COMPAT_H

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <asm/pgalloc.h>

#ifndef MSHARE_HAVE_BASELINE
#error "the probes do not work: wrong compiler for these headers, or not built through Kbuild"
#endif
#ifndef CONFIG_X86_64
#error "mshare knows the page tables of x86-64 only"
#endif

/*
 * Facts: since 6.7 asynchronous userfaultfd write protection takes any kind of
 * mapping, and puts markers into its tables (change_pmd_prepare()).  Stable
 * kernels later refused VM_SPECIAL mappings, which ours are.
 * Consequence: without that check any client could write into shared tables.
 * Decision: do not build there.
 */
#if defined(MSHARE_HAVE_UFFD_WP_ASYNC) && !defined(MSHARE_HAVE_UFFD_SPECIAL_CHECK) && \
	defined(CONFIG_USERFAULTFD)
#error "this kernel lets userfaultfd write-protect any mapping: update to a later stable release"
#endif

#ifndef MSHARE_HAVE_MNT_IDMAP			/* before 6.3 */
#define mnt_idmap user_namespace
#define nop_mnt_idmap init_user_ns
#define file_mnt_idmap(file) file_mnt_user_ns(file)
#endif

#ifndef MSHARE_HAVE_VM_FLAGS_SET		/* before 6.3 */
static inline void mshare_vm_flags_mod(struct vm_area_struct *vma,
				       unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#else
#define mshare_vm_flags_mod vm_flags_mod
#endif

/* pmd_alloc_one() would do, but refers to init_mm, which is not exported. */
static inline pmd_t *mshare_pmd_alloc(void)
{
#ifdef MSHARE_HAVE_PTDESC			/* 6.6 */
	struct ptdesc *ptdesc = pagetable_alloc(GFP_PGTABLE_USER, 0);

	if (!ptdesc)
		return NULL;
	if (!pagetable_pmd_ctor(ptdesc)) {
		pagetable_free(ptdesc);
		return NULL;
	}
	return ptdesc_address(ptdesc);
#else
	struct page *page = alloc_page(GFP_PGTABLE_USER);

	if (!page)
		return NULL;
	if (!pgtable_pmd_page_ctor(page)) {
		__free_page(page);
		return NULL;
	}
	return page_address(page);
#endif
}

#ifndef MSHARE_HAVE_MM_GET_UNMAPPED_AREA	/* before 6.10 */
#define mm_get_unmapped_area(mm, file, addr, len, pgoff, flags) \
	((mm)->get_unmapped_area(file, addr, len, pgoff, flags))
#endif

#ifndef MSHARE_HAVE_COPY_SPLICE_READ		/* before 6.5 */
#define copy_splice_read generic_file_splice_read
#endif

#ifndef MSHARE_HAVE_INODE_INIT_TS		/* before 6.6 */
static inline void simple_inode_init_ts(struct inode *inode)
{
	inode->i_atime = inode->i_mtime = inode->i_ctime = current_time(inode);
}
#define mshare_touch_dir(dir) \
	((dir)->i_mtime = (dir)->i_ctime = current_time(dir))
#else
#define mshare_touch_dir(dir) \
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir))
#endif

#ifdef MSHARE_HAVE_POLICY_ILX			/* 6.7 */
#define MSHARE_GET_POLICY_ARGS struct vm_area_struct *vma, unsigned long addr, pgoff_t *ilx
#else
#define MSHARE_GET_POLICY_ARGS struct vm_area_struct *vma, unsigned long addr
#endif

/* Every page-table page must have a lock of its own: shared ones have no mm. */
#if defined(CONFIG_SPLIT_PTE_PTLOCKS)		/* 6.12 */
#define MSHARE_SPLIT_LOCKS IS_ENABLED(CONFIG_SPLIT_PMD_PTLOCKS)
#else
#define MSHARE_SPLIT_LOCKS (USE_SPLIT_PTE_PTLOCKS && USE_SPLIT_PMD_PTLOCKS)
#endif

#endif /* _MSHARE_COMPAT_H */
