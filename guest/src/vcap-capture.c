// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Captures from the card and verifies every frame, while its buffers are reclaimed as hard as time allows.
 *
 * The life of a buffer (userptr):
 *
 *   FREE -> QUEUED -> RESTING: the slot was given to another buffer, so the driver has let go of this one; it
 *   stays mapped and untouched for --hold-ms -> RECLAIM and FETCH: to swap and back -> CHECK: verified ->
 *   RECLAIM_AGAIN: to swap once more, so that it will be pinned out of swap -> FREE
 *
 * Content is thus compared after it has been to swap, which shows a page that was not marked dirty. The work is
 * done in small steps while no frame waits; a buffer skips its trips to swap when free ones are running out, so
 * that pressure costs no frame. Only its rest is never cut short: with too small a pool, frames wait for that.
 *
 * A frame that the driver gives back as failed (it came too late for a stalled host) does not count: the
 * capture goes on until enough good ones have come, or too many have failed.
 *
 * Output: one JSON object a line. Exit status: 0 all frames intact, 1 some not, 2 usage, 3 a call failed.
 */
#define _GNU_SOURCE
#include "capture/capture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FEWEST_ERRORS = 20 /* failed frames that are put up with in any case */ };

struct options options;
struct card card;
struct expected expected;
struct counts counts;
struct track track;
static volatile sig_atomic_t stop;

int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int alternating(void)
{
	return !strcmp(options.field, "alternate");
}

/* Whether the frames asked for have come; ends the program when too many failed for that ever to be. */
static int done(void)
{
	unsigned most = options.frames > FEWEST_ERRORS ? options.frames : FEWEST_ERRORS;

	if (counts.errors > most)
		fail("the driver gave back %u frames as failed and only %u of %u as good: no signal, or too "
		     "slow a host", counts.errors, counts.frames, options.frames);
	return stop || counts.frames >= options.frames;
}

/* Waits for a frame, and meanwhile does what there is to do. */
static void wait_frame(void)
{
	int64_t deadline = now_ms() + options.timeout_ms;

	while (!stop && !card_wait(&card, 0)) {
		int64_t now = now_ms(), until = next_due(deadline);

		print_progress(now);
		if (now >= deadline)
			fail("no frame for %u ms after %u frames", options.timeout_ms, counts.frames);
		if (step_held() | step_queued())
			continue;
		if (until > now && card_wait(&card, (int)(until - now)))
			return;
	}
}

static void capture_userptr(void)
{
	struct frame f;

	card_request_buffers(&card, options.buffers);
	make_pool();
	print_start((unsigned)((card.image_size + options.offset + PAGE_BYTES - 1) / PAGE_BYTES));
	for (unsigned i = 0; i < card.buffers; i++)
		queue_slot(i);
	card_stream_on(&card);
	while (!done()) {
		wait_frame();
		if (stop || !card_dequeue(&card, &f))
			continue;
		struct buffer *back = take_slot(f.slot);
		count_frame(back, &f);
		queue_slot(f.slot); /* this is what makes the driver let go of `back` */
		hold(back);
	}
	card_close(&card);
	usleep(options.hold_ms * 1000);
	finish_all();
}

/* ---- the other two ways ---- */

static void capture_mmap(void)
{
	struct frame f;

	card_request_buffers(&card, options.buffers);
	print_start((unsigned)((card.image_size + PAGE_BYTES - 1) / PAGE_BYTES));
	for (unsigned i = 0; i < card.buffers; i++)
		card_queue(&card, i, NULL);
	card_stream_on(&card);
	while (!done()) {
		wait_frame();
		if (stop || !card_dequeue(&card, &f))
			continue;
		struct buffer b = { .map = card.map[f.slot], .data = card.map[f.slot] };
		count_frame(&b, &f);
		verify_buffer(&b);
		card_queue(&card, f.slot, NULL);
	}
	card_close(&card);
}

/* A whole frame, unless the driver gives it back as failed or ends it early. */
static size_t read_frame(uint8_t *memory, size_t size)
{
	size_t piece = options.piece ? options.piece : size, have = 0, n;

	do {
		n = card_read(&card, memory + have, size - have < piece ? size - have : piece);
		have += n;
	} while (options.piece && n && have < size);
	return have;
}

static void capture_read(void)
{
	struct buffer b = { .map = malloc(card.image_size) };
	struct frame f = { .field = -1 };

	b.data = b.map;
	if (!b.map)
		fail("no memory for a frame of %zu bytes", card.image_size);
	print_start((unsigned)((card.image_size + PAGE_BYTES - 1) / PAGE_BYTES));
	while (!done()) {
		f.size = read_frame(b.data, card.image_size);
		f.sequence = counts.frames + counts.errors;
		f.error = f.size != card.image_size;
		count_frame(&b, &f);
		verify_buffer(&b);
		print_progress(now_ms());
	}
	card_close(&card);
	free(b.map);
}

/* ---- start ---- */

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

int main(int argc, char **argv)
{
	static void (*const capture[])(void) = { capture_userptr, capture_mmap, capture_read };
	struct sigaction action = { .sa_handler = on_signal };
	struct vmstat before;
	int error;

	parse_options(&options, argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 8192);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	error = pages_open();
	if (error)
		fail("cannot look at our own pages (are we root?): %s", strerror(error));
	before = read_vmstat();
	card_open(&card, &options);
	if (options.expect)
		load_expected();
	track.begin = track.said = track.first = track.end = now_ms();
	capture[options.io]();
	print_summary(&before);
	return counts.verified != counts.intact;
}
