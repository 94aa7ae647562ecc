/* SPDX-License-Identifier: MIT */
/* Shared by the programs that count instructions in a guest: costs.c and huge_pages.c. */
#ifndef COUNTING_H
#define COUNTING_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(call)                                                            \
	({                                                                     \
		long checked = (long)(call);                                   \
		if (checked == -1) {                                           \
			perror(#call);                                         \
			exit(1);                                               \
		}                                                              \
		checked;                                                       \
	})

/* With -icount shift=0 the time-stamp counter goes up by one with each instruction. */
static uint64_t count(void)
{
	return __builtin_ia32_rdtsc();
}

/* Run in a new process, so that its mappings are gone afterwards. */
#define IN_CHILD(...)                                                          \
	do {                                                                   \
		int status;                                                    \
		pid_t pid = CHECK(fork());                                     \
		if (!pid) {                                                    \
			__VA_ARGS__;                                           \
			_exit(0);                                              \
		}                                                              \
		CHECK(waitpid(pid, &status, 0));                               \
		if (status) {                                                  \
			fprintf(stderr, "a child ended with %#x\n", status);   \
			exit(1);                                               \
		}                                                              \
	} while (0)

#endif
