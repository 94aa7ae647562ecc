// SPDX-License-Identifier: GPL-2.0 OR MIT
/* What processes pay that attach a region and read it. */
#include "client.h"

static long page_tables_kb(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "PageTables: %ld kB", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

static unsigned long read_all(const char *p, size_t size)
{
	unsigned long sum = 0;
	size_t i;

	for (i = 0; i < size; i += PAGE)
		sum += *(const volatile unsigned char *)(p + i);
	return sum;
}

int fleet(const char *path, int n, const char *mode)
{
	int ready[2], go[2], i, prot = strcmp(mode, "ro") ? RW : PROT_READ;
	int attached = strcmp(mode, "none"), forked = !strcmp(mode, "fork");
	long before, after, worst = 0;
	size_t size = 0;
	char *p = NULL;

	CHECK(!pipe(ready) && !pipe(go));
	if (forked)
		p = attach(path, prot, &size);
	before = page_tables_kb();
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			long faults = 0, first;
			volatile unsigned long sum;
			char byte;

			close(go[1]);
			minor_faults();		/* touch what this itself touches */
			write(ready[1], &faults, 0);
			if (attached) {
				first = minor_faults();
				if (!forked)
					p = attach(path, prot, &size);
				first = minor_faults();
				sum = read_all(p, size);
				faults = minor_faults() - first;
				(void)sum;
			}
			write(ready[1], &faults, sizeof(faults));
			read(go[0], &byte, 1);
			_exit(0);
		}
	}
	for (i = 0; i < n; i++) {
		long faults;

		CHECK(read(ready[0], &faults, sizeof(faults)) == sizeof(faults));
		if (faults > worst)
			worst = faults;
	}
	after = page_tables_kb();
	close(go[1]);
	for (i = 0; i < n; i++) {
		int status;

		CHECK(wait(&status) > 0);
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	}
	printf("pagetables_kb=%ld worst_faults=%ld\n", after - before, worst);
	return 0;
}
