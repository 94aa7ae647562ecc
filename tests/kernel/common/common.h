/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Shared by the client, the probes and the attacks; programs.py compiles common/ into each of them. */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
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

/* Says what is wrong and ends the process.  A line that begins with FAIL tells what went wrong. */
#define CHECK(what) do { \
	if (!(what)) { \
		printf("FAIL %s:%d %s errno=%d\n", __func__, __LINE__, #what, errno); \
		fflush(stdout); \
		_exit(1); \
	} \
} while (0)

/* ---- faults.c ---- */

extern sigjmp_buf escape;		/* where a fault goes on, once catch_faults() was called */
extern volatile siginfo_t last_fault;

/* SIGSEGV and SIGBUS go to `escape`. */
void catch_faults(void);

/* What a load finds, or minus the signal that it ends with. */
int load(const volatile char *p);

/* The same for a store: the value, or minus the signal. */
int store(volatile char *p, char value);

/* Of this process. */
long minor_faults(void);

/* ---- cpus.c ---- */

void have_cpu(int cpu);
int last_cpu(void);

/* Monotonic, in seconds. */
double now(void);

#endif
