// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "scene.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const moment_names[] = { "before", "queued", "active", "done", "off", "always", NULL };
static const char *const io_words[] = { "userptr", "mmap", "read", "dmabuf", NULL };

static const char usage[] =
	"usage: vcap-scene [options]\n"
	"  --device PATH       /dev/video0\n"
	"  --io WAY            userptr, mmap, read, dmabuf (userptr)\n"
	"  --memory KIND       anon, thp, hugetlb, shmem, memfd, memfd-hugetlb, shared-file, private-file, udmabuf\n"
	"  --file PATH         where file-backed buffers lie: PATH.0, PATH.1, ...\n"
	"  --size WxH --norm NAME --format FOURCC --field ORDER   768x576 PAL YUYV interlaced\n"
	"  --expect FILE       what the card sends\n"
	"  --frames N          frames to capture (20)\n"
	"  --buffers B         queued at once (2)\n"
	"  --pool P            buffers that take turns, userptr only (as many as --buffers)\n"
	"  --offset BYTES      begin buffers that far behind a page's start (0)\n"
	"  --packed            buffers one behind the other, without a gap\n"
	"  --scatter           touch every other page first, so that neighbours are apart in physical memory\n"
	"  --untouched         do not write to buffers before they are queued\n"
	"  --export            read mmap buffers through a DMABUF of theirs\n"
	"  --cgroup DIR        enter this control group first\n"
	"  --do ACT[=ARG] --at MOMENT   an act and when: before, queued, active, done, off, always; repeatable\n"
	"  --from K --times T  acts begin with the K-th frame (0), and happen at most T times each (no limit)\n"
	"  --watch PATH[:KEY]  tell a number of the kernel's before and after; repeatable\n"
	"  --timeout-ms MS     give up when no frame comes for so long (10000)\n"
	"acts:";

void complain(const char *format, va_list arguments)
{
	fputs("vcap-scene: ", stderr);
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
	for (const struct act *a = memory_acts; a->name; a++)
		fprintf(stderr, " %s", a->name);
	for (const struct act *a = process_acts; a->name; a++)
		fprintf(stderr, " %s", a->name);
	for (const struct act *a = system_acts; a->name; a++)
		fprintf(stderr, " %s", a->name);
	fputc('\n', stderr);
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

static unsigned word(const char *option, const char *text, const char *const *names)
{
	for (unsigned i = 0; names[i]; i++)
		if (!strcmp(names[i], text))
			return i;
	wrong("--%s %s is not known", option, text);
}

static void size(struct options *o, const char *text)
{
	char rest;

	if (sscanf(text, "%ux%u%c", &o->width, &o->height, &rest) != 2 || !o->width || !o->height)
		wrong("--size %s: use WIDTHxHEIGHT", text);
}

static const struct act *find_in(const struct act *acts, const char *name)
{
	while (acts->name && strcmp(acts->name, name))
		acts++;
	return acts->name ? acts : NULL;
}

const struct act *find_act(const char *name)
{
	const struct act *const all[] = { memory_acts, uffd_acts, process_acts, system_acts };

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		const struct act *found = find_in(all[i], name);

		if (found)
			return found;
	}
	return NULL;
}

static void task(struct scene *s, char *text)
{
	char *argument = strchr(text, '=');
	struct task *t;

	if (s->tasks == MOST_TASKS)
		wrong("--do: at most %d acts", MOST_TASKS);
	t = &s->task[s->tasks++];
	if (argument)
		*argument++ = 0;
	*t = (struct task){ .act = find_act(text), .argument = argument, .at = MOMENTS };
	if (!t->act)
		wrong("--do %s is not known", text);
}

static void moment(struct scene *s, const char *text)
{
	if (!s->tasks || s->task[s->tasks - 1].at != MOMENTS)
		wrong("--at %s: say --do ACT first", text);
	s->task[s->tasks - 1].at = (enum moment)word("at", text, moment_names);
}

enum { DEVICE = 1, IO, MEMORY, PATH, SIZE, NORM, FORMAT, FIELD, EXPECT, FRAMES, BUFFERS, POOL, OFFSET, PACKED,
       SCATTER, UNTOUCHED, EXPORT, CGROUP, DO, AT, FROM, TIMES, WATCH, TIMEOUT };

static const struct option names[] = {
	{ "device", 1, NULL, DEVICE },	 { "io", 1, NULL, IO },		 { "memory", 1, NULL, MEMORY },
	{ "file", 1, NULL, PATH },	 { "size", 1, NULL, SIZE },	 { "norm", 1, NULL, NORM },
	{ "format", 1, NULL, FORMAT },	 { "field", 1, NULL, FIELD },	 { "expect", 1, NULL, EXPECT },
	{ "frames", 1, NULL, FRAMES },	 { "buffers", 1, NULL, BUFFERS }, { "pool", 1, NULL, POOL },
	{ "offset", 1, NULL, OFFSET },	 { "packed", 0, NULL, PACKED },	 { "untouched", 0, NULL, UNTOUCHED },
	{ "scatter", 0, NULL, SCATTER },
	{ "export", 0, NULL, EXPORT },	 { "cgroup", 1, NULL, CGROUP },	 { "do", 1, NULL, DO },
	{ "at", 1, NULL, AT },		 { "from", 1, NULL, FROM },	 { "times", 1, NULL, TIMES },
	{ "watch", 1, NULL, WATCH },	 { "timeout-ms", 1, NULL, TIMEOUT }, { NULL, 0, NULL, 0 },
};

static void watch(struct scene *s, char *path)
{
	if (s->watched == MOST_WATCHED || strpbrk(path, "\"\\\n"))
		wrong("--watch %s: at most %d plain paths", path, MOST_WATCHED);
	s->watch[s->watched++] = path;
}

static void check(struct scene *s)
{
	int is_file = s->memory == SHARED_FILE || s->memory == PRIVATE_FILE;

	if (strlen(s->v4l.format) != 4)
		wrong("--format %s: four characters, such as YUYV", s->v4l.format);
	if (!strcmp(s->v4l.field, "alternate"))
		wrong("--field alternate: a buffer has to hold a whole frame here");
	if (!s->v4l.expect)
		wrong("--expect FILE is needed");
	if (is_file != !!s->file)
		wrong("--file PATH goes with --memory shared-file or private-file");
	if (s->v4l.io != IO_USERPTR && (s->pool || s->packed || s->v4l.offset))
		wrong("--pool, --packed and --offset go with --io userptr");
	if ((s->v4l.io == IO_DMABUF) != (s->memory == UDMABUF))
		wrong("--io dmabuf goes with --memory udmabuf");
	if (s->export && s->v4l.io != IO_MMAP)
		wrong("--export goes with --io mmap");
	if (!s->pool)
		s->pool = s->v4l.buffers;
	if (s->pool < s->v4l.buffers)
		wrong("--pool %u is less than --buffers %u", s->pool, s->v4l.buffers);
	for (unsigned i = 0; i < s->tasks; i++)
		if (s->task[i].at == MOMENTS)
			wrong("--do %s: say --at MOMENT behind it", s->task[i].act->name);
}

void parse_scene(struct scene *s, int argc, char **argv)
{
	struct options *o = &s->v4l;
	int option;

	*s = (struct scene){ .fill = 1, .times = ~0u };
	*o = (struct options){ .device = "/dev/video0", .norm = "PAL", .format = "YUYV", .field = "interlaced",
			       .width = 768, .height = 576, .frames = 20, .buffers = 2, .timeout_ms = 10000 };
	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
		switch (option) {
		case DEVICE: o->device = optarg; break;
		case IO: o->io = (enum io)word("io", optarg, io_words); break;
		case MEMORY: s->memory = (enum memory)word("memory", optarg, memory_names); break;
		case PATH: s->file = optarg; break;
		case SIZE: size(o, optarg); break;
		case NORM: o->norm = optarg; break;
		case FORMAT: o->format = optarg; break;
		case FIELD: o->field = optarg; break;
		case EXPECT: o->expect = optarg; break;
		case FRAMES: o->frames = number("frames", optarg, 1, 1u << 30); break;
		case BUFFERS: o->buffers = number("buffers", optarg, 1, MOST_BUFFERS); break;
		case POOL: s->pool = number("pool", optarg, 1, MOST_BUFFERS); break;
		case OFFSET: o->offset = number("offset", optarg, 0, 4095); break;
		case PACKED: s->packed = 1; break;
		case SCATTER: s->scatter = 1; break;
		case UNTOUCHED: s->fill = 0; break;
		case EXPORT: s->export = 1; break;
		case CGROUP: s->cgroup = optarg; break;
		case DO: task(s, optarg); break;
		case AT: moment(s, optarg); break;
		case FROM: s->from = number("from", optarg, 0, 1u << 30); break;
		case TIMES: s->times = number("times", optarg, 1, 1u << 30); break;
		case WATCH: watch(s, optarg); break;
		case TIMEOUT: o->timeout_ms = number("timeout-ms", optarg, 1, 600000); break;
		default: wrong("unknown option, or one without its value");
		}
	if (optind < argc)
		wrong("unknown argument %s", argv[optind]);
	check(s);
}
