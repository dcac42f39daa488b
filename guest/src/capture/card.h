// SPDX-License-Identifier: GPL-2.0-or-later
/* The V4L2 side: one device, set up once, and its queue. Whatever fails ends the program with status 3. */
#ifndef CAPTURE_CARD_H
#define CAPTURE_CARD_H

#include "options.h"

#include <stddef.h>
#include <stdint.h>

struct card {
	int fd;
	enum io io;
	unsigned width, height, bytes_per_line, buffers;
	size_t image_size;
	void *map[32];
	size_t map_size[32];
};

/* A frame that came back. */
struct frame {
	unsigned slot, sequence;
	int field; /* 0 odd (top), 1 even (bottom), -1 both */
	int error; /* the driver says that it is no good */
	size_t size;
};

void card_open(struct card *c, const struct options *o);
void card_request_buffers(struct card *c, unsigned count);
/* The same with the driver's answer: 0, or an errno when it has no buffers of this kind. */
int card_try_request(struct card *c, unsigned count);
/* Hands buffer `memory` (NULL for mmap) to the driver in the given slot. */
void card_queue(struct card *c, unsigned slot, void *memory);
/* The same with the driver's answer: 0 or an errno. `dmabuf` is the file descriptor where io is dmabuf. */
int card_try_queue(struct card *c, unsigned slot, void *memory, int dmabuf);
void card_stream_on(struct card *c);
/* All buffers come back, filled or not; user pages are unpinned (videobuf) or stay pinned (videobuf2). */
void card_stream_off(struct card *c);
/* Waits for at most `ms`; 1 when a frame is there. */
int card_wait(struct card *c, int ms);
/* Takes back a frame; 0 when there is none after all. */
int card_dequeue(struct card *c, struct frame *f);
/* Reads a frame; fewer bytes than asked for when the driver says that it has failed. */
size_t card_read(struct card *c, void *memory, size_t size);
/* Stops, and lets go of all buffers: the driver unpins user pages here at the latest. */
void card_close(struct card *c);

void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

#endif
