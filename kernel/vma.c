// SPDX-License-Identifier: GPL-2.0
/* msharefs: the operations of a mapping. */
#include <linux/file.h>
#include <linux/iommu.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include "internal.h"

/*
 * fork and mremap.  This cannot fail; a child's mapping that could not be
 * attached is attached by the first touch.
 *
 * Facts: mremap moves the page tables that it finds below the original; below a
 * mapping that is not attached they are the kernel's own, private ones.  If
 * mremap fails after .open it expects no tables below the copy, and frees none.
 * Consequence: were the copy attached here, the kernel could put private tables
 * into shared ones, or leave our upper tables behind.
 * Decision: mremap attaches the copy at its end: mshare_vm_mremap().
 */
static void mshare_vm_open(struct vm_area_struct *vma)
{
	vma->vm_private_data = NULL;	/* the original's */
	if (vma->vm_mm != current->mm)
		mshare_attach(vma);
}

/* If this fails so does mremap; the original is attached again by the next touch. */
static int mshare_vm_mremap(struct vm_area_struct *vma)
{
	return mshare_attach(vma);
}

static int mshare_vm_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	return -EINVAL;
}

/* Rights are fixed by the tree that is linked. */
static int mshare_vm_mprotect(struct vm_area_struct *vma, unsigned long start,
			      unsigned long end, unsigned long newflags)
{
	return -EACCES;
}

#ifdef CONFIG_NUMA
/*
 * Facts: NUMA balancing passes over a mapping whose policy has no MPOL_F_MOF.
 * From 6.7 on, NULL stands for the policy of the task, which may have that flag.
 * Decision: a policy of our own.  Without MPOL_F_SHARED it is never put.
 */
static struct mempolicy mshare_policy = {
	.refcnt	= ATOMIC_INIT(1),
	.mode	= MPOL_LOCAL,
};

static struct mempolicy *mshare_vm_get_policy(MSHARE_GET_POLICY_ARGS)
{
	return &mshare_policy;
}
#endif

/* Let the mmap lock go, wait for something, and have the fault taken again, once. */
static vm_fault_t mshare_wait_and_retry(struct vm_fault *vmf, bool attach)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	unsigned long addr = vmf->address;
	struct file *file;

	if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;
	file = get_file(vmf->vma->vm_file);
	mmap_read_unlock(mm);
	/* From here on the VMA may go. */
	if (attach) {
		mshare_attach_later(mm, addr, file);
	} else {
		filemap_invalidate_lock_shared(file->f_mapping);
		filemap_invalidate_unlock_shared(file->f_mapping);
	}
	fput(file);
	return VM_FAULT_RETRY;
}

/* Fill the leaf, and link the unit.  Under the invalidate lock, shared. */
static vm_fault_t mshare_fill_fault(struct vm_fault *vmf, struct inode *inode)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	struct mshare_inode *mi = MSHARE_I(inode);
	vm_fault_t result = VM_FAULT_NOPAGE;
	struct page *page;
	unsigned int prot;
	int err;

	if (vmf->pgoff >= mshare_end(mi))
		return VM_FAULT_SIGBUS;
	prot = mshare_page_prot(mi, vmf->pgoff);
	if (prot == MSHARE_PROT_NONE || (write && prot == MSHARE_PROT_READ))
		return VM_FAULT_SIGSEGV;
	page = mshare_get_page(inode, vmf->pgoff, mshare_end(mi),
			       mapping_gfp_mask(inode->i_mapping), NULL);
	if (IS_ERR(page))
		return vmf_error(PTR_ERR(page));
	err = mshare_fill_page(mi, vmf->pgoff, page);
	if (PageHWPoison(page))
		result = VM_FAULT_HWPOISON;
	else if (err || !mshare_link_unit(vmf->vma, vmf->address))
		result = VM_FAULT_OOM;
	put_page(page);
	return result;
}

/*
 * Fill the shared leaf and have the instruction run again: no page is returned
 * to the kernel, which would install it in what it takes for a private table.
 *
 * Facts: without map_pages the kernel calls this under the mmap lock only, never
 * under the lock of the VMA.
 */
static vm_fault_t mshare_vm_fault(struct vm_fault *vmf)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	vm_fault_t result;

	if (!mshare_attached(vmf->vma))
		return fault_flag_allow_retry_first(vmf->flags) ?
		       mshare_wait_and_retry(vmf, true) : VM_FAULT_SIGBUS;

	if (!filemap_invalidate_trylock_shared(mapping)) {
		if (fault_flag_allow_retry_first(vmf->flags))
			return mshare_wait_and_retry(vmf, false);
		filemap_invalidate_lock_shared(mapping);
	}
	result = mshare_fill_fault(vmf, mapping->host);
	filemap_invalidate_unlock_shared(mapping);
	return result;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * A store to the read-only leaf of a block; from 6.12 on also a touch of a block
 * without tables.
 *
 * Facts: if this says VM_FAULT_FALLBACK, or is not there, the kernel splits the
 * leaf as one of its own: it takes the leaf out of the shared tree, and a
 * reference and a mapping that it never counted.
 * It may call this under the lock of the VMA, without the mmap lock.
 * Decision: never fall back; come again with the mmap lock, which all else here
 * counts on.
 */
static vm_fault_t mshare_vm_huge_fault(MSHARE_HUGE_FAULT_ARGS)
{
#ifdef MSHARE_HAVE_VMA_START_WRITE
	if (vmf->flags & FAULT_FLAG_VMA_LOCK) {
		vma_end_read(vmf->vma);
		return VM_FAULT_RETRY;
	}
#endif
	return mshare_vm_fault(vmf);
}
#endif

/*
 * A store to a read-only leaf.
 *
 * Facts: the kernel holds a reference to the page here, and SEAL waits for
 * references with the invalidate lock held.
 * Decision: do not wait; have the instruction run again.
 */
static vm_fault_t mshare_vm_page_mkwrite(struct vm_fault *vmf)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	vm_fault_t result = VM_FAULT_NOPAGE;

	if (mshare_page_prot(MSHARE_I(mapping->host), vmf->pgoff) != MSHARE_PROT_READWRITE)
		return VM_FAULT_SIGSEGV;
	if (filemap_invalidate_trylock_shared(mapping)) {
		result = mshare_fill_fault(vmf, mapping->host);
		filemap_invalidate_unlock_shared(mapping);
	}
	return result;
}

const struct vm_operations_struct mshare_strict_vm_ops = {
	.open		= mshare_vm_open,
	.close		= mshare_detach,
	.may_split	= mshare_vm_may_split,
	.mremap		= mshare_vm_mremap,
	.mprotect	= mshare_vm_mprotect,
	.fault		= mshare_vm_fault,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	.huge_fault	= mshare_vm_huge_fault,
#endif
	.page_mkwrite	= mshare_vm_page_mkwrite,
#ifdef CONFIG_NUMA
	.get_policy	= mshare_vm_get_policy,
#endif
};

/* The same without page_mkwrite; see mshare_set_state(). */
const struct vm_operations_struct mshare_vm_ops = {
	.open		= mshare_vm_open,
	.close		= mshare_detach,
	.may_split	= mshare_vm_may_split,
	.mremap		= mshare_vm_mremap,
	.mprotect	= mshare_vm_mprotect,
	.fault		= mshare_vm_fault,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	.huge_fault	= mshare_vm_huge_fault,
#endif
#ifdef CONFIG_NUMA
	.get_policy	= mshare_vm_get_policy,
#endif
};

/*
 * Facts: from 6.6 on a device with shared virtual addresses hears only of what
 * flush_tlb_mm_range() flushes, and our flush is another one.
 * Consequence: the device would go on using pages that have left the region.
 * Decision: refuse a process that has such a device.  (One that gets a device
 * afterwards is not seen.)
 */
static bool mshare_has_device(struct mm_struct *mm)
{
#ifdef MSHARE_HAVE_SECONDARY_TLBS
	return mm_valid_pasid(mm);
#else
	return false;
#endif
}

int mshare_mmap(struct file *file, struct vm_area_struct *vma)
{
	const unsigned long unit_pages = MSHARE_UNIT >> PAGE_SHIFT;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	/* Leaves are readable to the hardware, whatever the mapping asked. */
	if (!(vma->vm_flags & (VM_READ | VM_WRITE)))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	/* A seal that comes after this look makes the attachment read-only all the same. */
	if (vma->vm_flags & VM_WRITE && mshare_sealed(MSHARE_I(file->f_mapping->host)))
		return -EPERM;
	if (mshare_has_device(vma->vm_mm))
		return -EBUSY;
	/*
	 * Facts: a link replaces the table of a whole unit of the address space.
	 * Consequence: a neighbour in the same unit would share its entries
	 * with strangers.
	 * Decision: a mapping owns whole units, and is never split
	 * (VM_DONTEXPAND also keeps it from being merged or grown).
	 */
	if ((vma->vm_start | vma->vm_end) & (MSHARE_UNIT - 1) ||
	    vma->vm_pgoff & (unit_pages - 1))
		return -EINVAL;
	if (vma->vm_pgoff + vma_pages(vma) > MSHARE_MAX_BYTES >> PAGE_SHIFT)
		return -EOVERFLOW;

	mshare_vm_flags_mod(vma, VM_DONTEXPAND,
			    vma->vm_flags & VM_WRITE ? VM_MAYEXEC : VM_MAYEXEC | VM_MAYWRITE);
	file_accessed(file);
	return mshare_attach(vma);
}

unsigned long mshare_get_unmapped_area(struct file *file, unsigned long addr, unsigned long len,
				       unsigned long pgoff, unsigned long flags)
{
	bool fixed = flags & MAP_FIXED;
	unsigned long found;

	if ((len | pgoff << PAGE_SHIFT | (fixed ? addr : 0)) & (MSHARE_UNIT - 1))
		return -EINVAL;
	if (addr || fixed) {
		found = mshare_unmapped_area(file, ALIGN(addr, MSHARE_UNIT), len, pgoff, flags);
		if (fixed || IS_ERR_VALUE(found) || !(found & (MSHARE_UNIT - 1)))
			return found;
	}
	if (len > TASK_SIZE - MSHARE_UNIT)
		return -ENOMEM;
	found = mshare_unmapped_area(file, 0, len + MSHARE_UNIT, pgoff, flags);
	return IS_ERR_VALUE(found) ? found : ALIGN(found, MSHARE_UNIT);
}
