// SPDX-License-Identifier: MIT
/*
 * A thread asks again and again for more shared memory than the machine has.  In
 * the meantime the main thread maps memory as often as its argument says.  That
 * memory may get the addresses that the kernel has tried for the other thread.
 * Nobody takes it away.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define SIZE (64UL << 20)
#define LOOKS 100

static atomic_int stop;

static void *ask(void *unused)
{
	struct sysinfo machine;
	size_t size;
	char *addr;

	sysinfo(&machine);
	size = (machine.totalram + machine.totalswap) * machine.mem_unit + (1UL << 30);
	while (!stop) {
		addr = mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (addr != MAP_FAILED) /* a machine that promises any amount */
			munmap(addr, size);
	}
	return unused;
}

static void on_fault(int signal)
{
	static const char text[] = "lost\n";

	(void)signal;
	_exit(write(1, text, sizeof(text) - 1) < 0 ? 2 : 1);
}

int main(int count, char **arguments)
{
	int rounds = count > 1 ? atoi(arguments[1]) : 0;
	volatile char *addr;
	pthread_t thread;
	int round, look;

	signal(SIGSEGV, on_fault);
	pthread_create(&thread, NULL, ask, NULL);
	for (round = 0; round < rounds; round++) {
		addr = mmap(NULL, SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (addr == MAP_FAILED)
			return 3;
		for (look = 0; look < LOOKS; look++)
			*addr += 1;
		if (*addr != LOOKS)
			on_fault(0);
		munmap((char *)addr, SIZE);
	}
	stop = 1;
	pthread_join(thread, NULL);
	puts("kept");
	return 0;
}
