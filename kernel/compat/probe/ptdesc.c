/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/mm.h>
bool probe(void);
bool probe(void) { struct ptdesc *d = pagetable_alloc(GFP_KERNEL, 0); return pagetable_pmd_ctor(d); }
