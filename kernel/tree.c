// SPDX-License-Identifier: GPL-2.0
/*
 * msharefs: the page tables of a region, and the protection of its pages.
 *
 * A region is cut into units of 1 GiB, what one PUD entry maps.  For each unit
 * that has pages the region owns up to two trees (writable and read-only
 * leaves) of one PMD page and up to 512 PTE pages.  link.c points the PUD
 * entries of processes at these PMD pages.
 */
#include <linux/folio_batch.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <asm/pgalloc.h>
#include "internal.h"

/* What size= pays for a unit: two PMD pages and the record; for a block: two PTE pages. */
#define UNIT_CHARGE		3
#define BLOCK_CHARGE		2
#define RANGES_PER_PAGE		64

/* An empty PMD page; see mshare_invalidate(). */
pmd_t *mshare_parking;

static pgprot_t mshare_leaf_prot[MSHARE_NR_TREES] __ro_after_init;

/*
 * With 2 MiB pages (huge=) a PMD entry of a tree can be the leaf of a block.
 * What holds then:
 * 1. The region has a reference of its own to each folio of several pages in
 *    its page cache (mshare_make_block()).
 * 2. It gives that reference up under the inode lock and the invalidate lock,
 *    exclusively, when no leaf leads to the folio and all CPUs are flushed.
 * 3. i_size shrinks after the pages beyond are gone, or cleared.
 * 4. Pages are dirty all the time: the kernel would throw a clean folio away
 *    that it cannot split.
 * 5. huge_fault never falls back: the kernel would split our leaf as one of its
 *    own.
 * 6. A PMD entry goes from leaf or table to none, and after a flush to the other.
 * A leaf of a block is there only while the block lies inside the file, is one
 * folio, and has the same rights everywhere.
 */

static pmd_t *mshare_leaf_pmd(pmd_t *table, pgoff_t index)
{
	return table + (index >> BLOCK_PAGE_SHIFT) % PTRS_PER_PMD;
}

/* What an entry of mi->prot means. */
static unsigned int mshare_entry_prot(enum mshare_state state, void *entry)
{
	if (entry)
		return xa_to_value(entry);
	return state == MSHARE_SEALED ? MSHARE_PROT_READ : MSHARE_PROT_READWRITE;
}

/* MSHARE_PROT_* of one page.  Exact under the inode lock or the invalidate lock. */
unsigned int mshare_page_prot(struct mshare_inode *mi, pgoff_t index)
{
	enum mshare_state state = READ_ONCE(mi->state);

	return mshare_entry_prot(state,
				 state == MSHARE_OPEN ? NULL : mtree_load(&mi->prot, index));
}

/* Has every page of a block these rights?  Under the invalidate lock. */
static bool mshare_block_has_prot(struct mshare_inode *mi, pgoff_t first, unsigned int prot)
{
	MA_STATE(mas, &mi->prot, first, first);
	bool same;

	if (mi->state == MSHARE_OPEN)
		return true;
	rcu_read_lock();
	do {
		same = mshare_entry_prot(mi->state, mas_walk(&mas)) == prot;
		if (!same || mas.last >= first + BLOCK_PAGES - 1)
			break;
		mas_set(&mas, mas.last + 1);
	} while (true);
	rcu_read_unlock();
	return same;
}

/* May every page of the range be written?  Under the invalidate lock. */
bool mshare_range_writable(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	unsigned long index = first;

	return mi->state == MSHARE_OPEN ||
	       (mi->state == MSHARE_PROTECTED && !mt_find(&mi->prot, &index, last));
}

/*
 * Facts: PAGE_SHARED and PAGE_READONLY lack the encryption bit of AMD's SME and
 * SEV.  vm_get_page_prot() adds that bit, and masks what the processor lacks.
 * Decision: leaves have the rights that vm_get_page_prot() gives.
 */
static pte_t mshare_leaf(struct page *page, enum mshare_tree tree, unsigned int prot)
{
	/* Born old and clean a leaf would cost the hardware an atomic update. */
	if (tree == MSHARE_TREE_RW && prot == MSHARE_PROT_READWRITE)
		return pte_mkyoung(pte_mkdirty(mk_pte(page, mshare_leaf_prot[MSHARE_TREE_RW])));
	return pte_mkyoung(mk_pte(page, mshare_leaf_prot[MSHARE_TREE_RO]));
}

static pmd_t mshare_block_leaf(struct folio *folio, enum mshare_tree tree, unsigned int prot)
{
	unsigned long pfn = folio_pfn(folio);

	if (tree == MSHARE_TREE_RW && prot == MSHARE_PROT_READWRITE)
		return pmd_mkyoung(pmd_mkdirty(pmd_mkhuge(pfn_pmd(pfn,
			mshare_leaf_prot[MSHARE_TREE_RW]))));
	return pmd_mkyoung(pmd_mkhuge(pfn_pmd(pfn, mshare_leaf_prot[MSHARE_TREE_RO])));
}

/* ---- table pages ---- */

static void mshare_free_rcu(struct rcu_head *head)
{
	__free_page(container_of(head, struct page, rcu_head));
}

/*
 * Facts: a CPU that leaves an mm takes itself out of mm_cpumask() before it
 * loads other tables, with interrupts off (6.1 and 6.12).
 * Consequence: our flush does not wait for that CPU, whose page walker may
 * still look at a table.
 * Decision: RCU waits for it; so the kernel frees its own tables.
 */
static void mshare_free_pte_page(struct page *table)
{
	mshare_pte_dtor(table);
	call_rcu(&table->rcu_head, mshare_free_rcu);
}

static void mshare_free_taken_rcu(struct rcu_head *head)
{
	struct page *table = container_of(head, struct page, rcu_head);

	mshare_pte_dtor(table);
	__free_page(table);
}

/*
 * PTE pages that were in use when they were taken away.
 *
 * Facts: a walker that found the page before may still take its lock.
 * Decision: the lock goes with the page, in the callback.
 */
static void mshare_free_taken(struct list_head *taken)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, taken, lru)
		call_rcu(&page->rcu_head, mshare_free_taken_rcu);
}

static void mshare_free_pmd_page(pmd_t *table)
{
	struct page *page = virt_to_page(table);

	mshare_pmd_dtor(page);
	call_rcu(&page->rcu_head, mshare_free_rcu);
}

/* ---- filling ---- */

static int mshare_make_ptes(struct mshare_inode *mi, pmd_t *pmd)
{
	spinlock_t *ptl;	/* of the table page */
	pgtable_t table;

	table = mshare_pte_alloc();
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
		mshare_free_pte_page(table);
	return 0;
}

/*
 * Facts: the kernel sets PageHWPoison before it tells us of a memory error, and
 * we then clear the leaves under their lock.
 * Consequence: a leaf that is written after that would bring the bad page back.
 * Decision: look at the flag under the same lock.
 */
static int mshare_fill_leaf(struct mshare_inode *mi, pmd_t *table, pgoff_t index,
			    struct page *page, pte_t leaf)
{
	pmd_t *pmd = mshare_leaf_pmd(table, index), entry;
	spinlock_t *ptl;	/* of the table page */
	pte_t *pte;
	int err;

	if (pmd_none(READ_ONCE(*pmd))) {
		err = mshare_make_ptes(mi, pmd);
		if (err)
			return err;
	}
	entry = READ_ONCE(*pmd);
	/* A leaf: the file has grown, and another filled the block as a whole. */
	if (pmd_none(entry) || pmd_leaf(entry))
		return 0;
	pte = (pte_t *)pmd_page_vaddr(entry) + index % PTRS_PER_PTE;
	ptl = pte_lockptr(NULL, &entry);
	spin_lock(ptl);
	if (!PageHWPoison(page)) {
		if (pte_none(*pte))
			atomic64_inc(&mi->filled);
		if (pte_none(*pte) || pte_write(leaf))
			set_pte_at(NULL, 0, pte, leaf);
	}
	spin_unlock(ptl);
	return 0;
}

/*
 * Write one leaf for a block, into a slot that has no table; whether the slot
 * has such a leaf.
 *
 * Facts: one address may never have translations of two sizes (AMD erratum
 * 383).  Kernels before 6.5 read a PMD entry twice on the way to a PTE.
 * Consequence: from a table to a leaf, and back, a slot must be none, and
 * flushed, in between.
 * Decision: a table stays until something takes all leaves of the block away.
 */
static bool mshare_fill_block(struct mshare_inode *mi, pmd_t *table, struct folio *folio,
			      pmd_t leaf)
{
	pmd_t *pmd = mshare_leaf_pmd(table, folio->index);
	spinlock_t *ptl = pmd_lockptr(NULL, pmd);
	bool done;

	spin_lock(ptl);
	done = pmd_leaf(*pmd) || (pmd_none(*pmd) && !folio_test_has_hwpoisoned(folio));
	if (done && pmd_none(*pmd))
		atomic64_inc(&mi->filled);
	if (done && (pmd_none(*pmd) || (pmd_write(leaf) && !pmd_write(*pmd))))
		set_pmd_at(NULL, 0, pmd, leaf);
	spin_unlock(ptl);
	return done;
}

/* May one leaf map the whole block of a page?  Under the invalidate lock. */
static bool mshare_is_block(struct mshare_inode *mi, struct folio *folio, unsigned int prot)
{
	return folio_order(folio) == BLOCK_PAGE_SHIFT &&
	       folio_next_index(folio) <= mshare_end(mi) &&
	       mshare_block_has_prot(mi, folio->index, prot);
}

/* Returns a negative error, 1 if the leaves are those of the whole block, or 0. */
static int mshare_fill_trees(struct mshare_inode *mi, pgoff_t index, struct page *page)
{
	unsigned int prot = mshare_page_prot(mi, index);
	struct folio *folio = page_folio(page);
	bool block, whole;
	enum mshare_tree tree;
	int err = 0;

	/* The end of the file can cut a folio that could not be split. */
	if (prot == MSHARE_PROT_NONE || (folio_test_large(folio) && index >= mshare_end(mi)))
		return 0;
	block = mshare_is_block(mi, folio, prot);
	whole = block;
	for (tree = 0; tree < MSHARE_NR_TREES && !err; tree++) {
		pmd_t *table = mshare_unit_tree(mi, index, tree);

		if (!table || (block && mshare_fill_block(mi, table, folio,
							  mshare_block_leaf(folio, tree, prot))))
			continue;
		whole = false;
		err = mshare_fill_leaf(mi, table, index, page, mshare_leaf(page, tree, prot));
	}
	return err ?: whole;
}

/*
 * Write the leaves of one page, or of its block, into every tree there is, so
 * that no other process has to fault for it.  The caller holds the invalidate
 * lock and a reference to the page.
 */
int mshare_fill_page(struct mshare_inode *mi, pgoff_t index, struct page *page)
{
	return min(0, mshare_fill_trees(mi, index, page));
}

static int mshare_fill_folio(struct mshare_inode *mi, struct folio *folio, pgoff_t first,
			     pgoff_t last)
{
	pgoff_t index = max(first, folio->index);
	int filled = 0;

	last = min(last, folio_next_index(folio) - 1);
	for (; index <= last && !filled; index++)
		filled = mshare_fill_trees(mi, index, folio_page(folio, index - folio->index));
	return min(0, filled);
}

/* Write the leaves of all pages there are in a range.  Under the invalidate lock. */
int mshare_fill_range(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	pgoff_t next = first;
	int err = 0;
	unsigned int i;

	folio_batch_init(&batch);
	while (!err && filemap_get_folios(mi->vfs_inode.i_mapping, &next, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !err; i++)
			err = mshare_fill_folio(mi, batch.folios[i], first, last);
		folio_batch_release(&batch);
		err = err ?: mshare_pause();
	}
	return err;
}

/* Have the tree of a unit, filled from the pages there are. */
static int mshare_make_tree(struct mshare_inode *mi, struct mshare_unit *unit, pgoff_t first,
			    enum mshare_tree tree)
{
	pmd_t *table;
	int err = 0;

	/* Pairs with the release below: the tree is seen with its leaves. */
	if (smp_load_acquire(&unit->filled[tree]))
		return 0;
	/* A tree that is being filled would cost its users the faults: wait. */
	mutex_lock(&mi->table_lock);
	if (unit->filled[tree])
		goto unlock_tables;
	if (!unit->tree[tree]) {
		table = mshare_pmd_alloc();
		if (!table) {
			err = -ENOMEM;
			goto unlock_tables;
		}
		atomic_long_inc(&mi->table_pages);
		/* The entries are zero before the table is seen. */
		smp_store_release(&unit->tree[tree], table);
	}
	err = mshare_fill_range(mi, first, first + UNIT_PAGES - 1);
	/* Leaves that are missing for lack of memory can still be faulted in. */
	if (err == -ENOMEM)
		err = 0;
	if (!err) {
		/* The leaves are written before the tree counts as filled. */
		smp_store_release(&unit->filled[tree], true);
	}
unlock_tables:
	mutex_unlock(&mi->table_lock);
	return err;
}

/*
 * Have the trees of one kind for all units of a range that have pages.  Under
 * the invalidate lock.  What fails here is left to the first touch.
 */
void mshare_make_trees(struct mshare_inode *mi, pgoff_t first, pgoff_t last, enum mshare_tree tree)
{
	struct mshare_unit *unit;
	unsigned long n;

	xa_for_each_range(&mi->units, n, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT)
		if (mshare_make_tree(mi, unit, n << UNIT_PAGE_SHIFT, tree))
			return;
}

/* ---- taking away ---- */

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

/* The same for the leaf of a block, which goes if only a part of the block is to change. */
static bool mshare_restrict_block(pmd_t *pmd, bool whole, unsigned int prot)
{
	spinlock_t *ptl = pmd_lockptr(NULL, pmd);
	bool lost;

	spin_lock(ptl);
	lost = !whole || prot == MSHARE_PROT_NONE ||
	       (prot == MSHARE_PROT_READ && pmd_write(*pmd));
	if (lost && whole && prot == MSHARE_PROT_READ)
		pmdp_set_wrprotect(NULL, 0, pmd);
	else if (lost)
		pmdp_huge_get_and_clear(NULL, 0, pmd);
	spin_unlock(ptl);
	return lost;
}

static bool mshare_restrict_table(pmd_t *table, pgoff_t index, pgoff_t last, unsigned int prot)
{
	bool lost = false;

	while (index <= last) {
		pmd_t *pmd = mshare_leaf_pmd(table, index);
		pgoff_t stop = min(last, index | (PTRS_PER_PTE - 1));
		spinlock_t *ptl;	/* of the table page */
		pte_t *ptes;

		if (pmd_leaf(READ_ONCE(*pmd)))
			lost |= mshare_restrict_block(pmd, stop - index == PTRS_PER_PTE - 1, prot);
		if (pmd_none(READ_ONCE(*pmd)) || pmd_leaf(READ_ONCE(*pmd)) ||
		    prot == MSHARE_PROT_READWRITE) {
			index = stop + 1;
			cond_resched();
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

static bool mshare_restrict_trees(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
				  unsigned int prot)
{
	struct mshare_unit *unit;
	enum mshare_tree tree;
	bool lost = false;
	unsigned long n;

	xa_for_each_range(&mi->units, n, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT) {
		pgoff_t start = n << UNIT_PAGE_SHIFT;

		for (tree = 0; tree < MSHARE_NR_TREES; tree++)
			if (unit->tree[tree])
				lost |= mshare_restrict_table(unit->tree[tree], max(first, start),
							      min(last, start + UNIT_PAGES - 1),
							      prot);
	}
	return lost;
}

/*
 * Take the PTE page of a block out of a tree, with its leaves.
 *
 * Facts: from 6.5 on the kernel's walkers look at the PMD entry again once they
 * have the lock of the PTE page, and read in an RCU section: the kernel itself
 * takes PTE pages of files away like this, for huge pages.
 * Decision: take them there; the caller flushes, then frees them by RCU.  On
 * older kernels a PTE page stays as long as its unit is attached.
 */
static bool mshare_take_table(struct mshare_inode *mi, pmd_t *pmd, struct list_head *taken)
{
	spinlock_t *pml, *ptl;
	struct page *page;
	unsigned int i;
	pte_t *ptes;

	if (!MSHARE_TABLES_MAY_GO || pmd_none(READ_ONCE(*pmd)) ||
	    pmd_leaf(READ_ONCE(*pmd)))
		return false;
	page = pmd_pgtable(*pmd);
	ptes = (pte_t *)pmd_page_vaddr(*pmd);
	pml = pmd_lockptr(NULL, pmd);
	ptl = pte_lockptr(NULL, pmd);
	spin_lock(pml);
	spin_lock_nested(ptl, SINGLE_DEPTH_NESTING);
	for (i = 0; i < PTRS_PER_PTE; i++)
		if (!pte_none(ptes[i]))
			ptep_get_and_clear(NULL, 0, ptes + i);
	pmd_clear(pmd);
	spin_unlock(ptl);
	spin_unlock(pml);
	list_add(&page->lru, taken);
	atomic_long_dec(&mi->table_pages);
	return true;
}

/* The same for all blocks that lie in a range; whether there was any. */
static bool mshare_take_tables(struct mshare_inode *mi, pgoff_t first, pgoff_t last,
			       struct list_head *taken)
{
	struct mshare_unit *unit;
	bool took = false;
	unsigned long n;

	first = round_up(first, BLOCK_PAGES);
	last = round_down(last + 1, BLOCK_PAGES);
	xa_for_each_range(&mi->units, n, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT) {
		pgoff_t end = min(last, (n + 1) << UNIT_PAGE_SHIFT);
		enum mshare_tree tree;

		for (tree = 0; tree < MSHARE_NR_TREES; tree++) {
			pgoff_t index = max(first, n << UNIT_PAGE_SHIFT);
			pmd_t *table = unit->tree[tree];

			for (; table && index < end; index += BLOCK_PAGES)
				took |= mshare_take_table(mi, mshare_leaf_pmd(table, index), taken);
		}
		cond_resched();
	}
	return took;
}

/*
 * Facts: the flush reaches CPUs.  A second MMU over an attached process (a KVM
 * guest with a region as its memory) holds no reference to the page, and hears
 * of changes through the mmu_notifiers of that process only.
 * Consequence: without word to it, the second MMU would go on using a page that
 * is free.
 * Decision: after the flush let unmap_mapping_range() go over all attachments.
 * It calls the notifiers of each, ours included, which hides the shared tables
 * from the walk.  tmpfs pays the same.  (Devices with shared virtual addresses
 * are not reached that way; mshare_mmap() refuses processes that have one.)
 */
static void mshare_flush_range(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	mshare_flush_attached(mi);
	mshare_walk_attached(mi, first, last);
}

/*
 * Bring the leaves of a range down to MSHARE_PROT_READ or _NONE, everywhere,
 * now.  After _NONE the pages may be freed.  The leaf of a block goes if the
 * range has a part of the block only, whatever @prot is.
 * The caller holds the invalidate lock exclusively, so that nobody fills in
 * the meantime.
 */
void mshare_restrict(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	if (mshare_restrict_trees(mi, first, last, prot))
		mshare_flush_range(mi, first, last);
}

/* The same with MSHARE_PROT_NONE; PTE pages that have become empty go, where they may. */
void mshare_remove(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	LIST_HEAD(taken);
	bool lost;

	mutex_lock(&mi->table_lock);	/* mshare_hide_page() looks at tables */
	lost = mshare_restrict_trees(mi, first, last, MSHARE_PROT_NONE);
	lost |= mshare_take_tables(mi, first, last, &taken);
	mutex_unlock(&mi->table_lock);
	if (lost)
		mshare_flush_range(mi, first, last);
	mshare_free_taken(&taken);
}

/*
 * Let the caller's filling give a block its own leaf again, if it is one page
 * and has the same rights everywhere.  Under the invalidate lock, exclusively.
 */
static void mshare_gather(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	LIST_HEAD(taken);
	unsigned int i;

	if (!mi->had_huge || !MSHARE_TABLES_MAY_GO)
		return;
	folio_batch_init(&batch);
	mutex_lock(&mi->table_lock);
	while (filemap_get_folios(mi->vfs_inode.i_mapping, &first, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (mshare_is_block(mi, folio, mshare_page_prot(mi, folio->index)))
				mshare_take_tables(mi, folio->index, folio_next_index(folio) - 1,
						   &taken);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
	mutex_unlock(&mi->table_lock);
	if (list_empty(&taken))
		return;
	mshare_flush_attached(mi);
	mshare_free_taken(&taken);
}

/*
 * Facts: the kernel tells of a memory error with the folio locked.  A holder of
 * the invalidate lock may wait for a folio lock.
 * Consequence: the invalidate lock cannot be taken here.
 * Decision: table_lock keeps the tables from being freed, and
 * mshare_fill_leaf() keeps the leaf from coming back.
 */
void mshare_hide_page(struct mshare_inode *mi, pgoff_t index)
{
	bool lost;

	mutex_lock(&mi->table_lock);
	lost = mshare_restrict_trees(mi, index, index, MSHARE_PROT_NONE);
	mutex_unlock(&mi->table_lock);
	if (!lost)
		return;
	mshare_flush_attached(mi);
	mshare_walk_attached(mi, index, index);
}

/* ---- protection ---- */

/* How many entries of mi->prot there are once [first, last] has been overwritten. */
static u64 mshare_count_ranges(struct mshare_inode *mi, pgoff_t first, pgoff_t last, bool entry)
{
	MA_STATE(mas, &mi->prot, first, first);
	u64 ranges = mi->prot_ranges + entry;
	unsigned int n = 0;

	mas_lock(&mas);
	while (mas_find(&mas, last)) {
		ranges += (mas.index < first) + (mas.last > last);
		ranges--;
		if (++n % 1024 == 0) {
			mas_pause(&mas);
			mas_unlock(&mas);
			cond_resched();
			mas_lock(&mas);
		}
	}
	mas_unlock(&mas);
	return ranges;
}

/*
 * Facts: on a store to a read-only leaf of a shared writable mapping the kernel
 * makes the leaf writable by itself, unless the mapping has a page_mkwrite.
 * With one, get_user_pages() refuses long-term pins for writing (RDMA,
 * io_uring's fixed buffers).  The choice is made under the lock of the leaf.
 * Consequence: a region that was never protected is better off without; one
 * with a read-only page must have page_mkwrite, in every mapping, before the
 * first leaf loses its write bit.
 * Decision: two sets of operations; switch all mappings here.  The caller holds
 * the invalidate lock exclusively, so no attachment is added in the meantime.
 */
static void mshare_set_state(struct mshare_inode *mi, enum mshare_state state)
{
	if (mi->state == MSHARE_OPEN)
		mshare_set_vm_ops(mi, &mshare_strict_vm_ops);
	WRITE_ONCE(mi->state, state);
}

/*
 * Under the inode lock, and the invalidate lock exclusively.  Fails before
 * anything has changed.  The caller then fills the range, for which the
 * invalidate lock need not be exclusive; failing that, the first touch does.
 */
int mshare_protect_pages(struct mshare_inode *mi, pgoff_t first, pgoff_t last, unsigned int prot)
{
	void *entry = prot == MSHARE_PROT_READWRITE ? NULL : xa_mk_value(prot);
	u64 ranges = mshare_count_ranges(mi, first, last, entry);
	s64 more = DIV_ROUND_UP_ULL(ranges, RANGES_PER_PAGE) -
		   DIV_ROUND_UP_ULL(mi->prot_ranges, RANGES_PER_PAGE);
	int err;

	if (mi->state == MSHARE_SEALED)
		return -EPERM;
	err = more > 0 ? mshare_charge(mi, more, NULL) : 0;
	if (err)
		return err;
	err = mtree_store_range(&mi->prot, first, last, entry, GFP_KERNEL_ACCOUNT);
	if (err) {
		if (more > 0)
			mshare_uncharge(mi, more);
		return err;
	}
	if (more < 0)
		mshare_uncharge(mi, -more);
	mi->prot_ranges = ranges;
	mshare_set_state(mi, MSHARE_PROTECTED);
	mshare_restrict(mi, first, last, prot);
	mshare_gather(mi, first, last);
	atomic64_inc(&mi->generation);
	return 0;
}

/*
 * Make every page read-only for good.  Under the inode lock, and the invalidate
 * lock exclusively.  The caller then fills the range, whatever this returns.
 *
 * Facts: a reference to a page that was taken before can be written through
 * after the leaves have lost the right.  No reference for writing can be taken
 * once the leaves have lost it.  References of readers look the same.  A task
 * that stores to a read-only leaf holds a reference while the task waits for us.
 * Consequence: a process that trusts a sealed region would see it change.
 * Decision: take all rights away, wait for references to go, and fail if one
 * stays; a memfd does the same (F_SEAL_WRITE).  Without leaves no task comes as
 * far as to take a reference before the task waits.
 */
int mshare_seal_pages(struct mshare_inode *mi)
{
	const pgoff_t last = (MSHARE_MAX_BYTES >> PAGE_SHIFT) - 1;

	if (mi->state == MSHARE_SEALED)
		return 0;
	mshare_restrict(mi, 0, last, MSHARE_PROT_NONE);
	if (!mshare_wait_for_references(mi))
		return -EBUSY;
	mshare_set_state(mi, MSHARE_SEALED);
	mshare_gather(mi, 0, last);
	atomic64_inc(&mi->generation);
	return 0;
}

/* ---- life ---- */

/* Under table_lock. */
static void mshare_mark_stale(struct mshare_inode *mi, struct mshare_unit *unit)
{
	if (!unit->stale)
		atomic_inc(&mi->stale_units);
	unit->stale = true;
}

/* What the tables of a page cost that are not paid yet. */
static s64 mshare_tables_missing(struct mshare_unit *unit, unsigned long block)
{
	if (!unit)
		return UNIT_CHARGE + BLOCK_CHARGE;
	return test_bit(block, unit->blocks) ? 0 : BLOCK_CHARGE;
}

/**
 * mshare_charge_pages - pay for pages of a block that are about to be made, and their tables
 * @mi: the region
 * @index: one of the pages
 * @pages: how many
 * @prepaid: see mshare_charge()
 *
 * Under the invalidate lock.  Returns 0, -ENOSPC, or -ENOMEM; then nothing has
 * changed.  If they cannot be made: mshare_uncharge_pages().
 */
int mshare_charge_pages(struct mshare_inode *mi, pgoff_t index, s64 pages, s64 *prepaid)
{
	unsigned long n = index >> UNIT_PAGE_SHIFT, block = index % UNIT_PAGES >> BLOCK_PAGE_SHIFT;
	struct mshare_unit *unit = xa_load(&mi->units, n), *other;
	s64 tables = mshare_tables_missing(unit, block);
	int err;

	err = mshare_charge(mi, pages + tables, prepaid);
	if (err || !tables)
		return err;
	if (!unit) {
		unit = kzalloc(sizeof(*unit), GFP_KERNEL_ACCOUNT);
		other = unit ? xa_cmpxchg(&mi->units, n, NULL, unit, GFP_KERNEL_ACCOUNT) :
			       XA_ERROR(-ENOMEM);
		if (other) {
			kfree(unit);
			if (xa_is_err(other)) {
				mshare_uncharge(mi, pages + tables);
				return xa_err(other);
			}
			mshare_uncharge(mi, UNIT_CHARGE);
			unit = other;
		}
	}
	if (test_and_set_bit(block, unit->blocks))
		mshare_uncharge(mi, BLOCK_CHARGE);
	return 0;
}

/*
 * The pages could not be made.  Others may count on their block's charge by now:
 * leave that to mshare_sweep().
 */
void mshare_uncharge_pages(struct mshare_inode *mi, pgoff_t index, s64 pages, s64 *prepaid)
{
	mutex_lock(&mi->table_lock);
	mshare_mark_stale(mi, xa_load(&mi->units, index >> UNIT_PAGE_SHIFT));
	mutex_unlock(&mi->table_lock);
	if (prepaid)
		*prepaid += pages;
	else
		mshare_uncharge(mi, pages);
}

/* What the tables of a range's pages cost that are not paid yet.  Under the invalidate lock. */
s64 mshare_count_tables(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	unsigned long block = first >> BLOCK_PAGE_SHIFT, end = (last >> BLOCK_PAGE_SHIFT) + 1;
	s64 count = 0;

	while (block < end) {
		unsigned long start = block % UNIT_BLOCKS, n = block / UNIT_BLOCKS;
		unsigned long stop = min(end - n * UNIT_BLOCKS, UNIT_BLOCKS);
		struct mshare_unit *unit = xa_load(&mi->units, n);

		if (!unit)
			count += UNIT_CHARGE + BLOCK_CHARGE * (stop - start);
		for (block += stop - start; unit && start < stop; start++)
			count += test_bit(start, unit->blocks) ? 0 : BLOCK_CHARGE;
		cond_resched();
	}
	return count;
}

/* Free the PTE page of a block whose leaves are gone, from one tree that nobody links. */
static void mshare_free_ptes(struct mshare_inode *mi, pmd_t *pmd)
{
	struct page *table;

	if (pmd_none(*pmd))
		return;
	table = pmd_pgtable(*pmd);
	pmd_clear(pmd);
	mshare_free_pte_page(table);
	atomic_long_dec(&mi->table_pages);
}

/* A block without pages gives its charge back, if nothing can reach its tables. */
static void mshare_sweep_block(struct mshare_inode *mi, struct mshare_unit *unit,
			       unsigned long block, bool attached)
{
	enum mshare_tree tree;

	for (tree = 0; tree < MSHARE_NR_TREES; tree++) {
		pmd_t *table = unit->tree[tree];

		if (!table || pmd_none(table[block]))
			continue;
		if (attached) {
			mshare_mark_stale(mi, unit);
			return;
		}
		mshare_free_ptes(mi, table + block);
	}
	clear_bit(block, unit->blocks);
	mshare_uncharge(mi, BLOCK_CHARGE);
}

static void mshare_free_unit(struct mshare_inode *mi, struct mshare_unit *unit)
{
	enum mshare_tree tree;

	for (tree = 0; tree < MSHARE_NR_TREES; tree++)
		if (unit->tree[tree])
			atomic_long_sub(1 + mshare_free_table(unit->tree[tree]),
					&mi->table_pages);
	if (unit->stale)
		atomic_dec(&mi->stale_units);
	kfree(unit);
}

/*
 * Free the tables of the blocks and units of a range that have no pages.  Under
 * the invalidate lock, exclusively, after the leaves are gone and flushed.
 *
 * Facts: the kernel's walkers (get_user_pages(), smaps, mincore) hold the mmap
 * lock of their process, which we cannot take here, and no other lock from one
 * table to the next.  They reach the tables of a unit through an attachment of
 * that unit only.  Who detaches has flushed.
 * Consequence: while a unit is attached anywhere its tables must stay.
 * Decision: then keep the tables, and their charge; mshare_detach() comes back.
 */
void mshare_sweep(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	struct mshare_unit *unit;
	unsigned long n;

	mutex_lock(&mi->table_lock);
	xa_for_each_range(&mi->units, n, unit, first >> UNIT_PAGE_SHIFT, last >> UNIT_PAGE_SHIFT) {
		pgoff_t start = n << UNIT_PAGE_SHIFT, end = start + UNIT_PAGES - 1;
		bool attached = mshare_unit_attached(mi, start, end);
		unsigned long block = (max(first, start) - start) >> BLOCK_PAGE_SHIFT;
		unsigned long stop = ((min(last, end) - start) >> BLOCK_PAGE_SHIFT) + 1;

		if (unit->stale && !attached) {
			unit->stale = false;
			atomic_dec(&mi->stale_units);
			block = 0;
			stop = UNIT_BLOCKS;
		}
		for_each_set_bit_from(block, unit->blocks, stop) {
			loff_t at = (loff_t)(start + (block << BLOCK_PAGE_SHIFT)) << PAGE_SHIFT;

			if (!filemap_range_has_page(mi->vfs_inode.i_mapping, at, at + PMD_SIZE - 1))
				mshare_sweep_block(mi, unit, block, attached);
		}
		if (!bitmap_empty(unit->blocks, UNIT_BLOCKS)) {
			cond_resched();
			continue;
		}
		if (attached && (unit->tree[MSHARE_TREE_RW] || unit->tree[MSHARE_TREE_RO])) {
			mshare_mark_stale(mi, unit);
			continue;
		}
		xa_erase(&mi->units, n);
		mshare_free_unit(mi, unit);
		mshare_uncharge(mi, UNIT_CHARGE);
	}
	mutex_unlock(&mi->table_lock);
}

void mshare_trees_init(struct mshare_inode *mi)
{
	unsigned int i;

	mutex_init(&mi->table_lock);
	xa_init(&mi->units);
	mt_init_flags(&mi->prot, MT_FLAGS_USE_RCU);
	spin_lock_init(&mi->maps_lock);
	mi->maps_by_mm = RB_ROOT;
	mi->maps_by_page = RB_ROOT_CACHED;
	for (i = 0; i < BLOCK_LOCKS; i++)
		mutex_init(mi->block_locks + i);
}

/* A PMD page that nothing reaches any more, and all below it; how many pages were below. */
unsigned int mshare_free_table(pmd_t *table)
{
	unsigned int i, nr_ptes = 0;

	for (i = 0; i < PTRS_PER_PMD; i++) {
		if (pmd_none(table[i]) || WARN_ON_ONCE(pmd_leaf(table[i])))
			continue;
		mshare_free_pte_page(pmd_pgtable(table[i]));
		nr_ptes++;
	}
	mshare_free_pmd_page(table);
	return nr_ptes;
}

/*
 * Facts: an attachment holds the file, and thereby the inode; it unlinks and
 * flushes before it lets go.
 * Consequence: at eviction no CPU and no process reaches these tables.
 * Decision: free them without a flush.  The leaves are cleared first for
 * kernels that count which page is mapped how often (PAGE_TABLE_CHECK).
 */
void mshare_trees_free(struct mshare_inode *mi)
{
	struct mshare_unit *unit;
	unsigned long n;

	WARN_ON_ONCE(mi->attachments);
	mshare_restrict_trees(mi, 0, (MSHARE_MAX_BYTES >> PAGE_SHIFT) - 1, MSHARE_PROT_NONE);
	xa_for_each(&mi->units, n, unit)
		mshare_free_unit(mi, unit);
	xa_destroy(&mi->units);
	mtree_destroy(&mi->prot);
	WARN_ON_ONCE(atomic_long_read(&mi->table_pages));
}

int __init mshare_tree_init(void)
{
	BUILD_BUG_ON(PUD_SIZE != MSHARE_UNIT);
	BUILD_BUG_ON(!MSHARE_SPLIT_LOCKS);

	/* A paravirtual Xen guest may not write page tables this way. */
	if (cpu_feature_enabled(X86_FEATURE_XENPV))
		return -ENODEV;
	mshare_leaf_prot[MSHARE_TREE_RW] = vm_get_page_prot(VM_SHARED | VM_READ | VM_WRITE);
	mshare_leaf_prot[MSHARE_TREE_RO] = vm_get_page_prot(VM_SHARED | VM_READ);
	mshare_parking = mshare_pmd_alloc();
	return mshare_parking ? 0 : -ENOMEM;
}

void mshare_tree_exit(void)
{
	mshare_free_pmd_page(mshare_parking);
	/* Inodes and tables are freed by RCU. */
	rcu_barrier();
}
