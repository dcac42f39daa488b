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
 * that pressure costs no frame.
 *
 * Output: one JSON object a line. Exit status: 0 all frames intact, 1 some not, 2 usage, 3 a call failed.
 */
#define _GNU_SOURCE
#include "capture/card.h"
#include "capture/options.h"
#include "capture/pages.h"
#include "capture/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	MOST_BAD_EVENTS = 100,
	PROGRESS_MS = 500,
	STEP_BYTES = 48 * PAGE_BYTES, /* of reclaim in one go; some milliseconds on an emulated CPU */
	RESERVE = 2,                  /* free buffers below which time is short */
};

enum state { FREE, QUEUED, RESTING, RECLAIM, FETCH, CHECK, RECLAIM_AGAIN };

struct buffer {
	uint8_t *map, *data; /* data is --offset bytes into the map */
	enum state state;
	size_t at;     /* bytes that its state has dealt with */
	int64_t until; /* rests until then, milliseconds */
	unsigned index; /* of the capture in it, from 0 */
	struct frame frame;
};

static struct options options;
static struct card card;
static struct expected expected;
static struct buffer *pool;
static struct buffer *slots[32];  /* what is queued in each */
static struct buffer **held;      /* from RESTING on; first in, first out */
static unsigned held_first, held_count, free_count;
static size_t sweep_left;         /* bytes of queued buffers to reclaim before the next frame */
static volatile sig_atomic_t stop;

static struct {
	unsigned frames, verified, full, intact, dropped, errors, short_holds, reclaimed, bad_events;
	unsigned verdicts[DAMAGED + 1];
	unsigned long swapped, idle_swapped, queued_swapped, clean;
	int pageout_error;
} counts;

static struct {
	uint64_t last; /* position of the last frame in what the card sent, 0: none yet */
	unsigned first_sequence, last_sequence;
	int64_t begin, end, said;
} track;

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int alternating(void)
{
	return !strcmp(options.field, "alternate");
}

/* ---- output ---- */

static void print_hex(const char *name, const uint8_t *bytes)
{
	printf(", \"%s\": \"", name);
	for (int i = 0; i < SAMPLE_BYTES; i++)
		printf("%02x", bytes[i]);
	printf("\"");
}

static void print_counts(void)
{
	printf("\"frames\": %u, \"verified\": %u, \"full\": %u, \"intact\": %u, \"dropped\": %u, \"errors\": %u",
	       counts.frames, counts.verified, counts.full, counts.intact, counts.dropped, counts.errors);
	for (int i = STALE; i <= DAMAGED; i++)
		printf(", \"%s\": %u", verdict_names[i], counts.verdicts[i]);
	printf(", \"swapped_pages\": %lu, \"idle_swapped\": %lu, \"queued_swapped\": %lu, \"clean_pages\": %lu",
	       counts.swapped, counts.idle_swapped, counts.queued_swapped, counts.clean);
}

static void print_start(unsigned pages)
{
	printf("{\"event\": \"start\", \"device\": \"%s\", \"io\": \"%s\", \"width\": %u, \"height\": %u, "
	       "\"format\": \"%s\", \"field\": \"%s\", \"norm\": \"%s\", \"image_size\": %zu, "
	       "\"bytes_per_line\": %u, \"buffers\": %u, \"pool\": %u, \"pages_per_buffer\": %u, \"pid\": %d}\n",
	       options.device, io_names[options.io], card.width, card.height, options.format, options.field,
	       options.norm, card.image_size, card.bytes_per_line, card.buffers, options.pool, pages, getpid());
}

static void print_progress(int64_t now)
{
	if (now - track.said < PROGRESS_MS)
		return;
	track.said = now;
	printf("{\"event\": \"progress\", ");
	print_counts();
	printf(", \"elapsed_ms\": %" PRId64 "}\n", now - track.begin);
}

static void print_bad(const struct buffer *b, const struct finding *f)
{
	uintptr_t address = (uintptr_t)b->data + f->offset;

	if (counts.bad_events++ >= MOST_BAD_EVENTS)
		return;
	printf("{\"event\": \"bad\", \"kind\": \"%s\", \"index\": %u, \"frame\": %u, \"field\": %u, \"line\": %u, "
	       "\"plane\": %u, \"byte\": %u, \"offset\": %u, \"page\": %u, \"address\": %" PRIuPTR
	       ", \"bad_lines\": %u",
	       verdict_names[f->verdict], b->index, f->frame, f->field, f->line, f->plane, f->byte, f->offset,
	       (unsigned)((address - (uintptr_t)b->map) / PAGE_BYTES), address, f->bad_rows);
	print_hex("expected", f->want);
	print_hex("found", f->found);
	printf("}\n");
}

static void print_summary(const struct vmstat *before)
{
	struct vmstat after = read_vmstat();

	printf("{\"event\": \"summary\", ");
	print_counts();
	printf(", \"elapsed_ms\": %" PRId64 ", \"short_holds\": %u, \"reclaimed\": %u, \"sequence_span\": %u, "
	       "\"pswpin\": %llu, \"pswpout\": %llu, \"pins_acquired\": %llu, \"pins_released\": %llu, "
	       "\"pageout_error\": %d}\n",
	       track.end - track.begin, counts.short_holds, counts.reclaimed,
	       counts.frames ? track.last_sequence - track.first_sequence + 1 : 0, after.pswpin - before->pswpin,
	       after.pswpout - before->pswpout, after.pin_acquired - before->pin_acquired,
	       after.pin_released - before->pin_released, counts.pageout_error);
}

/* ---- verification ---- */

static void save(const struct buffer *b)
{
	int fd = open(options.save_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	size_t done = 0;

	while (fd >= 0 && done < card.image_size) {
		ssize_t n = write(fd, b->data + done, card.image_size - done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (done < card.image_size)
		fail("cannot write %s: %s", options.save_path, strerror(errno));
	close(fd);
}

/* Counts what the card sent and we did not get. A buffer that repeats an old frame is stale as a whole. */
static void follow(const struct buffer *b, struct finding *f)
{
	uint64_t at = alternating() ? (uint64_t)f->frame * 2 + (b->frame.field == 1) : f->frame;

	if (track.last && at <= track.last) {
		if (f->verdict == INTACT)
			f->verdict = STALE;
		return;
	}
	if (track.last)
		counts.dropped += (unsigned)(at - track.last - 1);
	track.last = at;
}

static void verify_buffer(struct buffer *b)
{
	int full = b->index % options.full_every == 0;
	struct finding f;

	if (options.save_path && b->index == options.save_frame)
		save(b);
	if (b->frame.error || !expected.rows)
		return;
	verify(&expected, b->data, full, alternating() ? b->frame.field == 1 : -1, &f);
	follow(b, &f);
	counts.verified++;
	counts.full += (unsigned)full;
	counts.verdicts[f.verdict]++;
	if (f.verdict == INTACT)
		counts.intact++;
	else
		print_bad(b, &f);
}

static void count_frame(struct buffer *b, const struct frame *f)
{
	b->frame = *f;
	b->index = counts.frames++;
	counts.errors += (unsigned)f->error;
	if (!b->index)
		track.first_sequence = f->sequence;
	track.last_sequence = f->sequence;
	track.end = now_ms();
}

/* ---- buffers under pressure (userptr) ---- */

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

/* One step of the oldest held buffer on its way to FREE; 0 when there is nothing to do yet. */
static int step_held(void)
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
		enter(b, (options.pageout_idle || options.clean) && !time_is_short() ? RECLAIM_AGAIN : FREE);
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
static int step_queued(void)
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

/* No time left for anything but the comparison. */
static void hurry(void)
{
	struct buffer *b = held[held_first];

	if (b->state == RESTING)
		counts.short_holds++;
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

static void queue(unsigned slot)
{
	struct buffer *b = free_buffer();
	unsigned swapped = count_swapped(b->data, card.image_size);

	counts.idle_swapped += swapped;
	if (swapped)
		read_ahead(b->data, card.image_size);
	if (options.clean) {
		read_back(b->data, card.image_size);
		counts.clean += count_clean(b->data, card.image_size);
	}
	card_queue(&card, slot, b->data);
	b->state = QUEUED;
	b->at = 0;
	slots[slot] = b;
}

/* The driver has let go of it, or is about to. */
static void hold(struct buffer *b)
{
	b->state = RESTING;
	b->until = now_ms() + options.hold_ms;
	held[(held_first + held_count++) % options.pool] = b;
}

static void make_pool(void)
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
		if (options.clean) { /* there must be something to write to swap and read back */
			memset(pool[i].data, 0x5a, card.image_size);
			reclaim(pool[i].data, card.image_size);
		}
	}
	if (!pool || !held)
		fail("no memory for %u buffers", options.pool);
	free_count = options.pool;
}

/* Waits for a frame, and meanwhile does what there is to do. */
static void wait_frame(void)
{
	int64_t deadline = now_ms() + options.timeout_ms;

	while (!stop && !card_wait(&card, 0)) {
		int64_t now = now_ms(), until = deadline;

		print_progress(now);
		if (now >= deadline)
			fail("no frame for %u ms after %u frames", options.timeout_ms, counts.frames);
		if (step_held() | step_queued())
			continue;
		if (held_count && held[held_first]->until < until)
			until = held[held_first]->until;
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
		queue(i);
	card_stream_on(&card);
	while (counts.frames < options.frames && !stop) {
		wait_frame();
		if (stop || !card_dequeue(&card, &f))
			continue;
		struct buffer *done = slots[f.slot];
		count_frame(done, &f);
		slots[f.slot] = NULL;
		queue(f.slot); /* this is what makes the driver let go of `done` */
		hold(done);
		sweep_left = card.image_size;
	}
	card_close(&card);
	usleep(options.hold_ms * 1000);
	while (held_count)
		step_held();
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
	while (counts.frames < options.frames && !stop) {
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

static void capture_read(void)
{
	struct buffer b = { .map = malloc(card.image_size) };
	struct frame f = { .field = -1 };

	b.data = b.map;
	if (!b.map)
		fail("no memory for a frame of %zu bytes", card.image_size);
	print_start((unsigned)((card.image_size + PAGE_BYTES - 1) / PAGE_BYTES));
	while (counts.frames < options.frames && !stop) {
		f.size = card_read(&card, b.data, card.image_size);
		f.sequence = counts.frames;
		f.error = f.size != card.image_size;
		count_frame(&b, &f);
		verify_buffer(&b);
		print_progress(now_ms());
	}
	card_close(&card);
	free(b.map);
}

/* ---- start ---- */

static void load_expected(void)
{
	struct stat st;
	int fd = open(options.expect, O_RDONLY | O_CLOEXEC);
	void *data;
	const char *wrong;

	if (fd < 0 || fstat(fd, &st))
		fail("cannot read %s: %s", options.expect, strerror(errno));
	data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		fail("cannot map %s: %s", options.expect, strerror(errno));
	close(fd);
	wrong = expected_parse(&expected, data, (size_t)st.st_size);
	if (wrong)
		fail("%s: %s", options.expect, wrong);
	if (expected_buffer_size(&expected, alternating()) != card.image_size)
		fail("%s is for buffers of %u bytes, the driver's have %zu", options.expect,
		     expected_buffer_size(&expected, alternating()), card.image_size);
}

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
	track.begin = track.said = track.end = now_ms();
	capture[options.io]();
	if (expected.rows && counts.frames && !counts.verified)
		fail("the driver marked all %u frames as bad", counts.frames);
	print_summary(&before);
	return counts.verified != counts.intact;
}
