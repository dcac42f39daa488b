// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Captures a handful of frames by hand, with buffers of a chosen kind of memory, and does something to them or
 * to itself at a chosen moment of their lives. Tells of each frame whether what it reads back is what the card
 * sent, and what pagemap and kpageflags say of the pages: before, when queued, after the act, when done; and of
 * the pages that the device was given ("device"), wherever the mapping may lead by then.
 *
 * Every buffer that came back stays pinned until all frames have come; after the close each is read again.
 *
 * Output: one JSON object a line. Exit status: 0 all that could be read back was intact, 1 some was not, 2
 * usage, 3 a call failed, 4 this kernel does not offer the memory or the way (an event "not-offered" says which).
 */
#define _GNU_SOURCE
#include "scene/scene.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ERRORS = 60 /* frames that the driver gives back as failed */ };

struct scene scene;
struct card card;
struct expected expected;
struct buffer buffers[MOST_BUFFERS];
static struct buffer *slots[MOST_BUFFERS];
static struct buffer *queued[MOST_BUFFERS], *idle[MOST_BUFFERS]; /* first in, first out */
static unsigned queued_count, idle_count;
static uint32_t last_frame;
static volatile int stop_thread;
static pthread_t thread;
static int threaded;

int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static struct buffer *take_first(struct buffer **list, unsigned *count)
{
	struct buffer *first = list[0];

	(*count)--;
	memmove(list, list + 1, *count * sizeof(*list));
	return first;
}

/* ---- acts ---- */

static void perform(struct task *t, struct buffer *b)
{
	unsigned before = t->done + t->refused;
	int error = t->act->run(b, t->argument);

	t->done += !error;
	t->refused += !!error;
	if (!before || error != t->error) /* not the same again and again */
		tell_act(t, b, error);
	t->error = error;
}

static int has_tasks(enum moment at)
{
	for (unsigned i = 0; i < scene.tasks; i++)
		if (scene.task[i].at == at && totals.frames >= scene.from &&
		    scene.task[i].done + scene.task[i].refused < scene.times)
			return 1;
	return 0;
}

static void run_tasks(enum moment at, struct buffer *b)
{
	if (!has_tasks(at))
		return;
	for (unsigned i = 0; i < scene.tasks && b->map; i++)
		if (scene.task[i].at == at && scene.task[i].done + scene.task[i].refused < scene.times)
			perform(&scene.task[i], b);
}

static void *always(void *unused)
{
	(void)unused;
	for (unsigned i = 0; !stop_thread; i++) {
		struct buffer *b = &buffers[i % scene.pool];

		for (unsigned j = 0; j < scene.tasks && b->map; j++)
			if (scene.task[j].at == ALWAYS)
				perform(&scene.task[j], b);
		usleep(1000);
	}
	return NULL;
}

static void start_thread(void)
{
	threaded = has_tasks(ALWAYS) && !pthread_create(&thread, NULL, always, NULL);
}

/* ---- frames ---- */

/* Waits until the first line has come and says whether the last one had not: the device is at work in between. */
static int wait_active(struct buffer *b)
{
	int64_t end = now_ms() + scene.v4l.timeout_ms;

	if (!b->map)
		return 0;
	while (!line_came(b, 0))
		if (card_wait(&card, 0) || now_ms() > end)
			return 0;
	return !line_came(b, 1);
}

/* Memory may be short for a moment, for the driver's program or its pins: asks again, as programs do. */
static int queue_patiently(unsigned slot, const struct buffer *b)
{
	int error = ENOMEM;

	for (unsigned tries = 0; error == ENOMEM && tries < 100; tries++) {
		if (tries)
			usleep(10000);
		error = card_try_queue(&card, slot, b->data, b->dmabuf);
	}
	return error;
}

/* Hands the next idle buffer to the driver. */
static void give(unsigned slot)
{
	struct buffer *b = take_first(idle, &idle_count);
	int error;

	renew_buffer(b);
	run_tasks(BEFORE, b);
	look_mapping(b, &b->before);
	error = queue_patiently(slot, b);
	if (error)
		not_offered("VIDIOC_QBUF of this memory", error);
	learn_pages(b);
	slots[slot] = b;
	b->slot = slot;
	queued[queued_count++] = b;
	run_tasks(QUEUED, b);
	look_mapping(b, &b->queued);
}

static void judge(struct buffer *b, uint32_t want, const char *event, unsigned *counts)
{
	struct readback r = { .outcome = IS_UNMAPPED };

	look_mapping(b, &b->done);
	look_device(b, &b->device);
	if (b->map)
		read_back(&expected, b->data, b->shift, want, last_frame, &r);
	/* Nothing of a field, in the very pages that the device was given: the driver has left it out. */
	if (r.half && !b->done.moved && b->done.same == b->done.present && b->done.same >= r.pages)
		r.outcome = IS_MIXED;
	if (!want && r.frame > last_frame)
		last_frame = r.frame;
	if (r.frame)
		b->frame = r.outcome == IS_MIXED ? 0 : r.frame; /* after the close it is not to be compared with one */
	counts[r.outcome]++;
	tell_frame(b, &r, event);
}

static void act_active(struct buffer *b)
{
	b->caught = b->during = 0;
	b->acted = (struct view){ 0 };
	if (!has_tasks(ACTIVE))
		return;
	b->caught = wait_active(b);
	if (!b->caught) {
		totals.missed++;
		return;
	}
	run_tasks(ACTIVE, b);
	b->during = b->map && !line_came(b, 1);
	look_mapping(b, &b->acted);
}

static struct buffer *wait_frame(struct frame *f)
{
	int64_t end = now_ms() + scene.v4l.timeout_ms;
	struct buffer *b;

	do {
		if (now_ms() > end)
			fail("no frame for %u ms after %u frames", scene.v4l.timeout_ms, totals.frames);
		card_wait(&card, 100);
	} while (!card_dequeue(&card, f));
	b = slots[f->slot];
	for (unsigned i = 0; i < queued_count; i++)
		if (queued[i] == b) {
			memmove(queued + i, queued + i + 1, (--queued_count - i) * sizeof(*queued));
			break;
		}
	return b;
}

/* All buffers come back unfilled and are queued again. */
static void restart(void)
{
	unsigned count = queued_count;

	wants_restart = 0;
	card_stream_off(&card);
	while (queued_count)
		idle[idle_count++] = take_first(queued, &queued_count);
	for (unsigned i = 0; i < count; i++)
		give(idle[0]->slot);
	card_stream_on(&card);
}

static void finish_frame(struct buffer *b, const struct frame *f)
{
	b->sequence = f->sequence;
	b->index = totals.frames;
	run_tasks(DONE, b);
	if (f->error) {
		b->frame = 0;
		if (++totals.errors > MOST_ERRORS + scene.v4l.frames)
			fail("the driver gave back %u frames as failed", totals.errors);
	} else {
		judge(b, 0, "frame", totals.outcome);
		totals.frames++;
	}
	idle[idle_count++] = b;
	if (totals.frames + queued_count < scene.v4l.frames)
		give(f->slot);
}

static void step(void)
{
	struct frame f;
	struct buffer *b;

	act_active(queued[0]);
	if (wants_close)
		return;
	if (wants_restart) {
		restart();
		return;
	}
	b = wait_frame(&f);
	finish_frame(b, &f);
}

static void export_buffers(void)
{
	for (unsigned i = 0; i < card.buffers; i++) {
		struct v4l2_exportbuffer e = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .index = i,
					       .flags = O_RDWR | O_CLOEXEC };
		struct buffer *b = &buffers[i];

		if (ioctl(card.fd, VIDIOC_EXPBUF, &e))
			not_offered("VIDIOC_EXPBUF", errno);
		b->map = mmap(NULL, b->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, e.fd, 0);
		if (b->map == MAP_FAILED)
			not_offered("a mapping of an exported buffer", errno);
		b->data = b->map;
	}
}

/* Lets go of everything, or (after the act "close") only of the device. */
static void close_card(void)
{
	if (wants_close)
		close(card.fd);
	else
		card_close(&card);
	while (queued_count) /* what it was filling is neither old nor new */
		take_first(queued, &queued_count)->frame = 0;
	if (card.io == IO_MMAP && !scene.export)
		for (unsigned i = 0; i < card.buffers; i++)
			buffers[i].map = NULL;
}

static void capture_buffers(void)
{
	int error = card_try_request(&card, scene.v4l.buffers);

	if (error)
		not_offered("VIDIOC_REQBUFS of this way", error);
	if (card.io != IO_USERPTR || scene.pool < card.buffers) /* a driver may insist on more than were asked for */
		scene.pool = card.buffers;
	make_buffers();
	if (scene.export)
		export_buffers();
	for (unsigned i = 0; i < scene.pool; i++)
		idle[idle_count++] = &buffers[i];
	tell_start();
	for (unsigned i = 0; i < card.buffers && i < scene.v4l.frames; i++)
		give(i);
	card_stream_on(&card);
	start_thread();
	while (totals.frames < scene.v4l.frames && !wants_close)
		step();
	close_card();
	for (unsigned i = 0; i < scene.pool; i++) {
		if (!buffers[i].map || !buffers[i].frame)
			continue;
		run_tasks(OFF, &buffers[i]);
		judge(&buffers[i], buffers[i].frame, "after-close", totals.again);
	}
}

static void capture_read(void)
{
	struct buffer *b = &buffers[0];

	scene.pool = 1;
	make_buffers();
	tell_start();
	start_thread();
	while (totals.frames < scene.v4l.frames) {
		renew_buffer(b);
		run_tasks(BEFORE, b);
		look_mapping(b, &b->before);
		if (card_read(&card, b->data, card.image_size) != card.image_size) {
			if (++totals.errors > MOST_ERRORS)
				fail("the driver gave back %u frames as failed", totals.errors);
			continue;
		}
		b->index = totals.frames;
		run_tasks(DONE, b);
		judge(b, 0, "frame", totals.outcome);
		totals.frames++;
	}
	card_close(&card);
}

static void enter_cgroup(void)
{
	char path[256], pid[16];
	int error;

	if (!scene.cgroup)
		return;
	snprintf(path, sizeof(path), "%s/cgroup.procs", scene.cgroup);
	snprintf(pid, sizeof(pid), "%d", getpid());
	error = write_text(path, pid);
	if (error)
		not_offered("the control group", error);
}

int main(int argc, char **argv)
{
	const char *wrong;

	parse_scene(&scene, argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 8192);
	look_open();
	enter_cgroup();
	take_counters();
	wrong = load_expect(scene.v4l.expect);
	if (wrong)
		fail("%s: %s", scene.v4l.expect, wrong);
	card_open(&card, &scene.v4l);
	if (expected_buffer_size(&expected, 0) != card.image_size)
		fail("%s is for other buffers than the driver's", scene.v4l.expect);
	if (card.io == IO_READ)
		capture_read();
	else
		capture_buffers();
	stop_thread = 1;
	if (threaded)
		pthread_join(thread, NULL);
	end_acts();
	tell_summary();
	return totals.outcome[IS_PARTIAL] + totals.outcome[IS_LOST] + totals.again[IS_PARTIAL] + totals.again[IS_LOST] > 0;
}
