// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A region's file and its mapping. */
#include "client.h"
#include <sys/stat.h>

size_t length_of(int fd)
{
	struct stat st;

	CHECK(!fstat(fd, &st));
	return (st.st_size + UNIT - 1) / UNIT * UNIT;
}

char *attach(const char *path, int prot, size_t *size)
{
	int fd = open(path, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	struct stat st;
	char *p;

	CHECK(fd >= 0);
	CHECK(!fstat(fd, &st));
	p = mmap(NULL, length_of(fd), prot, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	CHECK(!((uintptr_t)p & (UNIT - 1)));
	close(fd);
	*size = st.st_size;
	return p;
}
