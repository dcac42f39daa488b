// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_ROW = 8192, MOST_PAGES = 1024, OF_FRAME = 1, BAD = 2 };

const char *const outcome_names[] = { "intact", "partial", "lost", "mixed", "unmapped" };

const char *load_expect(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *data;

	if (fd < 0 || fstat(fd, &st))
		return strerror(errno);
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		return strerror(errno);
	close(fd);
	return expected_parse(&expected, data, (size_t)st.st_size);
}

/* The newest frame that any line of a field names and that came after `last`: lines of older ones are old. */
static uint32_t newest_frame(const struct expected *e, const uint8_t *data, int field, uint32_t last)
{
	uint32_t newest = 0;

	for (uint32_t i = 0; i < e->rows; i++) {
		const struct row *row = &e->row[i];
		uint32_t frame = row->field == field ? tag_frame(row, data + row->offset) : 0;

		if (frame > last && frame > newest)
			newest = frame;
	}
	return newest;
}

/* Marks the pages that a row lies in, and those where it is not what was sent. */
static void mark_row(const struct expected *e, const struct row *row, const uint8_t *data, size_t shift,
		     uint32_t frame, uint8_t *marks)
{
	uint8_t sent[MOST_ROW];
	size_t at = 0;

	if (row->length > MOST_ROW)
		return;
	if (frame)
		sent_row(e, row, frame, sent);
	while (at < row->length) {
		size_t place = row->offset + at + shift, page = place / PAGE_BYTES;
		size_t size = PAGE_BYTES - place % PAGE_BYTES;

		if (size > row->length - at)
			size = row->length - at;
		if (page >= MOST_PAGES)
			return;
		marks[page] |= OF_FRAME;
		if (!frame || memcmp(data + row->offset + at, sent + at, size))
			marks[page] |= BAD;
		at += size;
	}
}

static void list_bad(const uint8_t *marks, struct readback *r)
{
	size_t used = 0;

	r->list[0] = 0;
	for (unsigned page = 0, end; page < MOST_PAGES; page = end + 1) {
		end = page;
		if (!(marks[page] & BAD))
			continue;
		while (end + 1 < MOST_PAGES && marks[end + 1] & BAD)
			end++;
		if (used + 16 > sizeof(r->list)) {
			snprintf(r->list + used, sizeof(r->list) - used, "...");
			return;
		}
		used += (size_t)snprintf(r->list + used, sizeof(r->list) - used, end > page ? "%s%u-%u" : "%s%u",
					 used ? "," : "", page, end);
	}
}

/* Whether one field is all there, of frame `frame`. */
static int field_came(const struct expected *e, const uint8_t *data, int field, uint32_t frame)
{
	uint8_t marks[MOST_PAGES] = { 0 };

	for (uint32_t i = 0; i < e->rows; i++)
		if (e->row[i].field == field)
			mark_row(e, &e->row[i], data, 0, frame, marks);
	return !memchr(marks, OF_FRAME | BAD, sizeof(marks));
}

void read_back(const struct expected *e, const uint8_t *data, size_t shift, uint32_t want, uint32_t last,
	       struct readback *r)
{
	uint8_t marks[MOST_PAGES] = { 0 };
	struct finding f;
	uint32_t frame[2];
	int mixed;

	*r = (struct readback){ .outcome = IS_INTACT };
	verify(e, data, 1, -1, &f);
	if (f.verdict == INTACT && (want ? f.frame == want : f.frame > last)) {
		r->frame = f.frame;
		r->pages = (unsigned)((e->size + shift + PAGE_BYTES - 1) / PAGE_BYTES);
		return;
	}
	for (int field = 0; field < 2; field++)
		frame[field] = want ? want : newest_frame(e, data, field, last);
	r->frame = frame[0] > frame[1] ? frame[0] : frame[1];
	/* A driver that was late may put two frames' fields into one buffer, or leave one out. */
	mixed = frame[0] && frame[1] && frame[0] != frame[1];
	for (uint32_t i = 0; i < e->rows; i++)
		mark_row(e, &e->row[i], data, shift, mixed ? frame[e->row[i].field] : r->frame, marks);
	for (unsigned page = 0; page < MOST_PAGES; page++) {
		r->pages += !!(marks[page] & OF_FRAME);
		r->bad += !!(marks[page] & BAD);
	}
	list_bad(marks, r);
	r->half = !frame[0] != !frame[1] && field_came(e, data, !frame[0], r->frame);
	if (!r->bad)
		r->outcome = mixed ? IS_MIXED : IS_INTACT;
	else
		r->outcome = r->bad < r->pages ? IS_PARTIAL : IS_LOST;
}

int line_came(const struct buffer *b, int last)
{
	const struct row *found = NULL;
	uint32_t frame;

	for (uint32_t i = 0; i < expected.rows; i++) {
		const struct row *row = &expected.row[i];

		if (!row->plane && (!found || (last ? row->offset > found->offset : row->offset < found->offset)))
			found = row;
	}
	frame = found ? tag_frame(found, b->data + found->offset) : 0;
	return frame && frame != b->frame;
}
