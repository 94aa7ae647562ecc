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
 *   table_lock of the region		making units, trees, protection maps
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
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>
#include "mshare.h"

#define UNIT_PAGE_SHIFT	(PUD_SHIFT - PAGE_SHIFT)
#define MAX_MAPS_PER_MM	1024
#define FREE_BATCH	32

/* Which pages of 2 MiB have less than full access. */
struct mshare_prot_map {
	DECLARE_BITMAP(none, PTRS_PER_PTE);
	DECLARE_BITMAP(read, PTRS_PER_PTE);
};

/* Published in mi->units; lives as long as the inode, as all it points to. */
struct mshare_unit {
	pmd_t *pmd[MSHARE_NR_TREES];	/* published with release semantics */
	bool ready[MSHARE_NR_TREES];	/* filled once; likewise */
	struct mshare_prot_map **prot;	/* PTRS_PER_PMD of them, or NULL */
};

/* One process (address space) with attachments. */
struct mshare_mm {
	struct mmu_notifier notifier;
	spinlock_t lock;		/* maps, links, invalidating, dead */
	struct list_head maps;
	unsigned int nr_maps;
};

/* One attachment: a VMA. */
struct mshare_map {
	struct mshare_mm *smm;
	struct mshare_inode *mi;
	struct vm_area_struct *vma;
	struct list_head mm_node;	/* smm->lock */
	struct list_head region_node;	/* mi->maps_lock */
	unsigned long start, end;
	unsigned long first_unit;
	enum mshare_tree tree;
	unsigned int invalidating;	/* walks by the kernel under way */
	bool dead;			/* unlinked for good */
	bool counts;			/* stands for its process; mi->maps_lock */
};

/* See mshare_invalidate_start(). */
static pmd_t *mshare_parking;

static const struct vm_operations_struct mshare_vm_ops;
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

static struct mshare_unit *mshare_find_unit(struct mshare_inode *mi, pgoff_t index)
{
	return xa_load(&mi->units, index >> UNIT_PAGE_SHIFT);
}

static struct mshare_prot_map *mshare_find_prot(struct mshare_unit *unit, pgoff_t index)
{
	struct mshare_prot_map **prot = smp_load_acquire(&unit->prot);

	if (!prot)
		return NULL;
	return smp_load_acquire(&prot[(index >> (PMD_SHIFT - PAGE_SHIFT)) % PTRS_PER_PMD]);
}

/* MSHARE_PROT_* of one page.  Exact under the invalidate lock. */
unsigned int mshare_page_prot(struct mshare_inode *mi, pgoff_t index)
{
	struct mshare_prot_map *prot;
	struct mshare_unit *unit;

	if (!READ_ONCE(mi->protected))
		return MSHARE_PROT_READWRITE;
	unit = mshare_find_unit(mi, index);
	prot = unit ? mshare_find_prot(unit, index) : NULL;
	if (!prot)
		return MSHARE_PROT_READWRITE;
	if (test_bit(index % PTRS_PER_PTE, prot->none))
		return MSHARE_PROT_NONE;
	if (test_bit(index % PTRS_PER_PTE, prot->read))
		return MSHARE_PROT_READ;
	return MSHARE_PROT_READWRITE;
}

/* Has nobody lost a right on these pages of a protection map? */
static bool mshare_prot_map_clear(struct mshare_prot_map *prot, unsigned int from, unsigned int to)
{
	return find_next_bit(prot->none, to + 1, from) > to &&
	       find_next_bit(prot->read, to + 1, from) > to;
}

/* May every page of the range be written?  Under the invalidate lock. */
bool mshare_range_writable(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	struct mshare_unit *unit;
	unsigned long nr;

	if (!mi->protected)
		return true;
	xa_for_each_range(&mi->units, nr, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT) {
		pgoff_t base = nr << UNIT_PAGE_SHIFT;
		pgoff_t index = max(first, base);
		pgoff_t end = min(last, base + (1UL << UNIT_PAGE_SHIFT) - 1);

		if (!unit->prot)
			continue;
		for (; index <= end; index = (index | (PTRS_PER_PTE - 1)) + 1) {
			struct mshare_prot_map *prot = mshare_find_prot(unit, index);
			pgoff_t stop = min(end, index | (PTRS_PER_PTE - 1));

			if (prot && !mshare_prot_map_clear(prot, index % PTRS_PER_PTE,
							   stop % PTRS_PER_PTE))
				return false;
		}
		cond_resched();
	}
	return true;
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

static int mshare_fill_leaf(struct mshare_inode *mi, pmd_t *table, enum mshare_tree tree,
			    pgoff_t index, struct page *page, unsigned int prot)
{
	pmd_t *pmd = table + (index >> (PMD_SHIFT - PAGE_SHIFT)) % PTRS_PER_PMD;
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
	if (pte_none(*pte)) {
		set_pte(pte, mshare_leaf(page, tree, prot));
		atomic64_inc(&mi->filled);
	} else if (tree == MSHARE_TREE_RW && prot == MSHARE_PROT_READWRITE && !pte_write(*pte)) {
		set_pte(pte, mshare_leaf(page, tree, prot));
	}
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
	struct mshare_unit *unit = mshare_find_unit(mi, index);
	unsigned int prot = mshare_page_prot(mi, index);
	enum mshare_tree tree;
	int err;

	if (!unit || prot == MSHARE_PROT_NONE)
		return 0;
	for (tree = 0; tree < MSHARE_NR_TREES; tree++) {
		pmd_t *table = smp_load_acquire(&unit->pmd[tree]);

		if (!table)
			continue;
		err = mshare_fill_leaf(mi, table, tree, index, page, prot);
		if (err)
			return err;
	}
	return 0;
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
		if (fatal_signal_pending(current))
			err = -EINTR;
		cond_resched();
	}
	return err;
}

/* Returns whether the entry lost a right, so that a flush is due. */
static bool mshare_restrict_leaf(pte_t *pte, enum mshare_tree tree, unsigned int prot)
{
	if (pte_none(*pte))
		return false;
	if (prot == MSHARE_PROT_NONE) {
		ptep_get_and_clear(NULL, 0, pte);
		return true;
	}
	if (prot == MSHARE_PROT_READ && pte_write(*pte)) {
		ptep_set_wrprotect(NULL, 0, pte);
		return true;
	}
	if (prot == MSHARE_PROT_READWRITE && tree == MSHARE_TREE_RW && !pte_write(*pte))
		set_pte(pte, mshare_leaf(pte_page(*pte), tree, prot));
	return false;
}

static bool mshare_restrict_table(pmd_t *table, enum mshare_tree tree, pgoff_t index,
				  pgoff_t last, unsigned int prot)
{
	bool lost = false;

	while (index <= last) {
		pmd_t *pmd = table + (index >> (PMD_SHIFT - PAGE_SHIFT)) % PTRS_PER_PMD;
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
			lost |= mshare_restrict_leaf(ptes + index % PTRS_PER_PTE, tree, prot);
		spin_unlock(ptl);
		cond_resched();
	}
	return lost;
}

/*
 * Bring the present leaves of a range down (or up) to @prot, everywhere, now.
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
static void mshare_restrict(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	struct mshare_unit *unit;
	enum mshare_tree tree;
	bool lost = false;
	unsigned long nr;

	xa_for_each_range(&mi->units, nr, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT) {
		pgoff_t base = nr << UNIT_PAGE_SHIFT;

		for (tree = 0; tree < MSHARE_NR_TREES; tree++) {
			if (!unit->pmd[tree])
				continue;
			lost |= mshare_restrict_table(unit->pmd[tree], tree, max(first, base),
						      min(last, base + (1UL << UNIT_PAGE_SHIFT) - 1),
						      prot);
		}
	}
	if (!lost)
		return;
	mshare_flush_all();
	unmap_mapping_range(mi->vfs_inode.i_mapping, (loff_t)first << PAGE_SHIFT,
			    last == ULONG_MAX ? 0 : (loff_t)(last - first + 1) << PAGE_SHIFT, 1);
}

/* Remove the leaves of [@first, @last]; afterwards the pages may be freed. */
void mshare_unmap_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	mshare_restrict(mi, first, last, MSHARE_PROT_NONE);
}

/* Under table_lock. */
static struct mshare_unit *mshare_make_unit(struct mshare_inode *mi, unsigned long nr)
{
	struct mshare_unit *unit = xa_load(&mi->units, nr);
	int err;

	if (unit)
		return unit;
	unit = kzalloc(sizeof(*unit), GFP_KERNEL_ACCOUNT);
	if (!unit)
		return ERR_PTR(-ENOMEM);
	err = xa_insert(&mi->units, nr, unit, GFP_KERNEL_ACCOUNT);
	if (err) {
		kfree(unit);
		return ERR_PTR(err);
	}
	return unit;
}

/* The PMD page of one unit, made and filled from the pages there are. */
static pmd_t *mshare_make_tree(struct mshare_inode *mi, unsigned long nr, enum mshare_tree tree)
{
	struct mshare_unit *unit = xa_load(&mi->units, nr);
	pmd_t *table;
	int err;

	/* A tree that is being filled would cost its users the faults. */
	if (unit && smp_load_acquire(&unit->ready[tree]))
		return unit->pmd[tree];

	mutex_lock(&mi->table_lock);
	unit = mshare_make_unit(mi, nr);
	if (IS_ERR(unit)) {
		err = PTR_ERR(unit);
		goto unlock_tables;
	}
	err = 0;
	table = unit->pmd[tree];
	if (unit->ready[tree])
		goto unlock_tables;
	if (!table) {
		table = mshare_pmd_alloc();
		if (!table) {
			err = -ENOMEM;
			goto unlock_tables;
		}
		atomic_long_inc(&mi->table_pages);
		smp_store_release(&unit->pmd[tree], table);
	}
	err = mshare_fill_range(mi, nr << UNIT_PAGE_SHIFT, ((nr + 1) << UNIT_PAGE_SHIFT) - 1);
	/* Leaves that are missing for lack of memory can still be faulted in. */
	if (err == -ENOMEM)
		err = 0;
	if (!err)
		smp_store_release(&unit->ready[tree], true);
unlock_tables:
	mutex_unlock(&mi->table_lock);
	return err ? ERR_PTR(err) : table;
}

/* Have the protection maps of a range, so that changing it cannot fail. */
static int mshare_make_prot_maps(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	pgoff_t index;

	for (index = first; index <= last; index = (index | (PTRS_PER_PTE - 1)) + 1) {
		struct mshare_unit *unit = mshare_make_unit(mi, index >> UNIT_PAGE_SHIFT);
		unsigned int nr = (index >> (PMD_SHIFT - PAGE_SHIFT)) % PTRS_PER_PMD;
		struct mshare_prot_map **maps, *map;

		if (IS_ERR(unit))
			return PTR_ERR(unit);
		if (!unit->prot) {
			maps = kcalloc(PTRS_PER_PMD, sizeof(*maps), GFP_KERNEL_ACCOUNT);
			if (!maps)
				return -ENOMEM;
			smp_store_release(&unit->prot, maps);
		}
		if (!unit->prot[nr]) {
			map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
			if (!map)
				return -ENOMEM;
			smp_store_release(&unit->prot[nr], map);
		}
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static void mshare_set_prot_maps(struct mshare_inode *mi, pgoff_t index, pgoff_t last,
				 unsigned int prot)
{
	while (index <= last) {
		struct mshare_unit *unit = mshare_find_unit(mi, index);
		struct mshare_prot_map *map = unit ? mshare_find_prot(unit, index) : NULL;
		pgoff_t stop = min(last, index | (PTRS_PER_PTE - 1));
		unsigned int from = index % PTRS_PER_PTE, n = stop - index + 1;

		index = stop + 1;
		if (!map)
			continue;
		bitmap_clear(map->none, from, n);
		bitmap_clear(map->read, from, n);
		if (prot == MSHARE_PROT_NONE)
			bitmap_set(map->none, from, n);
		else if (prot == MSHARE_PROT_READ)
			bitmap_set(map->read, from, n);
	}
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

/* Under the inode lock and the invalidate lock. */
int mshare_protect_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	int err = 0;

	if (prot != MSHARE_PROT_READWRITE) {
		mutex_lock(&mi->table_lock);
		err = mshare_make_prot_maps(mi, first, last);
		mutex_unlock(&mi->table_lock);
		if (err)
			return err;
		WRITE_ONCE(mi->protected, true);
	}
	if (prot == MSHARE_PROT_READ)
		mshare_make_strict(mi);
	mshare_set_prot_maps(mi, first, last, prot);
	mshare_restrict(mi, first, last, prot);
	/* What came back need not be faulted in again; failing that, it is. */
	if (prot != MSHARE_PROT_NONE)
		mshare_fill_range(mi, first, last);
	atomic64_inc(&mi->generation);
	return 0;
}

void mshare_tables_init_once(struct mshare_inode *mi)
{
	mutex_init(&mi->table_lock);
	xa_init(&mi->units);
	spin_lock_init(&mi->maps_lock);
	INIT_LIST_HEAD(&mi->maps);
}

void mshare_tables_reset(struct mshare_inode *mi)
{
	atomic_long_set(&mi->table_pages, 0);
	atomic64_set(&mi->generation, 0);
	atomic64_set(&mi->filled, 0);
	mi->strict = false;
	mi->protected = false;
	mi->nr_maps = 0;
	mi->nr_processes = 0;
}

static void mshare_free_unit(struct mshare_inode *mi, struct mshare_unit *unit)
{
	enum mshare_tree tree;
	unsigned int i;

	for (tree = 0; tree < MSHARE_NR_TREES; tree++) {
		pmd_t *table = unit->pmd[tree];

		if (!table)
			continue;
		for (i = 0; i < PTRS_PER_PMD; i++) {
			if (pmd_none(table[i]))
				continue;
			pte_free(NULL, pmd_pgtable(table[i]));
			atomic_long_dec(&mi->table_pages);
		}
		pmd_free(NULL, table);
		atomic_long_dec(&mi->table_pages);
	}
	for (i = 0; unit->prot && i < PTRS_PER_PMD; i++)
		kfree(unit->prot[i]);
	kfree(unit->prot);
	kfree(unit);
}

/*
 * Facts: an attachment holds the file, and thereby the inode; it unlinks and
 * flushes before it lets go.
 * Consequence: at eviction no CPU and no process reaches these tables.
 * Decision: free them without further ado.
 */
void mshare_tables_free(struct mshare_inode *mi)
{
	struct mshare_unit *unit;
	unsigned long nr;

	WARN_ON_ONCE(!list_empty(&mi->maps));
	xa_for_each(&mi->units, nr, unit) {
		mshare_free_unit(mi, unit);
		cond_resched();
	}
	xa_destroy(&mi->units);
	WARN_ON_ONCE(atomic_long_read(&mi->table_pages));
}

/* ---- links ---- */

static pud_t *mshare_find_pud(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return NULL;
	return pud_offset(p4d, addr);
}

static pud_t mshare_table_entry(pmd_t *table)
{
	return table ? __pud(_PAGE_TABLE | __pa(table)) : __pud(0);
}

enum mshare_link { MSHARE_LINKED, MSHARE_PARKED, MSHARE_UNLINKED };

/* Under smm->lock, and the map is alive: its PUD entries are ours. */
static void mshare_set_links(struct mshare_map *map, enum mshare_link link)
{
	struct mm_struct *mm = map->smm->notifier.mm;
	unsigned long addr, nr = map->first_unit;

	for (addr = map->start; addr < map->end; addr += PUD_SIZE, nr++) {
		struct mshare_unit *unit = xa_load(&map->mi->units, nr);
		pud_t *pud = mshare_find_pud(mm, addr);
		pmd_t *table = NULL;

		if (WARN_ON_ONCE(!unit || !pud))
			continue;
		if (link != MSHARE_UNLINKED)
			table = link == MSHARE_LINKED ? unit->pmd[map->tree] : mshare_parking;
		spin_lock(&mm->page_table_lock);
		set_pud(pud, mshare_table_entry(table));
		spin_unlock(&mm->page_table_lock);
	}
}

static void mshare_unlink_for_good(struct mshare_map *map)
{
	WRITE_ONCE(map->dead, true);
	mshare_set_links(map, MSHARE_UNLINKED);
}

/*
 * Facts: the kernel's walkers that remove or change entries treat what they
 * find as the private property of one process.  They call
 * invalidate_range_start of the notifiers first, and re-read the PUD after it.
 * Consequence: by then shared tables must be out of sight.
 * Decision: for munmap, mremap and exit (MMU_NOTIFY_UNMAP), after which the
 * upper tables are freed, clear the link for good and flush.  For everything
 * else (MADV_DONTNEED, clear_refs, our own unmap_mapping_range()) let the entry
 * point to an empty table until invalidate_range_end: *parked*.  Translations
 * that CPUs hold stay good meanwhile, as the leaves did not change; a fault in
 * between returns and is taken again.  A present entry also keeps the kernel
 * from allocating a private table there.
 * Nobody writes into the parking table: PTE pages are allocated by faults of
 * mappings that return a page (ours never do), by userfaultfd and by guard
 * regions, which refuse VM_SPECIAL mappings.
 */
static int mshare_invalidate_start(struct mmu_notifier *notifier,
				   const struct mmu_notifier_range *range)
{
	struct mshare_mm *smm = container_of(notifier, struct mshare_mm, notifier);
	struct mshare_map *map;
	bool flush = false;

	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node) {
		if (range->end <= map->start || range->start >= map->end)
			continue;
		if (range->event != MMU_NOTIFY_UNMAP) {
			if (!map->invalidating++ && !map->dead)
				mshare_set_links(map, MSHARE_PARKED);
		} else if (!map->dead) {
			mshare_unlink_for_good(map);
			flush = true;
		}
	}
	spin_unlock(&smm->lock);
	if (flush)
		mshare_flush_mm(range->mm);
	return 0;
}

static void mshare_invalidate_end(struct mmu_notifier *notifier,
				  const struct mmu_notifier_range *range)
{
	struct mshare_mm *smm = container_of(notifier, struct mshare_mm, notifier);
	struct mshare_map *map;

	if (range->event == MMU_NOTIFY_UNMAP)
		return;
	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node) {
		if (range->end <= map->start || range->start >= map->end)
			continue;
		if (!WARN_ON_ONCE(!map->invalidating) && !--map->invalidating && !map->dead)
			mshare_set_links(map, MSHARE_LINKED);
	}
	spin_unlock(&smm->lock);
}

/* The last user of the mm is gone; exit_mmap() walks after this. */
static void mshare_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct mshare_mm *smm = container_of(notifier, struct mshare_mm, notifier);
	struct mshare_map *map;

	spin_lock(&smm->lock);
	list_for_each_entry(map, &smm->maps, mm_node)
		if (!map->dead)
			mshare_unlink_for_good(map);
	spin_unlock(&smm->lock);
	mshare_flush_mm(mm);
}

static struct mmu_notifier *mshare_alloc_notifier(struct mm_struct *mm)
{
	struct mshare_mm *smm = kzalloc(sizeof(*smm), GFP_KERNEL_ACCOUNT);

	if (!smm)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&smm->lock);
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

static int mshare_touch_pte(pte_t *pte, unsigned long addr, void *data)
{
	return 0;
}

static void mshare_free_private(struct mm_struct *mm, pmd_t **tables, unsigned int nr)
{
	unsigned int i;

	if (!nr)
		return;
	mshare_flush_mm(mm);
	while (nr--) {
		for (i = 0; i < PTRS_PER_PMD; i++) {
			if (pmd_none(tables[nr][i]))
				continue;
			pte_free(mm, pmd_pgtable(tables[nr][i]));
			mm_dec_nr_ptes(mm);
		}
		pmd_free(mm, tables[nr]);
		mm_dec_nr_pmds(mm);
	}
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
 * Decision: replace the PUD entry, flush, then free them, many at a time.
 */
static int mshare_link_units(struct mshare_map *map, struct mm_struct *mm)
{
	pmd_t *private[FREE_BATCH];
	unsigned int nr_private = 0;
	unsigned long addr;
	int err = 0;

	for (addr = map->start; addr < map->end; addr += PUD_SIZE) {
		unsigned long nr = map->first_unit + ((addr - map->start) >> PUD_SHIFT);
		pmd_t *table;
		pud_t *pud, old;

		table = mshare_make_tree(map->mi, nr, map->tree);
		if (IS_ERR(table)) {
			err = PTR_ERR(table);
			break;
		}
		err = apply_to_page_range(mm, addr, PAGE_SIZE, mshare_touch_pte, NULL);
		if (err)
			break;
		pud = mshare_find_pud(mm, addr);
		spin_lock(&mm->page_table_lock);
		old = *pud;
		set_pud(pud, mshare_table_entry(table));
		spin_unlock(&mm->page_table_lock);
		private[nr_private++] = pud_pgtable(old);
		if (nr_private == FREE_BATCH) {
			mshare_free_private(mm, private, nr_private);
			nr_private = 0;
		}
		if (fatal_signal_pending(current)) {
			err = -EINTR;
			break;
		}
		cond_resched();
	}
	mshare_free_private(mm, private, nr_private);
	return err;
}

/* Take back what mshare_link_units() did before it failed. */
static void mshare_unlink_units(struct mshare_map *map, struct mm_struct *mm)
{
	unsigned long addr, nr = map->first_unit;

	for (addr = map->start; addr < map->end; addr += PUD_SIZE, nr++) {
		struct mshare_unit *unit = xa_load(&map->mi->units, nr);
		pmd_t *table = unit ? unit->pmd[map->tree] : NULL;
		pud_t *pud = mshare_find_pud(mm, addr);

		if (!table || !pud)
			continue;
		spin_lock(&mm->page_table_lock);
		if (pud_val(*pud) == pud_val(mshare_table_entry(table)))
			set_pud(pud, __pud(0));
		spin_unlock(&mm->page_table_lock);
	}
	mshare_flush_mm(mm);
}

/* Put the map on its lists, and choose the operations of its VMA. */
static int mshare_publish_map(struct mshare_map *map)
{
	struct mshare_inode *mi = map->mi;
	struct mshare_mm *smm = map->smm;
	struct mshare_map *other;
	int err = 0;

	map->counts = true;
	spin_lock(&smm->lock);
	if (smm->nr_maps < MAX_MAPS_PER_MM) {
		list_for_each_entry(other, &smm->maps, mm_node)
			if (other->mi == mi)
				map->counts = false;
		list_add(&map->mm_node, &smm->maps);
		smm->nr_maps++;
	} else {
		err = -ENOMEM;
	}
	spin_unlock(&smm->lock);
	if (err)
		return err;

	spin_lock(&mi->maps_lock);
	map->vma->vm_ops = mi->strict ? &mshare_strict_vm_ops : &mshare_vm_ops;
	list_add(&map->region_node, &mi->maps);
	mi->nr_maps++;
	mi->nr_processes += map->counts;
	spin_unlock(&mi->maps_lock);
	return 0;
}

static void mshare_retract_map(struct mshare_map *map)
{
	struct mshare_inode *mi = map->mi;
	struct mshare_mm *smm = map->smm;
	struct mshare_map *other, *heir = NULL;

	spin_lock(&smm->lock);
	list_del(&map->mm_node);
	smm->nr_maps--;
	list_for_each_entry(other, &smm->maps, mm_node)
		if (other->mi == mi)
			heir = other;
	spin_unlock(&smm->lock);

	/* Maps of one process come and go under its mmap lock: heir stays. */
	spin_lock(&mi->maps_lock);
	list_del(&map->region_node);
	mi->nr_maps--;
	if (map->counts && heir)
		heir->counts = true;
	else
		mi->nr_processes -= map->counts;
	spin_unlock(&mi->maps_lock);
}

/* Under the mmap lock of the VMA's process, for writing. */
int mshare_attach(struct vm_area_struct *vma)
{
	struct inode *inode = file_inode(vma->vm_file);
	struct mmu_notifier *notifier;
	struct mshare_map *map;
	int err;

	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return -ENOMEM;
	map->mi = MSHARE_I(inode);
	map->vma = vma;
	map->start = vma->vm_start;
	map->end = vma->vm_end;
	map->first_unit = vma->vm_pgoff >> UNIT_PAGE_SHIFT;
	map->tree = vma->vm_flags & VM_WRITE ? MSHARE_TREE_RW : MSHARE_TREE_RO;

	notifier = mmu_notifier_get_locked(&mshare_notifier_ops, vma->vm_mm);
	if (IS_ERR(notifier)) {
		err = PTR_ERR(notifier);
		goto free_map;
	}
	map->smm = container_of(notifier, struct mshare_mm, notifier);

	filemap_invalidate_lock_shared(inode->i_mapping);
	err = mshare_link_units(map, vma->vm_mm);
	filemap_invalidate_unlock_shared(inode->i_mapping);
	if (err)
		goto unlink_units;
	err = mshare_publish_map(map);
	if (err)
		goto unlink_units;
	/* Last: a VMA without a map refuses all access. */
	vma->vm_private_data = map;
	return 0;

unlink_units:
	mshare_unlink_units(map, vma->vm_mm);
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
	bool flush = false;

	if (!map)
		return;
	/* Linked still only if the VMA never came to be, after .mmap or .open. */
	spin_lock(&map->smm->lock);
	if (!map->dead) {
		mshare_unlink_for_good(map);
		flush = true;
	}
	spin_unlock(&map->smm->lock);
	if (flush)
		mshare_flush_mm(vma->vm_mm);
	mshare_retract_map(map);
	mmu_notifier_put(&map->smm->notifier);
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
static vm_fault_t mshare_fault_in(struct vm_fault *vmf, bool write)
{
	struct inode *inode = file_inode(vmf->vma->vm_file);
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

static vm_fault_t mshare_vm_fault(struct vm_fault *vmf)
{
	return mshare_fault_in(vmf, vmf->flags & FAULT_FLAG_WRITE);
}

/* A store to a read-only leaf of a writable mapping. */
static vm_fault_t mshare_vm_page_mkwrite(struct vm_fault *vmf)
{
	return mshare_fault_in(vmf, true);
}

static const struct vm_operations_struct mshare_vm_ops = {
	.open		= mshare_vm_open,
	.close		= mshare_vm_close,
	.may_split	= mshare_vm_may_split,
	.mprotect	= mshare_vm_mprotect,
	.fault		= mshare_vm_fault,
#ifdef CONFIG_NUMA
	.get_policy	= mshare_vm_get_policy,
#endif
};

static const struct vm_operations_struct mshare_strict_vm_ops = {
	.open		= mshare_vm_open,
	.close		= mshare_vm_close,
	.may_split	= mshare_vm_may_split,
	.mprotect	= mshare_vm_mprotect,
	.fault		= mshare_vm_fault,
	.page_mkwrite	= mshare_vm_page_mkwrite,
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
	struct mshare_map *map;
	u32 n = 0;

	spin_lock(&mi->maps_lock);
	*attachments = mi->nr_maps;
	*processes = mi->nr_processes;
	list_for_each_entry(map, &mi->maps, region_node) {
		if (n == capacity)
			break;
		if (map->counts)
			pids[n++] = mshare_mm_pid(map->smm->notifier.mm);
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
	mshare_parking = mshare_pmd_alloc();
	return mshare_parking ? 0 : -ENOMEM;
}

void mshare_pagetable_exit(void)
{
	/* The last mmu_notifier_put() may still be on its way. */
	mmu_notifier_synchronize();
	pmd_free(NULL, mshare_parking);
}
