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

/* Pages of [first, last] that the region has. */
static s64 mshare_count_pages(struct address_space *mapping, pgoff_t first, pgoff_t last)
{
	struct folio_batch batch;
	s64 count = 0;

	folio_batch_init(&batch);
	while (filemap_get_folios(mapping, &first, last, &batch)) {
		count += folio_batch_count(&batch);
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

/**
 * mshare_get_page - find or make a page of a region
 * @inode: the region
 * @index: which page
 * @gfp: how to allocate
 * @prepaid: pages already charged, of which some are taken; or NULL to charge
 *
 * A new page pays for the tables of its block and unit as well.  The caller
 * holds the invalidate lock of the mapping.  Returns the page with a
 * reference, or an error pointer.
 */
struct page *mshare_get_page(struct inode *inode, pgoff_t index, gfp_t gfp,
			     s64 *prepaid)
{
	struct address_space *mapping = inode->i_mapping;
	struct mshare_inode *mi = MSHARE_I(inode);
	struct folio *folio;
	struct page *page;
	int err;

	for (;;) {
		page = find_get_page(mapping, index);
		if (page)
			return page;

		err = mshare_charge_page(mi, index, prepaid);
		if (err)
			return ERR_PTR(err);
		err = -ENOMEM;
		folio = mshare_alloc_folio(gfp | __GFP_ZERO);
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
		mshare_uncharge_page(mi, index);
		if (err != -EEXIST)
			return ERR_PTR(err);
	}
}

/*
 * Remove the pages of [@start, @end] (bytes; @end inclusive, -1 for all) and
 * clear the parts of pages at its ends.  The caller holds the inode lock and
 * the invalidate lock, so that nothing is added in the meantime, and has
 * unmapped the range; or it is evicting the inode.
 */
void mshare_drop_range(struct inode *inode, loff_t start, loff_t end)
{
	unsigned long before = inode->i_mapping->nrpages;

	truncate_inode_pages_range(inode->i_mapping, start, end);
	mshare_uncharge(MSHARE_I(inode), before - inode->i_mapping->nrpages);
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

/* The page cache's reference, and ours.  memory_failure() never lets go of a bad page. */
static bool mshare_referenced(struct folio *folio)
{
	return folio_ref_count(folio) != 2 && !folio_test_hwpoison(folio);
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
