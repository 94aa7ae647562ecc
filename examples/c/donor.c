// SPDX-License-Identifier: MIT
/*
 * The donor of the proposal's cover letter: makes a region, maps it, writes to
 * it, tells where it is, and waits to be told that it may end.
 *
 *	cc -I../../include -o donor donor.c && ./donor
 */
#define _GNU_SOURCE
#include "mshare.h"

#define TB	(1UL << 40)
#define LENGTH	(4UL << 20)

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "shareme";
	void *addr = (void *)(48 * TB);		/* any multiple of 1 GiB */

	if (mshare(name, addr, LENGTH, O_CREAT | O_EXCL | O_RDWR, 0600)) {
		perror("mshare");
		return 1;
	}
	strcpy(addr, "Some random data shared by the donor");
	printf("donor: region '%s' at %p; type Enter to leave it\n", name, addr);
	fflush(stdout);
	getchar();
	printf("donor: reads back '%s'\n", (char *)addr);
	if (mshare_unlink(name)) {
		perror("mshare_unlink");
		return 1;
	}
	return 0;
}
