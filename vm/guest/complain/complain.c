// SPDX-License-Identifier: GPL-2.0
/* For `python3 -m vm selftest`: does what a kernel must complain about, and refuses to load. */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/sched.h>

static char *how = "";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "warn, oops or atomic");

static int __init complain_init(void)
{
	if (!strcmp(how, "warn")) {
		WARN_ON(1);
	} else if (!strcmp(how, "oops")) {
		WRITE_ONCE(*(volatile int *)8, 1);
	} else if (!strcmp(how, "atomic")) {
		preempt_disable();
		schedule_timeout_uninterruptible(1);
		preempt_enable();
	}
	return -ENODEV;
}
module_init(complain_init);

MODULE_DESCRIPTION("mshare vm selftest: complaints on request");
MODULE_LICENSE("GPL");
