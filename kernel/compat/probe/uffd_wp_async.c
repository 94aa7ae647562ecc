// SPDX-License-Identifier: GPL-2.0
#include <uapi/linux/userfaultfd.h>
unsigned long long probe(void);
unsigned long long probe(void)
{
	return UFFD_FEATURE_WP_ASYNC;
}
