// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Faults that a program survives, and how many it took. */
#include "common.h"
#include <sys/resource.h>

sigjmp_buf escape;
volatile siginfo_t last_fault;

static void on_fault(int sig, siginfo_t *info, void *unused)
{
	last_fault = *info;
	siglongjmp(escape, 1);
}

void catch_faults(void)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

int load(const volatile char *p)
{
	if (sigsetjmp(escape, 1))
		return -last_fault.si_signo;
	return *(const volatile unsigned char *)p;
}

int store(volatile char *p, char value)
{
	if (sigsetjmp(escape, 1))
		return -last_fault.si_signo;
	*p = value;
	return value;
}

long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}
