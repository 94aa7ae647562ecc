// SPDX-License-Identifier: GPL-2.0
#include <linux/workqueue.h>
void *probe(void);
void *probe(void)
{
	return system_dfl_wq;
}
