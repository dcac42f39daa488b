// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Does to a capture driver what programs rarely do, or do wrongly, and notes the driver's answers.
 *
 * usage: vcap-edges refused|lives|lines|sided|first|leaks
 *
 * Output: one JSON object a line. {"event": "answer", "what": ..., "value": ...} is for comparison with the
 * unaltered driver; {"event": "wrong", "text": ...} is wrong in any case. Exit status: 0, 1 something was
 * wrong, 2 usage, 3 the device cannot be used at all.
 */
#define _GNU_SOURCE
#include "edges/edges.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PATIENCE = 3000 /* ms */ };

static int found;

static void say(const char *format, va_list arguments, const char *event, const char *name, const char *more)
{
	char text[200];

	vsnprintf(text, sizeof(text), format, arguments);
	printf("{\"event\": \"%s\", \"%s\": \"%s\"%s}\n", event, name, text, more);
}

void answer(long long value, const char *format, ...)
{
	char more[40];
	va_list arguments;

	snprintf(more, sizeof(more), ", \"value\": %lld", value);
	va_start(arguments, format);
	say(format, arguments, "answer", "what", more);
	va_end(arguments);
}

void wrong(const char *format, ...)
{
	va_list arguments;

	found = 1;
	va_start(arguments, format);
	say(format, arguments, "wrong", "text", "");
	va_end(arguments);
}

void fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("vcap-edges: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(3);
}

int call(int fd, unsigned long request, void *argument)
{
	int result;

	do
		result = ioctl(fd, request, argument);
	while (result < 0 && errno == EINTR);
	return result < 0 ? errno : -result; /* no call of these gives a number */
}

static int open_device(const char *path)
{
	v4l2_std_id id = V4L2_STD_PAL;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		fail("cannot open %s: %s", path, strerror(errno));
	if (call(fd, VIDIOC_S_STD, &id))
		fail("%s refuses PAL: %s", path, strerror(errno));
	return fd;
}

struct device open_video(unsigned width, unsigned height, enum v4l2_memory memory)
{
	struct device d = { open_device("/dev/video0"), V4L2_BUF_TYPE_VIDEO_CAPTURE, memory, 0, -1 };
	struct v4l2_format f = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE };

	f.fmt.pix.width = width;
	f.fmt.pix.height = height;
	f.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
	f.fmt.pix.field = V4L2_FIELD_INTERLACED;
	if (call(d.fd, VIDIOC_S_FMT, &f))
		fail("the driver refuses %ux%u: %s", width, height, strerror(errno));
	d.size = f.fmt.pix.sizeimage;
	return d;
}

struct device open_vbi(enum v4l2_memory memory)
{
	struct device d = { open_device("/dev/vbi0"), V4L2_BUF_TYPE_VBI_CAPTURE, memory, 0, -1 };
	struct v4l2_format f = { .type = V4L2_BUF_TYPE_VBI_CAPTURE };

	if (call(d.fd, VIDIOC_G_FMT, &f))
		fail("no VBI format: %s", strerror(errno));
	d.size = (size_t)(f.fmt.vbi.count[0] + f.fmt.vbi.count[1]) * f.fmt.vbi.samples_per_line;
	return d;
}

int request(struct device *d, unsigned count)
{
	struct v4l2_requestbuffers r = { .count = count, .type = (unsigned)d->type, .memory = d->memory };
	int error = call(d->fd, VIDIOC_REQBUFS, &r);

	return error ? -error : (int)r.count;
}

int queue(struct device *d, unsigned index, void *memory, size_t length)
{
	struct v4l2_buffer b = { .type = (unsigned)d->type, .memory = d->memory, .index = index };

	if (d->memory == V4L2_MEMORY_USERPTR) {
		b.m.userptr = (unsigned long)memory;
		b.length = (uint32_t)length;
	} else if (d->memory == V4L2_MEMORY_DMABUF) {
		b.m.fd = (int)length;
	}
	return call(d->fd, VIDIOC_QBUF, &b);
}

int stream(struct device *d, int on)
{
	return call(d->fd, on ? VIDIOC_STREAMON : VIDIOC_STREAMOFF, &d->type);
}

int dequeue(struct device *d)
{
	struct v4l2_buffer b = { .type = (unsigned)d->type, .memory = d->memory };
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	int error;

	if (poll(&p, 1, PATIENCE) <= 0) {
		wrong("no frame for %d ms", PATIENCE);
		exit(1); /* nor will the next one come */
	}
	error = call(d->fd, VIDIOC_DQBUF, &b);
	d->field = (int)b.field;
	return error ? -error : (int)b.index;
}

uint8_t *map(struct device *d, unsigned index)
{
	struct v4l2_buffer b = { .type = (unsigned)d->type, .memory = d->memory, .index = index };
	void *place;

	if (call(d->fd, VIDIOC_QUERYBUF, &b))
		return NULL;
	place = mmap(NULL, b.length, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, b.m.offset);
	return place == MAP_FAILED ? NULL : place;
}

uint8_t *memory_of(size_t size)
{
	uint8_t *place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		fail("no memory: %s", strerror(errno));
	memset(place, 0xa5, size);
	return place;
}

/* Counters of each processor are added up first, so that the difference is exact. */
long long pins(void)
{
	static const char *const names[] = { "nr_foll_pin_acquired ", "nr_foll_pin_released " };
	long long value[2] = { 0, 0 };
	char line[200];
	FILE *f = fopen("/proc/sys/vm/stat_refresh", "w");

	if (f) {
		fputs("1\n", f);
		fclose(f);
	}
	f = fopen("/proc/vmstat", "r");
	if (!f)
		fail("no /proc/vmstat: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		for (int i = 0; i < 2; i++)
			if (!strncmp(line, names[i], strlen(names[i])))
				value[i] = atoll(line + strlen(names[i]));
	fclose(f);
	return value[0] - value[1];
}

void expect_pins(long long before, const char *when)
{
	long long now = pins();

	for (int i = 0; now != before && i < 20; i++) {
		usleep(10000);
		now = pins();
	}
	if (now != before)
		wrong("%lld pages stay pinned after %s", now - before, when);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} parts[] = { { "refused", refused }, { "lives", lives }, { "lines", lines },
		      { "sided", sided },     { "first", first }, { "leaks", leaks } };

	setvbuf(stdout, NULL, _IOLBF, 8192);
	for (size_t i = 0; argc == 2 && i < sizeof(parts) / sizeof(*parts); i++)
		if (!strcmp(argv[1], parts[i].name)) {
			parts[i].run();
			return found;
		}
	fputs("usage: vcap-edges refused|lives|lines|sided|first|leaks\n", stderr);
	return 2;
}
