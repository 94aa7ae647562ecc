/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the programs of the client; main.c describes them. */
#ifndef CLIENT_H
#define CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../../../kernel/uapi/linux/msharefs.h"

#define UNIT MSHARE_UNIT
#define PAGE 4096UL
#define RW (PROT_READ | PROT_WRITE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define CHECK(what) do { \
	if (!(what)) { \
		printf("FAIL %s:%d %s errno=%d\n", __func__, __LINE__, #what, errno); \
		fflush(stdout); \
		_exit(1); \
	} \
} while (0)

/* ---- region.c ---- */

/* The size of the file, rounded up to whole units. */
size_t length_of(int fd);

/* Maps the whole file at an address that the kernel chooses; *size becomes the size of the file. */
char *attach(const char *path, int prot, size_t *size);

/* ---- the programs ---- */

int fleet(const char *path, int n, const char *mode);
int spin(const char *path, size_t offset, const char *what);
int detach(const char *path, const char *how);
int signals(const char *path, int n);
int victim(const char *path, const char *action);
int races(const char *path, int seconds);
int stress(const char *path, int seconds, unsigned int seed, int procs);

#endif
