/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PRESSURE_ROUNDS_H
#define PRESSURE_ROUNDS_H

#include <signal.h>

extern volatile sig_atomic_t stop;

/* Writes a text to a file; ends the program when that fails. */
void write_file(const char *path, const char *text);

/* Acts until stop, every so many milliseconds; returns an exit status. */
int rounds(const char *what, unsigned every_ms);

/* Whether rounds() knows it: pageout, compact, drop-caches, sync. */
int known_round(const char *what);

#endif
