// SPDX-License-Identifier: MIT
/*
 * What `mshare run` asks for, from the variable MSHARE_RUN: NAME=VALUE,...
 *
 * The variable is read once, by the first call that needs it or by the
 * constructor.  PostgreSQL later overwrites its environment with its title.
 */
#include "preload.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct config asked;
static atomic_int state; /* 0: not read, 1: one thread reads it, 2: read */

static bool is(const char *text, size_t length, const char *word)
{
	size_t at;

	for (at = 0; at < length; at++)
		if (text[at] != word[at] || !word[at])
			return false;
	return !word[length];
}

static bool copy(char *to, size_t size, const char *from, size_t length)
{
	size_t at;

	if (length >= size)
		return false;
	for (at = 0; at < length; at++)
		to[at] = from[at];
	to[length] = 0;
	return true;
}

/* The place of @text among @words, or -1. */
static int one_of(const char *text, size_t length, const char *const *words)
{
	int at;

	for (at = 0; words[at]; at++)
		if (is(text, length, words[at]))
			return at;
	return -1;
}

static bool read_flag(bool *flag, const char *text, size_t length, const char *off, const char *on)
{
	*flag = is(text, length, on);
	return *flag || is(text, length, off);
}

static bool read_size(size_t *size, const char *text, size_t length)
{
	static const char units[] = "KMGT";
	size_t at, unit, bytes = 0;

	for (at = 0; at < length && text[at] >= '0' && text[at] <= '9'; at++) {
		if (bytes > SIZE_MAX / 16)
			return false;
		bytes = 10 * bytes + (size_t)(text[at] - '0');
	}
	if (!at || at + 1 < length)
		return false;
	for (unit = 0; at < length && units[unit]; unit++)
		if (text[at] == units[unit])
			break;
	if (at < length && (!units[unit] || bytes > SIZE_MAX >> (10 * (unit + 1) + 1)))
		return false;
	*size = at < length ? bytes << (10 * (unit + 1)) : bytes;
	return *size >= PMD;
}

static bool read_item(const char *name, size_t name_length, const char *value, size_t length)
{
	static const char *const backends[] = { "auto", "msharefs", "thp", NULL };
	static const char *const fills[] = { "auto", "ahead", "later", "never", NULL };
	int word;

	if (is(name, name_length, "backend")) {
		word = one_of(value, length, backends);
		if (word >= 0)
			asked.backend = (enum backend)word;
		return word >= 0;
	}
	if (is(name, name_length, "fill")) {
		word = one_of(value, length, fills);
		if (word >= 0)
			asked.fill = (enum fill)word;
		return word >= 0;
	}
	if (is(name, name_length, "min"))
		return read_size(&asked.min, value, length);
	if (is(name, name_length, "sysv"))
		return read_flag(&asked.sysv, value, length, "off", "thp");
	if (is(name, name_length, "posix"))
		return read_flag(&asked.posix, value, length, "off", "thp");
	if (is(name, name_length, "hugetlb"))
		return read_flag(&asked.answer_hugetlb, value, length, "pass", "answer");
	if (is(name, name_length, "mprotect"))
		return read_flag(&asked.ignore_mprotect, value, length, "refuse", "ignore");
	if (is(name, name_length, "require"))
		return read_flag(&asked.require, value, length, "no", "yes");
	if (is(name, name_length, "quiet"))
		return read_flag(&asked.quiet, value, length, "no", "yes");
	if (is(name, name_length, "only"))
		return copy(asked.only, sizeof(asked.only), value, length);
	if (is(name, name_length, "log"))
		return copy(asked.log, sizeof(asked.log), value, length);
	if (is(name, name_length, "root"))
		return copy(asked.root, sizeof(asked.root), value, length);
	return false;
}

static void read_items(const char *items)
{
	size_t length, split;

	for (; *items; items += length + (items[length] == ',')) {
		for (length = 0; items[length] && items[length] != ','; length++)
			;
		for (split = 0; split < length && items[split] != '='; split++)
			;
		if (length && (split == length || !read_item(items, split, items + split + 1,
							      length - split - 1)) && !asked.unknown[0])
			copy(asked.unknown, sizeof(asked.unknown), items,
			     length < sizeof(asked.unknown) ? length :
							      sizeof(asked.unknown) - 1);
	}
}

/* The last part of the path of the file that this process runs. */
static void read_name(void)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
	ssize_t start = length;

	while (start > 0 && path[start - 1] != '/')
		start--;
	if (length <= 0 || !copy(asked.name, sizeof(asked.name), path + start, (size_t)(length - start)))
		copy(asked.name, sizeof(asked.name), "?", 1);
}

static bool same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static void read_all(void)
{
	static const char root[] = "/sys/fs/mshare";
	const char *items = getenv("MSHARE_RUN");
	struct stat status;

	asked.min = DEFAULT_MIN;
	asked.sysv = asked.posix = true;
	copy(asked.root, sizeof(asked.root), root, sizeof(root) - 1);
	asked.stderr_open = !syscall(SYS_fstat, 2, &status);
	if (asked.stderr_open) {
		asked.stderr_dev = status.st_dev;
		asked.stderr_ino = status.st_ino;
	}
	read_name();
	if (items)
		read_items(items);
	asked.active = !asked.only[0] || same(asked.only, asked.name);
}

const struct config *config(void)
{
	static const struct config idle;
	int unread = 0, kept;

	if (atomic_load_explicit(&state, memory_order_acquire) == 2)
		return &asked;
	if (!environ || !atomic_compare_exchange_strong(&state, &unread, 1))
		return &idle; /* libc has not begun, or this thread or another reads it now */
	kept = errno;
	read_all();
	errno = kept;
	atomic_store_explicit(&state, 2, memory_order_release);
	return &asked;
}
