// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Helper of test_seal, test_poison and test_walkers: what needs threads at
 * exact places, or the details of a signal.
 *
 *   probe queued FILE OPERATION	hold the inode lock, queue a SEAL and behind
 *				it OPERATION, let the lock go; prints both results
 *   probe stores FILE SECONDS	stores through /proc/self/mem while a SEAL runs,
 *				on one file of FILE.0, FILE.1, ... after another
 *   probe touch FILE MODE	attach (rw or ro), then for each line "r PAGE" or
 *				"w PAGE" of the input print what the access did
 *   probe worker FILE SOURCE PAGE	let a worker thread of io_uring read SOURCE
 *				into a page of the region
 *   probe walk FILE SECONDS	everybody reads everybody's tables and takes pages
 *				of each other, while pages come and go
 */
#include "probe.h"

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	if (!strcmp(what, "queued") && argc == 4)
		return queued(argv[2], argv[3]);
	if (!strcmp(what, "stores") && argc == 4)
		return stores(argv[2], atoi(argv[3]));
	if (!strcmp(what, "touch") && argc == 4)
		return touch(argv[2], argv[3]);
	if (!strcmp(what, "worker") && argc == 5)
		return worker(argv[2], argv[3], strtoul(argv[4], NULL, 0));
	if (!strcmp(what, "walk") && argc == 4)
		return walk(argv[2], atoi(argv[3]));
	fprintf(stderr, "see the comment at the top of probe/main.c\n");
	return 2;
}
