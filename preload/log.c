// SPDX-License-Identifier: MIT
/*
 * One line per decision, to the log file or to stderr.
 *
 * A program may close descriptor 2 and open its data there.  The library writes
 * to it only while it is the file that it was at the start.
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void add(struct line *line, const char *text)
{
	while (*text && line->length < sizeof(line->text) - 2)
		line->text[line->length++] = *text++;
	line->text[line->length] = 0;
}

static void add_digits(struct line *line, unsigned long number, unsigned int base)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;

	digits[at] = 0;
	do {
		digits[--at] = "0123456789abcdef"[number % base];
		number /= base;
	} while (number);
	add(line, digits + at);
}

void add_number(struct line *line, unsigned long number)
{
	add_digits(line, number, 10);
}

void add_address(struct line *line, const void *addr)
{
	add(line, "0x");
	add_digits(line, (unsigned long)addr, 16);
}

/* In the largest unit that leaves a number of at least 1, with one decimal. */
void add_size(struct line *line, size_t bytes)
{
	static const char *const units[] = { " bytes", " KiB", " MiB", " GiB", " TiB" };
	size_t unit = 0, tenths = 0;

	while (bytes >= 1024 && unit < 4) {
		tenths = 10 * (bytes % 1024) / 1024;
		bytes /= 1024;
		unit++;
	}
	add_number(line, bytes);
	if (tenths) {
		add(line, ".");
		add_number(line, tenths);
	}
	add(line, units[unit]);
}

void add_error(struct line *line, int error)
{
	switch (error) {
	case EACCES: add(line, "EACCES, permission denied"); break;
	case EAGAIN: add(line, "EAGAIN, pages were in use"); break;
	case EBUSY: add(line, "EBUSY, no free 2 MiB of memory, or pages in use"); break;
	case EINVAL: add(line, "EINVAL, the kernel does not allow it here"); break;
	case ENODEV: add(line, "ENODEV"); break;
	case ENOENT: add(line, "ENOENT, no such directory"); break;
	case ENOMEM: add(line, "ENOMEM, no free 2 MiB of memory"); break;
	case ENOSPC: add(line, "ENOSPC, the file system is full"); break;
	case EPERM: add(line, "EPERM, not permitted"); break;
	case EROFS: add(line, "EROFS, mounted read-only"); break;
	default:
		add(line, "errno ");
		add_number(line, (unsigned long)error);
	}
}

static int open_log(const struct config *asked)
{
	struct stat status;

	if (asked->log[0])
		return kernel_open(asked->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
			    0640);
	if (!asked->stderr_open || syscall(SYS_fstat, 2, &status) || status.st_dev != asked->stderr_dev ||
	    status.st_ino != asked->stderr_ino)
		return -1;
	return 2;
}

/* The signal that a failed write has sent to this thread. */
static unsigned long sent_by(int error)
{
	switch (error) {
	case EPIPE: return 1UL << (SIGPIPE - 1);
	case EFBIG: return 1UL << (SIGXFSZ - 1);
	default: return 0;
	}
}

/* Without the signals that would end or stop the program: a pipe that nobody reads,
 * `ulimit -f`, a terminal that refuses what jobs in the background write. */
static void write_quietly(int fd, const struct line *line)
{
	const unsigned long bits = 1UL << (SIGPIPE - 1) | 1UL << (SIGXFSZ - 1) |
				   1UL << (SIGTTOU - 1);
	const struct timespec now = { .tv_sec = 0 };
	unsigned long before = 0, pending = 0, sent;
	ssize_t written;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &bits, &before, sizeof(before));
	syscall(SYS_rt_sigpending, &pending, sizeof(pending));
	do
		written = kernel_write(fd, line->text, line->length);
	while (written < 0 && errno == EINTR);
	sent = written < 0 ? sent_by(errno) : 0;
	if (sent && !(pending & sent)) /* take it back */
		syscall(SYS_rt_sigtimedwait, &sent, NULL, &now, sizeof(sent));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before));
}

static void write_line(int fd, const char *text, const char *more)
{
	const struct config *asked = config();
	struct line line = { .length = 0 };

	add(&line, "mshare: ");
	add(&line, asked->name);
	add(&line, "[");
	add_number(&line, (unsigned long)getpid());
	add(&line, "]: ");
	add(&line, text);
	add(&line, more);
	line.text[line.length++] = '\n';
	write_quietly(fd, &line);
}

void say(const struct line *line)
{
	static atomic_flag said_unknown = ATOMIC_FLAG_INIT;
	const struct config *asked = config();
	int error = errno, fd;

	if (asked->quiet)
		return;
	fd = open_log(asked);
	if (fd >= 0) {
		/* Only programs with something to take over say it, and once. */
		if (asked->unknown[0] && !atomic_flag_test_and_set(&said_unknown))
			write_line(fd, "this item of MSHARE_RUN is not valid and has no effect: ",
				   asked->unknown);
		write_line(fd, line->text, "");
		if (fd != 2)
			kernel_close(fd);
	}
	errno = error;
}
