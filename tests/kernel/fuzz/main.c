// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * fuzz: random system calls on msharefs by many processes.
 *
 *   fuzz --dir MOUNT [--scratch DIR] [--seed N] [--seconds N] [--workers N]
 *        [--cgroup DIR] [--tight DIR] [--skip OPERATION,...] [--replay WORKER.INCARNATION [--ops N]]
 *
 * Workers run the operations of ops.h.  Some are root, some are not, some have
 * read-only descriptors only, some are in a small memory cgroup, and all may be
 * killed at any moment; a worker that was killed is started again.  The
 * arguments of an operation depend on seed, worker, incarnation (how often it
 * was started) and number only.  What a worker owns it compares with a model
 * (model.c); elsewhere only invariants hold (wild.c).
 *
 * Every operation is written to the kernel's trace buffer before it runs, which
 * a kernel with ftrace_dump_on_oops prints when it panics.  On any other failure
 * the last operations of each worker are printed.
 */
#include "fuzz.h"
#include <dirent.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>

static struct op {
	const char *name;
	unsigned int weight;
	enum who who;
	int (*run)(void);
} ops[OPS] = {
#define OP(name, weight, who) { #name, weight, who, op_##name },
#include "ops.h"
#undef OP
};

struct world *world;
struct worker *me;
const char *root, *scratch, *tight;
unsigned int my_index;
bool my_limit, my_alarms, am_reader, poisoning;
int scratch_fd;

static const char *cgroup;
static int trace = -1, running = -1;
static unsigned int versions, incarnation;
static pid_t parent;	/* of a child of a worker */

/* ---- random numbers ---- */

static uint64_t state;

uint64_t rng(void)	/* splitmix64 */
{
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void rng_start(uint64_t seed, uint64_t worker, uint64_t incarnation, uint64_t number)
{
	state = seed;
	state = rng() ^ worker;
	state = rng() ^ incarnation;
	state = rng() ^ number;
}

unsigned int below(unsigned int n)
{
	return rng() % n;
}

bool chance(unsigned int one_in)
{
	return !below(one_in);
}

/* ---- reports ---- */

static struct note *current_note(void)
{
	return &me->ring[me->number % RING];
}

void note(const char *format, ...)
{
	struct note *n = current_note();
	size_t used = strlen(n->text);
	char line[160];
	va_list args;

	if (used < sizeof(n->text) - 1)
		n->text[used++] = ' ';
	va_start(args, format);
	vsnprintf(n->text + used, sizeof(n->text) - used, format, args);
	va_end(args);
	if (trace >= 0)
		(void)!write(trace, line, snprintf(line, sizeof(line), "fuzz %u.%u #%lu %s\n", my_index,
						   me->incarnation, me->number, n->text));
}

static void print_ring(unsigned int index, unsigned int most)
{
	const struct worker *w = &world->worker[index];
	unsigned long n = w->number < most ? 0 : w->number - most + 1;

	for (; n <= w->number; n++)
		if (w->ring[n % RING].number == n)
			printf("  %u.%u #%lu %s\n", index, w->incarnation, n, w->ring[n % RING].text);
}

void die(const char *format, ...)
{
	va_list args;

	/* The worker was killed: its pages are another's by now, and the signal for this child is on its way. */
	if (parent && (getppid() != parent || me->incarnation != incarnation))
		_exit(0);
	printf("FAIL worker %u.%u (uid %d%s%s) operation %lu: ", my_index, me->incarnation, geteuid(),
	       my_limit ? ", limited" : "", am_reader ? ", reader" : "", me->number);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	print_ring(my_index, 20);
	printf("again: --seed %lu --workers %d --replay %u.%u --ops %lu\n", world->seed, world->workers, my_index,
	       me->incarnation, me->number + 1);
	fflush(stdout);
	_exit(3);
}

bool settle(const char *call, long result, bool may_succeed, const int *errnos)
{
	if (result != -1) {
		if (!may_succeed)
			die("%s = %ld, should have failed", call, result);
		return true;
	}
	if (running >= 0)
		__atomic_fetch_add(&world->errors[running][errno < ERRNOS ? errno : 0], 1, __ATOMIC_RELAXED);
	for (; *errnos; errnos++)
		if (*errnos == errno)
			return false;
	die("%s: unexpected errno %d (%s)", call, errno, strerror(errno));
}

/* ---- memory accesses ---- */

static __thread sigjmp_buf escape;
static __thread volatile bool guarded;

static void on_fault(int sig, siginfo_t *info, void *unused)
{
	if (sig == SIGBUS && poisoning)
		return;		/* the kernel tells of a page in a folio that it could not split */
	if (!guarded)
		die("signal %d at %p outside a guarded access", sig, info->si_addr);
	siglongjmp(escape, sig);
}

static void on_alarm(int sig)
{
}

void catch_faults(void)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_NODEFER | SA_SIGINFO };

	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
	act = (struct sigaction){ .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &act, NULL);
}

static enum touch touch(volatile char *page, uint64_t *words, bool store)
{
	volatile unsigned int k;
	int sig = sigsetjmp(escape, 0);

	if (sig) {
		guarded = false;
		return sig == SIGBUS ? BUS : SEGV;
	}
	guarded = true;
	for (k = 0; k < WORDS; k++) {
		volatile uint64_t *at = (volatile uint64_t *)(page + word_at[k]);

		if (store)
			*at = words[k];
		else
			words[k] = *at;
	}
	guarded = false;
	return OK;
}

enum touch load_page(const void *page, uint64_t words[WORDS])
{
	return touch((char *)page, words, false);
}

enum touch store_page(void *page, const uint64_t words[WORDS])
{
	return touch(page, (uint64_t *)words, true);
}

void put_words(void *buffer, const uint64_t words[WORDS])
{
	unsigned int k;

	for (k = 0; k < WORDS; k++)
		memcpy((char *)buffer + word_at[k], &words[k], sizeof(words[k]));
}

void fresh(uint64_t words[WORDS])
{
	unsigned int k;

	versions++;
	for (k = 0; k < WORDS; k++)
		words[k] = 0xf5UL << 56 | (uint64_t)my_index << 48 | (uint64_t)(me->incarnation & 0xffff) << 32 |
			   (uint32_t)(versions << 2) | k;
}

bool is_ours(uint64_t word, unsigned int position, int worker)
{
	unsigned int top = word >> 56, by = word >> 48 & 0xff, low = word & 3;

	if (!word)
		return true;
	if (worker >= 0)
		return top == 0xf5 && by == (unsigned int)worker && low == position;
	/* A copy by the kernel may see half of a store by somebody else, over zeroes. */
	return (top == 0xf5 || !top) && by < (unsigned int)world->workers && (low == position || !low);
}

/* ---- children ---- */

pid_t child(void)
{
	pid_t self = getpid(), pid = fork();

	MUST(pid >= 0 || (my_limit && errno == ENOMEM));
	if (!pid) {
		parent = self;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
	}
	return pid;
}

void reap(pid_t pid, bool may_be_killed)
{
	int status = 0;

	if (pid < 0)
		return;
	while (waitpid(pid, &status, 0) < 0)
		MUST(errno == EINTR);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && (may_be_killed || my_limit))
		return;
	if (status)
		die("child ended with status %#x", status);
}

/* ---- a worker ---- */

static void settings(unsigned int index)
{
	char path[160];
	int fd;

	my_index = index;
	me = &world->worker[index];
	incarnation = me->incarnation;
	am_reader = index % 4 == 3;
	my_limit = cgroup && (index % 8 == 2 || index % 8 == 5 || index % 8 == 7);
	if (my_limit) {
		snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
		fd = open(path, O_WRONLY);
		MUST(fd >= 0 && write(fd, "0", 1) == 1);
		close(fd);
	}
	snprintf(path, sizeof(path), "%s/direct.%u", scratch, index);
	scratch_fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0666);
	if (scratch_fd < 0)
		scratch_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	MUST(scratch_fd >= 0 && !ftruncate(scratch_fd, 2 * PAGE));
	if (index % 2) {
		MUST(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534));
		prctl(PR_SET_DUMPABLE, 1);
	}
	umask(0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	my_alarms = index >= 4;
	if (my_alarms) {	/* signals come at any time */
		struct itimerval timer = { { 0, 7000 }, { 0, 7000 } };

		setitimer(ITIMER_REAL, &timer, NULL);
	}
}

static void work(unsigned int index, unsigned long most)
{
	unsigned int total = 0, i;
	unsigned long n;

	catch_faults();
	settings(index);
	me->number = 0;
	*current_note() = (struct note){ 0, "start" };
	model_start();
	for (i = 0; i < OPS; i++)
		total += ops[i].who == WRITER && am_reader ? 0 : ops[i].weight;
	for (n = 1; n < most && !world->stop; n++) {
		unsigned int dice;
		int done;

		rng_start(world->seed, index, me->incarnation, n);
		dice = below(total);
		for (i = 0;; i++) {
			if (ops[i].who == WRITER && am_reader)
				continue;
			if (dice < ops[i].weight)
				break;
			dice -= ops[i].weight;
		}
		me->ring[n % RING].number = n;
		snprintf(me->ring[n % RING].text, sizeof(me->ring[0].text), "%s", ops[i].name);
		me->number = n;
		running = i;
		__atomic_fetch_add(&world->called[i], 1, __ATOMIC_RELAXED);
		note("%s", "");
		done = ops[i].run();
		__atomic_fetch_add(&world->succeeded[i], !!done, __ATOMIC_RELAXED);
	}
	verify_all();
	for (i = 1; i < REGIONS && !am_reader; i++)
		drop_region(&regions[i]);
	_exit(0);
}

/* ---- the parent ---- */

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

static void start(unsigned int index, unsigned int incarnation, unsigned long most)
{
	struct worker *w = &world->worker[index];
	pid_t pid;

	w->incarnation = incarnation;
	fflush(stdout);
	pid = fork();
	MUST(pid >= 0);
	if (!pid)
		work(index, most);
	w->pid = pid;
}

/* Complaints that do not end the machine. */
static bool kernel_complains(int kmsg)
{
	static const char *const words[] = { "BUG:", "WARNING:", "Oops", "Bad page", "bad pmd", "bad pud", "Bad rss",
		"non-zero pgtables", "mshare: " };
	bool bad = false;
	char line[8192];
	ssize_t got;
	size_t i;

	while (kmsg >= 0 && ((got = read(kmsg, line, sizeof(line) - 1)) > 0 || (got < 0 && errno == EPIPE))) {
		if (got < 0)
			continue;
		line[got] = 0;
		for (i = 0; i < sizeof(words) / sizeof(*words); i++)
			if (strstr(line, words[i])) {
				printf("FAIL the kernel says: %s", line);
				bad = true;
				break;
			}
	}
	return bad;
}

static void stop_all(void)
{
	int i;

	world->stop = 1;
	for (i = 0; i < world->workers; i++)
		if (world->worker[i].pid > 0)
			kill(world->worker[i].pid, SIGKILL);
}

/* Where every process of ours waits, for a worker that does not go on. */
static void print_stacks(void)
{
	char path[64], text[4096];
	ssize_t got;
	int i, fd;

	for (i = 0; i < world->workers; i++) {
		snprintf(path, sizeof(path), "/proc/%d/stack", world->worker[i].pid);
		fd = open(path, O_RDONLY);
		got = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
		text[got > 0 ? got : 0] = 0;
		printf("worker %d at operation %lu:\n%s", i, world->worker[i].number, text);
		close(fd);
	}
}

static void fill_constant(void)
{
	uint64_t words[WORDS];
	char path[160], page[PAGE] = { 0 };
	unsigned int s, k;
	int fd;

	snprintf(path, sizeof(path), "%s/constant", root);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
	MUST(fd >= 0);
	for (s = 0; s < SLOTS; s++) {
		for (k = 0; k < WORDS; k++)
			words[k] = slot_index[s] * 8 + k + 1;
		put_words(page, words);
		MUST(pwrite(fd, page, PAGE, slot_index[s] * PAGE) == (ssize_t)PAGE);
	}
	close(fd);
	snprintf(path, sizeof(path), "%s/shared", root);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0666);
	MUST(fd >= 0 && !fchmod(fd, 0666) && !ftruncate(fd, (slot_index[SLOTS - 1] + 1) * PAGE));
	close(fd);
}

/* Nobody is attached any more, and every page and inode comes back. */
static int nothing_left(const struct statvfs *before)
{
	double limit = seconds() + 60;
	struct mshare_info info;
	struct statvfs after;
	struct dirent *entry;
	char path[512];
	DIR *dir = opendir(root);
	int fd, bad = 0;

	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !strcmp(entry->d_name, "mshare_info"))
			continue;
		snprintf(path, sizeof(path), "%s/%s", root, entry->d_name);
		fd = open(path, O_RDWR);
		MUST(fd >= 0);
		do {
			MUST(!ioctl(fd, MSHARE_IOC_INFO, &info));
			sched_yield();
		} while ((info.attachments || info.processes) && seconds() < limit);
		if (info.attachments || info.processes) {
			printf("FAIL %s has %u attachments in %u processes, and nobody lives\n", path,
			       info.attachments, info.processes);
			bad = 1;
		}
		close(fd);
		MUST(!unlink(path));
		rewinddir(dir);
	}
	closedir(dir);
	do {
		MUST(!statvfs(root, &after));
		sched_yield();
	} while ((after.f_bfree != before->f_bfree || after.f_ffree != before->f_ffree) && seconds() < limit);
	if (after.f_bfree != before->f_bfree || after.f_ffree != before->f_ffree) {
		printf("FAIL lost: %ld pages, %ld inodes\n", (long)(before->f_bfree - after.f_bfree),
		       (long)(before->f_ffree - after.f_ffree));
		bad = 1;
	}
	return bad;
}

static void print_counts(double took)
{
	unsigned long total = 0;
	int i, e;

	for (i = 0; i < OPS; i++) {
		total += world->called[i];
		printf("%-20s %8lu %8lu ", ops[i].name, world->called[i], world->succeeded[i]);
		for (e = 0; e < ERRNOS; e++)
			if (world->errors[i][e])
				printf(" %s:%lu", strerrorname_np(e), world->errors[i][e]);
		printf("\n");
	}
	printf("operations=%lu per_second=%.0f\n", total, total / took);
}

/* Leave out operations, for a kernel that is known to fail there. */
static void skip(const char *names)
{
	char list[256], *name;
	int i;

	snprintf(list, sizeof(list), "%s", names);
	for (name = strtok(list, ","); name; name = strtok(NULL, ","))
		for (i = 0; i < OPS; i++)
			if (!strcmp(ops[i].name, name))
				ops[i].weight = 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dir", 1, NULL, 'd' }, { "scratch", 1, NULL, 'f' }, { "seed", 1, NULL, 's' },
		{ "seconds", 1, NULL, 't' }, { "workers", 1, NULL, 'w' }, { "cgroup", 1, NULL, 'c' },
		{ "replay", 1, NULL, 'r' }, { "ops", 1, NULL, 'o' }, { "tight", 1, NULL, 'm' },
		{ "skip", 1, NULL, 'k' }, { NULL, 0, NULL, 0 } };
	unsigned int duration = 10, only = 0, first = 0, kills = 0, ooms = 0;
	unsigned long most = ~0UL, seen[MAX_WORKERS] = { 0 };
	double begin, moved[MAX_WORKERS];
	bool replay = false, killed[MAX_WORKERS] = { false };
	int c, i, kmsg, status, bad = 0;
	struct statvfs before;
	uint64_t random;
	pid_t pid;

	world = mmap(NULL, sizeof(*world), RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(world != MAP_FAILED);
	me = &world->worker[MAX_WORKERS - 1];	/* for a die() of the parent's */
	world->workers = 8;
	world->seed = 1;
	scratch = "/tmp";
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'd': root = optarg; break;
		case 'f': scratch = optarg; break;
		case 's': world->seed = strtoul(optarg, NULL, 0); break;
		case 't': duration = atoi(optarg); break;
		case 'w': world->workers = atoi(optarg); break;
		case 'c': cgroup = optarg; break;
		case 'm': tight = optarg; break;
		case 'k': skip(optarg); break;
		case 'r': replay = sscanf(optarg, "%u.%u", &only, &first) == 2; break;
		case 'o': most = strtoul(optarg, NULL, 0); break;
		default: return 2;
		}
	if (!root || world->workers < 1 || world->workers >= MAX_WORKERS)
		return 2;
	printf("seed=%lu workers=%d seconds=%u\n", world->seed, world->workers, duration);
	fflush(stdout);
	MUST(!statvfs(root, &before));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	trace = open("/sys/kernel/tracing/trace_marker", O_WRONLY | O_CLOEXEC);
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
	fill_constant();
	random = world->seed;
	begin = seconds();
	for (i = 0; i < world->workers; i++) {
		moved[i] = begin;
		if (!replay || i == (int)only)
			start(i, first, most);
	}
	while (!bad && seconds() - begin < duration) {
		struct pollfd wait = { kmsg, POLLIN, 0 };

		poll(&wait, 1, 10);
		bad |= kernel_complains(kmsg);
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			for (i = 0; i < world->workers && world->worker[i].pid != pid; i++)
				;
			if (i == world->workers)
				continue;	/* a child of a worker that was killed */
			if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && (killed[i] || cgroup)) {
				ooms += !killed[i];
				killed[i] = false;
				start(i, world->worker[i].incarnation + 1, most);
				continue;
			}
			world->worker[i].pid = 0;
			if (replay && !status)
				duration = 0;
			if (status)
				printf("worker %d.%u ended with status %#x\n", i, world->worker[i].incarnation, status);
			bad |= !!status;
		}
		for (i = 0; i < world->workers; i++) {
			if (world->worker[i].number != seen[i] || !world->worker[i].pid) {
				seen[i] = world->worker[i].number;
				moved[i] = seconds();
			} else if (seconds() - moved[i] > 90) {
				printf("FAIL worker %d does not go on\n", i);
				print_stacks();
				bad = 1;
			}
		}
		/* About two a second, at a moment that the workers do not know. */
		state = random + seconds() * 1e9;
		i = below(world->workers * 50);
		if (!replay && !bad && i < world->workers && world->worker[i].pid > 0) {
			killed[i] = true;
			kills++;
			kill(world->worker[i].pid, SIGKILL);
		}
	}
	if (bad) {
		stop_all();
		for (i = 0; i < world->workers; i++)
			print_ring(i, 20);
		printf("seed=%lu\n", world->seed);
		fflush(stdout);
		return 1;
	}
	world->stop = 1;
	for (;;) {
		pid = waitpid(-1, &status, WNOHANG);
		if (pid < 0 && errno == ECHILD)
			break;
		if (pid <= 0) {
			poll(NULL, 0, 10);
			if (seconds() - begin > duration + 240) {
				printf("FAIL some worker does not end\n");
				print_stacks();
				stop_all();
				return 1;
			}
			continue;
		}
		for (i = 0; i < world->workers && world->worker[i].pid != pid; i++)
			;
		if (status && i < world->workers &&
		    !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && (killed[i] || cgroup))) {
			printf("worker %d ended with status %#x\n", i, status);
			bad = 1;
		}
	}
	bad |= kernel_complains(kmsg);
	bad |= nothing_left(&before);
	print_counts(seconds() - begin);
	printf("kills=%u oom_kills=%u poisoned=%d\n", kills, ooms, world->poisoned);
	return bad;
}
