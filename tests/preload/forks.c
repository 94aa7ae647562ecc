// SPDX-License-Identifier: MIT
/*
 * Threads that map and unmap shared memory while the main thread forks.  Each
 * child maps, touches and unmaps memory of its own.  A lock that a fork copied
 * in the locked state would stop a child forever.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (4UL << 20)
#define CHILDREN 211
#define THREADS 3

static atomic_int stop;

static int map_once(void)
{
	char *addr = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		return 1;
	addr[0] = addr[SIZE - 1] = 1;
	return munmap(addr, SIZE);
}

static void *work(void *failures)
{
	while (!stop)
		*(int *)failures += map_once();
	return NULL;
}

int main(void)
{
	pthread_t threads[THREADS];
	int failures[THREADS] = { 0 }, at, status, bad = 0;
	pid_t child;

	for (at = 0; at < THREADS; at++)
		pthread_create(&threads[at], NULL, work, &failures[at]);
	for (at = 0; at < CHILDREN; at++) {
		child = fork();
		if (!child)
			_exit(map_once());
		waitpid(child, &status, 0);
		bad += status != 0;
	}
	stop = 1;
	for (at = 0; at < THREADS; at++) {
		pthread_join(threads[at], NULL);
		bad += failures[at];
	}
	printf("%d of %d failed\n", bad, CHILDREN);
	return bad != 0;
}
