// SPDX-License-Identifier: GPL-2.0
#include <linux/folio_batch.h>
void probe(struct folio_batch *batch);
void probe(struct folio_batch *batch)
{
	__folio_batch_release(batch);
}
