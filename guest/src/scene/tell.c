// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "scene.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_COUNTERS = 400, NAME_BYTES = 48 };

/* include/uapi/linux/kernel-page-flags.h */
static const char *const flag_names[32] = {
	"locked",	"error",     "referenced",    "uptodate",      "dirty",	 "lru",	  "active",	 "slab",
	"writeback",	"reclaim",   "buddy",	      "mmap",	       "anon",	 "swapcache", "swapbacked", "head",
	"tail",		"huge",	     "unevictable",   "hwpoison",      "nopage", "ksm",	  "thp",	 "offline",
	"zero",		"idle",	     "pgtable",
};

struct totals totals;

static struct {
	char name[NAME_BYTES];
	unsigned long long value;
} vmstat[MOST_COUNTERS];
static unsigned counters;

static long long watched[MOST_WATCHED];

/* The number in a file, or behind a key of a file with a line for each; -1 when it is not there. */
static long long watched_number(const char *watch)
{
	char path[256], line[256];
	const char *key = strrchr(watch, ':');
	size_t length = key ? (size_t)(key - watch) : strlen(watch);
	long long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "%.*s", (int)length, watch);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file) && value < 0) {
		const char *at = line + strspn(line, " \t");

		if (!key)
			value = strtoll(at, NULL, 10);
		else if (!strncmp(at, key + 1, strlen(key + 1)))
			value = strtoll(at + strlen(key + 1) + strspn(at + strlen(key + 1), ": \t"), NULL, 10);
	}
	if (file)
		fclose(file);
	return value;
}

static void print_watched(void)
{
	printf(", \"watched\": {");
	for (unsigned i = 0; i < scene.watched; i++)
		printf("%s\"%s\": [%lld, %lld]", i ? ", " : "", scene.watch[i], watched[i],
		       watched_number(scene.watch[i]));
	printf("}");
}

void take_counters(void)
{
	FILE *file = fopen("/proc/vmstat", "re");

	for (unsigned i = 0; i < scene.watched; i++)
		watched[i] = watched_number(scene.watch[i]);

	while (file && counters < MOST_COUNTERS &&
	       fscanf(file, "%47s %llu", vmstat[counters].name, &vmstat[counters].value) == 2)
		counters++;
	if (file)
		fclose(file);
}

/* What has grown since take_counters(); the kernel keeps the order of its counters. */
static void print_vmstat(void)
{
	FILE *file = fopen("/proc/vmstat", "re");
	unsigned long long value;
	char name[NAME_BYTES];
	int said = 0;

	printf(", \"vmstat\": {");
	for (unsigned i = 0; file && i < counters && fscanf(file, "%47s %llu", name, &value) == 2; i++)
		if (!strcmp(name, vmstat[i].name) && value > vmstat[i].value)
			printf("%s\"%s\": %llu", said++ ? ", " : "", name, value - vmstat[i].value);
	printf("}");
	if (file)
		fclose(file);
}

static void print_count(const char *name, unsigned count, int *said)
{
	if (count)
		printf("%s\"%s\": %u", (*said)++ ? ", " : "", name, count);
}

static void print_view(const char *name, const struct view *v)
{
	int said = 0;

	if (!v->pages)
		return;
	printf(", \"%s\": {", name);
	print_count("pages", v->pages, &said);
	print_count("present", v->present, &said);
	print_count("swapped", v->swapped, &said);
	print_count("absent", v->absent, &said);
	print_count("same", v->same, &said);
	print_count("moved", v->moved, &said);
	print_count("exclusive", v->exclusive, &said);
	print_count("write_protected", v->write_protected, &said);
	print_count("high", v->high, &said);
	for (int bit = 0; bit < 32; bit++)
		if (flag_names[bit])
			print_count(flag_names[bit], v->flags[bit], &said);
	printf("}");
}

void tell_start(void)
{
	printf("{\"event\": \"start\", \"io\": %d, \"memory\": \"%s\", \"image_size\": %zu, \"buffers\": %u, "
	       "\"pool\": %u, \"pages\": %zu, \"pid\": %d}\n",
	       card.io, memory_names[scene.memory], card.image_size, card.buffers, scene.pool,
	       (card.image_size + scene.v4l.offset + PAGE_BYTES - 1) / PAGE_BYTES, getpid());
}

void tell_act(const struct task *t, const struct buffer *b, int error)
{
	printf("{\"event\": \"act\", \"act\": \"%s\", \"at\": \"%s\", \"buffer\": %u, \"errno\": %d, \"text\": \"%s\"}\n",
	       t->act->name, moment_names[t->at], (unsigned)(b - buffers), error, strerror(error));
}

void tell_frame(const struct buffer *b, const struct readback *r, const char *event)
{
	printf("{\"event\": \"%s\", \"index\": %u, \"buffer\": %u, \"sequence\": %u, \"frame\": %u, "
	       "\"read_back\": \"%s\", \"pages\": %u, \"bad\": %u, \"bad_pages\": \"%s\", \"caught\": %d, "
	       "\"during\": %d", event, b->index, (unsigned)(b - buffers), b->sequence, r->frame,
	       outcome_names[r->outcome], r->pages, r->bad, r->list, b->caught, b->during);
	print_view("before", &b->before);
	print_view("queued", &b->queued);
	print_view("acted", &b->acted);
	print_view("done", &b->done);
	print_view("device", &b->device);
	printf("}\n");
}

static void print_outcomes(const char *name, const unsigned *counts)
{
	printf(", \"%s\": {", name);
	for (int i = IS_INTACT; i <= IS_UNMAPPED; i++)
		printf("%s\"%s\": %u", i ? ", " : "", outcome_names[i], counts[i]);
	printf("}");
}

/* Pages that two buffers have, as they were when queued last. */
static unsigned count_shared(void)
{
	unsigned shared = 0;

	for (unsigned i = 0; i + 1 < MOST_BUFFERS; i++) {
		const struct buffer *a = &buffers[i], *b = &buffers[i + 1];
		size_t last = a->map_size / PAGE_BYTES;

		if (a->pfn && b->pfn && last)
			shared += b->pfn[0] && a->pfn[last - 1] == b->pfn[0];
	}
	return shared;
}

void tell_summary(void)
{
	unsigned protected = 0;

	for (unsigned i = 0; i < MOST_BUFFERS; i++)
		protected += buffers[i].write_protected;
	printf("{\"event\": \"summary\", \"frames\": %u, \"errors\": %u, \"missed\": %u, \"write_protected\": %u, "
	       "\"shared_pages\": %u, \"intact\": %u, \"torn\": %u, \"damaged\": %u", totals.frames, totals.errors,
	       totals.missed, protected, count_shared(), totals.outcome[IS_INTACT],
	       totals.outcome[IS_PARTIAL] + totals.again[IS_PARTIAL], totals.outcome[IS_LOST] + totals.again[IS_LOST]);
	print_outcomes("read_back", totals.outcome);
	print_outcomes("after_close", totals.again);
	printf(", \"acts\": [");
	for (unsigned i = 0; i < scene.tasks; i++) {
		const struct task *t = &scene.task[i];

		printf("%s{\"act\": \"%s\", \"at\": \"%s\", \"done\": %u, \"refused\": %u, \"errno\": %d}",
		       i ? ", " : "", t->act->name, moment_names[t->at], t->done, t->refused, t->error);
	}
	printf("]");
	print_watched();
	print_vmstat();
	printf("}\n");
	fflush(stdout);
}

void not_offered(const char *what, int error)
{
	printf("{\"event\": \"not-offered\", \"what\": \"%s\", \"errno\": %d, \"text\": \"%s\"}\n", what, error,
	       strerror(error));
	fflush(stdout);
	_exit(NOT_OFFERED);
}
