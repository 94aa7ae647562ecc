// SPDX-License-Identifier: GPL-2.0
/* msharefs: the pages of a region, and what size= pays for. */
#include <linux/cpu.h>
#include <linux/folio_batch.h>
#include <linux/fs.h>
#include <linux/migrate.h>
#include <linux/pagemap.h>
#include <linux/workqueue.h>
#include "internal.h"

/* Sealing drains lists, then waits for references: 1/200 + 2/200 + ... + 16/200 s. */
#define REFERENCE_ROUNDS	6

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

/*
 * A memory error: no process can reach the page any more.  It stays in the
 * region, so that who asks for the data gets an error and not zeroes.
 */
static int mshare_error_remove_folio(MSHARE_ERROR_REMOVE_ARGS)
{
	mshare_hide_page(MSHARE_I(mapping->host), folio->index);
	return 0;
}

const struct address_space_operations mshare_aops = {
	.dirty_folio		= noop_dirty_folio,
	.migrate_folio		= mshare_migrate_folio,
	.error_remove_folio	= mshare_error_remove_folio,
};

/* ---- what is paid ---- */

/* Take @amount if that leaves @used within @max.  Nobody sees more than was granted. */
static int mshare_take(atomic64_t *used, s64 amount, s64 max)
{
	s64 before = atomic64_read(used);

	do {
		if (amount > max - before)
			return -ENOSPC;
	} while (!atomic64_try_cmpxchg(used, &before, before + amount));
	return 0;
}

/**
 * mshare_charge - have size= pay for pages of data or of tables
 * @mi: the region
 * @pages: how many
 * @prepaid: pages that are charged already and to be used first, or NULL
 *
 * Returns 0 or -ENOSPC; then nothing has changed.
 */
int mshare_charge(struct mshare_inode *mi, s64 pages, s64 *prepaid)
{
	struct mshare_sb_info *sbi = MSHARE_SB(mi->vfs_inode.i_sb);
	int err;

	if (prepaid && *prepaid >= pages) {
		*prepaid -= pages;
		return 0;
	}
	err = mshare_take(&sbi->used_pages, pages, READ_ONCE(sbi->max_pages));
	if (!err)
		atomic64_add(pages, &mi->charged);
	return err;
}

void mshare_uncharge(struct mshare_inode *mi, s64 pages)
{
	atomic64_sub(pages, &mi->charged);
	atomic64_sub(pages, &MSHARE_SB(mi->vfs_inode.i_sb)->used_pages);
}

int mshare_charge_inode(struct super_block *sb)
{
	struct mshare_sb_info *sbi = MSHARE_SB(sb);

	return mshare_take(&sbi->used_inodes, 1, READ_ONCE(sbi->max_inodes));
}

/* Pages of [first, last] that the region has.  A folio may begin before, and end after it. */
static s64 mshare_count_pages(struct address_space *mapping, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	pgoff_t next = first;
	unsigned int i;
	s64 count = 0;

	folio_batch_init(&batch);
	while (filemap_get_folios(mapping, &next, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++)
			count += min(last, folio_next_index(batch.folios[i]) - 1) -
				 max(first, batch.folios[i]->index) + 1;
		folio_batch_release(&batch);
		cond_resched();
	}
	return count;
}

/* What it would cost to have every page of a range.  Under the invalidate lock. */
s64 mshare_count_missing(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	return last - first + 1 - mshare_count_pages(mi->vfs_inode.i_mapping, first, last) +
	       mshare_count_tables(mi, first, last);
}

/* ---- pages come and go ---- */

/*
 * May the block of a page be one page?  @end is the first page that will be
 * beyond the file.
 *
 * Facts: a call that makes a file grow gives back what it made when it fails.
 * A folio across the old end could only be given back in part, and that fails
 * if somebody holds it.
 */
static bool mshare_wants_block(struct mshare_inode *mi, pgoff_t index, pgoff_t end)
{
	pgoff_t first = round_down(index, BLOCK_PAGES), beyond = first + BLOCK_PAGES;
	pgoff_t old = mshare_end(mi);

	return READ_ONCE(mi->huge) && beyond <= end && !(first < old && old < beyond);
}

/*
 * Make a block that has no page yet as one page; NULL if that cannot be, which
 * is counted, or if the block has pages by now.
 *
 * Facts: a folio that no process has mapped, as far as the kernel counts, and
 * that has no reference but the page cache's, can be split by others: by
 * MADV_COLD of a part of it from a read-only attachment, by soft offline, by
 * debugfs.
 * Consequence: get_user_pages() on our leaf would take references of the folio
 * of the block's first page, for pages that are not in that folio any more.
 * Decision: a region holds a reference of its own to each folio of several
 * pages.  mshare_drop_range() gives it up, when no leaf leads there any more.
 */
static struct page *mshare_make_block(struct inode *inode, pgoff_t index, gfp_t gfp, s64 *prepaid)
{
	pgoff_t first = round_down(index, BLOCK_PAGES);
	loff_t start = (loff_t)first << PAGE_SHIFT;
	struct address_space *mapping = inode->i_mapping;
	struct mshare_inode *mi = MSHARE_I(inode);
	struct mutex *lock = mi->block_locks + (first >> BLOCK_PAGE_SHIFT) % BLOCK_LOCKS;
	struct page *page = NULL;
	struct folio *folio;
	int err;

	if (!(gfp & __GFP_RETRY_MAYFAIL))
		gfp |= __GFP_NORETRY;
	gfp |= __GFP_NOWARN | __GFP_NOMEMALLOC;
	mutex_lock(lock);
	if (filemap_range_has_page(mapping, start, start + PMD_SIZE - 1))
		goto unlock;
	err = mshare_charge_pages(mi, index, BLOCK_PAGES, prepaid);
	if (err)
		goto count;
	err = -ENOMEM;
	folio = mshare_alloc_folio(gfp | __GFP_ZERO, BLOCK_PAGE_SHIFT);
	if (folio) {
		folio_mark_uptodate(folio);
		WRITE_ONCE(mi->had_huge, true);
		err = filemap_add_folio(mapping, folio, first, gfp);
	}
	if (err) {
		if (folio)
			folio_put(folio);
		mshare_uncharge_pages(mi, index, BLOCK_PAGES, prepaid);
		goto count;
	}
	folio_get(folio);	/* the region's */
	folio_mark_dirty(folio);
	folio_unlock(folio);
	atomic_long_inc(&mi->huge_pages);
	page = folio_page(folio, index - first);
count:
	if (err && err != -EEXIST)
		atomic64_inc(&mi->huge_fallbacks);
unlock:
	mutex_unlock(lock);
	return page;
}

/**
 * mshare_get_page - find or make a page of a region
 * @inode: the region
 * @index: which page
 * @end: the first page beyond the file, as it will be
 * @gfp: how to allocate
 * @prepaid: pages already charged, of which some are taken; or NULL to charge
 *
 * A new page pays for the tables of its block and unit as well.  The caller
 * holds the invalidate lock of the mapping.  Returns the page with a
 * reference, or an error pointer.
 */
struct page *mshare_get_page(struct inode *inode, pgoff_t index, pgoff_t end, gfp_t gfp,
			     s64 *prepaid)
{
	struct address_space *mapping = inode->i_mapping;
	struct mshare_inode *mi = MSHARE_I(inode);
	bool single = !mshare_wants_block(mi, index, end);
	struct folio *folio;
	struct page *page;
	int err;

	for (;;) {
		page = find_get_page(mapping, index);
		if (page)
			return page;

		if (!single) {
			single = true;
			page = mshare_make_block(inode, index, gfp, prepaid);
			if (page)
				return page;
			continue;
		}
		err = mshare_charge_pages(mi, index, 1, prepaid);
		if (err)
			return ERR_PTR(err);
		err = -ENOMEM;
		folio = mshare_alloc_folio(gfp | __GFP_ZERO, 0);
		if (folio) {
			folio_mark_uptodate(folio);
			err = filemap_add_folio(mapping, folio, index, gfp);
			if (!err) {
				folio_mark_dirty(folio);
				folio_unlock(folio);
				return folio_page(folio, 0);
			}
			folio_put(folio);
		}
		mshare_uncharge_pages(mi, index, 1, prepaid);
		if (err != -EEXIST)
			return ERR_PTR(err);
	}
}

/* Has the block of a page a folio of several pages? */
bool mshare_block_has_large(struct mshare_inode *mi, pgoff_t index)
{
	pgoff_t first = round_down(index, BLOCK_PAGES), last = first + BLOCK_PAGES - 1;
	struct folio_batch batch;
	bool found = false;
	unsigned int i;

	if (!mi->had_huge)
		return false;
	folio_batch_init(&batch);
	while (!found && filemap_get_folios(mi->vfs_inode.i_mapping, &first, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && !found; i++)
			found = folio_test_large(batch.folios[i]);
		folio_batch_release(&batch);
	}
	return found;
}

/* Does the end of the file cut this folio? */
static bool mshare_cut_by_end(struct mshare_inode *mi, struct folio *folio)
{
	return folio->index < mshare_end(mi) && mshare_end(mi) < folio_next_index(folio);
}

/*
 * Take the region's reference to each folio of several pages in a range, or
 * give it up; except for one that the end of the file cuts, unless @cut.
 */
static void mshare_hold_large(struct mshare_inode *mi, pgoff_t first, pgoff_t last, bool hold,
			      bool cut)
{
	struct folio_batch batch;
	unsigned int i;

	folio_batch_init(&batch);
	while (filemap_get_folios(mi->vfs_inode.i_mapping, &first, last, &batch)) {
		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (!folio_test_large(folio) || (!cut && mshare_cut_by_end(mi, folio)))
				continue;
			if (hold)
				folio_get(folio);
			else
				folio_put(folio);
			if (folio_order(folio) == BLOCK_PAGE_SHIFT)
				atomic_long_add(hold ? 1 : -1, &mi->huge_pages);
		}
		folio_batch_release(&batch);
		cond_resched();
	}
}

/*
 * Remove the bytes of [@start, @end], which lie in one block.
 *
 * Facts: kernels split a folio that a truncation covers in part.  That fails if
 * somebody holds a page of it (a device, a pipe, a read(2) under way); then the
 * part is cleared, and the memory stays.  From 6.15 on the pieces have several
 * sizes, and when a second split fails, at the other end of the range, or the
 * first one half-way, pages outside the range are thrown away (truncate.c).  A
 * call for one page, or a part of one, takes that page or clears it, and no
 * other.
 * Facts: a split takes pages beyond i_size out, and counts them in a way that
 * fails for pages that are never written back.
 * Decision: page by page, if the block has a folio of several pages.  i_size
 * does not change before.  A folio across the end of the file keeps the
 * region's reference, so that it cannot be split, and is cleared.
 */
static void mshare_drop_part(struct inode *inode, loff_t start, loff_t end)
{
	pgoff_t first = round_down(start >> PAGE_SHIFT, BLOCK_PAGES);
	struct mshare_inode *mi = MSHARE_I(inode);

	if (!mshare_block_has_large(mi, first)) {
		truncate_inode_pages_range(inode->i_mapping, start, end);
		return;
	}
	mshare_hold_large(mi, first, first + BLOCK_PAGES - 1, false, false);
	while (start <= end) {
		loff_t stop = min(end, start | (loff_t)~PAGE_MASK);

		truncate_inode_pages_range(inode->i_mapping, start, stop);
		start = stop + 1;
		cond_resched();
	}
	mshare_hold_large(mi, first, first + BLOCK_PAGES - 1, true, false);
}

/*
 * Facts: the allocator keeps a bad page out when it is freed by itself, not
 * when it is freed as a part of a larger one.
 * Decision: cut the bad pages off first, each by itself.
 */
static void mshare_drop_bad(struct inode *inode, pgoff_t index)
{
	pgoff_t beyond = round_down(index, BLOCK_PAGES) + BLOCK_PAGES;

	for (; index < beyond; index++) {
		loff_t pos = (loff_t)index << PAGE_SHIFT;
		struct page *page = find_get_page(inode->i_mapping, index);
		bool bad = page && PageHWPoison(page);

		if (page)
			put_page(page);
		if (bad)
			truncate_inode_pages_range(inode->i_mapping, pos, pos + PAGE_SIZE - 1);
	}
}

/* Remove whole blocks. */
static void mshare_drop_blocks(struct inode *inode, loff_t start, loff_t end)
{
	pgoff_t first = start >> PAGE_SHIFT, last = end >> PAGE_SHIFT, next = first;
	struct mshare_inode *mi = MSHARE_I(inode);
	struct folio_batch batch;
	unsigned int i;

	mshare_hold_large(mi, first, last, false, true);
	folio_batch_init(&batch);
	while (filemap_get_folios(inode->i_mapping, &next, last, &batch)) {
		pgoff_t bad[ARRAY_SIZE(batch.folios)];
		unsigned int n = 0;

		for (i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (folio_test_large(folio) && folio_test_has_hwpoisoned(folio) &&
			    !mshare_cut_by_end(mi, folio))
				bad[n++] = folio->index;
		}
		folio_batch_release(&batch);	/* or they could not be split */
		while (n--)
			mshare_drop_bad(inode, bad[n]);
		cond_resched();
	}
	truncate_inode_pages_range(inode->i_mapping, start, end);
}

/*
 * Remove the pages of [@start, @end] (bytes, @end inclusive) and clear the parts
 * of pages at its ends.  The caller holds the inode lock and the invalidate
 * lock, so that nothing is added in the meantime, and has unmapped the range,
 * and the rest of blocks that have folios of several pages; or it is evicting
 * the inode.
 */
void mshare_drop_range(struct inode *inode, loff_t start, loff_t end)
{
	loff_t from = round_up(start, PMD_SIZE), to = round_down(end + 1, PMD_SIZE);
	struct address_space *mapping = inode->i_mapping;
	unsigned long before = mapping->nrpages;

	if (!MSHARE_I(inode)->had_huge) {
		truncate_inode_pages_range(mapping, start, end);
	} else if (from > to) {
		mshare_drop_part(inode, start, end);
	} else {
		if (start < from)
			mshare_drop_part(inode, start, from - 1);
		if (from < to)
			mshare_drop_blocks(inode, from, to - 1);
		if (to <= end)
			mshare_drop_part(inode, to, end);
	}
	mshare_uncharge(MSHARE_I(inode), before - mapping->nrpages);
}

/* ---- references ---- */

static long mshare_drain_this_cpu(void *unused)
{
	struct folio_batch batch;

	folio_batch_init(&batch);
	__folio_batch_release(&batch);
	return 0;
}

/*
 * Facts: a new page waits in a list of its CPU for its place on an LRU list, and
 * that list holds a reference.  lru_add_drain_all() is not exported; releasing
 * a batch drains the list of the CPU that does it.
 */
static void mshare_drain_lists(void)
{
	unsigned int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu)
		work_on_cpu(cpu, mshare_drain_this_cpu, NULL);
	cpus_read_unlock();
}

/*
 * Has anybody a reference but the page cache, this look, and, to several pages,
 * the region?  memory_failure() never lets go of a bad page.
 */
static bool mshare_referenced(struct folio *folio)
{
	int ours = folio_nr_pages(folio) + 1 + folio_test_large(folio);

	return folio_ref_count(folio) != ours && !folio_test_hwpoison(folio);
}

static bool mshare_wait_for_folio(struct folio *folio, unsigned int *round)
{
	while (mshare_referenced(folio)) {
		if (*round == REFERENCE_ROUNDS || fatal_signal_pending(current))
			return false;
		if (!*round)
			mshare_drain_lists();
		else
			schedule_timeout_killable(max(1, (HZ << *round) / 400));
		++*round;
	}
	return true;
}

/*
 * Wait, for about 150 ms in all, until nobody but the page cache holds a page of
 * the region; whether that came true.  The caller holds the inode lock and the
 * invalidate lock exclusively, and no leaf is writable: a reference that is
 * taken later is a reader's.
 */
bool mshare_wait_for_references(struct mshare_inode *mi)
{
	struct folio_batch batch;
	unsigned int i, round = 0;
	bool alone = true;
	pgoff_t index = 0;

	folio_batch_init(&batch);
	while (alone && filemap_get_folios(mi->vfs_inode.i_mapping, &index, ULONG_MAX, &batch)) {
		for (i = 0; i < folio_batch_count(&batch) && alone; i++)
			alone = mshare_wait_for_folio(batch.folios[i], &round);
		folio_batch_release(&batch);
		cond_resched();
	}
	return alone;
}
