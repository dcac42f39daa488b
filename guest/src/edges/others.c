// SPDX-License-Identifier: GPL-2.0-or-later
/* Teletext lines of all kinds, and memory that does not come back. */
#define _GNU_SOURCE
#include "edges.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- lines: of teletext, where and how many ---- */

static const struct {
	int start[2];
	unsigned count[2];
} wanted[] = {
	{ { 7, 320 }, { 16, 16 } },  { { 10, 323 }, { 8, 8 } },	 { { 12, 320 }, { 4, 16 } }, { { 7, 330 }, { 10, 5 } },
	{ { 18, 331 }, { 12, 12 } }, /* the last ones are the picture's first ones otherwise */
	{ { 7, 320 }, { 6, 0 } },    { { 7, 320 }, { 0, 6 } },	 { { 0, 0 }, { 0, 0 } },     { { -5, 2 }, { 40, 400 } },
	{ { 400, 900 }, { 3, 3 } },  { { 22, 335 }, { 1, 1 } },
};

static void tell_format(const struct v4l2_format *f, const char *what, unsigned which)
{
	const struct v4l2_vbi_format *v = &f->fmt.vbi;

	for (int i = 0; i < 2; i++) {
		answer(v->start[i], "%s %u: start[%d]", what, which, i);
		answer(v->count[i], "%s %u: count[%d]", what, which, i);
	}
	answer(v->sampling_rate, "%s %u: sampling_rate", what, which);
	answer(v->samples_per_line, "%s %u: samples_per_line", what, which);
	answer(v->sample_format, "%s %u: sample_format", what, which);
	answer(v->offset, "%s %u: offset", what, which);
	answer(v->flags, "%s %u: flags", what, which);
	answer(v->reserved[0] | v->reserved[1], "%s %u: reserved", what, which);
}

/* Which lines of a buffer have come, as bits; what is written of each is compared, too. */
static void tell_lines(const uint8_t *m, size_t size, unsigned which)
{
	unsigned long long came = 0, whole = 0;
	unsigned places = 0;

	for (size_t line = 0; line < size / 2048 && line < 63; line++) {
		int begins = m[line * 2048] || m[line * 2048 + 1], ends = 0;

		for (int i = 2028; i < 2044; i++)
			ends |= m[line * 2048 + (size_t)i];
		/* The card says which line of which field it is. */
		places = places * 31 + (m[line * 2048 + 4] | m[line * 2048 + 5] << 8 | m[line * 2048 + 6] << 16);
		came |= (unsigned long long)begins << line;
		whole |= (unsigned long long)(begins && ends) << line;
		if (m[line * 2048 + 2044] | m[line * 2048 + 2047])
			wrong("bytes behind line %zu were written", line);
	}
	answer((long long)came, "format %u: lines that came", which);
	answer(places, "format %u: which lines", which);
	answer((long long)whole, "format %u: lines that are whole", which);
}

static void capture_lines(struct device *d, const struct v4l2_format *f, unsigned which)
{
	uint8_t *m[2];
	int got = -1;

	d->size = (size_t)(f->fmt.vbi.count[0] + f->fmt.vbi.count[1]) * 2048;
	answer(request(d, 2), "format %u: REQBUFS", which);
	for (unsigned i = 0; i < 2; i++) {
		m[i] = map(d, i);
		answer(m[i] != NULL, "format %u: mapping", which);
		answer(queue(d, i, NULL, 0), "format %u: QBUF", which);
	}
	answer(stream(d, 1), "format %u: STREAMON", which);
	answer(call(d->fd, VIDIOC_S_FMT, (struct v4l2_format[]){ *f }), "format %u: set again meanwhile", which);
	for (int i = 0; i < 2; i++)
		got = dequeue(d);
	if (got >= 0 && got < 2 && m[got])
		tell_lines(m[got], d->size, which);
	answer(d->field, "format %u: field", which);
	answer(stream(d, 0), "format %u: STREAMOFF", which);
	for (int i = 0; i < 2; i++)
		if (m[i])
			munmap(m[i], d->size);
	answer(-request(d, 0), "format %u: REQBUFS of none", which);
}

static void user_lines(void)
{
	struct device d = open_vbi(V4L2_MEMORY_USERPTR);
	uint8_t *m = memory_of(d.size * 2 + PAGE);

	answer(request(&d, 2), "REQBUFS of user memory for lines");
	answer(queue(&d, 0, m, d.size / 2), "QBUF for lines, too short");
	for (unsigned i = 0; i < 2; i++)
		answer(queue(&d, i, m + 20 + i * d.size, d.size), "QBUF for lines %u", i);
	answer(stream(&d, 1), "STREAMON for lines");
	for (unsigned i = 0; i < 2; i++)
		answer(dequeue(&d) >= 0, "DQBUF of lines");
	answer(stream(&d, 0), "STREAMOFF for lines");
	close(d.fd);
	munmap(m, d.size * 2 + PAGE);
}

/* Lines far down in the picture: the other norm has fewer. */
static void far_lines(struct device *d)
{
	v4l2_std_id ntsc = V4L2_STD_NTSC_M, pal = V4L2_STD_PAL;
	struct v4l2_format f = { .type = V4L2_BUF_TYPE_VBI_CAPTURE };

	answer(call(d->fd, VIDIOC_G_FMT, &f), "G_FMT at first");
	tell_format(&f, "first", 0);
	f = (struct v4l2_format){ .type = V4L2_BUF_TYPE_VBI_CAPTURE };
	f.fmt.vbi = (struct v4l2_vbi_format){ .start = { 230, 543 }, .count = { 60, 60 } };
	answer(call(d->fd, VIDIOC_S_FMT, &f), "S_FMT of lines far down");
	tell_format(&f, "far", 0);
	answer(call(d->fd, VIDIOC_S_STD, &ntsc), "far down to NTSC");
	f = (struct v4l2_format){ .type = V4L2_BUF_TYPE_VBI_CAPTURE };
	answer(call(d->fd, VIDIOC_G_FMT, &f), "G_FMT of lines far down");
	tell_format(&f, "far, NTSC", 0);
	answer(call(d->fd, VIDIOC_S_STD, &pal), "far down to PAL");
}

/* `sided`: formats with lines of one field only. bttv since Linux 6.6 cannot capture these: it dereferences NULL. */
static void formats(int sided)
{
	v4l2_std_id ntsc = V4L2_STD_NTSC_M, pal = V4L2_STD_PAL;
	long long before = pins();
	struct v4l2_format f;

	for (unsigned i = 0; i < sizeof(wanted) / sizeof(*wanted); i++) {
		if (sided != (!wanted[i].count[0] != !wanted[i].count[1]))
			continue;
		struct device d = open_vbi(V4L2_MEMORY_MMAP);

		f = (struct v4l2_format){ .type = V4L2_BUF_TYPE_VBI_CAPTURE };
		f.fmt.vbi = (struct v4l2_vbi_format){ .start = { wanted[i].start[0], wanted[i].start[1] },
						      .count = { wanted[i].count[0], wanted[i].count[1] },
						      .flags = 3 };
		struct v4l2_format tried = f;
		answer(call(d.fd, VIDIOC_TRY_FMT, &tried), "TRY_FMT %u", i);
		tell_format(&tried, "tried", i);
		answer(call(d.fd, VIDIOC_S_FMT, &f), "S_FMT %u", i);
		tell_format(&f, "set", i);
		capture_lines(&d, &f, i);
		answer(call(d.fd, VIDIOC_S_STD, &ntsc), "to NTSC");
		f = (struct v4l2_format){ .type = V4L2_BUF_TYPE_VBI_CAPTURE };
		answer(call(d.fd, VIDIOC_G_FMT, &f), "G_FMT %u", i);
		tell_format(&f, "got", i);
		answer(call(d.fd, VIDIOC_S_STD, &pal), "to PAL");
		close(d.fd);
	}
	struct device d = open_vbi(V4L2_MEMORY_MMAP);
	if (!sided)
		far_lines(&d);
	/* bttv on videobuf2 keeps a format for the next who opens it. */
	f = (struct v4l2_format){ .type = V4L2_BUF_TYPE_VBI_CAPTURE };
	f.fmt.vbi = (struct v4l2_vbi_format){ .start = { 7, 320 }, .count = { 16, 16 } };
	answer(call(d.fd, VIDIOC_S_FMT, &f), "S_FMT as it was");
	close(d.fd);
	if (!sided)
		user_lines();
	expect_pins(before, "close");
}

void lines(void)
{
	formats(0);
}

void sided(void)
{
	formats(1);
}

/* The format of a driver that was just loaded. */
void first(void)
{
	struct device d = open_vbi(V4L2_MEMORY_MMAP);
	struct v4l2_format f = { .type = V4L2_BUF_TYPE_VBI_CAPTURE };

	answer(call(d.fd, VIDIOC_G_FMT, &f), "G_FMT");
	tell_format(&f, "after loading", 0);
	close(d.fd);
}

/* ---- leaks: kernel memory after many lives of buffers ---- */

enum { LIVES = 60, FIRST = 6, BUFFERS = 2 };

static long kib(const char *name)
{
	char line[200];
	long value = 0, kept;
	FILE *f = fopen("/proc/meminfo", "r");

	if (!f)
		fail("no /proc/meminfo: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
			value = atol(line + strlen(name) + 1);
	fclose(f);
	/* Free pages that a processor keeps at hand are not in MemFree. */
	f = strcmp(name, "MemFree") ? NULL : fopen("/proc/zoneinfo", "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &kept) == 1)
			value += kept * (PAGE / 1024);
	if (f)
		fclose(f);
	return value;
}

/* How often pages are mapped into the kernel's address space once more, which costs no memory. */
static long areas(void)
{
	char line[300];
	long count = 0;
	FILE *f = fopen("/proc/vmallocinfo", "r");

	while (f && fgets(line, sizeof(line), f))
		count += strstr(line, " vmap") != NULL;
	if (f)
		fclose(f);
	return count;
}

static void write_one(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		fail("cannot write to %s: %s", path, strerror(errno));
	close(fd);
}

/* Objects in use in the kernel's heap, size by size, without those that a processor has at hand. */
enum { SIZES = 64 };

struct heap {
	char name[40];
	long used;
};

static int heap_now(struct heap *found)
{
	char line[300], path[80];
	struct dirent *entry;
	int count = 0;
	DIR *d = opendir("/sys/kernel/slab");
	FILE *f;

	while (d && (entry = readdir(d)))
		if (!strncmp(entry->d_name, "kmalloc-", 8)) {
			snprintf(path, sizeof(path), "/sys/kernel/slab/%.40s/shrink", entry->d_name);
			write_one(path, "1\n");
		}
	if (d)
		closedir(d);
	f = fopen("/proc/slabinfo", "r");

	while (f && count < SIZES && fgets(line, sizeof(line), f)) {
		struct heap *h = &found[count];

		count += sscanf(line, "%39s %ld", h->name, &h->used) == 2 &&
			 !strncmp(h->name, "kmalloc-", 8);
	}
	if (f)
		fclose(f);
	return count;
}

static void compare_heaps(const struct heap *before, const struct heap *now, int count)
{
	for (int i = 0; i < count; i++) {
		long grown = now[i].used - before[i].used;

		if (!strcmp(before[i].name, now[i].name) && grown > LIVES * 3 / 4)
			wrong("%d lives of buffers leave %ld objects in the kernel (%s)", LIVES, grown, now[i].name);
	}
}


static void one_life(uint8_t *memory, int round)
{
	char some[16];
	struct device d = open_video(768, 576, V4L2_MEMORY_USERPTR);

	request(&d, BUFFERS);
	for (unsigned i = 0; i < BUFFERS; i++)
		queue(&d, i, memory + i * (d.size + PAGE), d.size);
	munmap(memory + BUFFERS * (d.size + PAGE) + d.size / 2, d.size / 2);
	queue(&d, 0, memory + BUFFERS * (d.size + PAGE), d.size);
	close(d.fd);
	d = open_vbi(V4L2_MEMORY_MMAP);
	request(&d, BUFFERS);
	for (unsigned i = 0; i < BUFFERS; i++) {
		uint8_t *m = map(&d, i);

		queue(&d, i, NULL, 0);
		if (m)
			munmap(m, d.size);
	}
	close(d.fd);
	if (round % 4 == 0) {
		d = open_video(768, 576, V4L2_MEMORY_MMAP);
		request(&d, BUFFERS);
		for (unsigned i = 0; i < BUFFERS; i++)
			queue(&d, i, NULL, 0);
		close(d.fd);
	}
	d = open_video(96, 72, V4L2_MEMORY_MMAP);
	if (read(d.fd, some, sizeof(some)) <= 0)
		wrong("read() of a few bytes: %s", strerror(errno));
	close(d.fd);
}

void leaks(void)
{
	static const struct {
		const char *name;
		long sign, most; /* KiB */
	} kinds[] = { { "VmallocUsed", 1, LIVES * 2 }, { "SUnreclaim", 1, LIVES * 3 }, { "MemFree", -1, LIVES * 5 } };
	enum { SIZE = 768 * 576 * 2 };
	uint8_t *memory = memory_of((BUFFERS + 1) * (SIZE + PAGE));
	long before[3] = { 0 }, grown, before_areas = 0;
	struct heap heap[2][SIZES];
	int sizes = 0;

	for (int i = 0; i < FIRST + LIVES; i++) {
		if (i == FIRST) {
			write_one("/proc/sys/vm/drop_caches", "3\n");
			before_areas = areas();
			sizes = heap_now(heap[0]);
			for (int k = 0; k < 3; k++)
				before[k] = kib(kinds[k].name);
		}
		one_life(memory, i);
	}
	write_one("/proc/sys/vm/drop_caches", "3\n");
	for (int k = 0; k < 3; k++) {
		grown = (kib(kinds[k].name) - before[k]) * kinds[k].sign;
		printf("{\"event\": \"grown\", \"what\": \"%s\", \"kib\": %ld}\n", kinds[k].name, grown);
		if (grown > kinds[k].most)
			wrong("%d lives of buffers cost %ld KiB of kernel memory (%s)", LIVES, grown, kinds[k].name);
	}
	grown = areas() - before_areas;
	printf("{\"event\": \"grown\", \"what\": \"vmallocinfo\", \"areas\": %ld}\n", grown);
	if (grown > LIVES / 8)
		wrong("%d lives of buffers leave %ld mappings in the kernel", LIVES, grown);
	if (sizes == heap_now(heap[1]))
		compare_heaps(heap[0], heap[1], sizes);
	munmap(memory, BUFFERS * (SIZE + PAGE) + SIZE / 2);
}
