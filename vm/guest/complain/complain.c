// SPDX-License-Identifier: GPL-2.0
/* For `python3 -m vm selftest`: does what a kernel must complain about, and refuses to load. */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/slab.h>

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

static char *how = "";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "warn, oops, atomic, freed or order");

static void in_order(struct mutex *outer, struct mutex *inner)
{
	mutex_lock(outer);
	mutex_lock(inner);
	mutex_unlock(inner);
	mutex_unlock(outer);
}

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
	} else if (!strcmp(how, "freed")) {
		char *memory = kmalloc(64, GFP_KERNEL);

		kfree(memory);
		WRITE_ONCE(*memory, 1);
	} else if (!strcmp(how, "order")) {
		in_order(&first, &second);
		in_order(&second, &first);
	}
	return -ENODEV;
}
module_init(complain_init);

MODULE_DESCRIPTION("mshare vm selftest: complaints on request");
MODULE_LICENSE("GPL");
