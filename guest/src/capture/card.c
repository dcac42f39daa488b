// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "card.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct {
	const char *name;
	v4l2_std_id id;
} norms[] = {
	{ "PAL", V4L2_STD_PAL },	 { "NTSC", V4L2_STD_NTSC_M },	    { "SECAM", V4L2_STD_SECAM },
	{ "PAL-M", V4L2_STD_PAL_M },	 { "PAL-N", V4L2_STD_PAL_N },	    { "PAL-Nc", V4L2_STD_PAL_Nc },
	{ "PAL-60", V4L2_STD_PAL_60 },	 { "NTSC-M", V4L2_STD_NTSC_M },	    { "NTSC-J", V4L2_STD_NTSC_M_JP },
	{ "NTSC-443", V4L2_STD_NTSC_443 },
};

static const struct {
	const char *name;
	enum v4l2_field field;
} fields[] = {
	{ "interlaced", V4L2_FIELD_INTERLACED }, { "top", V4L2_FIELD_TOP },	{ "bottom", V4L2_FIELD_BOTTOM },
	{ "alternate", V4L2_FIELD_ALTERNATE },	 { "seq-tb", V4L2_FIELD_SEQ_TB },
};

enum { COUNT_NORMS = sizeof(norms) / sizeof(*norms), COUNT_FIELDS = sizeof(fields) / sizeof(*fields) };

void fail(const char *format, ...)
{
	char text[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	for (char *at = text; *at; at++)
		if (*at == '"' || *at == '\\' || *at == '\n')
			*at = '\'';
	printf("{\"event\": \"error\", \"text\": \"%s\"}\n", text);
	fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
	exit(3);
}

/* What was asked for cannot be: the same end as that of a wrong option. */
static void __attribute__((noreturn, format(printf, 1, 2))) refuse(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain(format, arguments);
	va_end(arguments);
	exit(2);
}

static int call(struct card *c, unsigned long request, void *argument)
{
	int result;

	do
		result = ioctl(c->fd, request, argument);
	while (result < 0 && errno == EINTR);
	return result;
}

static void set_norm(struct card *c, const char *name)
{
	for (int i = 0; i < COUNT_NORMS; i++)
		if (!strcasecmp(norms[i].name, name)) {
			v4l2_std_id id = norms[i].id;

			if (call(c, VIDIOC_S_STD, &id))
				fail("the driver refuses norm %s: %s", name, strerror(errno));
			return;
		}
	refuse("--norm %s is not known", name);
}

static enum v4l2_field field_named(const char *name)
{
	for (int i = 0; i < COUNT_FIELDS; i++)
		if (!strcmp(fields[i].name, name))
			return fields[i].field;
	refuse("--field %s is not known", name);
}

static void set_format(struct card *c, const struct options *o)
{
	struct v4l2_format f = { .type = V4L2_BUF_TYPE_VIDEO_CAPTURE };
	struct v4l2_pix_format *p = &f.fmt.pix;

	p->width = o->width;
	p->height = o->height;
	p->pixelformat = v4l2_fourcc(o->format[0], o->format[1], o->format[2], o->format[3]);
	p->field = field_named(o->field);
	uint32_t wanted_format = p->pixelformat, wanted_field = p->field;
	if (call(c, VIDIOC_S_FMT, &f))
		fail("the driver refuses %ux%u %s %s: %s", o->width, o->height, o->format, o->field,
		     strerror(errno));
	if (p->pixelformat != wanted_format || p->field != wanted_field)
		refuse("the driver has no %ux%u %s %s; it offers %ux%u %.4s field %u", o->width, o->height,
		       o->format, o->field, p->width, p->height, (const char *)&p->pixelformat, p->field);
	if (p->width != o->width || p->height != o->height)
		refuse("the driver makes %ux%u of %ux%u (%s, %s, %s): ask for --size %ux%u", p->width, p->height,
		       o->width, o->height, o->norm, o->format, o->field, p->width, p->height);
	c->width = p->width;
	c->height = p->height;
	c->bytes_per_line = p->bytesperline;
	c->image_size = p->sizeimage;
}

void card_open(struct card *c, const struct options *o)
{
	*c = (struct card){ .io = o->io };
	c->fd = open(o->device, O_RDWR | O_CLOEXEC | (o->io == IO_READ ? 0 : O_NONBLOCK));
	if (c->fd < 0)
		fail("cannot open %s: %s", o->device, strerror(errno));
	set_norm(c, o->norm);
	set_format(c, o);
}

static enum v4l2_memory memory_of(const struct card *c)
{
	return c->io == IO_USERPTR  ? V4L2_MEMORY_USERPTR
	       : c->io == IO_DMABUF ? V4L2_MEMORY_DMABUF
				    : V4L2_MEMORY_MMAP;
}

static struct v4l2_buffer blank(const struct card *c, unsigned slot)
{
	return (struct v4l2_buffer){ .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = memory_of(c), .index = slot };
}

static void map_buffers(struct card *c)
{
	for (unsigned i = 0; i < c->buffers; i++) {
		struct v4l2_buffer b = blank(c, i);

		if (call(c, VIDIOC_QUERYBUF, &b))
			fail("VIDIOC_QUERYBUF: %s", strerror(errno));
		c->map_size[i] = b.length;
		c->map[i] = mmap(NULL, b.length, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, b.m.offset);
		if (c->map[i] == MAP_FAILED)
			fail("cannot map buffer %u: %s", i, strerror(errno));
	}
}

int card_try_request(struct card *c, unsigned count)
{
	struct v4l2_requestbuffers r = { .count = count, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE,
					 .memory = memory_of(c) };

	if (call(c, VIDIOC_REQBUFS, &r))
		return errno;
	if (r.count < 1 || r.count > 32)
		fail("asked for %u buffers, got %u", count, r.count);
	c->buffers = r.count;
	if (c->io == IO_MMAP)
		map_buffers(c);
	return 0;
}

void card_request_buffers(struct card *c, unsigned count)
{
	int error = card_try_request(c, count);

	if (error)
		fail("VIDIOC_REQBUFS: %s", strerror(error));
}

int card_try_queue(struct card *c, unsigned slot, void *memory, int dmabuf)
{
	struct v4l2_buffer b = blank(c, slot);

	if (c->io == IO_USERPTR) {
		b.m.userptr = (unsigned long)memory;
		b.length = (uint32_t)c->image_size;
	} else if (c->io == IO_DMABUF) {
		b.m.fd = dmabuf;
	}
	return call(c, VIDIOC_QBUF, &b) ? errno : 0;
}

void card_queue(struct card *c, unsigned slot, void *memory)
{
	int error = card_try_queue(c, slot, memory, -1);

	if (error)
		fail("VIDIOC_QBUF of slot %u: %s", slot, strerror(error));
}

void card_stream_on(struct card *c)
{
	int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;

	if (call(c, VIDIOC_STREAMON, &type))
		fail("VIDIOC_STREAMON: %s", strerror(errno));
}

int card_wait(struct card *c, int ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };

	return poll(&p, 1, ms) > 0;
}

int card_dequeue(struct card *c, struct frame *f)
{
	struct v4l2_buffer b = blank(c, 0);

	if (call(c, VIDIOC_DQBUF, &b)) {
		if (errno == EAGAIN)
			return 0;
		fail("VIDIOC_DQBUF: %s", strerror(errno));
	}
	*f = (struct frame){ .slot = b.index, .sequence = b.sequence, .size = b.bytesused };
	f->field = b.field == V4L2_FIELD_TOP ? 0 : b.field == V4L2_FIELD_BOTTOM ? 1 : -1;
	f->error = !!(b.flags & V4L2_BUF_FLAG_ERROR);
	return 1;
}

size_t card_read(struct card *c, void *memory, size_t size)
{
	ssize_t n;

	do
		n = read(c->fd, memory, size);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EIO) /* what a frame with the error flag is to read() */
		return 0;
	if (n < 0)
		fail("read: %s", strerror(errno));
	return (size_t)n;
}

void card_stream_off(struct card *c)
{
	int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;

	if (call(c, VIDIOC_STREAMOFF, &type))
		fail("VIDIOC_STREAMOFF: %s", strerror(errno));
}

void card_close(struct card *c)
{
	if (c->io != IO_READ)
		card_stream_off(c);
	if (c->io == IO_MMAP)
		for (unsigned i = 0; i < c->buffers; i++)
			munmap(c->map[i], c->map_size[i]);
	close(c->fd);
	c->fd = -1;
}
