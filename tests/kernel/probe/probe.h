/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the programs of the probe; main.c describes them. */
#ifndef PROBE_H
#define PROBE_H

#include "../common/common.h"

/* ---- region.c ---- */

/* Maps one unit of the file at an address that the kernel chooses. */
char *attach(int fd, int prot);

/* ---- the programs ---- */

int queued(const char *path, const char *what);
int stores(const char *path, int seconds);
int touch(const char *path, const char *mode);
int worker(const char *path, const char *source, unsigned long page);
int walk(const char *path, int seconds);

#endif
