// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Processors and time. */
#include "common.h"
#include <sched.h>
#include <time.h>

void have_cpu(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
}

int last_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) - 1;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}
