// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
int probe(struct mmu_notifier_range *r);
int probe(struct mmu_notifier_range *r)
{
	return r->event == MMU_NOTIFY_UNMAP;
}
