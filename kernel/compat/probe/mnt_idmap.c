// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
bool probe(struct mnt_idmap *idmap, const struct inode *inode);
bool probe(struct mnt_idmap *idmap, const struct inode *inode)
{
	return inode_owner_or_capable(idmap, inode);
}
