/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the programs of the attack; main.c describes them. */
#ifndef ATTACK_H
#define ATTACK_H

#include "../common/common.h"
#include <sys/statvfs.h>

/* Three addresses in three different 512 GiB, each with a PUD page of its own. */
#define HOME ((char *)0x300000000000)
#define AWAY ((char *)0x380000000000)
#define THIRD ((char *)0x400000000000)

/* CHECK() for two numbers, which it tells. */
#define CHECK_SAME(one, other) do { long a_ = (one), b_ = (other); if (a_ != b_) { \
	printf("FAIL %s:%d %s is %ld, %s is %ld\n", __func__, __LINE__, #one, a_, #other, b_); \
	fflush(stdout); _exit(1); } } while (0)
#define CHECK_AT_MOST(one, other) do { long a_ = (one), b_ = (other); if (a_ > b_) { \
	printf("FAIL %s:%d %s is %ld, %s is %ld\n", __func__, __LINE__, #one, a_, #other, b_); \
	fflush(stdout); _exit(1); } } while (0)

/* ---- region.c ---- */

/* VmPTE of this process, in kB. */
long page_tables_kb(void);

struct mshare_info info(int fd);
struct statvfs space(int fd);

/* Maps the file there, or where the kernel chooses if `where` is NULL. */
char *attach(int fd, char *where, size_t len, int prot);

char *move(char *from, char *to, size_t len);

/* Moves this process into a control group. */
void join_group(const char *group);

/* ---- the programs ---- */

int starve(const char *path, const char *group, const char *limit, size_t units, const char *then);
int nth(const char *path, const char *step);
int reserve(const char *path, const char *other, long touches);
int inodes(const char *directory, int handles);
int faults(const char *path, const char *what, const char *by);
int flood(const char *path, size_t vmas, const char *group);

#endif
