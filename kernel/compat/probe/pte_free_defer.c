// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
#include <linux/pgtable.h>
void probe(struct mm_struct *mm, pgtable_t table);
void probe(struct mm_struct *mm, pgtable_t table)
{
	pte_free_defer(mm, table);
}
