/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the programs of the client; main.c describes them. */
#ifndef CLIENT_H
#define CLIENT_H

#include "../common/common.h"

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
