// SPDX-License-Identifier: GPL-2.0-or-later
/* What the parts of vcap-edges share. */
#ifndef EDGES_EDGES_H
#define EDGES_EDGES_H

#include <linux/videodev2.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096 };

/* One open device, PAL; `size` bytes a frame. */
struct device {
	int fd, type;
	enum v4l2_memory memory;
	size_t size;
	int field; /* of the last frame */
};

/* An answer of the driver, to be compared with what it answers when nobody has altered it. */
void __attribute__((format(printf, 2, 3))) answer(long long value, const char *format, ...);
/* Something that is wrong in any case. */
void __attribute__((format(printf, 1, 2))) wrong(const char *format, ...);
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

/* 0 or the errno; minus the result where it is above 0. */
int call(int fd, unsigned long request, void *argument);
struct device open_video(unsigned width, unsigned height, enum v4l2_memory memory);
struct device open_vbi(enum v4l2_memory memory);
/* How many buffers came, or minus the errno. */
int request(struct device *d, unsigned count);
int queue(struct device *d, unsigned index, void *memory, size_t length);
int stream(struct device *d, int on);
/* The next frame's buffer, or minus the errno; a frame that does not come within 3 s is wrong. */
int dequeue(struct device *d);
/* Maps a whole buffer; NULL with errno. */
uint8_t *map(struct device *d, unsigned index);
/* New pages, all with content. */
uint8_t *memory_of(size_t size);
/* Pages pinned on this machine. */
long long pins(void);
/* That as many pages are pinned as before; the kernel gets some time to let go. */
void expect_pins(long long before, const char *when);

void refused(void);
void lives(void);
void lines(void);
void sided(void);
void first(void);
void leaks(void);

#endif
