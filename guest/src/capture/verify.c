// SPDX-License-Identifier: GPL-2.0-or-later
#include "verify.h"

#include <string.h>

enum { TAG_MAGIC = 0x50414356 /* "VCAP" */, SEARCH_BACK = 4096, SEARCH_AHEAD = 64, PROBE = 32 };

const char *const verdict_names[] = { "intact", "stale", "torn", "misplaced", "damaged" };

struct tag {
	uint32_t frame;
	uint16_t line;
	uint8_t field, kind;
	uint32_t check, magic;
};

/* What a comparison carries along. */
struct job {
	const struct expected *e;
	const uint8_t *buffer;
	uint32_t shift; /* image offset of the buffer's first byte */
	uint32_t size;  /* of the buffer */
	int only;       /* the field whose rows count, -1 for both */
	uint32_t frame[2]; /* of each field, by majority; 0: no valid tag */
	struct finding *result;
};

uint32_t mix32(uint32_t x)
{
	x ^= x >> 16;
	x *= 0x85ebca6b;
	x ^= x >> 13;
	x *= 0xc2b2ae35;
	return x ^ x >> 16;
}

static uint32_t stamp(uint32_t frame, uint32_t field)
{
	return mix32(frame * 2 + field) & 0x07070707;
}

static uint32_t tag_check(const struct tag *t)
{
	return mix32(t->frame ^ (uint32_t)t->line << 8 ^ (uint32_t)t->field << 4 ^ t->kind ^ 0x5eed0000);
}

static int read_tag(const uint8_t *at, struct tag *t)
{
	memcpy(t, at, sizeof(*t));
	return t->magic == TAG_MAGIC && t->check == tag_check(t);
}

static struct tag wanted_tag(uint32_t frame, const struct row *row)
{
	struct tag t = { frame, (uint16_t)row->line, row->field, KIND_VIDEO, 0, TAG_MAGIC };

	t.check = tag_check(&t);
	return t;
}

uint32_t tag_frame(const struct row *row, const uint8_t *at)
{
	struct tag t;

	return !row->plane && read_tag(at, &t) && t.line == row->line && t.field == row->field ? t.frame : 0;
}

void sent_row(const struct expected *e, const struct row *row, uint32_t frame, uint8_t *bytes)
{
	struct tag t = wanted_tag(frame, row);
	uint32_t s = stamp(frame, row->field);

	for (uint32_t x = 0; x < row->length; x++)
		bytes[x] = e->base[row->offset + x] ^ (uint8_t)(s >> 8 * (x % 4));
	if (!row->plane)
		memcpy(bytes, &t, sizeof(t));
}

const char *expected_parse(struct expected *e, const uint8_t *data, size_t size)
{
	uint64_t head = 16;

	if (size < head || memcmp(data, "VCAPEXP1", 8))
		return "not a file of expected content";
	memcpy(&e->rows, data + 8, 4);
	memcpy(&e->size, data + 12, 4);
	e->row = (const struct row *)(const void *)(data + head);
	head += (uint64_t)e->rows * sizeof(struct row);
	e->base = data + head;
	if (!e->rows || head + e->size != size)
		return "its size does not fit its header";
	for (uint32_t i = 0; i < e->rows; i++) {
		const struct row *r = &e->row[i];

		if ((uint64_t)r->offset + r->length > e->size || r->field > 1)
			return "a row lies outside its image";
		if (!r->plane && r->length < TAG_BYTES)
			return "its lines are too short for tags";
	}
	return NULL;
}

uint32_t expected_buffer_size(const struct expected *e, int alternate)
{
	return alternate ? e->size / 2 : e->size;
}

static int in_job(const struct job *j, const struct row *r)
{
	return j->only < 0 || r->field == j->only;
}

static const uint8_t *row_data(const struct job *j, const struct row *r)
{
	return j->buffer + (r->offset - j->shift);
}

/* The frame number that most lines of a field carry (majority vote of Boyer and Moore). */
static uint32_t majority_frame(const struct job *j, int field)
{
	uint32_t frame = 0, votes = 0;
	struct tag t;

	for (uint32_t i = 0; i < j->e->rows; i++) {
		const struct row *r = &j->e->row[i];

		if (r->plane || r->field != field || !in_job(j, r) || !read_tag(row_data(j, r), &t))
			continue;
		if (!votes)
			frame = t.frame;
		if (t.frame == frame)
			votes++;
		else
			votes--;
	}
	return frame;
}

static uint64_t word_at(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, 8);
	return word;
}

static int differ_32(const uint8_t *found, const uint8_t *base, uint64_t wide)
{
	uint64_t a = word_at(found) ^ word_at(base) ^ wide, b = word_at(found + 8) ^ word_at(base + 8) ^ wide,
		 c = word_at(found + 16) ^ word_at(base + 16) ^ wide,
		 d = word_at(found + 24) ^ word_at(base + 24) ^ wide;

	return (a | b | c | d) != 0;
}

/* First byte from `from` on that is not the row's content under this stamp; the length if all are. */
static uint32_t first_difference(const uint8_t *found, const uint8_t *base, uint32_t from, uint32_t length,
				 uint32_t s)
{
	uint64_t wide = (uint64_t)s << 32 | s;
	uint32_t x = from;

	/* Plain 64-bit words: an emulated CPU is quick with these and slow with vectors. from % 4 is 0. */
	while (x + 32 <= length && !differ_32(found + x, base + x, wide))
		x += 32;
	while (x + 8 <= length && word_at(found + x) == (word_at(base + x) ^ wide))
		x += 8;
	for (; x < length; x++)
		if (found[x] != (base[x] ^ (uint8_t)(s >> 8 * (x % 4))))
			return x;
	return length;
}

/*
 * Whether `found` is `base` under some other stamp. From byte x on; at least PROBE bytes must be left, or
 * chance would decide. Gives the stamp.
 */
static int other_stamp(const uint8_t *found, const uint8_t *base, uint32_t x, uint32_t length, uint32_t *s)
{
	uint8_t d[4];

	x = (x + 3) & ~3u;
	if (x + PROBE > length)
		return 0;
	for (uint32_t i = 0; i < PROBE; i++) {
		uint8_t difference = found[x + i] ^ base[x + i];

		if (difference & ~7 || (i >= 4 && difference != d[i % 4]))
			return 0;
		if (i < 4)
			d[i] = difference;
	}
	*s = d[0] | (uint32_t)d[1] << 8 | (uint32_t)d[2] << 16 | (uint32_t)d[3] << 24;
	return 1;
}

/* The right place with the wrong stamp: of a frame that came later, or of an earlier one. */
static enum verdict stamp_verdict(uint32_t frame, uint32_t field, uint32_t s)
{
	for (uint32_t ahead = 1; ahead <= SEARCH_AHEAD; ahead++)
		if (stamp(frame + ahead, field) == s)
			return TORN;
	for (uint32_t back = 1; back <= SEARCH_BACK && back < frame; back++)
		if (stamp(frame - back, field) == s)
			return STALE;
	return STALE; /* older than we looked back */
}

static int belongs_elsewhere(const struct job *j, const struct row *row, const uint8_t *found, uint32_t x)
{
	uint32_t s;

	for (uint32_t i = 0; i < j->e->rows; i++) {
		const struct row *r = &j->e->row[i];

		if (r != row && r->plane == row->plane && r->length == row->length &&
		    other_stamp(found, j->e->base + r->offset, x, row->length, &s))
			return 1;
	}
	return 0;
}

/* Whether the bytes of the bad byte's page hold a tag where no line begins. */
static int stray_tag(const struct job *j, uint32_t offset)
{
	uint32_t end = offset + PAGE_BYTES < j->size ? offset + PAGE_BYTES : j->size;
	struct tag t;

	for (uint32_t at = offset; at + TAG_BYTES <= end; at++) {
		uint32_t magic;

		memcpy(&magic, j->buffer + at + 12, 4);
		if (magic != TAG_MAGIC || !read_tag(j->buffer + at, &t))
			continue;
		int begins = 0;
		for (uint32_t i = 0; i < j->e->rows && !begins; i++)
			begins = !j->e->row[i].plane && in_job(j, &j->e->row[i]) &&
				 j->e->row[i].offset - j->shift == at;
		if (!begins)
			return 1;
	}
	return 0;
}

static enum verdict classify(const struct job *j, const struct row *row, uint32_t x)
{
	const uint8_t *found = row_data(j, row), *base = j->e->base + row->offset;
	uint32_t frame = j->frame[row->field], s;
	struct tag t;

	if (!row->plane && x < TAG_BYTES && read_tag(found, &t)) {
		if (t.line != row->line || t.field != row->field || t.kind != KIND_VIDEO)
			return MISPLACED;
		return t.frame < frame ? STALE : TORN;
	}
	if (other_stamp(found, base, x < TAG_BYTES ? TAG_BYTES : x, row->length, &s) &&
	    s != stamp(frame, row->field))
		return stamp_verdict(frame, row->field, s);
	if (belongs_elsewhere(j, row, found, x < TAG_BYTES ? TAG_BYTES : x) ||
	    stray_tag(j, row->offset - j->shift + x))
		return MISPLACED;
	return DAMAGED;
}

static void note(struct job *j, const struct row *row, uint32_t x, const uint8_t *want, uint32_t have)
{
	struct finding *f = j->result;

	if (f->bad_rows++)
		return;
	f->field = row->field;
	f->line = row->line;
	f->plane = row->plane;
	f->byte = x;
	f->offset = row->offset - j->shift + x;
	memcpy(f->want, want, have < SAMPLE_BYTES ? have : SAMPLE_BYTES);
	memcpy(f->found, row_data(j, row) + x, have < SAMPLE_BYTES ? have : SAMPLE_BYTES);
	f->verdict = classify(j, row, x);
}

static void check_row(struct job *j, const struct row *row, int full)
{
	const uint8_t *found = row_data(j, row), *base = j->e->base + row->offset;
	uint32_t frame = j->frame[row->field], s = stamp(frame, row->field), x = 0, have;
	uint8_t want[SAMPLE_BYTES];

	if (!row->plane) {
		struct tag t = wanted_tag(frame, row);
		const uint8_t *bytes = (const uint8_t *)&t;

		while (x < TAG_BYTES && found[x] == bytes[x])
			x++;
		if (x < TAG_BYTES) {
			note(j, row, x, bytes + x, TAG_BYTES - x);
			return;
		}
	}
	if (!full)
		return;
	x = first_difference(found, base, x, row->length, s);
	if (x == row->length)
		return;
	have = row->length - x < SAMPLE_BYTES ? row->length - x : SAMPLE_BYTES;
	for (uint32_t i = 0; i < have; i++)
		want[i] = base[x + i] ^ (uint8_t)(s >> 8 * ((x + i) % 4));
	note(j, row, x, want, have);
}

/* Two whole fields of different frames in one buffer. */
static int fields_disagree(struct job *j)
{
	const struct expected *e = j->e;
	struct tag t;

	if (!j->frame[0] || !j->frame[1] || j->frame[0] == j->frame[1])
		return 0;
	for (uint32_t i = 0; i < e->rows; i++) {
		const struct row *r = &e->row[i];

		if (r->plane || r->field != 1)
			continue;
		t = wanted_tag(j->frame[0], r);
		note(j, r, 0, (const uint8_t *)&t, TAG_BYTES);
		j->result->verdict = TORN;
		return 1;
	}
	return 0;
}

/*
 * Whether every row is what the first row's frame has there: nearly every frame is, and one look at each row
 * tells. Of another one the majority of its rows has to say which frame it is.
 */
static int plainly_intact(const struct job *j, int full, uint32_t *frame)
{
	uint32_t stamps[2];
	struct tag t, want;

	*frame = 0;
	for (uint32_t i = 0; i < j->e->rows; i++) {
		const struct row *r = &j->e->row[i];
		const uint8_t *found;

		if (!in_job(j, r))
			continue;
		found = row_data(j, r);
		if (!*frame) {
			if (r->plane || !read_tag(found, &t) || !t.frame)
				return 0;
			*frame = t.frame;
			stamps[0] = stamp(*frame, 0);
			stamps[1] = stamp(*frame, 1);
		}
		want = wanted_tag(*frame, r);
		if (!r->plane && memcmp(found, &want, TAG_BYTES) != 0)
			return 0;
		if (full && first_difference(found, j->e->base + r->offset, r->plane ? 0 : TAG_BYTES, r->length,
					     stamps[r->field]) != r->length)
			return 0;
	}
	return *frame != 0;
}

void verify(const struct expected *e, const uint8_t *buffer, int full, int alternate, struct finding *result)
{
	struct job j = { .e = e, .buffer = buffer, .only = alternate, .result = result };

	*result = (struct finding){ .verdict = INTACT };
	j.size = expected_buffer_size(e, alternate >= 0);
	j.shift = alternate > 0 ? j.size : 0;
	if (plainly_intact(&j, full, &result->frame))
		return;
	j.frame[0] = majority_frame(&j, 0);
	j.frame[1] = majority_frame(&j, 1);
	result->frame = j.frame[0] ? j.frame[0] : j.frame[1];
	if (fields_disagree(&j))
		return;
	for (int field = 0; field < 2; field++)
		if (!j.frame[field]) /* no tag of it survived: let the other field tell what should be here */
			j.frame[field] = result->frame;
	for (uint32_t i = 0; i < e->rows; i++)
		if (in_job(&j, &e->row[i]))
			check_row(&j, &e->row[i], full);
}
