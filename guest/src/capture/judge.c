// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "capture.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void load_expected(void)
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

void verify_buffer(struct buffer *b)
{
	int full = b->index % options.full_every == 0;
	int saved = options.save_path && (!b->index || b->index == options.save_frame);
	struct finding f;

	if (b->frame.error)
		return;
	if (saved)
		save(b);
	if (!expected.rows)
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
	if (saved)
		print_saved(b, &f);
}

void count_frame(struct buffer *b, const struct frame *f)
{
	b->frame = *f;
	if (!counts.frames && !counts.errors)
		track.first_sequence = f->sequence;
	track.last_sequence = f->sequence;
	b->index = counts.frames;
	track.end = now_ms();
	if (!counts.frames)
		track.first = track.end;
	counts.frames += !f->error;
	counts.errors += !!f->error;
}
