// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT (1ull << 63)
#define PM_SWAP (1ull << 62)
#define PM_PFN ((1ull << 55) - 1)
#define KPF_DIRTY (1ull << 4)

enum { PAGE = 4096, CHUNK = 512 };

static int pagemap = -1, kpageflags = -1;

int pages_open(void)
{
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return errno;
	kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	return kpageflags < 0 ? errno : 0;
}

/* Calls `is` for the pagemap entry of each page of the range and counts where it holds. */
static unsigned count_pages(const void *start, size_t size, int (*is)(uint64_t entry))
{
	uintptr_t first = (uintptr_t)start / PAGE, last = ((uintptr_t)start + size + PAGE - 1) / PAGE;
	uint64_t entries[CHUNK];
	unsigned count = 0;

	while (first < last) {
		size_t n = last - first < CHUNK ? last - first : CHUNK;
		ssize_t got = pread(pagemap, entries, n * 8, (off_t)(first * 8));

		if (got <= 0)
			break;
		for (size_t i = 0; i < (size_t)got / 8; i++)
			count += is(entries[i]) != 0;
		first += (size_t)got / 8;
	}
	return count;
}

static int is_swapped(uint64_t entry)
{
	return (entry & PM_SWAP) != 0;
}

static int is_clean(uint64_t entry)
{
	uint64_t flags;

	if (!(entry & PM_PRESENT))
		return 0;
	return pread(kpageflags, &flags, 8, (off_t)((entry & PM_PFN) * 8)) == 8 && !(flags & KPF_DIRTY);
}

unsigned count_swapped(const void *start, size_t size)
{
	return count_pages(start, size, is_swapped);
}

unsigned count_clean(const void *start, size_t size)
{
	return count_pages(start, size, is_clean);
}

/* madvise(2) wants a page's start. */
static int advise(void *start, size_t size, int advice)
{
	uintptr_t first = (uintptr_t)start & ~(uintptr_t)(PAGE - 1);

	return madvise((void *)first, (uintptr_t)start + size - first, advice) ? errno : 0;
}

int page_out(void *start, size_t size)
{
	return advise(start, size, MADV_PAGEOUT);
}

void discard(void *start, size_t size)
{
	advise(start, size, MADV_DONTNEED);
}

void read_ahead(void *start, size_t size)
{
	advise(start, size, MADV_WILLNEED);
}

void read_back(const void *start, size_t size)
{
	const volatile uint8_t *at = start;
	uint8_t sum = 0;

	for (size_t i = 0; i < size; i += PAGE)
		sum ^= at[i];
	sum ^= at[size - 1];
	(void)sum;
}

struct vmstat read_vmstat(void)
{
	struct vmstat v = { 0, 0, 0, 0 };
	FILE *file = fopen("/proc/vmstat", "re");
	unsigned long long value;
	char name[64];

	while (file && fscanf(file, "%63s %llu", name, &value) == 2) {
		if (!strcmp(name, "pswpin"))
			v.pswpin = value;
		else if (!strcmp(name, "pswpout"))
			v.pswpout = value;
		else if (!strcmp(name, "nr_foll_pin_acquired"))
			v.pin_acquired = value;
		else if (!strcmp(name, "nr_foll_pin_released"))
			v.pin_released = value;
	}
	if (file)
		fclose(file);
	return v;
}
