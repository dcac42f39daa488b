// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CAPTURE_OPTIONS_H
#define CAPTURE_OPTIONS_H

#include <stdarg.h>

enum io { IO_USERPTR, IO_MMAP, IO_READ, IO_DMABUF /* vcap-scene alone */ };

struct options {
	const char *device, *norm, *format, *field, *expect, *save_path;
	enum io io;
	unsigned width, height, frames, buffers, pool, full_every, hold_ms, offset, save_frame, timeout_ms, piece;
	int pageout_idle, pageout_queued, clean;
};

extern const char *const io_names[];

/* One line to stderr, in the program's name. */
void __attribute__((format(printf, 1, 0))) complain(const char *format, va_list arguments);
/* Fills in what the command line says; ends the program with status 2 when it says nonsense. */
void parse_options(struct options *o, int argc, char **argv);

#endif
