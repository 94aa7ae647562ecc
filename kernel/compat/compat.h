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
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/workqueue.h>
#include <asm/invpcid.h>
#include <asm/mmu_context.h>
#include <asm/pgalloc.h>

#ifndef MSHARE_HAVE_BASELINE
#error "the probes do not work: wrong compiler for these headers, or not built through Kbuild"
#endif
#ifndef CONFIG_X86_64
#error "mshare knows the page tables of x86-64 only"
#endif

#if defined(MSHARE_OTHER_SERIES) && !defined(MSHARE_UNAUDITED)
#error "mshare was not audited for this kernel: docs/audit.md; MSHARE_UNAUDITED=1 builds it"
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

static inline void mshare_vma_start_write(struct vm_area_struct *vma)
{
#ifdef MSHARE_HAVE_VMA_START_WRITE		/* 6.4 */
	vma_start_write(vma);
#endif
}

#ifdef MSHARE_HAVE_PMD_CTOR_MM			/* 6.16 */
/*
 * Only compared with &init_mm, which is not exported.  An object of our own is
 * known to be another one, so that the compiler needs no symbol; NULL is not,
 * with the kernel's flags.
 */
static const char mshare_other_mm;
#define MSHARE_NO_MM ((struct mm_struct *)&mshare_other_mm)
#else
#define MSHARE_NO_MM NULL
#endif

/* pmd_alloc_one() would do, but refers to init_mm, which is not exported. */
static inline pmd_t *mshare_pmd_alloc(void)
{
#ifdef MSHARE_HAVE_PTDESC			/* 6.6 */
	struct ptdesc *ptdesc = pagetable_alloc(GFP_PGTABLE_USER, 0);

	if (!ptdesc)
		return NULL;
#ifdef MSHARE_HAVE_PMD_CTOR_MM
	if (!pagetable_pmd_ctor(MSHARE_NO_MM, ptdesc)) {
#else
	if (!pagetable_pmd_ctor(ptdesc)) {
#endif
		__free_page(ptdesc_page(ptdesc));
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

#define mshare_pte_alloc() __pte_alloc_one(MSHARE_NO_MM, GFP_PGTABLE_USER)

#ifdef MSHARE_HAVE_PAGETABLE_DTOR		/* 6.14 */
#define mshare_pte_dtor(page) pagetable_dtor(page_ptdesc(page))
#define mshare_pmd_dtor(page) pagetable_dtor(page_ptdesc(page))
#elif defined(MSHARE_HAVE_PTDESC)		/* 6.6 */
#define mshare_pte_dtor(page) pagetable_pte_dtor(page_ptdesc(page))
#define mshare_pmd_dtor(page) pagetable_pmd_dtor(page_ptdesc(page))
#else
#define mshare_pte_dtor(page) pgtable_pte_page_dtor(page)
#define mshare_pmd_dtor(page) pgtable_pmd_page_dtor(page)
#endif

/*
 * Drop all translations of this CPU, of all PCIDs and global ones.  Interrupts
 * are off.  It is what __flush_tlb_all() does, which from 6.19 on is exported
 * to KVM alone.
 */
static inline void mshare_flush_tlb(void)
{
	unsigned long cr4;

	if (cpu_feature_enabled(X86_FEATURE_INVPCID)) {
		invpcid_flush_all();
		return;
	}
	asm volatile("mov %%cr4, %0" : "=r" (cr4) : : "memory");
	asm volatile("mov %0, %%cr4" : : "r" (cr4 ^ X86_CR4_PGE) : "memory");
	asm volatile("mov %0, %%cr4" : : "r" (cr4) : "memory");
}

static inline bool mshare_has_global_asid(struct mm_struct *mm)
{
#ifdef MSHARE_HAVE_GLOBAL_ASID			/* 6.15 */
	return READ_ONCE(mm->context.global_asid);
#else
	return false;
#endif
}

#ifndef MSHARE_HAVE_SYSTEM_DFL_WQ		/* before 6.17 */
#define system_dfl_wq system_unbound_wq
#endif

#ifdef MSHARE_HAVE_UNMAPPED_AREA_FILE		/* 6.19 */
#define mshare_unmapped_area mm_get_unmapped_area
#elif defined(MSHARE_HAVE_MM_GET_UNMAPPED_AREA)	/* 6.10 */
#define mshare_unmapped_area(file, addr, len, pgoff, flags) \
	mm_get_unmapped_area(current->mm, file, addr, len, pgoff, flags)
#else
#define mshare_unmapped_area(file, addr, len, pgoff, flags) \
	(current->mm->get_unmapped_area(file, addr, len, pgoff, flags))
#endif

#ifdef MSHARE_HAVE_ALLOC_FOLIO_POLICY		/* 6.19 */
#define mshare_alloc_folio(gfp, order) filemap_alloc_folio(gfp, order, NULL)
#else
#define mshare_alloc_folio(gfp, order) filemap_alloc_folio(gfp, order)
#endif

#ifdef MSHARE_HAVE_PTE_FREE_DEFER		/* 6.5: walkers expect PTE pages to go */
#define MSHARE_TABLES_MAY_GO 1
#else
#define MSHARE_TABLES_MAY_GO 0
#endif

#ifdef MSHARE_HAVE_HUGE_FAULT_ORDER		/* 6.6 */
#define MSHARE_HUGE_FAULT_ARGS struct vm_fault *vmf, unsigned int order
#else
#define MSHARE_HUGE_FAULT_ARGS struct vm_fault *vmf, enum page_entry_size size
#endif

#ifndef MSHARE_HAVE_FOLIO_BATCH_RELEASE		/* before 6.4 */
#define __folio_batch_release(batch) __pagevec_release((struct pagevec *)(batch))
#endif

#ifdef MSHARE_HAVE_ERROR_REMOVE_FOLIO		/* 6.8 */
#define MSHARE_ERROR_REMOVE_ARGS struct address_space *mapping, struct folio *folio
#else
#define error_remove_folio error_remove_page
#define MSHARE_ERROR_REMOVE_ARGS struct address_space *mapping, struct page *folio
#endif

#ifndef MSHARE_HAVE_COPY_SPLICE_READ		/* before 6.5 */
#define copy_splice_read generic_file_splice_read
#endif

#ifndef MSHARE_HAVE_INODE_INIT_TS		/* before 6.6 */
static inline void simple_inode_init_ts(struct inode *inode)
{
	inode->i_atime = current_time(inode);
	inode->i_mtime = inode->i_atime;
	inode->i_ctime = inode->i_atime;
}
#endif

/* The contents have changed. */
static inline void mshare_touch(struct inode *inode)
{
#ifndef MSHARE_HAVE_INODE_INIT_TS
	inode->i_ctime = current_time(inode);
	inode->i_mtime = inode->i_ctime;
#else
	inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
#endif
}

#ifdef MSHARE_HAVE_CREATE_EXCL			/* before 7.3 */
#define MSHARE_CREATE_ARGS struct mnt_idmap *idmap, struct inode *dir, \
	struct dentry *dentry, umode_t mode, bool excl
#else
#define MSHARE_CREATE_ARGS struct mnt_idmap *idmap, struct inode *dir, \
	struct dentry *dentry, umode_t mode
#endif

#ifdef MSHARE_HAVE_PERSISTENT_DENTRIES		/* 6.19 */
#define mshare_kill_super kill_anon_super
#else
#define mshare_kill_super kill_litter_super

static inline void d_make_persistent(struct dentry *dentry, struct inode *inode)
{
	if (d_unhashed(dentry))
		d_add(dentry, inode);
	else
		d_instantiate(dentry, inode);
	dget(dentry);
}
#endif

#ifndef MSHARE_HAVE_INODE_JUST_DROP		/* before 6.18 */
#define inode_just_drop generic_delete_inode
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
