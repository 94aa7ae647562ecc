// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
void *probe(const struct address_space_operations *ops);
void *probe(const struct address_space_operations *ops)
{
	return ops->error_remove_folio;
}
