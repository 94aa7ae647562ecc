// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Programs that make the module's calls fail, or get in their way.
 *
 *   attack starve FILE GROUP LIMIT UNITS THEN
 *				move an attachment in a memory cgroup that has
 *				LIMIT bytes; then touch or move it outside of it
 *   attack nth FILE STEP	do STEP again and again while its first, second,
 *				... allocation fails (/proc/self/fail-nth)
 *   attack reserve VICTIM OTHER TOUCHES
 *				touch, write and reserve pages of VICTIM while two
 *				processes ask for 16 TiB in OTHER; counts failures
 *   attack inodes DIRECTORY HANDLES
 *				make handles while two processes try to create
 *				files on a mount that has no inode left
 *   attack faults FILE WHAT BY	count the faults after a change of one page by the
 *				process itself or by another
 *   attack flood FILE VMAS GROUP
 *				attach and fork while a signal comes every tenth of
 *				a millisecond, in GROUP unless that is "-"
 *
 * A line that begins with FAIL tells what went wrong.
 */
#include "attack.h"

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "starve"))
		return starve(argv[2], argv[3], argv[4], atol(argv[5]), argv[6]);
	if (argc == 4 && !strcmp(argv[1], "nth"))
		return nth(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "reserve"))
		return reserve(argv[2], argv[3], atol(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "inodes"))
		return inodes(argv[2], atoi(argv[3]));
	if (argc == 5 && !strcmp(argv[1], "faults"))
		return faults(argv[2], argv[3], argv[4]);
	if (argc == 5 && !strcmp(argv[1], "flood"))
		return flood(argv[2], atol(argv[3]), argv[4]);
	fprintf(stderr, "see the comment at the top of attack/main.c\n");
	return 2;
}
