// SPDX-License-Identifier: GPL-2.0
/*
 * msharefs: attachments, and the links from processes to the tables of a region.
 *
 * An attachment owns whole units of its process's address space.  The PUD entry
 * of each unit is, while the mapping exists, *linked* (it points to the PMD page
 * of a tree) or *parked* (it points to an empty table); a touch of a parked unit
 * is a fault, which links.  When the mapping goes its entries are *cut*: none.
 */
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <asm/pgalloc.h>
#include <asm/tlbflush.h>
#include "internal.h"

/* So many attachments are looked at before maps_lock is let go. */
#define MAPS_AT_ONCE	64

/* One attachment. */
struct mshare_map {
	struct mmu_interval_notifier notifier;
	struct mshare_inode *mi;
	struct vm_area_struct *vma;	/* lives as long; never split or resized */
	spinlock_t lock;		/* the links, and dead */
	bool dead;			/* not linked yet, or cut */
	struct rb_node by_mm;		/* these two: mi->maps_lock */
	struct interval_tree_node by_page;
};

/* ---- TLB ---- */

static void mshare_flush_this_cpu(void *unused)
{
	mshare_flush_tlb();
}

/*
 * Facts: mm_cpumask() holds every CPU that runs on this mm's tables, lazily or
 * not.  Another CPU may keep entries of an earlier run, and drops them when it
 * finds at switch-in that tlb_gen has moved on.  An mm with a global ASID (some
 * AMD processors, 6.15 and later) is switched to without a look at tlb_gen.
 * The IPI is taken with interrupts enabled only, that is, outside
 * get_user_pages_fast().
 * Consequence: bumping tlb_gen of each mm and interrupting the union of their
 * CPUs reaches every entry, unless one has a global ASID.
 * Decision: that, and all CPUs if one has.
 */
static void mshare_flush_cpus(const struct cpumask *cpus)
{
	on_each_cpu_mask(cpus, mshare_flush_this_cpu, NULL, 1);
}

/* Have the mm's translations dropped at its next switch-in; whether all CPUs must be flushed. */
static bool mshare_bump_mm(struct mm_struct *mm)
{
	atomic64_inc_return(&mm->context.tlb_gen);	/* a full barrier */
	return mshare_has_global_asid(mm);
}

static void mshare_flush_mm(struct mm_struct *mm)
{
	mshare_flush_cpus(mshare_bump_mm(mm) ? cpu_online_mask : mm_cpumask(mm));
}

/* ---- the attachments of a region ---- */

static int mshare_compare_maps(struct mshare_map *map, const struct mm_struct *mm,
			       const struct mshare_map *other)
{
	if (map->notifier.mm != mm)
		return map->notifier.mm < mm ? -1 : 1;
	if (map != other)
		return map < other ? -1 : 1;
	return 0;
}

/* The first attachment after (mm, after) in the order of maps_by_mm. */
static struct mshare_map *mshare_next_map(struct mshare_inode *mi, const struct mm_struct *mm,
					  const struct mshare_map *after)
{
	struct rb_node *node = mi->maps_by_mm.rb_node;
	struct mshare_map *found = NULL;

	while (node) {
		struct mshare_map *map = rb_entry(node, struct mshare_map, by_mm);

		if (mshare_compare_maps(map, mm, after) > 0) {
			found = map;
			node = node->rb_left;
		} else {
			node = node->rb_right;
		}
	}
	return found;
}

/* The first attachment of the next process; NULL for the first and after the last. */
static struct mshare_map *mshare_next_process(struct mshare_inode *mi, const struct mm_struct *mm)
{
	return mshare_next_map(mi, mm, (void *)ULONG_MAX);
}

static bool mshare_same_mm(struct rb_node *node, struct mshare_map *map)
{
	return node && rb_entry(node, struct mshare_map, by_mm)->notifier.mm == map->notifier.mm;
}

/* Whether no other attachment of the region is in the map's process. */
static bool mshare_only_map(struct mshare_map *map)
{
	return !mshare_same_mm(rb_prev(&map->by_mm), map) &&
	       !mshare_same_mm(rb_next(&map->by_mm), map);
}

/* Under the invalidate lock: the state does not change. */
static void mshare_add_map(struct mshare_map *map)
{
	struct rb_node **link, *parent = NULL;
	struct mshare_inode *mi = map->mi;

	map->by_page.start = map->vma->vm_pgoff;
	map->by_page.last = map->vma->vm_pgoff + vma_pages(map->vma) - 1;
	spin_lock(&mi->maps_lock);
	map->vma->vm_ops = mi->state == MSHARE_OPEN ? &mshare_vm_ops : &mshare_strict_vm_ops;
	for (link = &mi->maps_by_mm.rb_node; *link; ) {
		parent = *link;
		link = mshare_compare_maps(rb_entry(parent, struct mshare_map, by_mm),
					   map->notifier.mm, map) > 0 ?
		       &parent->rb_left : &parent->rb_right;
	}
	rb_link_node(&map->by_mm, parent, link);
	rb_insert_color(&map->by_mm, &mi->maps_by_mm);
	interval_tree_insert(&map->by_page, &mi->maps_by_page);
	WRITE_ONCE(mi->attachments, mi->attachments + 1);
	WRITE_ONCE(mi->processes, mi->processes + mshare_only_map(map));
	spin_unlock(&mi->maps_lock);
}

static void mshare_remove_map(struct mshare_map *map)
{
	struct mshare_inode *mi = map->mi;

	spin_lock(&mi->maps_lock);
	WRITE_ONCE(mi->attachments, mi->attachments - 1);
	WRITE_ONCE(mi->processes, mi->processes - mshare_only_map(map));
	interval_tree_remove(&map->by_page, &mi->maps_by_page);
	rb_erase(&map->by_mm, &mi->maps_by_mm);
	spin_unlock(&mi->maps_lock);
}

/* Is a page of the range in any attachment? */
bool mshare_unit_attached(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	bool found;

	spin_lock(&mi->maps_lock);
	found = interval_tree_iter_first(&mi->maps_by_page, first, last);
	spin_unlock(&mi->maps_lock);
	return found;
}

/*
 * Flush the translations of all attached processes, wherever they may be
 * cached.  Call this after leaves were removed or downgraded, and before the
 * pages go.  Filling an empty leaf needs no flush.
 */
void mshare_flush_attached(struct mshare_inode *mi)
{
	struct mm_struct *mm = NULL;
	struct mshare_map *map;
	cpumask_var_t cpus;
	unsigned int n;
	bool all;

	/* Without memory for the set: all CPUs. */
	all = !zalloc_cpumask_var(&cpus, GFP_KERNEL);
	do {
		spin_lock(&mi->maps_lock);
		for (n = 0; n < MAPS_AT_ONCE; n++) {
			map = mshare_next_process(mi, mm);
			if (!map)
				break;
			mm = map->notifier.mm;
			all |= mshare_bump_mm(mm);
			if (!all)
				cpumask_or(cpus, cpus, mm_cpumask(mm));
		}
		spin_unlock(&mi->maps_lock);
		cond_resched();
	} while (map);
	mshare_flush_cpus(all ? cpu_online_mask : cpus);
	free_cpumask_var(cpus);
}

/* Let the kernel tell every second MMU over an attachment that a range has changed. */
void mshare_walk_attached(struct mshare_inode *mi, pgoff_t first, pgoff_t last)
{
	unmap_mapping_range(mi->vfs_inode.i_mapping, (loff_t)first << PAGE_SHIFT,
			    (loff_t)(last - first + 1) << PAGE_SHIFT, 1);
}

/* Under the invalidate lock, exclusively: no attachment is added. */
void mshare_set_vm_ops(struct mshare_inode *mi, const struct vm_operations_struct *ops)
{
	struct mshare_map *map = NULL;
	struct mm_struct *mm = NULL;
	unsigned int n;

	do {
		spin_lock(&mi->maps_lock);
		for (n = 0; n < MAPS_AT_ONCE; n++) {
			map = mshare_next_map(mi, mm, map);
			if (!map)
				break;
			mm = map->notifier.mm;
			WRITE_ONCE(map->vma->vm_ops, ops);
		}
		/* Only addresses from here on: the attachment may go. */
		spin_unlock(&mi->maps_lock);
		cond_resched();
	} while (map);
}

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

/* The ids of at most @capacity attached processes; how many processes there are. */
u32 mshare_collect_pids(struct mshare_inode *mi, s32 *pids, u32 capacity)
{
	struct mm_struct *mm = NULL;
	struct mshare_map *map;
	u32 count = 0;

	do {
		u32 stop = min(count + MAPS_AT_ONCE, capacity);

		spin_lock(&mi->maps_lock);
		for (map = NULL; count < stop; count++) {
			map = mshare_next_process(mi, mm);
			if (!map)
				break;
			mm = map->notifier.mm;
			pids[count] = mshare_mm_pid(mm);
		}
		spin_unlock(&mi->maps_lock);
		cond_resched();
	} while (map);
	return count < capacity ? count : max(count, READ_ONCE(mi->processes));
}

/* ---- links ---- */

/* NULL if the tables above are not there. */
static pud_t *mshare_find_pud(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	return p4d_none(*p4d) ? NULL : pud_offset(p4d, addr);
}

static pud_t mshare_table_entry(pmd_t *table)
{
	return table ? __pud(_PAGE_TABLE | __pa(table)) : __pud(0);
}

enum mshare_link { MSHARE_LINKED, MSHARE_PARKED, MSHARE_CUT };

static enum mshare_tree mshare_vma_tree(struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_WRITE ? MSHARE_TREE_RW : MSHARE_TREE_RO;
}

/* Where the PUD page with the entry of @addr ends, but not after @end. */
static unsigned long mshare_pud_page_end(unsigned long addr, unsigned long end)
{
	return min(end, (addr & ~(PTRS_PER_PUD * PUD_SIZE - 1)) + PTRS_PER_PUD * PUD_SIZE);
}

/*
 * Set the entries of the units from @start to @end; a unit without a tree is
 * parked instead of linked.  Under map->lock, and the entries are ours.
 */
static void mshare_set_links(struct mshare_map *map, unsigned long start, unsigned long end,
			     enum mshare_link link)
{
	struct vm_area_struct *vma = map->vma;
	struct mm_struct *mm = vma->vm_mm;
	enum mshare_tree tree = mshare_vma_tree(vma);
	unsigned long addr = max(start, vma->vm_start) & PUD_MASK;
	pgoff_t index = vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT);

	end = min(end, vma->vm_end);
	while (addr < end) {
		unsigned long stop = mshare_pud_page_end(addr, end);
		pud_t *pud = mshare_find_pud(mm, addr);

		spin_lock(&mm->page_table_lock);
		for (; addr < stop; addr += PUD_SIZE, index += UNIT_PAGES, pud++) {
			pmd_t *table = link == MSHARE_CUT ? NULL : mshare_parking;

			if (link == MSHARE_LINKED)
				table = mshare_unit_tree(map->mi, index, tree) ?: mshare_parking;
			set_pud(pud, mshare_table_entry(table));
		}
		spin_unlock(&mm->page_table_lock);
	}
}

/*
 * Link what can be linked in a range.  Under the mmap lock, and the invalidate
 * lock, shared: no tree goes.
 *
 * Facts: between invalidate_range_start and _end the kernel walks the tables,
 * and treats what it finds as the private property of one process.
 * mmu_interval_read_begin() waits until no such walk is under way; whether one
 * began since then is seen under map->lock.  No walk takes an mmap lock.
 */
static void mshare_link_range(struct mshare_map *map, unsigned long start, unsigned long end)
{
	unsigned long seq;
	bool again;

	do {
		seq = mmu_interval_read_begin(&map->notifier);
		spin_lock(&map->lock);
		again = mmu_interval_read_retry(&map->notifier, seq);
		if (!again && !map->dead)
			mshare_set_links(map, start, end, MSHARE_LINKED);
		spin_unlock(&map->lock);
	} while (again);
}

/*
 * Link one unit, its tree made if need be.  Under the mmap lock, and the
 * invalidate lock, shared.  Returns false if there is no memory for the tree.
 */
bool mshare_link_unit(struct vm_area_struct *vma, unsigned long addr)
{
	struct mshare_map *map = vma->vm_private_data;
	pgoff_t index = vma->vm_pgoff + ((addr - vma->vm_start) >> PAGE_SHIFT);
	pmd_t *table;

	mshare_make_trees(map->mi, index & ~(UNIT_PAGES - 1), index, mshare_vma_tree(vma));
	table = mshare_unit_tree(map->mi, index, mshare_vma_tree(vma));
	if (!table)
		return false;
	if (pud_val(READ_ONCE(*mshare_find_pud(vma->vm_mm, addr))) !=
	    pud_val(mshare_table_entry(table)))
		mshare_link_range(map, addr & PUD_MASK, (addr & PUD_MASK) + PUD_SIZE);
	return true;
}

/*
 * Keep everybody from walking the attachments of a file.
 *
 * Facts: a holder of i_mmap_rwsem may walk these tables, from another process
 * and without the mmap lock: our own unmap_mapping_range(), and the kernel when
 * a folio is split, although no process has it mapped.  A walker looks at the
 * PUD entry twice, to check it and to follow it.  The walker relies on upper
 * entries to stay until the VMA has left i_mmap.
 * Consequence: a walker whose entry became none in between would walk page
 * frame 0.
 * Decision: while nobody walks an entry becomes none; a later walker finds none
 * from the start.  From present to present (linked, parked) an entry may change
 * at any time.
 * Facts: lockdep would see a cycle here.  A cut comes from inside
 * invalidate_range_start; a walk calls invalidate_range_start.  But the event
 * of a walk never cuts, and the senders of the event that cuts hold no
 * i_mmap_rwsem (docs/audit.md), so nobody waits in a circle.
 * Decision: lockdep does not look.
 */
static void mshare_stop_walks(struct address_space *mapping)
{
	lockdep_off();
	i_mmap_lock_write(mapping);
	lockdep_on();
}

static void mshare_allow_walks(struct address_space *mapping)
{
	lockdep_off();
	i_mmap_unlock_write(mapping);
	lockdep_on();
}

/* Cut all links of a map for good, and flush. */
static void mshare_cut_links(struct mshare_map *map)
{
	struct address_space *mapping = map->mi->vfs_inode.i_mapping;
	bool was_dead;

	mshare_stop_walks(mapping);
	spin_lock(&map->lock);
	was_dead = map->dead;
	map->dead = true;
	if (!was_dead)
		mshare_set_links(map, 0, ULONG_MAX, MSHARE_CUT);
	spin_unlock(&map->lock);
	mshare_allow_walks(mapping);
	if (!was_dead)
		mshare_flush_mm(map->notifier.mm);
}

/*
 * Facts: the kernel's walkers that remove or change entries treat what they
 * find as the private property of one process.  They call
 * invalidate_range_start of the notifiers first, and read the PUD after it.
 * Consequence: by then shared tables must be out of sight.
 * Decision: where the VMA and then the upper tables go, cut the links for good.
 * For everything else (MADV_DONTNEED, clear_refs, the OOM reaper, our own
 * unmap_mapping_range()) park the units in the range.  Translations that CPUs
 * hold stay good, as the leaves did not change.  A present entry also keeps the
 * kernel from allocating a private table there.
 * Nobody writes into the parking table: PTE pages are allocated by faults of
 * mappings that return a page (ours never do), by userfaultfd and by guard
 * regions, which refuse VM_SPECIAL mappings.
 *
 * Facts: MMU_NOTIFY_UNMAP comes from munmap and mremap, which hold the mmap lock
 * for writing, or held it when the VMA left the tree, and from exit after
 * MMU_NOTIFY_RELEASE, when nobody can enter the mm.  The OOM reaper passes over
 * shared mappings.
 * Consequence: nobody else walks here then, but for the walks of i_mmap.
 * (A mapping whose mremap or munmap fails later stays without links; the next
 * touch attaches it again.)
 */
static bool mshare_invalidate(struct mmu_interval_notifier *notifier,
			      const struct mmu_notifier_range *range, unsigned long seq)
{
	struct mshare_map *map = container_of(notifier, struct mshare_map, notifier);
	bool goes = range->event == MMU_NOTIFY_RELEASE ||
		    (range->event == MMU_NOTIFY_UNMAP && mmu_notifier_range_blockable(range));

	spin_lock(&map->lock);
	mmu_interval_set_seq(notifier, seq);
	if (!map->dead && !goes)
		mshare_set_links(map, range->start, range->end, MSHARE_PARKED);
	spin_unlock(&map->lock);
	if (goes)
		mshare_cut_links(map);
	return true;
}

static const struct mmu_interval_notifier_ops mshare_notifier_ops = {
	.invalidate	= mshare_invalidate,
};

static int mshare_insert_notifier(struct mshare_map *map)
{
	struct vm_area_struct *vma = map->vma;

	return mmu_interval_notifier_insert_locked(&map->notifier, vma->vm_mm, vma->vm_start,
						   vma->vm_end - vma->vm_start,
						   &mshare_notifier_ops);
}

struct mshare_insertion {
	struct work_struct work;
	struct mshare_map *map;
	struct mm_struct *requester;
	int err;
};

static void mshare_insert_work(struct work_struct *work)
{
	struct mshare_insertion *insertion = container_of(work, struct mshare_insertion, work);
	struct mm_struct *mm = insertion->map->vma->vm_mm, *requester = insertion->requester;

	/* The one who waits holds the locks (in fork, the parent's as well); tell lockdep. */
	if (requester && requester != mm)
		rwsem_acquire(&requester->mmap_lock.dep_map, 0, 1, _THIS_IP_);
	rwsem_acquire(&mm->mmap_lock.dep_map, SINGLE_DEPTH_NESTING, 1, _THIS_IP_);
	insertion->err = mshare_insert_notifier(insertion->map);
	rwsem_release(&mm->mmap_lock.dep_map, _THIS_IP_);
	if (requester && requester != mm)
		rwsem_release(&requester->mmap_lock.dep_map, _THIS_IP_);
}

/*
 * Have the kernel tell us of invalidations.
 *
 * Facts: the first notifier of an mm takes all locks of that mm, and gives up
 * with -EINTR when any signal is pending.  fork goes on in spite of one, and
 * so does a fault in kernel mode; and .open has no way to fail.
 * Consequence: a parent whose children die often (SIGCHLD), or with a timer,
 * would have children without their attachments.
 * Decision: then a kernel worker does it, which has no signals, while we wait
 * and hold the mmap lock.  Not when we are being killed.
 */
static int mshare_watch(struct mshare_map *map)
{
	struct mshare_insertion insertion = { .map = map, .requester = current->mm };
	int err = mshare_insert_notifier(map);

	if (err != -EINTR || fatal_signal_pending(current))
		return err;
	INIT_WORK_ONSTACK(&insertion.work, mshare_insert_work);
	queue_work(system_dfl_wq, &insertion.work);
	flush_work(&insertion.work);
	destroy_work_on_stack(&insertion.work);
	return insertion.err;
}

/*
 * Take out the private table of one unit, if there is one: the kernel made it
 * for a mapping that was not attached, or apply_to_page_range() below did.  It
 * has no leaves.  Under the mmap lock for writing.
 *
 * Facts: a mapping that was not attached is in i_mmap all the same, so that
 * others may stand in that table; see mshare_stop_walks().
 */
static void mshare_drop_private(struct vm_area_struct *vma, pud_t *pud)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	struct mm_struct *mm = vma->vm_mm;
	unsigned int nr_ptes;
	pmd_t *table = NULL;

	mshare_stop_walks(mapping);
	spin_lock(&mm->page_table_lock);
	if (!pud_none(*pud)) {
		table = pud_pgtable(*pud);
		set_pud(pud, __pud(0));
	}
	spin_unlock(&mm->page_table_lock);
	mshare_allow_walks(mapping);
	if (!table)
		return;
	mshare_flush_mm(mm);
	for (nr_ptes = mshare_free_table(table); nr_ptes; nr_ptes--)
		mm_dec_nr_ptes(mm);
	mm_dec_nr_pmds(mm);
}

/*
 * Have the upper tables for a mapping, and no others.  Under the mmap lock for
 * writing; the mapping is new, or kept from others (mshare_attach_later()).
 *
 * Facts: the functions that allocate upper tables are not exported, but
 * apply_to_page_range() makes them all, down to a PTE page.
 * Decision: call it where a PUD page is missing, and take out what it made
 * below that; also when it failed half-way.
 */
static int mshare_make_upper_tables(struct vm_area_struct *vma)
{
	unsigned long stop, addr = vma->vm_start;
	struct mm_struct *mm = vma->vm_mm;
	int err = 0;

	while (addr < vma->vm_end) {
		pud_t *pud = mshare_find_pud(mm, addr);

		stop = mshare_pud_page_end(addr, vma->vm_end);
		if (!pud && !err) {
			err = apply_to_page_range(mm, addr, PAGE_SIZE, NULL, NULL);
			pud = mshare_find_pud(mm, addr);
		}
		for (; pud && addr < stop; addr += PUD_SIZE, pud++)
			if (!pud_none(READ_ONCE(*pud)))
				mshare_drop_private(vma, pud);
		addr = stop;
		err = err ?: mshare_pause();
	}
	return err;
}

/*
 * Attach a mapping.  Under the mmap lock of its process for writing.  When this
 * fails the mapping has no tables, and stays as it is: mshare_attach_later().
 */
int mshare_attach(struct vm_area_struct *vma)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	struct mshare_map *map;
	int err;

	map = kzalloc(sizeof(*map), GFP_KERNEL_ACCOUNT);
	if (!map)
		return -ENOMEM;
	map->mi = MSHARE_I(mapping->host);
	map->vma = vma;
	map->dead = true;
	spin_lock_init(&map->lock);

	err = mshare_make_upper_tables(vma) ?: mshare_watch(map);
	if (err) {
		kfree(map);
		return err;
	}
	/* If invalidations are under way the notifier is in the tree after them only. */
	mmu_interval_read_begin(&map->notifier);

	filemap_invalidate_lock_shared(mapping);
	mshare_add_map(map);
	mshare_make_trees(map->mi, map->by_page.start, map->by_page.last, mshare_vma_tree(vma));
	spin_lock(&map->lock);
	map->dead = false;
	spin_unlock(&map->lock);
	mshare_link_range(map, 0, ULONG_MAX);
	/* Last: a mapping without a map refuses all access. */
	vma->vm_private_data = map;
	filemap_invalidate_unlock_shared(mapping);
	return 0;
}

/* .close of a mapping. */
void mshare_detach(struct vm_area_struct *vma)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	struct mshare_map *map = vma->vm_private_data;
	struct mshare_inode *mi = MSHARE_I(mapping->host);

	if (!map)
		return;
	/* Linked still only if the VMA never came to be, after .mmap or .open. */
	mshare_cut_links(map);
	mshare_remove_map(map);
	mmu_interval_notifier_remove(&map->notifier);
	if (atomic_read(&mi->stale_units)) {
		filemap_invalidate_lock(mapping);
		mshare_sweep(mi, map->by_page.start, map->by_page.last);
		filemap_invalidate_unlock(mapping);
	}
	kfree(map);
	vma->vm_private_data = NULL;
}

/* Whether a mapping is attached.  Under the mmap lock. */
bool mshare_attached(struct vm_area_struct *vma)
{
	struct mshare_map *map = vma->vm_private_data;

	return map && !READ_ONCE(map->dead);
}

/*
 * Attach the mapping at an address that is not attached: .open could not for
 * lack of memory, or the mapping is left over from a failed munmap or mremap.
 * Without any lock; @file is held.
 *
 * Facts: the kernel may have made private tables below the mapping, and other
 * threads may walk in them, under the mmap lock or the lock of the VMA.
 * Decision: take both for writing.
 */
int mshare_attach_later(struct mm_struct *mm, unsigned long addr, struct file *file)
{
	struct vm_area_struct *vma;
	int err = 0;

	if (mmap_write_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, addr);
	if (vma && vma->vm_file && vma->vm_file->f_mapping == file->f_mapping &&
	    !mshare_attached(vma)) {
		mshare_vma_start_write(vma);
		mshare_detach(vma);
		err = mshare_attach(vma);
	}
	mmap_write_unlock(mm);
	return err;
}
