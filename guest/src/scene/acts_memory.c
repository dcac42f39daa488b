// SPDX-License-Identifier: GPL-2.0-or-later
/* What a program may do to its own mapping. */
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* asm-generic/mman-common.h; the C library may be older than the kernel */
enum {
	ADVICE_COLD = 20,
	ADVICE_PAGEOUT = 21,
	ADVICE_POPULATE_WRITE = 23,
	ADVICE_COLLAPSE = 25,
	ADVICE_SOFT_OFFLINE = 101,
};

/*
 * A write fault for each page, its bytes as they are. Where the kernel cannot do that by itself (before Linux 5.14)
 * the program writes back what it reads, and so may undo what a device writes in that instant: an emulator makes
 * locked instructions of a lone CPU from two parts.
 */
void touch(struct buffer *b)
{
	if (b->map && !madvise(b->map, b->map_size, ADVICE_POPULATE_WRITE))
		return;
	for (size_t at = 0; b->map && at < b->map_size; at += PAGE_BYTES)
		__atomic_fetch_or(b->map + at, 0, __ATOMIC_SEQ_CST);
}

static int act_touch(struct buffer *b, const char *argument)
{
	(void)argument;
	touch(b);
	return 0;
}

static int act_read(struct buffer *b, const char *argument)
{
	const volatile uint8_t *at = b->map;

	(void)argument;
	for (size_t i = 0; at && i < b->map_size; i += PAGE_BYTES)
		(void)at[i];
	return 0;
}

static int advise(struct buffer *b, int advice)
{
	return madvise(b->map, b->map_size, advice) ? errno : 0;
}

#define ADVISE(function, advice)                                          \
	static int function(struct buffer *b, const char *argument)       \
	{                                                                 \
		(void)argument;                                           \
		return advise(b, advice);                                 \
	}

ADVISE(act_dontneed, MADV_DONTNEED)
ADVISE(act_free, MADV_FREE)
ADVISE(act_remove, MADV_REMOVE)
ADVISE(act_cold, ADVICE_COLD)
ADVISE(act_pageout, ADVICE_PAGEOUT)
ADVISE(act_willneed, MADV_WILLNEED)
ADVISE(act_populate, ADVICE_POPULATE_WRITE)
ADVISE(act_hugepage, MADV_HUGEPAGE)
ADVISE(act_nohugepage, MADV_NOHUGEPAGE)
ADVISE(act_collapse, ADVICE_COLLAPSE)
ADVISE(act_soft_offline, ADVICE_SOFT_OFFLINE)
ADVISE(act_dontfork, MADV_DONTFORK)

/* The memory that takes its place is mapped first, so that the kernel cannot choose the same address. */
static int act_munmap(struct buffer *b, const char *argument)
{
	uint8_t *next = card.io == IO_MMAP ? NULL : map_memory(b, NULL);

	(void)argument;
	if (next == MAP_FAILED || munmap(b->map, b->map_size))
		return errno;
	b->next = next;
	b->map = NULL;
	return 0;
}

/* Other memory at the same address: a driver that goes by addresses does not notice. */
static int act_remap(struct buffer *b, const char *argument)
{
	void *map = b->map;

	(void)argument;
	if (munmap(map, b->map_size) || map_memory(b, map) == MAP_FAILED)
		return errno;
	memset(b->data, FILL, card.image_size);
	return 0;
}

static int act_mremap(struct buffer *b, const char *argument)
{
	size_t room = b->map_size + HUGE_BYTES;
	uint8_t *place = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *target;
	void *map;

	(void)argument;
	if (place == MAP_FAILED)
		return errno;
	target = (uint8_t *)(((uintptr_t)place + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
	map = mremap(b->map, b->map_size, b->map_size, MREMAP_MAYMOVE | MREMAP_FIXED, target);
	if (map == MAP_FAILED)
		return errno;
	b->map = map;
	b->data = b->map + b->shift;
	return 0;
}

/* Read-only and back: what is written next has to fault. */
static int act_mprotect(struct buffer *b, const char *argument)
{
	(void)argument;
	if (mprotect(b->map, b->map_size, PROT_READ) || mprotect(b->map, b->map_size, PROT_READ | PROT_WRITE))
		return errno;
	return 0;
}

static int act_protect_none(struct buffer *b, const char *argument)
{
	(void)argument;
	if (mprotect(b->map, b->map_size, PROT_NONE) || mprotect(b->map, b->map_size, PROT_READ | PROT_WRITE))
		return errno;
	return 0;
}

/* Splits a huge page's mapping (not the page): a part of the range gets other rights for a moment. */
static int act_split(struct buffer *b, const char *argument)
{
	(void)argument;
	if (mprotect(b->map + PAGE_BYTES, PAGE_BYTES, PROT_READ) ||
	    mprotect(b->map + PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE))
		return errno;
	return 0;
}

static int act_mlock(struct buffer *b, const char *argument)
{
	(void)argument;
	return mlock(b->map, b->map_size) ? errno : 0;
}

static int act_munlock(struct buffer *b, const char *argument)
{
	(void)argument;
	return munlock(b->map, b->map_size) ? errno : 0;
}

static int act_msync(struct buffer *b, const char *argument)
{
	(void)argument;
	return msync(b->map, b->map_size, MS_SYNC) ? errno : 0;
}

static int act_fsync(struct buffer *b, const char *argument)
{
	(void)argument;
	return b->file < 0 ? EBADF : fsync(b->file) ? errno : 0;
}

static int act_punch(struct buffer *b, const char *argument)
{
	(void)argument;
	if (b->file < 0)
		return EBADF;
	return fallocate(b->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)b->map_size) ? errno : 0;
}

static int act_truncate(struct buffer *b, const char *argument)
{
	(void)argument;
	if (b->file < 0)
		return EBADF;
	return ftruncate(b->file, 0) || ftruncate(b->file, (off_t)b->map_size) ? errno : 0;
}

/* Another reader of the same pages: pins of the short kind (get_user_pages without a count of its own). */
static int act_peek(struct buffer *b, const char *argument)
{
	static uint8_t copy[1 << 16];

	(void)argument;
	for (size_t at = 0; at < b->map_size; at += sizeof(copy)) {
		size_t size = b->map_size - at < sizeof(copy) ? b->map_size - at : sizeof(copy);
		struct iovec ours = { copy, size }, theirs = { b->map + at, size };

		if (process_vm_readv(getpid(), &ours, 1, &theirs, 1, 0) < 0)
			return errno;
	}
	return 0;
}

const struct act memory_acts[] = {
	{ "touch", act_touch },		{ "read", act_read },
	{ "dontneed", act_dontneed },	{ "free", act_free },
	{ "remove", act_remove },	{ "cold", act_cold },
	{ "pageout", act_pageout },	{ "willneed", act_willneed },
	{ "populate", act_populate },	{ "hugepage", act_hugepage },
	{ "nohugepage", act_nohugepage }, { "collapse", act_collapse },
	{ "soft-offline", act_soft_offline }, { "dontfork", act_dontfork },
	{ "munmap", act_munmap },	{ "remap", act_remap },
	{ "mremap", act_mremap },	{ "mprotect", act_mprotect },
	{ "protect-none", act_protect_none }, { "split", act_split },
	{ "mlock", act_mlock },		{ "munlock", act_munlock },
	{ "msync", act_msync },		{ "fsync", act_fsync },
	{ "punch", act_punch },		{ "truncate", act_truncate },
	{ "peek", act_peek },		{ NULL, NULL },
};
