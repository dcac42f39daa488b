// SPDX-License-Identifier: GPL-2.0-or-later
/* What becomes of our pages: swapped, clean, pinned; and how to make them so. */
#ifndef CAPTURE_PAGES_H
#define CAPTURE_PAGES_H

#include <stddef.h>

/* Counters of /proc/vmstat (pages since boot). */
struct vmstat {
	unsigned long long pswpin, pswpout, pin_acquired, pin_released;
};

/* Opens the files that are read again and again. Returns 0 or an errno. */
int pages_open(void);

/* Pages of the range whose content is in swap now. */
unsigned count_swapped(const void *start, size_t size);

/* Pages of the range that are in memory and that nobody has marked dirty (PG_dirty clear). */
unsigned count_clean(const void *start, size_t size);

/* Asks the kernel to reclaim the range now. Returns 0 or an errno. */
int page_out(void *start, size_t size);

/* Starts to bring the range back, without waiting. */
void read_ahead(void *start, size_t size);

/* Throws the range's pages away; what comes next is the zero page to readers, a new page to writers. */
void discard(void *start, size_t size);

/* Brings the range back by reading only, so that page-table entries stay clean. */
void read_back(const void *start, size_t size);

struct vmstat read_vmstat(void);

#endif
