// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
bool probe(struct ptdesc *ptdesc);
bool probe(struct ptdesc *ptdesc)
{
	return pagetable_pmd_ctor(NULL, ptdesc);
}
