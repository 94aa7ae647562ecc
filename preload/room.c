// SPDX-License-Identifier: MIT
/*
 * How much memory may be taken ahead: from /proc/meminfo and the control groups
 * of this process, version 1 and 2, with all groups above.
 *
 * A group that is nearly full ends processes when more is taken.  What is not
 * filled ahead is taken as the program touches it, with 4 KiB pages.
 */
#include "preload.h"

#include <fcntl.h>
#include <unistd.h>

#define LIMITLESS (SIZE_MAX / 4) /* version 1 writes no limit as a large number */

/* Lines of a file, one after the other, without a copy of the file. */
struct lines {
	int fd;
	char chunk[1024];
	ssize_t filled, at;
};

static bool open_lines(struct lines *lines, const char *path)
{
	lines->filled = lines->at = 0;
	lines->fd = kernel_open(path, O_RDONLY | O_CLOEXEC, 0);
	return lines->fd >= 0;
}

/* False: the end, and the file is closed.  The rest of a longer line is lost. */
static bool next_line(struct lines *lines, char *line, size_t size)
{
	size_t length = 0;
	bool any = false;

	for (;;) {
		if (lines->at == lines->filled) {
			lines->filled = kernel_read(lines->fd, lines->chunk, sizeof(lines->chunk));
			lines->at = 0;
			if (lines->filled <= 0) {
				lines->filled = 0;
				line[length] = 0;
				if (!any)
					kernel_close(lines->fd);
				return any;
			}
		}
		any = true;
		if (lines->chunk[lines->at] == '\n') {
			lines->at++;
			line[length] = 0;
			return true;
		}
		if (length < size - 1)
			line[length++] = lines->chunk[lines->at];
		lines->at++;
	}
}

static bool starts(const char *text, const char *word)
{
	while (*word)
		if (*text++ != *word++)
			return false;
	return true;
}

static const char *find(const char *text, const char *word)
{
	for (; *text; text++)
		if (starts(text, word))
			return text;
	return NULL;
}

/* The number in @text; LIMITLESS if there is none ("max"). */
static size_t number_in(const char *text)
{
	size_t number = 0;

	while (*text == ' ' || *text == '\t')
		text++;
	if (*text < '0' || *text > '9')
		return LIMITLESS;
	for (; *text >= '0' && *text <= '9' && number < LIMITLESS; text++)
		number = 10 * number + (size_t)(*text - '0');
	return number < LIMITLESS ? number : LIMITLESS;
}

ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = kernel_open(path, O_RDONLY | O_CLOEXEC, 0);
	ssize_t length;

	if (fd < 0)
		return -1;
	length = kernel_read(fd, text, size - 1);
	kernel_close(fd);
	text[length > 0 ? length : 0] = 0;
	return length;
}

/* The value of the line of @path that starts with @name; LIMITLESS: none. */
static size_t value_of(const char *path, const char *name)
{
	struct lines lines;
	char line[256];
	size_t value = LIMITLESS, length = 0;

	while (name[length])
		length++;
	if (!open_lines(&lines, path))
		return LIMITLESS;
	while (next_line(&lines, line, sizeof(line)))
		if (value == LIMITLESS && starts(line, name))
			value = number_in(line + length);
	return value;
}

static size_t file_number(const char *directory, const char *name)
{
	struct line path = { .length = 0 };
	char text[64];

	add(&path, directory);
	add(&path, name);
	return read_text(path.text, text, sizeof(text)) > 0 ? number_in(text) : LIMITLESS;
}

/* What one group may still take; its page cache that nobody uses counts as free. */
static size_t room_of(const char *group, bool second)
{
	size_t limit = file_number(group, second ? "/memory.max" : "/memory.limit_in_bytes");
	size_t high = second ? file_number(group, "/memory.high") : LIMITLESS;
	size_t used = file_number(group, second ? "/memory.current" : "/memory.usage_in_bytes");
	struct line path = { .length = 0 };
	size_t idle;

	if (high < limit) /* beyond it every page is slow */
		limit = high;
	if (limit == LIMITLESS || used == LIMITLESS)
		return LIMITLESS;
	add(&path, group);
	add(&path, "/memory.stat");
	idle = value_of(path.text, second ? "inactive_file " : "total_inactive_file ");
	if (idle != LIMITLESS)
		used = used > idle ? used - idle : 0;
	return limit > used ? limit - used : 0;
}

/* The smallest room of the group at @path and of all groups above. */
static size_t room_up(char *path, size_t mount_length, bool second)
{
	size_t room = LIMITLESS, here, end = 0;

	while (path[end])
		end++;
	for (;;) {
		here = room_of(path, second);
		if (here < room)
			room = here;
		while (end > mount_length && path[end - 1] != '/')
			end--;
		if (end <= mount_length)
			return room;
		path[--end] = 0;
	}
}

/* Copy the field @number (from 0) of a line of mountinfo. */
static bool field(const char *line, int number, char *to, size_t size)
{
	size_t length = 0;

	for (; number; number--) {
		while (*line && *line != ' ')
			line++;
		if (!*line++)
			return false;
	}
	while (*line && *line != ' ' && length < size - 1)
		to[length++] = *line++;
	to[length] = 0;
	return true;
}

/* Where the file system of this line of mountinfo shows the memory controller. */
static bool is_memory_mount(const char *line, bool second)
{
	const char *rest = find(line, " - ");

	if (!rest)
		return false;
	if (second)
		return starts(rest, " - cgroup2 ");
	return starts(rest, " - cgroup ") && (find(rest, ",memory") || find(rest, " memory"));
}

static size_t room_in(const char *group, bool second)
{
	struct lines lines;
	struct line path = { .length = 0 };
	char line[512], root[256], mounted[256];
	size_t at = 0, length = 0;

	if (!open_lines(&lines, "/proc/self/mountinfo"))
		return LIMITLESS;
	while (next_line(&lines, line, sizeof(line))) {
		if (path.length || !is_memory_mount(line, second) ||
		    !field(line, 3, root, sizeof(root)) || !field(line, 4, mounted, sizeof(mounted)))
			continue;
		if (root[1]) { /* a container sees a part of the tree */
			while (root[at] && root[at] == group[at])
				at++;
			if (root[at])
				at = 0;
		}
		add(&path, mounted);
		length = path.length;
		if (group[at] && group[at + 1])
			add(&path, group + at);
	}
	if (path.length > sizeof(path.text) - sizeof("/memory.usage_in_bytes") - 1)
		return 0; /* no room for the name of a file */
	return path.length ? room_up(path.text, length, second) : LIMITLESS;
}

/* The room that the control groups of this process leave. */
static size_t group_room(void)
{
	struct lines lines;
	char line[1024]; /* a path that is cut here is too long for room_in */
	size_t room = LIMITLESS, here;
	const char *group;
	bool second;

	if (!open_lines(&lines, "/proc/self/cgroup"))
		return LIMITLESS;
	while (next_line(&lines, line, sizeof(line))) {
		group = find(line, ":/");
		second = starts(line, "0::/");
		if (!group || !(second || find(line, ":memory") || find(line, ",memory")))
			continue;
		here = room_in(group + 1, second);
		if (here < room)
			room = here;
	}
	return room;
}

bool has_room(size_t bytes, struct line *why)
{
	size_t available = value_of("/proc/meminfo", "MemAvailable:");
	size_t all = value_of("/proc/meminfo", "MemTotal:");
	size_t room;

	if (available != LIMITLESS && all != LIMITLESS) {
		available = available > all / 64 ? (available - all / 64) << 10 : 0;
		if (available < bytes) {
			add(why, "the machine has ");
			add_size(why, available);
			add(why, " to give");
			return false;
		}
	}
	room = group_room();
	if (room < bytes) {
		add(why, "the control group has ");
		add_size(why, room);
		add(why, " to give");
		return false;
	}
	return true;
}

bool huge_on_touch(char setting[32])
{
	static const char *const paths[] = {
		/* Linux 6.11 and later; "inherit" means the other file. */
		"/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled",
		"/sys/kernel/mm/transparent_hugepage/shmem_enabled",
	};
	char text[128];
	size_t at, from, length;

	for (at = 0; at < 2; at++) {
		if (read_text(paths[at], text, sizeof(text)) <= 0)
			continue;
		for (from = 0; text[from] && text[from] != '['; from++)
			;
		for (length = 0; length < 31 && text[from] && text[from + 1 + length] &&
				 text[from + 1 + length] != ']'; length++)
			setting[length] = text[from + 1 + length];
		setting[length] = 0;
		if (!starts(setting, "inherit"))
			return starts(setting, "always") || starts(setting, "within_size") ||
			       starts(setting, "advise") || starts(setting, "force");
	}
	setting[0] = 0;
	return false;
}
