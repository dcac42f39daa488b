// SPDX-License-Identifier: GPL-2.0-or-later
/* What the parts of the capture program share: the run, its buffers, its counters, its output. */
#ifndef CAPTURE_CAPTURE_H
#define CAPTURE_CAPTURE_H

#include "card.h"
#include "options.h"
#include "pages.h"
#include "verify.h"

#include <stddef.h>
#include <stdint.h>

/* The life of a buffer is told in vcap-capture.c. */
enum state { FREE, QUEUED, RESTING, RECLAIM, FETCH, CHECK, RECLAIM_AGAIN };

struct buffer {
	uint8_t *map, *data; /* data is --offset bytes into the map */
	enum state state;
	size_t at;      /* bytes that its state has dealt with */
	int64_t until;  /* rests until then, milliseconds */
	unsigned index; /* of the good frame in it, from 0 */
	struct frame frame;
};

struct counts {
	unsigned frames; /* good ones; those that the driver gave back as failed are errors */
	unsigned errors, verified, full, intact, dropped, hold_waits, reclaimed, bad_events;
	unsigned verdicts[DAMAGED + 1];
	unsigned long swapped, idle_swapped, queued_swapped, clean;
	int pageout_error;
};

struct track {
	uint64_t last; /* position of the last frame in what the card sent, 0: none yet */
	unsigned first_sequence, last_sequence;
	int64_t begin, first, end, said; /* milliseconds; first and end: when frames came */
};

extern struct options options;
extern struct card card;
extern struct expected expected;
extern struct counts counts;
extern struct track track;

int64_t now_ms(void);
int alternating(void); /* buffers hold the fields in turn */

/* ---- judge.c: what came, and whether it is what was sent ---- */

/* Reads --expect; ends the program when it does not fit the driver's format. */
void load_expected(void);
/* A frame has come, into this buffer. */
void count_frame(struct buffer *b, const struct frame *f);
/* Compares it, saves it if it is the one, counts the result, and tells of what is bad. */
void verify_buffer(struct buffer *b);

/* ---- report.c: the output, one JSON object a line ---- */

void print_start(unsigned pages_per_buffer);
void print_progress(int64_t now); /* at most twice a second */
void print_bad(const struct buffer *b, const struct finding *f);
void print_saved(const struct buffer *b, const struct finding *f);
void print_summary(const struct vmstat *before);

/* ---- pool.c: user memory under pressure ---- */

void make_pool(void);
/* Hands the next free buffer to the driver, which lets go of what the slot had before. */
void queue_slot(unsigned slot);
/* Takes what came back out of its slot. */
struct buffer *take_slot(unsigned slot);
/* The driver has let go of it: it rests, then goes its way through step_held(). */
void hold(struct buffer *b);
/* One step of the oldest held buffer; 0 when there is nothing to do yet. */
int step_held(void);
/* One step of reclaiming what is queued; 0 when it has been done for this frame. */
int step_queued(void);
/* When the next held buffer has rested, milliseconds; `otherwise` when none is held. */
int64_t next_due(int64_t otherwise);
/* Finishes everything that is held. */
void finish_all(void);

#endif
