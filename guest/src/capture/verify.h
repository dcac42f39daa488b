// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compares a captured buffer with what the card says it sent, and says what is wrong with it.
 *
 * What the card sends is described in vcapdev/bt878/pattern.py: a base image that never changes, a stamp of
 * three bits a byte that differs from field to field, and a tag in the first 16 bytes of every line. The base
 * image comes in a file made by vcapdev/bt878/expected.py.
 */
#ifndef CAPTURE_VERIFY_H
#define CAPTURE_VERIFY_H

#include <stddef.h>
#include <stdint.h>

enum {
	PAGE_BYTES = 4096,
	TAG_BYTES = 16,
	KIND_VIDEO = 0,
	SAMPLE_BYTES = 8, /* of expected and found content in a finding */
};

/* One line of one plane in the buffer; 16 bytes in the file, little endian. */
struct row {
	uint32_t offset;
	uint32_t length;
	uint32_t line; /* of its field */
	uint16_t reserved;
	uint8_t field; /* 0 odd (top), 1 even (bottom) */
	uint8_t plane; /* 0 carries tags */
};

struct expected {
	uint32_t rows;
	uint32_t size; /* of the image; of both fields' buffers when they alternate */
	const struct row *row;
	const uint8_t *base;
};

enum verdict {
	INTACT,
	STALE,     /* content of an earlier frame: a write was lost, or the page was another one */
	TORN,      /* content of a later frame, or of two frames: overwritten while it was ours */
	MISPLACED, /* content of another place in the frame */
	DAMAGED,   /* none of these */
};

extern const char *const verdict_names[];

struct finding {
	enum verdict verdict;
	uint32_t frame; /* the card's count, of the buffer; 0 when no tag tells */
	/* The rest is valid unless the verdict is INTACT; it is about the first bad byte in row order. */
	uint32_t field, line, plane;
	uint32_t byte;   /* of the line */
	uint32_t offset; /* of the buffer */
	uint32_t bad_rows;
	uint8_t want[SAMPLE_BYTES], found[SAMPLE_BYTES];
};

uint32_t mix32(uint32_t x);

/* Takes over the content of an EXPECT file. Returns NULL, or what is wrong with it. */
const char *expected_parse(struct expected *e, const uint8_t *data, size_t size);

/* Size of the buffers that the image describes. */
uint32_t expected_buffer_size(const struct expected *e, int alternate);

/* The frame that a row's tag in the buffer names; 0 when there is no valid tag of this very line. */
uint32_t tag_frame(const struct row *row, const uint8_t *at);

/* What the card sends as this row of this frame: row->length bytes. */
void sent_row(const struct expected *e, const struct row *row, uint32_t frame, uint8_t *bytes);

/*
 * Compares a buffer. full: every byte, else frame and line tags only. alternate: -1 where the image is one
 * buffer; where buffers hold the fields in turn, the field of this one.
 */
void verify(const struct expected *e, const uint8_t *buffer, int full, int alternate, struct finding *result);

#endif
