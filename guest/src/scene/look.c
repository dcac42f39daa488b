// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT (1ull << 63)
#define PM_SWAP (1ull << 62)
#define PM_UFFD_WP (1ull << 57)
#define PM_EXCLUSIVE (1ull << 56)
#define PM_PFN ((1ull << 55) - 1)

enum { CHUNK = 512 };

static int pagemap = -1, kpageflags = -1;

void look_open(void)
{
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || kpageflags < 0)
		fail("cannot look at our own pages (are we root?): %s", strerror(errno));
}

/* pagemap entries of `count` pages from `map` on; what cannot be read is 0. */
static void entries_of(const uint8_t *map, uint64_t *entries, size_t count)
{
	ssize_t got = pread(pagemap, entries, count * 8, (off_t)((uintptr_t)map / PAGE_BYTES * 8));
	size_t have = got > 0 ? (size_t)got / 8 : 0;

	memset(entries + have, 0, (count - have) * 8);
}

/* Flags of pages that follow one another in memory are read together. */
static void count_flags(const uint64_t *pfn, size_t count, struct view *v)
{
	uint64_t flags[CHUNK];

	for (size_t i = 0, n; i < count; i += n) {
		for (n = 1; i + n < count && n < CHUNK && pfn[i + n] == pfn[i] + n; n++)
			;
		if (!pfn[i] || pread(kpageflags, flags, n * 8, (off_t)(pfn[i] * 8)) != (ssize_t)(n * 8))
			continue;
		for (size_t j = 0; j < n; j++)
			for (int bit = 0; bit < 32; bit++)
				v->flags[bit] += flags[j] >> bit & 1;
	}
}

void learn_pages(struct buffer *b)
{
	size_t pages = b->map_size / PAGE_BYTES;

	if (!b->map || !b->pfn)
		return;
	entries_of(b->map, b->pfn, pages);
	for (size_t i = 0; i < pages; i++)
		b->pfn[i] = b->pfn[i] & PM_PRESENT ? b->pfn[i] & PM_PFN : 0;
}

static void count_entry(uint64_t entry, uint64_t queued, struct view *v)
{
	int present = !!(entry & PM_PRESENT), swapped = !present && entry & PM_SWAP;

	v->pages++;
	v->present += (unsigned)present;
	v->swapped += (unsigned)swapped;
	v->absent += !present && !swapped;
	v->exclusive += !!(entry & PM_EXCLUSIVE);
	v->write_protected += !!(entry & PM_UFFD_WP);
	v->high += present && (entry & PM_PFN) * PAGE_BYTES >> 32;
	v->same += present && queued && (entry & PM_PFN) == queued;
	v->moved += present && queued && (entry & PM_PFN) != queued;
}

void look_mapping(const struct buffer *b, struct view *v)
{
	size_t pages = b->map_size / PAGE_BYTES;
	uint64_t entries[CHUNK], pfn[CHUNK];

	*v = (struct view){ 0 };
	for (size_t first = 0, n; b->map && first < pages; first += n) {
		n = pages - first < CHUNK ? pages - first : CHUNK;
		entries_of(b->map + first * PAGE_BYTES, entries, n);
		for (size_t i = 0; i < n; i++) {
			count_entry(entries[i], b->pfn ? b->pfn[first + i] : 0, v);
			pfn[i] = entries[i] & PM_PRESENT ? entries[i] & PM_PFN : 0;
		}
		count_flags(pfn, n, v);
	}
}

void look_device(const struct buffer *b, struct view *v)
{
	size_t pages = b->map_size / PAGE_BYTES;

	*v = (struct view){ 0 };
	for (size_t i = 0; b->pfn && i < pages; i++) {
		v->pages++;
		v->present += !!b->pfn[i];
	}
	if (b->pfn)
		count_flags(b->pfn, pages, v);
}
