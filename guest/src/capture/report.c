// SPDX-License-Identifier: GPL-2.0-or-later
#include "capture.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum { MOST_BAD_EVENTS = 100, PROGRESS_MS = 500 };

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
	printf(", \"span_ms\": %" PRId64, track.end - track.first);
	printf(", \"swapped_pages\": %lu, \"idle_swapped\": %lu, \"queued_swapped\": %lu, \"clean_pages\": %lu",
	       counts.swapped, counts.idle_swapped, counts.queued_swapped, counts.clean);
}

void print_start(unsigned pages)
{
	printf("{\"event\": \"start\", \"device\": \"%s\", \"io\": \"%s\", \"width\": %u, \"height\": %u, "
	       "\"format\": \"%s\", \"field\": \"%s\", \"norm\": \"%s\", \"image_size\": %zu, "
	       "\"bytes_per_line\": %u, \"buffers\": %u, \"pool\": %u, \"pages_per_buffer\": %u, \"pid\": %d}\n",
	       options.device, io_names[options.io], card.width, card.height, options.format, options.field,
	       options.norm, card.image_size, card.bytes_per_line, card.buffers, options.pool, pages, getpid());
}

void print_progress(int64_t now)
{
	if (now - track.said < PROGRESS_MS)
		return;
	track.said = now;
	printf("{\"event\": \"progress\", ");
	print_counts();
	printf(", \"elapsed_ms\": %" PRId64 "}\n", now - track.begin);
}

void print_bad(const struct buffer *b, const struct finding *f)
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

void print_saved(const struct buffer *b, const struct finding *f)
{
	printf("{\"event\": \"saved\", \"index\": %u, \"frame\": %u}\n", b->index, f->frame);
}

void print_summary(const struct vmstat *before)
{
	struct vmstat after = read_vmstat();

	printf("{\"event\": \"summary\", ");
	print_counts();
	printf(", \"elapsed_ms\": %" PRId64 ", \"hold_waits\": %u, \"reclaimed\": %u, \"sequence_span\": %u, "
	       "\"pswpin\": %llu, \"pswpout\": %llu, \"pins_acquired\": %llu, \"pins_released\": %llu, "
	       "\"pageout_error\": %d}\n",
	       track.end - track.begin, counts.hold_waits, counts.reclaimed,
	       counts.frames ? track.last_sequence - track.first_sequence + 1 : 0, after.pswpin - before->pswpin,
	       after.pswpout - before->pswpout, after.pin_acquired - before->pin_acquired,
	       after.pin_released - before->pin_released, counts.pageout_error);
}
