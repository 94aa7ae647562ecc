// SPDX-License-Identifier: GPL-2.0
/*
 * Everything that touches page tables or the TLB.
 *
 * A region is cut into units of 1 GiB, what one PUD entry maps.  For each unit
 * the region owns up to two trees (writable and read-only leaves) of one PMD
 * page and up to 512 PTE pages.  A process that attaches gets its PUD entry
 * pointed at the PMD page of the region: the entry is then *linked*.
 *
 * Locks, outermost first:
 *   mmap_lock of the process (write)	its set of mappings, and so of maps
 *   inode lock				removal and protection of pages
 *   invalidate_lock of the mapping	shared: leaves may be filled;
 *					exclusive: they are taken away
 *   table_lock of the region		making trees
 *   mshare_mm.lock			the links of one process, maps in it
 *   mm->page_table_lock		one PUD entry
 *   maps_lock of the region		its list of maps
 *   split lock of a shared PMD page	one PMD entry
 *   split lock of a shared PTE page	leaves; the kernel's walkers take it too
 * (mmap_lock comes inside the inode lock when write(2) faults on its source.)
 */
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/pagevec.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>
#include "internal.h"

#define UNIT_PAGE_SHIFT	(PUD_SHIFT - PAGE_SHIFT)
#define UNIT_PAGES	(1UL << UNIT_PAGE_SHIFT)
#define MAX_MAPS_PER_MM	1024

/* Of a tree in mi->trees: it has a leaf for each page there is. */
#define TREE_FILLED	XA_MARK_0

/* One process (address space) with attachments. */
struct mshare_mm {
	struct mmu_notifier notifier;
	spinlock_t lock;		/* maps, their links, walks and dead */
	wait_queue_head_t idle;		/* some map has no walks any more */
	struct list_head maps;
	unsigned int nr_maps;
};

/* One attachment. */
struct mshare_map {
	struct mshare_mm *smm;
	struct mshare_inode *mi;
	struct vm_area_struct *vma;	/* lives as long; never split or resized */
	struct list_head mm_node;	/* smm->lock */
	struct list_head region_node;	/* mi->maps_lock */
	unsigned int walks;		/* by the kernel, under way: parked */
	bool dead;			/* unlinked for good */
};

/* See mshare_invalidate_start(). */
static pmd_t *mshare_parking;

/* The strict ones without page_mkwrite; see mshare_make_strict(). */
static struct vm_operations_struct mshare_vm_ops __ro_after_init;
static const struct vm_operations_struct mshare_strict_vm_ops;

/* ---- TLB ---- */

static void mshare_flush_this_cpu(void *unused)
{
	__flush_tlb_all();
}

/*
 * Facts: the kernel's flushes know one mm at a time; a shared leaf may be
 * cached for any mm, on any CPU, under any PCID.  __flush_tlb_all() drops all
 * PCIDs and global entries of its CPU.  The IPI is taken only with interrupts
 * enabled, that is, outside get_user_pages_fast().
 * Consequence: after this returns, nobody translates through an entry that was
 * removed before, nor is about to take a reference from it.
 * Decision: call this after every removal or downgrade of a leaf, and before
 * the page goes.  Filling an empty leaf needs no flush.
 */
static void mshare_flush_all(void)
{
	on_each_cpu(mshare_flush_this_cpu, NULL, 1);
}

/*
 * Facts: mm_cpumask() holds every CPU that runs on this mm's tables, lazily or
 * not.  Another CPU may keep entries of an earlier run, and drops them when it
 * finds at switch-in that tlb_gen has moved on.  Kernels with broadcast
 * invalidation (global ASIDs) do not look at tlb_gen then.
 * Consequence: bumping tlb_gen, then interrupting mm_cpumask(), reaches every
 * entry of this mm; with global ASIDs it would not.
 * Decision: that, which for a single thread is local; all CPUs otherwise.
 */
static void mshare_flush_mm(struct mm_struct *mm)
{
#ifdef MSHARE_HAVE_GLOBAL_ASID
	mshare_flush_all();
#else
	atomic64_inc_return(&mm->context.tlb_gen);	/* a full barrier */
	on_each_cpu_mask(mm_cpumask(mm), mshare_flush_this_cpu, NULL, 1);
#endif
}

/* ---- the region's tables ---- */

/* Where mi->trees has the PMD page of a tree. */
static unsigned long mshare_tree_key(pgoff_t index, enum mshare_tree tree)
{
	return (index >> UNIT_PAGE_SHIFT) * MSHARE_NR_TREES + tree;
}

static pmd_t *mshare_leaf_pmd(pmd_t *table, pgoff_t index)
{
	return table + (index >> (PMD_SHIFT - PAGE_SHIFT)) % PTRS_PER_PMD;
}

/* MSHARE_PROT_* of one page.  Exact under the invalidate lock. */
unsigned int mshare_page_prot(struct mshare_inode *mi, pgoff_t index)
{
	void *entry = READ_ONCE(mi->protected) ? mtree_load(&mi->prot, index) : NULL;

	if (entry)
		return xa_to_value(entry);
	return READ_ONCE(mi->sealed) ? MSHARE_PROT_READ : MSHARE_PROT_READWRITE;
}

/* May every page of the range be written?  Under the invalidate lock. */
bool mshare_range_writable(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	unsigned long index = first;

	return !mi->sealed && (!mi->protected || !mt_find(&mi->prot, &index, last));
}

static pte_t mshare_leaf(struct page *page, enum mshare_tree tree, unsigned int prot)
{
	/* Born old and clean a leaf would cost the hardware an atomic update. */
	if (tree == MSHARE_TREE_RW && prot == MSHARE_PROT_READWRITE)
		return pte_mkyoung(pte_mkdirty(mk_pte(page, PAGE_SHARED)));
	return pte_mkyoung(mk_pte(page, PAGE_READONLY));
}

static int mshare_make_ptes(struct mshare_inode *mi, pmd_t *pmd)
{
	spinlock_t *ptl;
	pgtable_t table;

	table = __pte_alloc_one(NULL, GFP_PGTABLE_USER);
	if (!table)
		return -ENOMEM;
	ptl = pmd_lockptr(NULL, pmd);
	spin_lock(ptl);
	if (pmd_none(*pmd)) {
		/* A walker must see the entries zeroed before it sees the table. */
		smp_wmb();
		set_pmd(pmd, __pmd((page_to_pfn(table) << PAGE_SHIFT) | _PAGE_TABLE));
		atomic_long_inc(&mi->table_pages);
		table = NULL;
	}
	spin_unlock(ptl);
	if (table)
		pte_free(NULL, table);
	return 0;
}

static int mshare_fill_leaf(struct mshare_inode *mi, pmd_t *table, pgoff_t index, pte_t leaf)
{
	pmd_t *pmd = mshare_leaf_pmd(table, index);
	spinlock_t *ptl;
	pte_t *pte;
	int err;

	if (pmd_none(READ_ONCE(*pmd))) {
		err = mshare_make_ptes(mi, pmd);
		if (err)
			return err;
	}
	pte = (pte_t *)pmd_page_vaddr(READ_ONCE(*pmd)) + index % PTRS_PER_PTE;
	ptl = pte_lockptr(NULL, pmd);
	spin_lock(ptl);
	if (pte_none(*pte))
		atomic64_inc(&mi->filled);
	if (pte_none(*pte) || pte_write(leaf))
		set_pte_at(NULL, 0, pte, leaf);
	spin_unlock(ptl);
	return 0;
}

/*
 * Write the leaves of one page into every tree there is, so that no other
 * process has to fault for it.  The caller holds the inode lock or the
 * invalidate lock, and a reference to the page.
 */
int mshare_fill_page(struct mshare_inode *mi, pgoff_t index, struct page *page)
{
	unsigned int prot = mshare_page_prot(mi, index);
	enum mshare_tree tree;
	int err = 0;

	if (prot == MSHARE_PROT_NONE)
		return 0;
	for (tree = 0; tree < MSHARE_NR_TREES && !err; tree++) {
		pmd_t *table = xa_load(&mi->trees, mshare_tree_key(index, tree));

		if (table)
			err = mshare_fill_leaf(mi, table, index, mshare_leaf(page, tree, prot));
	}
	return err;
}

/* Write the leaves of all pages there are in a range. */
static int mshare_fill_range(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	int err = 0;
	unsigned int i;

	folio_batch_init(&batch);
	while (!err && filemap_get_folios(mi->vfs_inode.i_mapping, &first, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !err; i++)
			err = mshare_fill_page(mi, batch.folios[i]->index,
					       folio_page(batch.folios[i], 0));
		folio_batch_release(&batch);
		err = err ?: mshare_pause();
	}
	return err;
}

/* Returns whether the entry lost a right, so that a flush is due. */
static bool mshare_restrict_leaf(pte_t *pte, unsigned int prot)
{
	if (pte_none(*pte) || (prot == MSHARE_PROT_READ && !pte_write(*pte)))
		return false;
	if (prot == MSHARE_PROT_READ)
		ptep_set_wrprotect(NULL, 0, pte);
	else
		ptep_get_and_clear(NULL, 0, pte);
	return true;
}

static bool mshare_restrict_table(pmd_t *table, pgoff_t index, pgoff_t last, unsigned int prot)
{
	bool lost = false;

	while (index <= last) {
		pmd_t *pmd = mshare_leaf_pmd(table, index);
		pgoff_t stop = min(last, index | (PTRS_PER_PTE - 1));
		spinlock_t *ptl;
		pte_t *ptes;

		if (pmd_none(READ_ONCE(*pmd))) {
			index = stop + 1;
			continue;
		}
		ptes = (pte_t *)pmd_page_vaddr(*pmd);
		ptl = pte_lockptr(NULL, pmd);
		spin_lock(ptl);
		for (; index <= stop; index++)
			lost |= mshare_restrict_leaf(ptes + index % PTRS_PER_PTE, prot);
		spin_unlock(ptl);
		cond_resched();
	}
	return lost;
}

/*
 * Bring the leaves of a range down to MSHARE_PROT_READ or _NONE, everywhere,
 * now.  After _NONE the pages may be freed.
 * The caller holds the invalidate lock exclusively, so nobody fills meanwhile.
 *
 * Facts: the flush reaches CPUs; a second MMU over an attached process (a KVM
 * guest with a region as its memory, a device with shared virtual addresses)
 * hears of changes through the mmu_notifier of that process only, and holds
 * no reference to the page.
 * Consequence: without word to it, it would go on using a page that is free.
 * Decision: after the flush let unmap_mapping_range() go over all attachments.
 * It calls the notifiers of each, ours included, which hide the shared tables
 * from the walk (below).  tmpfs pays the same.
 */
void mshare_restrict(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	unsigned long key;
	bool lost = false;
	pmd_t *table;

	xa_for_each_range(&mi->trees, key, table, mshare_tree_key(first, 0),
			  mshare_tree_key(last, MSHARE_NR_TREES - 1)) {
		pgoff_t start = key / MSHARE_NR_TREES << UNIT_PAGE_SHIFT;

		lost |= mshare_restrict_table(table, max(first, start),
					      min(last, start + UNIT_PAGES - 1), prot);
	}
	if (!lost)
		return;
	mshare_flush_all();
	unmap_mapping_range(mi->vfs_inode.i_mapping, (loff_t)first << PAGE_SHIFT,
			    (loff_t)(last - first + 1) << PAGE_SHIFT, 1);
}

/* Have the tree, filled from the pages there are. */
static int mshare_make_tree(struct mshare_inode *mi, pgoff_t first, enum mshare_tree tree)
{
	unsigned long key = mshare_tree_key(first, tree);
	pmd_t *table;
	int err = 0;

	/* A tree that is being filled would cost its users the faults: wait. */
	mutex_lock(&mi->table_lock);
	if (xa_get_mark(&mi->trees, key, TREE_FILLED))
		goto unlock_tables;
	if (!xa_load(&mi->trees, key)) {
		table = mshare_pmd_alloc();
		err = table ? xa_insert(&mi->trees, key, table, GFP_KERNEL_ACCOUNT) : -ENOMEM;
		if (err) {
			if (table)
				pmd_free(NULL, table);
			goto unlock_tables;
		}
		atomic_long_inc(&mi->table_pages);
	}
	err = mshare_fill_range(mi, first, first + UNIT_PAGES - 1);
	/* Leaves that are missing for lack of memory can still be faulted in. */
	if (err == -ENOMEM)
		err = 0;
	if (!err)
		xa_set_mark(&mi->trees, key, TREE_FILLED);
unlock_tables:
	mutex_unlock(&mi->table_lock);
	return err;
}

/*
 * Facts: on a store to a read-only leaf of a shared writable mapping the kernel
 * makes the leaf writable by itself, unless the mapping has a page_mkwrite.
 * With one, get_user_pages() refuses long-term pins for writing (RDMA,
 * io_uring's fixed buffers).  The choice is made under the lock of the leaf.
 * Consequence: a region that was never protected is better off without; one
 * with a read-only page must have it, in every mapping, before the first leaf
 * loses its write bit.
 * Decision: two sets of operations; switch all mappings once, here.
 */
static void mshare_make_strict(struct mshare_inode *mi)
{
	struct mshare_map *map;

	spin_lock(&mi->maps_lock);
	if (!mi->strict) {
		mi->strict = true;
		list_for_each_entry(map, &mi->maps, region_node)
			WRITE_ONCE(map->vma->vm_ops, &mshare_strict_vm_ops);
	}
	spin_unlock(&mi->maps_lock);
}

/* Under the inode lock and the invalidate lock.  Fails before anything has changed. */
int mshare_protect_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	void *entry = prot == MSHARE_PROT_READWRITE ? NULL : xa_mk_value(prot);
	int err;

	err = mtree_store_range(&mi->prot, first, last, entry, GFP_KERNEL_ACCOUNT);
	if (err)
		return err;
	if (prot == MSHARE_PROT_READ)
		mshare_make_strict(mi);
	if (entry) {
		WRITE_ONCE(mi->protected, true);
		mshare_restrict(mi, first, last, prot);
	}
	/* What came back need not be faulted in again; failing that, it is. */
	mshare_fill_range(mi, first, last);
	atomic64_inc(&mi->generation);
	return 0;
}

/* Does a device or a system call hold a page, to write into it later? */
static bool mshare_pinned(struct mshare_inode *mi)
{
	struct folio_batch batch;
	bool pinned = false;
	pgoff_t index = 0;
	unsigned int i;

	folio_batch_init(&batch);
	while (!pinned && filemap_get_folios(mi->vfs_inode.i_mapping, &index, ULONG_MAX, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++)
			pinned |= folio_maybe_dma_pinned(batch.folios[i]);
		folio_batch_release(&batch);
		cond_resched();
	}
	return pinned;
}

/*
 * Make every page read-only for good.  Under the inode lock and the invalidate
 * lock.
 *
 * Facts: a pin taken before can be written through after the leaves have lost
 * the right; none can be taken once they have.
 * Consequence: who trusts a sealed region would see it change.
 * Decision: take the right away, look for pins, and if there is one give it
 * back and fail.  Pins without FOLL_PIN (O_DIRECT before 6.3) are not seen.
 */
int mshare_seal_pages(struct mshare_inode *mi)
{
	const pgoff_t last = (MSHARE_MAX_BYTES >> PAGE_SHIFT) - 1;

	mshare_make_strict(mi);
	WRITE_ONCE(mi->sealed, true);
	mshare_restrict(mi, 0, last, MSHARE_PROT_READ);
	if (mshare_pinned(mi)) {
		WRITE_ONCE(mi->sealed, false);
		mshare_fill_range(mi, 0, last);
		return -EBUSY;
	}
	atomic64_inc(&mi->generation);
	return 0;
}

void mshare_tables_init(struct mshare_inode *mi)
{
	mutex_init(&mi->table_lock);
	xa_init(&mi->trees);
	mt_init_flags(&mi->prot, MT_FLAGS_USE_RCU);
	spin_lock_init(&mi->maps_lock);
	INIT_LIST_HEAD(&mi->maps);
}

/* A PMD page that nothing reaches any more, and all below it; how many pages were below. */
static unsigned int mshare_free_table(struct mm_struct *mm, pmd_t *table)
{
	unsigned int i, nr_ptes = 0;

	for (i = 0; i < PTRS_PER_PMD; i++) {
		if (pmd_none(table[i]))
			continue;
		pte_free(mm, pmd_pgtable(table[i]));
		nr_ptes++;
	}
	pmd_free(mm, table);
	return nr_ptes;
}

/*
 * Facts: an attachment holds the file, and thereby the inode; it unlinks and
 * flushes before it lets go.
 * Consequence: at eviction no CPU and no process reaches these tables.
 * Decision: free them without a flush.  The leaves are cleared first for
 * kernels that count which page is mapped how often (PAGE_TABLE_CHECK).
 */
void mshare_tables_free(struct mshare_inode *mi)
{
	unsigned long key;
	pmd_t *table;

	WARN_ON_ONCE(!list_empty(&mi->maps));
	xa_for_each(&mi->trees, key, table) {
		mshare_restrict_table(table, 0, UNIT_PAGES - 1, MSHARE_PROT_NONE);
		atomic_long_sub(1 + mshare_free_table(NULL, table), &mi->table_pages);
	}
	xa_destroy(&mi->trees);
	mtree_destroy(&mi->prot);
	WARN_ON_ONCE(atomic_long_read(&mi->table_pages));
}

/* ---- links ---- */

/* The tables above are there: all that is linked, or about to be, has them. */
static pud_t *mshare_find_pud(struct mm_struct *mm, unsigned long addr)
{
	return pud_offset(p4d_offset(pgd_offset(mm, addr), addr), addr);
}

static pud_t mshare_table_entry(pmd_t *table)
{
	return table ? __pud(_PAGE_TABLE | __pa(table)) : __pud(0);
}

enum mshare_link { MSHARE_LINKED, MSHARE_PARKED, MSHARE_UNLINKED };

static enum mshare_tree mshare_map_tree(struct mshare_map *map)
{
	return map->vma->vm_flags & VM_WRITE ? MSHARE_TREE_RW : MSHARE_TREE_RO;
}

/* Under smm->lock, and the map is alive: its PUD entries are ours. */
static void mshare_set_links(struct mshare_map *map, enum mshare_link link)
{
	struct vm_area_struct *vma = map->vma;
	struct mm_struct *mm = vma->vm_mm;
	pgoff_t index = vma->vm_pgoff;
	unsigned long addr;

	for (addr = vma->vm_start; addr < vma->vm_end; addr += PUD_SIZE, index += UNIT_PAGES) {
		pud_t *pud = mshare_find_pud(mm, addr);
		pmd_t *table = NULL;

		if (link == MSHARE_LINKED)
			table = xa_load(&map->mi->trees,
					mshare_tree_key(index, mshare_map_tree(map)));
		else if (link == MSHARE_PARKED)
			table = mshare_parking;
		spin_lock(&mm->page_table_lock);
		set_pud(pud, mshare_table_entry(table));
		spin_unlock(&mm->page_table_lock);
	}
}

static bool mshare_map_overlaps(struct mshare_map *map, unsigned long start, unsigned long end)
{
	return start < map->vma->vm_end && end > map->vma->vm_start;
}

/*
 * Unlink all maps in a range for good, and flush.
 *
 * Facts: whoever holds i_mmap_rwsem of the file may walk these tables, from
 * another process and without the mmap lock: our own unmap_mapping_range().  A
 * walker looks at the PUD entry twice, to check it and to follow it, and
 * relies on it that upper entries go after the VMA left i_mmap only.
 * Consequence: if the entry became none in between, it would walk page frame 0.
 * Decision: wait until nobody walks; who comes later finds none from the
 * start.  The walkers need nothing that we hold: the mmap lock here, at most.
 * From present to present (linked, parked) an entry may change at any time.
 */
static void mshare_cut_links(struct mshare_mm *smm, unsigned long start, unsigned long end)
{
	struct mshare_map *map;
	bool flush = false;

again:
	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node) {
		if (map->dead || !mshare_map_overlaps(map, start, end))
			continue;
		if (map->walks) {
			spin_unlock(&smm->lock);
			wait_event(smm->idle, !READ_ONCE(map->walks));
			goto again;
		}
		map->dead = true;
		mshare_set_links(map, MSHARE_UNLINKED);
		flush = true;
	}
	spin_unlock(&smm->lock);
	if (flush)
		mshare_flush_mm(smm->notifier.mm);
}

/*
 * After these the VMA goes: munmap, mremap, exit, which exclude faults and each
 * other.  The OOM reaper says UNMAP, too, but does not; nor may it sleep.
 */
static bool mshare_range_unmaps(const struct mmu_notifier_range *range)
{
	return range->event == MMU_NOTIFY_UNMAP && mmu_notifier_range_blockable(range);
}

/*
 * Facts: the kernel's walkers that remove or change entries treat what they
 * find as the private property of one process.  They call
 * invalidate_range_start of the notifiers first, and read the PUD after it.
 * Consequence: by then shared tables must be out of sight.
 * Decision: where the VMA and then the upper tables go, cut the link for good.
 * For everything else (MADV_DONTNEED, clear_refs, the OOM reaper, our own
 * unmap_mapping_range()) let the entry point to an empty table until
 * invalidate_range_end: *parked*.  Translations that CPUs hold stay good
 * meanwhile, as the leaves did not change; a fault in between returns and is
 * taken again.  A present entry also keeps the kernel from allocating a
 * private table there.
 * Nobody writes into the parking table: PTE pages are allocated by faults of
 * mappings that return a page (ours never do), by userfaultfd and by guard
 * regions, which refuse VM_SPECIAL mappings.
 */
static int mshare_invalidate_start(struct mmu_notifier *notifier,
				   const struct mmu_notifier_range *range)
{
	struct mshare_mm *smm = container_of(notifier, struct mshare_mm, notifier);
	struct mshare_map *map;

	if (mshare_range_unmaps(range)) {
		mshare_cut_links(smm, range->start, range->end);
		return 0;
	}
	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node) {
		if (mshare_map_overlaps(map, range->start, range->end) &&
		    !map->walks++ && !map->dead)
			mshare_set_links(map, MSHARE_PARKED);
	}
	spin_unlock(&smm->lock);
	return 0;
}

static void mshare_invalidate_end(struct mmu_notifier *notifier,
				  const struct mmu_notifier_range *range)
{
	struct mshare_mm *smm = container_of(notifier, struct mshare_mm, notifier);
	struct mshare_map *map;

	if (mshare_range_unmaps(range))
		return;
	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node) {
		if (!mshare_map_overlaps(map, range->start, range->end) ||
		    WARN_ON_ONCE(!map->walks) || --map->walks)
			continue;
		if (!map->dead)
			mshare_set_links(map, MSHARE_LINKED);
		wake_up(&smm->idle);
	}
	spin_unlock(&smm->lock);
}

/* The last user of the mm is gone; exit_mmap() walks after this. */
static void mshare_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	mshare_cut_links(container_of(notifier, struct mshare_mm, notifier), 0, ULONG_MAX);
}

static struct mmu_notifier *mshare_alloc_notifier(struct mm_struct *mm)
{
	struct mshare_mm *smm = kzalloc(sizeof(*smm), GFP_KERNEL_ACCOUNT);

	if (!smm)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&smm->lock);
	init_waitqueue_head(&smm->idle);
	INIT_LIST_HEAD(&smm->maps);
	return &smm->notifier;
}

static void mshare_free_notifier(struct mmu_notifier *notifier)
{
	kfree(container_of(notifier, struct mshare_mm, notifier));
}

static const struct mmu_notifier_ops mshare_notifier_ops = {
	.release		= mshare_release,
	.invalidate_range_start	= mshare_invalidate_start,
	.invalidate_range_end	= mshare_invalidate_end,
	.alloc_notifier		= mshare_alloc_notifier,
	.free_notifier		= mshare_free_notifier,
};

/*
 * Facts: registering takes all locks of the mm, and gives up with -EINTR when
 * any signal is pending.  fork goes on in spite of one, and so does mmap; and
 * .open has no way to fail.
 * Consequence: a parent whose children die often (SIGCHLD), or with a timer,
 * would have children without their attachments.
 * Decision: hide what is pending meanwhile.  The two flags say only that there
 * may be something to look at on the way to user space; they are set again.
 */
static struct mmu_notifier *mshare_get_notifier(struct mm_struct *mm)
{
	struct mmu_notifier *notifier;

	do {
		bool signal = test_and_clear_thread_flag(TIF_SIGPENDING);
		bool work = test_and_clear_thread_flag(TIF_NOTIFY_SIGNAL);

		notifier = mmu_notifier_get_locked(&mshare_notifier_ops, mm);
		if (signal)
			set_thread_flag(TIF_SIGPENDING);
		if (work)
			set_thread_flag(TIF_NOTIFY_SIGNAL);
	} while (notifier == ERR_PTR(-EINTR));
	return notifier;
}

/*
 * Link all units of a map.  Under the mmap lock for writing; the VMA is not
 * yet to be found.
 *
 * Facts: the functions that allocate upper tables are not exported, but
 * apply_to_page_range() makes them all, down to a PTE page.  Nobody faults or
 * walks there yet; get_user_pages_fast() and the hardware may look all the same.
 * Consequence: the private PMD and PTE pages are empty and ours to free, once
 * no CPU holds them.
 * Decision: have everything first, which can fail and then leaves empty private
 * tables for the kernel to free; replace the PUD entries, flush, and free.
 */
static int mshare_link_map(struct mshare_map *map)
{
	struct vm_area_struct *vma = map->vma;
	unsigned long i, nr = vma_pages(vma) >> UNIT_PAGE_SHIFT;
	struct mm_struct *mm = vma->vm_mm;
	pmd_t **private;
	int err;

	private = kvcalloc(nr, sizeof(*private), GFP_KERNEL_ACCOUNT);
	if (!private)
		return -ENOMEM;
	for (i = 0; i < nr; i++) {
		unsigned long addr = vma->vm_start + i * PUD_SIZE;

		err = mshare_make_tree(map->mi, vma->vm_pgoff + i * UNIT_PAGES,
				       mshare_map_tree(map)) ?:
		      apply_to_page_range(mm, addr, PAGE_SIZE, NULL, NULL);
		if (err)
			goto free_array;
		private[i] = pud_pgtable(*mshare_find_pud(mm, addr));
		cond_resched();
	}
	mshare_set_links(map, MSHARE_LINKED);
	mshare_flush_mm(mm);
	for (i = 0; i < nr; i++) {
		unsigned int nr_ptes = mshare_free_table(mm, private[i]);

		while (nr_ptes--)
			mm_dec_nr_ptes(mm);
		mm_dec_nr_pmds(mm);
	}
free_array:
	kvfree(private);
	return err;
}

/* Put the map on its lists, and choose the operations of its VMA. */
static void mshare_publish_map(struct mshare_map *map)
{
	struct mshare_inode *mi = map->mi;
	struct mshare_mm *smm = map->smm;
	struct list_head *place = &mi->maps;
	struct mshare_map *other;

	spin_lock(&smm->lock);
	list_for_each_entry(other, &smm->maps, mm_node)
		if (other->mi == mi)
			place = &other->region_node;
	list_add(&map->mm_node, &smm->maps);
	smm->nr_maps++;
	spin_unlock(&smm->lock);

	/* Maps of one process come and go under its mmap lock: place stays. */
	spin_lock(&mi->maps_lock);
	map->vma->vm_ops = mi->strict ? &mshare_strict_vm_ops : &mshare_vm_ops;
	list_add(&map->region_node, place);
	spin_unlock(&mi->maps_lock);
}

/* Under the mmap lock of the VMA's process, for writing. */
int mshare_attach(struct vm_area_struct *vma)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	struct mmu_notifier *notifier;
	struct mshare_map *map;
	int err = -ENOMEM;

	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return -ENOMEM;
	map->mi = MSHARE_I(mapping->host);
	map->vma = vma;

	notifier = mshare_get_notifier(vma->vm_mm);
	if (IS_ERR(notifier)) {
		err = PTR_ERR(notifier);
		goto free_map;
	}
	map->smm = container_of(notifier, struct mshare_mm, notifier);
	if (map->smm->nr_maps >= MAX_MAPS_PER_MM)
		goto put_notifier;

	filemap_invalidate_lock_shared(mapping);
	err = mshare_link_map(map);
	filemap_invalidate_unlock_shared(mapping);
	if (err)
		goto put_notifier;
	mshare_publish_map(map);
	/* Last: a VMA without a map refuses all access. */
	vma->vm_private_data = map;
	return 0;

put_notifier:
	mmu_notifier_put(notifier);
free_map:
	kfree(map);
	return err;
}

/* ---- the operations of a mapping ---- */

/* fork and mremap.  It cannot fail: a VMA that could not attach is SIGBUS. */
static void mshare_vm_open(struct vm_area_struct *vma)
{
	vma->vm_private_data = NULL;	/* the original's */
	mshare_attach(vma);
}

static void mshare_vm_close(struct vm_area_struct *vma)
{
	struct mshare_map *map = vma->vm_private_data;
	struct mshare_mm *smm;

	if (!map)
		return;
	smm = map->smm;
	/* Linked still only if the VMA never came to be, after .mmap or .open. */
	mshare_cut_links(smm, vma->vm_start, vma->vm_end);
	spin_lock(&smm->lock);
	list_del(&map->mm_node);
	smm->nr_maps--;
	spin_unlock(&smm->lock);
	spin_lock(&map->mi->maps_lock);
	list_del(&map->region_node);
	spin_unlock(&map->mi->maps_lock);
	mmu_notifier_put(&smm->notifier);
	kfree(map);
	vma->vm_private_data = NULL;
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
/* NUMA balancing would write into shared tables; without a policy it passes by. */
static struct mempolicy *mshare_vm_get_policy(MSHARE_GET_POLICY_ARGS)
{
	return NULL;
}
#endif

/*
 * Fill the shared leaf and have the instruction run again: no page is returned
 * to the kernel, which would install it in what it takes for a private table.
 */
static vm_fault_t mshare_vm_fault(struct vm_fault *vmf)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	struct inode *inode = vmf->vma->vm_file->f_mapping->host;
	struct mshare_map *map = vmf->vma->vm_private_data;
	struct mshare_inode *mi = MSHARE_I(inode);
	vm_fault_t result = VM_FAULT_NOPAGE;
	struct page *page;
	unsigned int prot;
	int err;

	if (!map || READ_ONCE(map->dead))
		return VM_FAULT_SIGBUS;

	filemap_invalidate_lock_shared(inode->i_mapping);
	if (vmf->pgoff >= DIV_ROUND_UP_ULL(i_size_read(inode), PAGE_SIZE)) {
		result = VM_FAULT_SIGBUS;
		goto unlock_mapping;
	}
	prot = mshare_page_prot(mi, vmf->pgoff);
	if (prot == MSHARE_PROT_NONE || (write && prot == MSHARE_PROT_READ)) {
		result = VM_FAULT_SIGSEGV;
		goto unlock_mapping;
	}
	page = mshare_get_page(inode, vmf->pgoff, mapping_gfp_mask(inode->i_mapping), NULL);
	if (IS_ERR(page)) {
		result = vmf_error(PTR_ERR(page));
		goto unlock_mapping;
	}
	err = mshare_fill_page(mi, vmf->pgoff, page);
	put_page(page);
	if (err)
		result = vmf_error(err);
unlock_mapping:
	filemap_invalidate_unlock_shared(inode->i_mapping);
	return result;
}

static const struct vm_operations_struct mshare_strict_vm_ops = {
	.open		= mshare_vm_open,
	.close		= mshare_vm_close,
	.may_split	= mshare_vm_may_split,
	.mprotect	= mshare_vm_mprotect,
	.fault		= mshare_vm_fault,
	.page_mkwrite	= mshare_vm_fault,	/* a store to a read-only leaf */
#ifdef CONFIG_NUMA
	.get_policy	= mshare_vm_get_policy,
#endif
};

/* ---- who is attached ---- */

static s32 mshare_mm_pid(struct mm_struct *mm)
{
	s32 pid = 0;
#ifdef CONFIG_MEMCG
	struct task_struct *owner;

	rcu_read_lock();
	owner = rcu_dereference(mm->owner);
	if (owner)
		pid = task_tgid_vnr(owner);
	rcu_read_unlock();
#endif
	return pid;
}

/* How many attachments and processes; the ids of at most @capacity of them. */
void mshare_count_maps(struct mshare_inode *mi, u32 *attachments, u32 *processes,
		       s32 *pids, u32 capacity)
{
	struct mshare_mm *smm = NULL;
	struct mshare_map *map;

	*attachments = *processes = 0;
	spin_lock(&mi->maps_lock);
	list_for_each_entry(map, &mi->maps, region_node) {
		++*attachments;
		if (map->smm == smm)	/* those of one process follow each other */
			continue;
		smm = map->smm;
		if (*processes < capacity)
			pids[*processes] = mshare_mm_pid(smm->notifier.mm);
		++*processes;
	}
	spin_unlock(&mi->maps_lock);
}

/* ---- module ---- */

int __init mshare_pagetable_init(void)
{
	BUILD_BUG_ON(PUD_SIZE != MSHARE_UNIT);
	BUILD_BUG_ON(!MSHARE_SPLIT_LOCKS);

	/* A paravirtual Xen guest may not write page tables this way. */
	if (cpu_feature_enabled(X86_FEATURE_XENPV))
		return -ENODEV;
	mshare_vm_ops = mshare_strict_vm_ops;
	mshare_vm_ops.page_mkwrite = NULL;
	mshare_parking = mshare_pmd_alloc();
	return mshare_parking ? 0 : -ENOMEM;
}

void mshare_pagetable_exit(void)
{
	/* The last mmu_notifier_put() may still be on its way. */
	mmu_notifier_synchronize();
	pmd_free(NULL, mshare_parking);
}
