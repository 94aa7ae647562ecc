// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What a test must do without Python's own memory traffic in the way.
 *
 *   client fleet FILE N MODE	N processes attach and read every page
 *				(MODE: rw, ro, fork, none); prints figures
 *   client spin FILE OFFSET WHAT	load (read) or store (write) one byte in a
 *				loop without system calls; prints what ended it
 *   client detach FILE HOW	one thread loads in a loop, the other detaches
 *				(munmap, mremap); prints what ended the loop
 *   client signals FILE N	N forks into which a signal comes, from a process
 *				that sends all the time; counts children without
 *				the region, and mmaps that failed with EINTR
 *   client victim FILE ACTION	do ACTION in a loop, to be killed at any time
 *   client races FILE SECONDS	attach, detach, fork and die while others punch,
 *				protect, and look at the page tables
 *   client stress FILE SECONDS SEED PROCS   random operations against a model
 */
#include "client.h"

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "fleet"))
		return fleet(argv[2], atoi(argv[3]), argv[4]);
	if (argc == 5 && !strcmp(argv[1], "spin"))
		return spin(argv[2], strtoul(argv[3], NULL, 0), argv[4]);
	if (argc == 4 && !strcmp(argv[1], "detach"))
		return detach(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "signals"))
		return signals(argv[2], atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "victim"))
		return victim(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "races"))
		return races(argv[2], atoi(argv[3]));
	if (argc == 6 && !strcmp(argv[1], "stress"))
		return stress(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	fprintf(stderr, "see the comment at the top of client/main.c\n");
	return 2;
}
