// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * What each worker knows about its own pages.
 *
 * A worker has its share of the pages of one file ("shared", which all writers
 * attach) and two files of its own; a reader has "constant", which nobody may
 * write.  The pages used lie at the start of the file, around a border of
 * 2 MiB, and around a border of two units.
 */
#include "fuzz.h"

#define RUN(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, \
	n + 8, n + 9, n + 10, n + 11, n + 12, n + 13, n + 14, n + 15
const unsigned long slot_index[SLOTS] = { RUN(0), RUN(504), RUN(UNIT_PAGES - 8) };
const unsigned int word_at[WORDS] = { 0, 2040, 4088 };

struct region regions[REGIONS];
struct attachment attachments[ATTACHMENTS];

static unsigned long pages_of(const struct region *r)
{
	return (r->size + PAGE - 1) / PAGE;
}

static void aim(struct target *t, struct region *r, unsigned int slot)
{
	*t = (struct target){ .r = r, .slot = slot, .p = &r->page[slot], .index = slot_index[slot],
			      .pos = slot_index[slot] * PAGE };
}

bool pick_page(struct target *t)
{
	struct region *r = &regions[below(am_reader ? 1 : REGIONS)];

	aim(t, r, r->first + r->step * below((SLOTS - r->first + r->step - 1) / r->step));
	note("%s page %lu", r->name[0] ? r->name : "nameless", t->index);
	return true;
}

/* Where an attachment has a page, or NULL. */
static char *place(const struct attachment *a, unsigned long index)
{
	unsigned long first = a->offset * UNIT_PAGES;

	if (index < first || index >= first + a->units * UNIT_PAGES)
		return NULL;
	return a->addr + (index - first) * PAGE;
}

struct attachment *pick_attachment(void)
{
	unsigned int i, n = below(ATTACHMENTS);

	for (i = 0; i < ATTACHMENTS; i++) {
		struct attachment *a = &attachments[(n + i) % ATTACHMENTS];

		if (a->r)
			return a;
	}
	return NULL;
}

bool pick_mapped(struct target *t)
{
	struct attachment *a = pick_attachment();
	unsigned int tries;

	for (tries = 0; a && tries < 8; tries++) {
		struct region *r = a->r;

		aim(t, r, r->first + r->step * below((SLOTS - r->first + r->step - 1) / r->step));
		t->a = a;
		t->at = place(a, t->index);
		if (t->at) {
			note("%s page %lu at %p%s", r->name[0] ? r->name : "nameless", t->index, t->at,
			     a->writable ? "" : " (ro)");
			return true;
		}
	}
	return false;
}

int attached(const struct region *r)
{
	int i, n = 0;

	for (i = 0; i < ATTACHMENTS; i++)
		n += attachments[i].r == r;
	return n;
}

int predict(const struct target *t, bool store)
{
	if (store && !t->a->writable)
		return MAY_SEGV;
	if (t->index >= pages_of(t->r))
		return MAY_BUS;
	if (t->p->prot == MSHARE_PROT_NONE ||
	    (store && (t->p->prot != MSHARE_PROT_READWRITE || t->r->sealed)))
		return MAY_SEGV;
	/* A hole needs a page, which there may be none of; so do tables in a small cgroup. */
	return t->p->have == PRESENT && !my_limit ? MAY_OK : MAY_OK | MAY_BUS;
}

static void compare(const struct target *t, const void *buffer, size_t length, const char *how)
{
	unsigned int k;

	for (k = 0; k < WORDS; k++) {
		uint64_t word;

		if (word_at[k] + sizeof(word) > length)
			break;
		memcpy(&word, (const char *)buffer + word_at[k], sizeof(word));
		if (word != t->p->word[k])
			die("%s: page %lu of %s, byte %u is %#lx, should be %#lx", how, t->index,
			    t->r->name, word_at[k], word, t->p->word[k]);
	}
}

void settle_load(struct target *t, bool done, const void *buffer)
{
	int allowed = predict(t, false);

	if (!done) {
		if (!(allowed & (MAY_SEGV | MAY_BUS)))
			die("load of page %lu refused (errno %d), prot %d", t->index, errno, t->p->prot);
		if (t->p->have == ABSENT && t->index < pages_of(t->r))
			t->p->have = MAYBE;
		return;
	}
	if (!(allowed & MAY_OK))
		die("load of page %lu not refused, prot %d", t->index, t->p->prot);
	compare(t, buffer, PAGE, "load");
	t->p->have = PRESENT;
}

void settle_store(struct target *t, bool done, const uint64_t words[WORDS])
{
	int allowed = predict(t, true);

	if (!done) {
		if (!(allowed & (MAY_SEGV | MAY_BUS)))
			die("store to page %lu refused (errno %d), prot %d", t->index, errno, t->p->prot);
		if (t->p->have == ABSENT && t->index < pages_of(t->r))
			t->p->have = MAYBE;
		return;
	}
	if (!(allowed & MAY_OK))
		die("store to page %lu not refused: prot %d, sealed %d, writable %d", t->index, t->p->prot,
		    t->r->sealed, t->a->writable);
	memcpy(t->p->word, words, sizeof(t->p->word));
	t->p->have = PRESENT;
}

/* After a write of a whole page to the file by whatever system call. */
void settle_write(struct target *t, ssize_t done, const uint64_t words[WORDS])
{
	struct region *r = t->r;
	bool legal = r->writable && !r->sealed && t->p->prot == MSHARE_PROT_READWRITE;

	if (done == (ssize_t)PAGE) {
		if (!legal)
			die("write to page %lu not refused: prot %d, sealed %d", t->index, t->p->prot, r->sealed);
		memcpy(t->p->word, words, sizeof(t->p->word));
		t->p->have = PRESENT;
		if (t->pos + (off_t)PAGE > r->size)
			r->size = t->pos + PAGE;
		return;
	}
	if (done >= 0)
		die("write of a page wrote %zd bytes", done);
	if (!r->writable)
		MUST(errno == EBADF);
	else if (r->sealed)
		MUST(errno == EPERM);
	else if (!legal)
		MUST(errno == EACCES);
	else
		MUST((errno == ENOSPC || errno == ENOMEM || errno == EFAULT) &&
		     (errno == EFAULT || t->p->have != PRESENT));
	if (t->p->have == ABSENT && t->index < pages_of(r))
		t->p->have = MAYBE;
}

/* The bytes of [from, to) became zeroes; whole pages of it went.  Both are multiples of 8. */
void model_cut(struct region *r, off_t from, off_t to)
{
	unsigned int s, k;

	for (s = 0; s < SLOTS; s++) {
		off_t pos = slot_index[s] * PAGE;

		for (k = 0; k < WORDS; k++)
			if (pos + word_at[k] >= from && pos + word_at[k] + 8 <= to)
				r->page[s].word[k] = 0;
		if (pos >= from && pos + (off_t)PAGE <= to)
			r->page[s].have = ABSENT;
	}
}

/* May all pages that [from, to) touches be written? */
bool range_writable(const struct region *r, off_t from, off_t to)
{
	unsigned int s;

	for (s = 0; s < SLOTS; s++) {
		off_t pos = slot_index[s] * PAGE;

		if (pos + (off_t)PAGE > from && pos < to && r->page[s].prot != MSHARE_PROT_READWRITE)
			return false;
	}
	return true;
}

void verify(struct target *t)
{
	struct target other = *t;
	static char buffer[PAGE];
	uint64_t words[WORDS];
	off_t left = t->r->size - t->pos;
	ssize_t got;
	int i;

	got = pread(t->r->fd, buffer, PAGE, t->pos);
	if (left <= 0)
		MUST(got == 0);
	else if (t->p->prot == MSHARE_PROT_NONE)
		MUST(got == -1 && errno == EACCES);
	else if (got != (left < (off_t)PAGE ? left : (off_t)PAGE))
		die("pread of page %lu: %zd (errno %d), size %ld", t->index, got, errno, t->r->size);
	else
		compare(t, buffer, got, "pread");

	for (i = 0; i < ATTACHMENTS; i++) {
		enum touch touch;

		other.a = &attachments[i];
		other.at = other.a->r == t->r ? place(other.a, t->index) : NULL;
		if (!other.at)
			continue;
		touch = load_page(other.at, words);
		if (!(predict(&other, false) & 1 << touch))
			die("load of page %lu at %p: outcome %d, prot %d, size %ld", t->index, other.at, touch,
			    t->p->prot, t->r->size);
		put_words(buffer, words);
		if (touch == OK)
			settle_load(&other, true, buffer);
		else if (t->p->have == ABSENT && left > 0)
			t->p->have = MAYBE;
	}
}

/* All pages now and then, and one in eight otherwise, so that holes remain. */
void verify_all(void)
{
	bool all = chance(8);
	struct target t;
	unsigned int i, s;

	for (i = 0; i < (am_reader ? 1 : REGIONS); i++)
		for (s = regions[i].first; s < SLOTS; s += regions[i].step) {
			aim(&t, &regions[i], s);
			if (all || chance(8))
				verify(&t);
		}
}

/* Somebody else may have touched any page: a child, or the kernel. */
void blur(void)
{
	unsigned int i, s;

	for (i = 0; i < (am_reader ? 1 : REGIONS); i++)
		for (s = 0; s < SLOTS; s++)
			if (regions[i].page[s].have == ABSENT && (off_t)(slot_index[s] * PAGE) < regions[i].size)
				regions[i].page[s].have = MAYBE;
}

void check_info(struct region *r)
{
	int want = attached(r), present = 0, maybe = 0;
	double limit = seconds() + 60;
	struct mshare_info info;
	unsigned int s;

	for (s = 0; s < SLOTS; s++) {
		present += r->page[s].have == PRESENT;
		maybe += r->page[s].have == MAYBE;
	}
	/* Somebody who looks at a process that has ended keeps its attachments for a moment. */
	for (;;) {
		MUST(!ioctl(r->fd, MSHARE_IOC_INFO, &info));
		if (!r->exclusive || (info.attachments == (unsigned int)want &&
				      info.processes == (unsigned int)!!want))
			break;
		if (seconds() > limit)
			die("attachments %u, should be %d; processes %u", info.attachments, want, info.processes);
		sched_yield();
	}
	MUST(info.abi == MSHARE_ABI && info.unit_bytes == UNIT);
	MUST(info.size == (uint64_t)r->size);
	MUST(!(info.flags & MSHARE_INFO_MAP_ONLY));
	MUST(!!(info.flags & MSHARE_INFO_SEALED) == r->sealed);
	if (r->exclusive && (info.pages < (unsigned int)present ||
			     (!r->loose && info.pages > (unsigned int)(present + maybe))))
		die("%llu pages, should be %d to %d", info.pages, present, present + maybe);
}

/* A free address for an attachment: two windows belong to each. */
char *free_window(const struct attachment *a)
{
	char *first = (char *)0x300000000000 + (a - attachments) * 8 * UNIT;

	return a->r && a->addr >= first && a->addr < first + 4 * UNIT ? first + 4 * UNIT : first;
}

/* A private file, made in one of several ways. */
void make_region(struct region *r)
{
	char path[160], link[64];
	unsigned int s, how = below(3);
	struct mshare_info info;

	memset(r, 0, sizeof(*r));
	r->exclusive = r->writable = true;
	r->step = 1;
	if (how < 2) {
		snprintf(r->name, sizeof(r->name), "own.%u.%ld", my_index, (long)(r - regions));
		snprintf(path, sizeof(path), "%s/%s", root, r->name);
		unlink(path);
	}
	do {
		r->fd = how ? open(root, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) :
			      open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (r->fd < 0)	/* others hold all inodes at the moment */
			MUST(errno == ENOSPC || errno == ENOMEM);
	} while (r->fd < 0);
	if (how == 1) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", r->fd);
		MUST(!linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
	}
	for (s = 0; s < SLOTS; s++)
		r->page[s].prot = MSHARE_PROT_READWRITE;
	MUST(!ioctl(r->fd, MSHARE_IOC_INFO, &info));
	r->loose = info.flags & MSHARE_INFO_HUGE;
	r->size = (slot_index[SLOTS - 1] + 1) * PAGE;
	MUST(!ftruncate(r->fd, r->size));
}

void drop_region(struct region *r)
{
	char path[160];
	int i;

	for (i = 0; i < ATTACHMENTS; i++)
		if (attachments[i].r == r) {
			MUST(!munmap(attachments[i].addr, attachments[i].units * UNIT));
			attachments[i].r = NULL;
		}
	check_info(r);
	if (r->name[0]) {
		snprintf(path, sizeof(path), "%s/%s", root, r->name);
		MUST(!unlink(path));
	}
	close(r->fd);
}

/* Pages of "shared" that this worker left when it was killed: take them over. */
static void adopt(struct region *r)
{
	static char buffer[PAGE];
	struct mshare_protect request = { .length = PAGE, .prot = MSHARE_PROT_READWRITE };
	unsigned int s, k;

	for (s = 0; s < SLOTS; s++) {
		struct page *p = &r->page[s];

		p->prot = MSHARE_PROT_READWRITE;
		p->have = am_reader ? PRESENT : MAYBE;
		if ((s - r->first) % r->step)
			continue;
		request.offset = slot_index[s] * PAGE;
		if (!geteuid() && !am_reader)
			while (ioctl(r->fd, MSHARE_IOC_PROTECT, &request))
				MUST(errno == ENOMEM || errno == ENOSPC);
		MUST(pread(r->fd, buffer, PAGE, request.offset) == (ssize_t)PAGE);
		for (k = 0; k < WORDS; k++) {
			memcpy(&p->word[k], buffer + word_at[k], sizeof(p->word[k]));
			if (!am_reader && !is_ours(p->word[k], k, my_index))
				die("page %lu has %#lx of somebody else", slot_index[s], p->word[k]);
			if (am_reader)
				MUST(p->word[k] == slot_index[s] * 8 + k + 1);
		}
	}
}

void model_start(void)
{
	struct region *r = &regions[0];
	char path[160];
	int i;

	snprintf(r->name, sizeof(r->name), am_reader ? "constant" : "shared");
	snprintf(path, sizeof(path), "%s/%s", root, r->name);
	r->writable = !am_reader;
	r->fd = open(path, (am_reader ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	MUST(r->fd >= 0);
	r->size = (slot_index[SLOTS - 1] + 1) * PAGE;
	r->step = am_reader ? 1 : world->workers;
	r->first = am_reader ? 0 : my_index;
	adopt(r);
	for (i = 1; i < REGIONS && !am_reader; i++) {
		rng_start(world->seed, my_index, me->incarnation, ~0UL - i);
		make_region(&regions[i]);
	}
	rng_start(world->seed, my_index, me->incarnation, ~0UL);
	sweep();	/* what a mlockall() left that was killed */
}

void sweep(void)
{
	static const unsigned long gaps[][2] = { { 16, 504 }, { 520, UNIT_PAGES - 8 }, { UNIT_PAGES + 8, 4 * UNIT_PAGES } };
	unsigned int i, g;

	for (i = 0; i < REGIONS && !am_reader; i++)
		for (g = 0; g < 3 && !regions[i].sealed; g++)
			MUST(!fallocate(regions[i].fd, PUNCH, gaps[g][0] * PAGE,
					(gaps[g][1] - gaps[g][0]) * PAGE));
}
