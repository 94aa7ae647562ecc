// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
void probe(struct ptdesc *ptdesc);
void probe(struct ptdesc *ptdesc)
{
	pagetable_dtor(ptdesc);
}
