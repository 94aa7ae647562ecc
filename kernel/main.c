// SPDX-License-Identifier: GPL-2.0
/* mshare: regions of memory with shared page tables.  Start and end. */
#include <linux/module.h>
#include "internal.h"

static int __init mshare_init(void)
{
	int err;

	err = mshare_tree_init();
	if (err)
		return err;
	err = mshare_super_init();
	if (err)
		goto exit_tree;
	return 0;

exit_tree:
	mshare_tree_exit();
	return err;
}

static void __exit mshare_exit(void)
{
	mshare_super_exit();
	mshare_tree_exit();
}

module_init(mshare_init);
module_exit(mshare_exit);

MODULE_DESCRIPTION("Shared memory with shared page tables (msharefs)");
MODULE_LICENSE("GPL");
MODULE_ALIAS_FS("msharefs");
MODULE_VERSION("0.1.0");
