// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A region's mapping. */
#include "probe.h"

char *attach(int fd, int prot)
{
	char *p = mmap(NULL, UNIT, prot, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}
