// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A region's file and its mapping, and what the kernel says of both. */
#include "attack.h"

long page_tables_kb(void)
{
	static char text[8192];
	int fd = open("/proc/self/status", O_RDONLY);
	ssize_t got;
	char *line;

	CHECK(fd >= 0);
	got = read(fd, text, sizeof(text) - 1);
	CHECK(got > 0);
	text[got] = 0;
	close(fd);
	line = strstr(text, "VmPTE:");
	CHECK(line);
	return atol(line + 6);
}

struct mshare_info info(int fd)
{
	struct mshare_info facts;

	CHECK(!ioctl(fd, MSHARE_IOC_INFO, &facts));
	return facts;
}

struct statvfs space(int fd)
{
	struct statvfs fs;

	CHECK(!fstatvfs(fd, &fs));
	return fs;
}

char *attach(int fd, char *where, size_t len, int prot)
{
	return mmap(where, len, prot, MAP_SHARED | (where ? MAP_FIXED : 0), fd, 0);
}

char *move(char *from, char *to, size_t len)
{
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

void join_group(const char *group)
{
	char name[256], pid[16];
	int fd, len;

	snprintf(name, sizeof(name), "%s/cgroup.procs", group);
	len = snprintf(pid, sizeof(pid), "%d", getpid());
	fd = open(name, O_WRONLY);
	CHECK(fd >= 0);
	CHECK(write(fd, pid, len) == len);
	close(fd);
}
