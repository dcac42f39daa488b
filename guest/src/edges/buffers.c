// SPDX-License-Identifier: GPL-2.0-or-later
/* Buffers that cannot be, and buffers with an unusual life. */
#define _GNU_SOURCE
#include "edges.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WIDTH = 384, HEIGHT = 288 };

/* ---- refused: memory that the device must not get ---- */

static void whole_gone(uint8_t *m, size_t size) { munmap(m, size); }
static size_t half(size_t size) { return size / PAGE / 2 * PAGE; }
static void end_gone(uint8_t *m, size_t size) { munmap(m + half(size), size - half(size)); }
static void begin_gone(uint8_t *m, size_t size) { (void)size; munmap(m, PAGE); }
static void last_gone(uint8_t *m, size_t size) { munmap(m + size - PAGE, PAGE); }
static void no_right(uint8_t *m, size_t size) { mprotect(m, size, PROT_NONE); }
static void middle_without(uint8_t *m, size_t size) { mprotect(m + half(size), PAGE, PROT_NONE); }
static void read_only(uint8_t *m, size_t size) { mprotect(m, size, PROT_READ); }
static void last_read_only(uint8_t *m, size_t size) { mprotect(m + size - PAGE, PAGE, PROT_READ); }

static const struct {
	const char *name;
	void (*spoil)(uint8_t *m, size_t size);
	int must_fail; /* FOLL_FORCE, until Linux 6.2, overrules rights */
} bad[] = {
	{ "unmapped", whole_gone, 1 },	       { "half unmapped", end_gone, 1 },
	{ "without its first page", begin_gone, 1 }, { "without its last page", last_gone, 1 },
	{ "PROT_NONE", no_right, 0 },	       { "with a page of PROT_NONE", middle_without, 0 },
	{ "read-only", read_only, 0 },	       { "with a read-only end", last_read_only, 0 },
};

static int queue_bad(struct device *d, unsigned i, size_t shift)
{
	size_t size = (d->size + shift + PAGE - 1) / PAGE * PAGE;
	uint8_t *m = memory_of(size);
	int error;

	bad[i].spoil(m, size);
	error = queue(d, 0, m + shift, d->size);
	munmap(m, size);
	return error;
}

static void capture_two(struct device *d, const char *when)
{
	uint8_t *m = memory_of(d->size * 2);
	int got;

	for (unsigned i = 0; i < 2; i++)
		answer(queue(d, i, m + i * d->size, d->size), "QBUF %u %s", i, when);
	answer(stream(d, 1), "STREAMON %s", when);
	for (int i = 0; i < 2; i++) {
		got = dequeue(d);
		if (got < 0)
			wrong("DQBUF %s: %s", when, strerror(-got));
		else if (m[(unsigned)got * d->size] == 0xa5 && !memcmp(m + (unsigned)got * d->size, "\xa5\xa5\xa5", 3))
			wrong("nothing came into the buffer %s", when);
	}
	answer(stream(d, 0), "STREAMOFF %s", when);
	munmap(m, d->size * 2);
}

void refused(void)
{
	static const size_t shifts[] = { 0, 52 };
	long long before = pins();
	struct device d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_USERPTR);
	uint8_t *good = memory_of(d.size);

	answer(request(&d, 2), "REQBUFS");
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		for (int s = 0; s < 2; s++) {
			int error = queue_bad(&d, i, shifts[s]);

			answer(error, "QBUF of memory %s, %zu behind a page", bad[i].name, shifts[s]);
			if (!error && bad[i].must_fail)
				wrong("memory %s was taken for a buffer", bad[i].name);
			if (!error) { /* only close makes the driver let go of what never streamed */
				close(d.fd);
				d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_USERPTR);
				request(&d, 2);
			}
			expect_pins(before, error ? "memory was refused" : "close of a device with a buffer queued");
		}
	answer(queue(&d, 0, good, d.size - PAGE), "QBUF, a page too short");
	answer(queue(&d, 0, good, 0), "QBUF of no length");
	answer(queue(&d, 7, good, d.size), "QBUF of a buffer that is not there");
	expect_pins(before, "lengths were refused");
	capture_two(&d, "after all that was refused");
	answer(request(&d, 0), "REQBUFS of none");
	expect_pins(before, "REQBUFS of none");
	close(d.fd);
	expect_pins(before, "close");
}

/* ---- lives: of the driver's own buffers ---- */

static void expect_zeros(const uint8_t *m, size_t size, const char *what)
{
	for (size_t i = 0; i < size; i++)
		if (m[i]) {
			wrong("%s holds old content at byte %zu", what, i);
			return;
		}
}

static void mappings(struct device *d)
{
	uint8_t *one, *again;
	void *place;

	answer(request(d, 3), "REQBUFS of own buffers");
	one = map(d, 0);
	if (!one) {
		wrong("a buffer cannot be mapped: %s", strerror(errno));
		return;
	}
	expect_zeros(one, d->size, "a fresh buffer");
	memset(one, 0x5a, d->size);
	again = map(d, 0);
	answer(again != NULL, "a second mapping of a buffer");
	if (again) /* videobuf gives each its own pages */
		answer(again[PAGE], "what is in it");
	answer(-request(d, 0), "REQBUFS of none while buffers are mapped");
	place = mmap(NULL, d->size, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0x7ff000);
	answer(place == MAP_FAILED ? errno : 0, "a mapping of no buffer");
	place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
	answer(place == MAP_FAILED ? errno : 0, "a mapping of one page");
	if (place != MAP_FAILED)
		munmap(place, PAGE);
	place = mmap(NULL, d->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, d->fd, 0);
	answer(place == MAP_FAILED ? errno : 0, "a private mapping");
	place = mremap(one, d->size, d->size + 16 * PAGE, MREMAP_MAYMOVE);
	answer(place == MAP_FAILED ? errno : 0, "a mapping that shall grow");
	if (place != MAP_FAILED)
		one = place;
	munmap(one, d->size);
	if (again)
		munmap(again, d->size);
	answer(-request(d, 0), "REQBUFS of none");
}

static void forked(struct device *d)
{
	uint8_t *m[2];
	pid_t child;

	answer(request(d, 2), "REQBUFS before fork");
	for (unsigned i = 0; i < 2; i++) {
		m[i] = map(d, i);
		if (!m[i]) {
			wrong("buffer %u cannot be mapped", i);
			return;
		}
		expect_zeros(m[i], d->size, "a fresh buffer before fork");
		answer(queue(d, i, NULL, 0), "QBUF of own buffer %u", i);
	}
	answer(stream(d, 1), "STREAMON with own buffers");
	child = fork();
	if (!child) {
		*(volatile uint8_t *)m[1] = *(volatile uint8_t *)m[1];
		_exit(0);
	}
	waitpid(child, NULL, 0);
	for (int i = 0; i < 3; i++) {
		int got = dequeue(d);

		if (got < 0 || got > 1) {
			wrong("DQBUF after fork gives %d", got);
			return;
		}
		if (!m[got][0] && !m[got][1] && !m[got][2])
			wrong("nothing came into buffer %d", got);
		answer(queue(d, (unsigned)got, NULL, 0), "QBUF again");
	}
	answer(stream(d, 0), "STREAMOFF with buffers queued");
	for (unsigned i = 0; i < 2; i++) {
		struct v4l2_buffer b = { .type = (unsigned)d->type, .memory = d->memory, .index = i };

		answer(call(d->fd, VIDIOC_QUERYBUF, &b), "QUERYBUF %u", i);
		answer(b.flags & (V4L2_BUF_FLAG_QUEUED | V4L2_BUF_FLAG_DONE | V4L2_BUF_FLAG_MAPPED), "its flags");
	}
	munmap(m[0], d->size);
	answer(-request(d, 0), "REQBUFS of none while one is mapped");
	munmap(m[1], d->size);
	answer(-request(d, 0), "REQBUFS of none in the end");
}

/* Closed in the middle of a frame; the mapping stays. */
static void closed(struct device *d)
{
	uint8_t *m;

	answer(request(d, 2), "REQBUFS before close");
	m = map(d, 0);
	answer(queue(d, 0, NULL, 0), "QBUF before close");
	answer(queue(d, 1, NULL, 0), "QBUF of a buffer that nobody mapped");
	answer(stream(d, 1), "STREAMON before close");
	answer(dequeue(d) >= 0, "DQBUF before close");
	close(d->fd);
	if (m) {
		*(volatile uint8_t *)(m + d->size - 1) = 1;
		munmap(m, d->size);
	}
}

void lives(void)
{
	long long before = pins();
	struct device d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_MMAP);
	char some[64];

	mappings(&d);
	forked(&d);
	close(d.fd);
	d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_MMAP);
	closed(&d);
	d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_MMAP);
	answer(read(d.fd, some, sizeof(some)), "read() of a few bytes");
	answer(-request(&d, 2), "REQBUFS while somebody reads");
	close(d.fd);
	d = open_video(WIDTH, HEIGHT, V4L2_MEMORY_USERPTR);
	answer(request(&d, 2), "REQBUFS of user buffers");
	capture_two(&d, "with user buffers");
	close(d.fd);
	expect_pins(before, "close");
}
