// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const io_names[] = { "userptr", "mmap", "read", NULL };

static const char usage[] =
	"usage: vcap-capture [options]\n"
	"  --device PATH           /dev/video0\n"
	"  --io userptr|mmap|read  how buffers are handed over (userptr)\n"
	"  --size WxH              768x576\n"
	"  --norm NAME             PAL, NTSC, SECAM, ... (PAL)\n"
	"  --format FOURCC         YUYV\n"
	"  --field ORDER           interlaced, top, bottom, alternate, seq-tb\n"
	"  --frames N              frames to capture (150)\n"
	"  --buffers B             queued at once (4)\n"
	"  --pool P                buffers in memory that take turns, userptr only (16)\n"
	"  --expect FILE           what the card sends; without it frames are only counted\n"
	"  --full-every K          compare every K-th frame in full, the rest by tags (1)\n"
	"  --hold-ms MS            leave released buffers mapped and untouched that long (200)\n"
	"  --pageout LIST          idle, queued: reclaim such buffers with MADV_PAGEOUT\n"
	"  --clean                 hand over buffers whose pages are new and clean\n"
	"  --piece BYTES           read() a frame in pieces: the driver then copies (0: at once)\n"
	"  --offset BYTES          begin buffers that far behind a page's start (0)\n"
	"  --save INDEX FILE       write the first captured frame to FILE, then the INDEX-th (from 0) in its place\n"
	"  --timeout-ms MS         give up when no frame comes for so long (10000)\n";

void complain(const char *format, va_list arguments)
{
	fputs("vcap-capture: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

static void __attribute__((noreturn, format(printf, 1, 2))) wrong(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain(format, arguments);
	va_end(arguments);
	fputs(usage, stderr);
	exit(2);
}

static unsigned number(const char *name, const char *text, unsigned least, unsigned most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value < least || value > most)
		wrong("--%s %s: not a number from %u to %u", name, text, least, most);
	return (unsigned)value;
}

static enum io io_named(const char *text)
{
	for (int i = 0; io_names[i]; i++)
		if (!strcmp(io_names[i], text))
			return (enum io)i;
	wrong("--io %s: use userptr, mmap or read", text);
}

static void pageout(struct options *o, char *list)
{
	for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
		if (!strcmp(word, "idle"))
			o->pageout_idle = 1;
		else if (!strcmp(word, "queued"))
			o->pageout_queued = 1;
		else
			wrong("--pageout %s: use idle, queued or both", word);
	}
}

static void size(struct options *o, const char *text)
{
	char rest;

	if (sscanf(text, "%ux%u%c", &o->width, &o->height, &rest) != 2 || !o->width || !o->height)
		wrong("--size %s: use WIDTHxHEIGHT", text);
}

static void save(struct options *o, int argc, char **argv)
{
	o->save_frame = number("save", optarg, 0, 1u << 30);
	if (optind >= argc)
		wrong("--save needs an index and a file");
	o->save_path = argv[optind++];
}

enum { DEVICE = 1, IO, SIZE, NORM, FORMAT, FIELD, FRAMES, BUFFERS, POOL, EXPECT, FULL, HOLD, PAGEOUT, CLEAN,
       OFFSET, SAVE, TIMEOUT, PIECE };

static const struct option names[] = {
	{ "device", 1, NULL, DEVICE },	 { "io", 1, NULL, IO },		    { "size", 1, NULL, SIZE },
	{ "norm", 1, NULL, NORM },	 { "format", 1, NULL, FORMAT },	    { "field", 1, NULL, FIELD },
	{ "frames", 1, NULL, FRAMES },	 { "buffers", 1, NULL, BUFFERS },   { "pool", 1, NULL, POOL },
	{ "expect", 1, NULL, EXPECT },	 { "full-every", 1, NULL, FULL },   { "hold-ms", 1, NULL, HOLD },
	{ "pageout", 1, NULL, PAGEOUT }, { "clean", 0, NULL, CLEAN },	    { "offset", 1, NULL, OFFSET },
	{ "save", 1, NULL, SAVE },	 { "timeout-ms", 1, NULL, TIMEOUT },
	{ "piece", 1, NULL, PIECE },	 { NULL, 0, NULL, 0 },
};

static void check(const struct options *o)
{
	if (strlen(o->format) != 4)
		wrong("--format %s: four characters, such as YUYV", o->format);
	if (o->io == IO_USERPTR && o->pool <= o->buffers)
		wrong("--pool %u must be more than --buffers %u", o->pool, o->buffers);
	if (o->io != IO_USERPTR && (o->pageout_idle || o->pageout_queued || o->clean || o->offset))
		wrong("--pageout, --clean and --offset go with --io userptr");
	if (o->io != IO_READ && o->piece)
		wrong("--piece goes with --io read");
}

void parse_options(struct options *o, int argc, char **argv)
{
	int option;

	*o = (struct options){ .device = "/dev/video0", .norm = "PAL", .format = "YUYV", .field = "interlaced",
			       .width = 768, .height = 576, .frames = 150, .buffers = 4, .pool = 16,
			       .full_every = 1, .hold_ms = 200, .timeout_ms = 10000 };
	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
		switch (option) {
		case DEVICE: o->device = optarg; break;
		case IO: o->io = io_named(optarg); break;
		case SIZE: size(o, optarg); break;
		case NORM: o->norm = optarg; break;
		case FORMAT: o->format = optarg; break;
		case FIELD: o->field = optarg; break;
		case FRAMES: o->frames = number("frames", optarg, 1, 1u << 30); break;
		case BUFFERS: o->buffers = number("buffers", optarg, 1, 32); break;
		case POOL: o->pool = number("pool", optarg, 1, 1024); break;
		case EXPECT: o->expect = optarg; break;
		case FULL: o->full_every = number("full-every", optarg, 1, 1u << 30); break;
		case HOLD: o->hold_ms = number("hold-ms", optarg, 0, 60000); break;
		case PAGEOUT: pageout(o, optarg); break;
		case CLEAN: o->clean = 1; break;
		case OFFSET: o->offset = number("offset", optarg, 0, 4095); break;
		case PIECE: o->piece = number("piece", optarg, 1, 1u << 24); break;
		case SAVE: save(o, argc, argv); break;
		case TIMEOUT: o->timeout_ms = number("timeout-ms", optarg, 1, 600000); break;
		default: wrong("unknown or incomplete option");
		}
	if (optind < argc)
		wrong("what is %s?", argv[optind]);
	check(o);
}
