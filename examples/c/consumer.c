// SPDX-License-Identifier: MIT
/*
 * The consumer: attaches where the region belongs, reads, answers, ends.
 *
 *	cc -I../../include -o consumer consumer.c && ./consumer
 */
#define _GNU_SOURCE
#include "mshare.h"

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "shareme";
	char *addr;

	if (mshare(name, NULL, 0, O_RDWR, 0)) {
		perror("mshare");
		return 1;
	}
	addr = mshare_address(name);
	printf("consumer: at %p, reads '%s'\n", (void *)addr, addr);
	strcpy(addr, "An answer by the consumer");
	if (mshare_unlink(name)) {
		perror("mshare_unlink");
		return 1;
	}
	return 0;
}
