// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "capture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	STEP_BYTES = 48 * PAGE_BYTES, /* of reclaim in one go; some milliseconds on an emulated CPU */
	RESERVE = 2,                  /* free buffers below which time is short */
};

static struct buffer *pool;
static struct buffer *slots[32]; /* what is queued in each */
static struct buffer **held;     /* from RESTING on; first in, first out */
static unsigned held_first, held_count, free_count;
static size_t sweep_left; /* bytes of queued buffers to reclaim before the next frame */

/* Deals with the next piece of a buffer; 1 when that was the last. */
static int next_piece(struct buffer *b, void (*deal)(uint8_t *start, size_t size))
{
	size_t left = card.image_size - b->at, size = left < STEP_BYTES ? left : STEP_BYTES;

	deal(b->data + b->at, size);
	b->at += size;
	return b->at == card.image_size;
}

static void reclaim(uint8_t *start, size_t size)
{
	int error = page_out(start, size);

	if (error)
		counts.pageout_error = error;
}

static void fetch(uint8_t *start, size_t size)
{
	read_ahead(start, size);
	read_back(start, size);
}

static void enter(struct buffer *b, enum state state)
{
	b->state = state;
	b->at = 0;
	if (state == FREE) {
		held_first = (held_first + 1) % options.pool;
		held_count--;
		free_count++;
	}
}

static int time_is_short(void)
{
	return free_count < RESERVE;
}

int step_held(void)
{
	struct buffer *b = held_count ? held[held_first] : NULL;

	switch (b ? b->state : FREE) {
	case RESTING:
		if (now_ms() < b->until)
			return 0;
		counts.swapped += count_swapped(b->data, card.image_size);
		enter(b, options.pageout_idle && !time_is_short() ? RECLAIM : CHECK);
		return 1;
	case RECLAIM:
		if (next_piece(b, reclaim)) {
			counts.reclaimed++;
			counts.swapped += count_swapped(b->data, card.image_size);
			enter(b, FETCH);
		}
		return 1;
	case FETCH:
		if (next_piece(b, fetch))
			enter(b, CHECK);
		return 1;
	case CHECK:
		verify_buffer(b);
		enter(b, options.pageout_idle && !time_is_short() ? RECLAIM_AGAIN : FREE);
		return 1;
	case RECLAIM_AGAIN:
		if (next_piece(b, reclaim))
			enter(b, FREE);
		return 1;
	default:
		return 0;
	}
}

/* Reclaims what is queued, bit by bit: one buffer's worth for every frame. */
int step_queued(void)
{
	static unsigned slot;
	struct buffer *b = slots[slot];
	size_t from;

	if (!options.pageout_queued || !sweep_left)
		return 0;
	if (!b || b->at >= card.image_size) {
		slot = (slot + 1) % card.buffers;
		if (slots[slot])
			slots[slot]->at = 0;
		return 1;
	}
	from = b->at;
	next_piece(b, reclaim);
	counts.queued_swapped += count_swapped(b->data + from, b->at - from);
	sweep_left -= sweep_left < b->at - from ? sweep_left : b->at - from;
	return 1;
}

/* No time left for anything but its rest, which is a promise, and the comparison. */
static void hurry(void)
{
	struct buffer *b = held[held_first];
	int64_t left = b->until - now_ms();

	if (b->state == RESTING && left > 0) {
		counts.hold_waits++;
		usleep((useconds_t)left * 1000);
	}
	if (b->state != RECLAIM_AGAIN)
		verify_buffer(b);
	enter(b, FREE);
}

static struct buffer *free_buffer(void)
{
	static unsigned next; /* in turn, so that each rests as long as it can */

	while (!free_count)
		hurry();
	while (pool[next].state != FREE)
		next = (next + 1) % options.pool;
	free_count--;
	return &pool[next];
}

void queue_slot(unsigned slot)
{
	struct buffer *b = free_buffer();
	unsigned swapped = count_swapped(b->data, card.image_size);

	counts.idle_swapped += swapped;
	if (options.clean) {
		/* What was read back from a disk is in the swap cache, and the pin's write fault dirties it when it
		 * takes it out. New pages are clean with any swap: the pin gets them in place of the zero page. */
		discard(b->data, card.image_size);
		read_back(b->data, card.image_size);
		counts.clean += count_clean(b->data, card.image_size);
	} else if (swapped) {
		read_ahead(b->data, card.image_size);
	}
	card_queue(&card, slot, b->data);
	b->state = QUEUED;
	b->at = 0;
	slots[slot] = b;
}

void hold(struct buffer *b)
{
	b->state = RESTING;
	b->until = now_ms() + options.hold_ms;
	held[(held_first + held_count++) % options.pool] = b;
}

void make_pool(void)
{
	size_t size = (card.image_size + options.offset + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

	pool = calloc(options.pool, sizeof(*pool));
	held = calloc(options.pool, sizeof(struct buffer *));
	for (unsigned i = 0; pool && held && i < options.pool; i++) {
		pool[i].map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pool[i].map == MAP_FAILED)
			fail("no memory for %u buffers of %zu bytes", options.pool, size);
		madvise(pool[i].map, size, MADV_NOHUGEPAGE);
		pool[i].data = pool[i].map + options.offset;
	}
	if (!pool || !held)
		fail("no memory for %u buffers", options.pool);
	free_count = options.pool;
}

struct buffer *take_slot(unsigned slot)
{
	struct buffer *b = slots[slot];

	slots[slot] = NULL;
	sweep_left = card.image_size; /* a new frame, a new round of reclaim */
	return b;
}

int64_t next_due(int64_t otherwise)
{
	return held_count && held[held_first]->until < otherwise ? held[held_first]->until : otherwise;
}

void finish_all(void)
{
	while (held_count)
		step_held();
}
