// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

const char *const memory_names[] = { "anon", "thp", "hugetlb", "shmem", "memfd", "memfd-hugetlb",
				     "shared-file", "private-file", "udmabuf", NULL };

static int is_huge(void)
{
	return scene.memory == THP || scene.memory == HUGETLB || scene.memory == MEMFD_HUGE;
}

static size_t round_up(size_t size, size_t to)
{
	return (size + to - 1) / to * to;
}

/* A transparent huge page needs a range that begins at a multiple of its size. */
static void *map_aligned(size_t size)
{
	uint8_t *map = mmap(NULL, size + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *start;

	if (map == MAP_FAILED)
		return map;
	start = (uint8_t *)round_up((uintptr_t)map, HUGE_BYTES);
	if (start > map)
		munmap(map, (size_t)(start - map));
	if (start + size < map + size + HUGE_BYTES)
		munmap(start + size, (size_t)(map + HUGE_BYTES - start));
	return start;
}

static void *map_thp(size_t size, void *place)
{
	void *map = place ? mmap(place, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
			  : map_aligned(size);

	if (map != MAP_FAILED && madvise(map, size, MADV_HUGEPAGE))
		not_offered("MADV_HUGEPAGE", errno);
	return map;
}

void *map_memory(struct buffer *b, void *place)
{
	int fixed = place ? MAP_FIXED : 0, protection = PROT_READ | PROT_WRITE;
	void *map;

	switch (scene.memory) {
	case THP:
		return map_thp(b->map_size, place);
	case HUGETLB:
		return mmap(place, b->map_size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | fixed, -1, 0);
	case SHMEM:
		return mmap(place, b->map_size, protection, MAP_SHARED | MAP_ANONYMOUS | fixed, -1, 0);
	case MEMFD:
	case MEMFD_HUGE:
	case UDMABUF:
	case SHARED_FILE:
		return mmap(place, b->map_size, protection, MAP_SHARED | fixed, b->file, 0);
	case PRIVATE_FILE:
		return mmap(place, b->map_size, protection, MAP_PRIVATE | fixed, b->file, 0);
	default:
		map = mmap(place, b->map_size, protection, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
		if (map != MAP_FAILED)
			madvise(map, b->map_size, MADV_NOHUGEPAGE);
		return map;
	}
}

/* A file whose content is known and has reached the disk, so that old content can be told from new. */
static int make_file(unsigned number, size_t size)
{
	static uint8_t page[PAGE_BYTES];
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s.%u", scene.file, number);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	memset(page, FILL, sizeof(page));
	for (size_t at = 0; fd >= 0 && at < size; at += sizeof(page))
		if (write(fd, page, sizeof(page)) != (ssize_t)sizeof(page))
			fail("cannot write %s: %s", path, strerror(errno));
	if (fd < 0 || fsync(fd))
		fail("cannot make %s: %s", path, strerror(errno));
	return fd;
}

static int make_memfd(size_t size, unsigned flags)
{
	int fd = memfd_create("vcap-scene", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0 || ftruncate(fd, (off_t)size))
		not_offered("memfd", errno);
	return fd;
}

static int make_udmabuf(int memfd, size_t size)
{
	struct udmabuf_create create = { .memfd = (uint32_t)memfd, .flags = UDMABUF_FLAGS_CLOEXEC, .size = size };
	int device = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd;

	if (device < 0)
		not_offered("udmabuf", errno);
	if (fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		fail("cannot seal a memfd: %s", strerror(errno));
	fd = ioctl(device, UDMABUF_CREATE, &create);
	if (fd < 0)
		not_offered("udmabuf", errno);
	close(device);
	return fd;
}

static void open_file(struct buffer *b)
{
	b->file = b->dmabuf = -1;
	if (scene.memory == SHARED_FILE || scene.memory == PRIVATE_FILE)
		b->file = make_file((unsigned)(b - buffers), b->map_size);
	else if (scene.memory == MEMFD || scene.memory == UDMABUF)
		b->file = make_memfd(b->map_size, 0);
	else if (scene.memory == MEMFD_HUGE)
		b->file = make_memfd(b->map_size, MFD_HUGETLB);
	if (scene.memory == UDMABUF)
		b->dmabuf = make_udmabuf(b->file, b->map_size);
}

static uint8_t *map_or_end(struct buffer *b)
{
	uint8_t *map = map_memory(b, NULL);

	if (map == MAP_FAILED)
		not_offered(memory_names[scene.memory], errno);
	return map;
}

static void make_pfns(struct buffer *b)
{
	b->pfn = calloc(b->map_size / PAGE_BYTES, sizeof(*b->pfn));
	if (!b->pfn)
		fail("no memory for a list of pages");
}

/* Every other page first, then the rest: neighbours do not lie side by side in physical memory. */
static void scatter(struct buffer *b)
{
	for (size_t odd = 0; odd < 2; odd++)
		for (size_t at = odd * PAGE_BYTES; at < b->map_size; at += 2 * PAGE_BYTES)
			*(volatile uint8_t *)(b->map + at) = FILL;
}

static void make_alone(struct buffer *b)
{
	b->map_size = round_up(card.image_size + b->shift, is_huge() ? HUGE_BYTES : PAGE_BYTES);
	open_file(b);
	b->map = map_or_end(b);
	b->data = b->map + b->shift;
	if (scene.scatter)
		scatter(b);
	make_pfns(b);
}

/* One behind the other without a gap: the last page of one is the first page of the next. */
static void make_packed(void)
{
	struct buffer whole = { .map_size = round_up(card.image_size * scene.pool + scene.v4l.offset, HUGE_BYTES) };
	uint8_t *map;

	open_file(&whole);
	map = map_or_end(&whole);
	for (unsigned i = 0; i < scene.pool; i++) {
		struct buffer *b = &buffers[i];
		size_t first = scene.v4l.offset + i * card.image_size;

		b->file = whole.file;
		b->dmabuf = -1;
		b->shift = first % PAGE_BYTES;
		b->map = map + (first - b->shift);
		b->data = map + first;
		b->map_size = round_up(card.image_size + b->shift, PAGE_BYTES);
		make_pfns(b);
	}
}

void make_buffers(void)
{
	if (card.io == IO_MMAP) {
		for (unsigned i = 0; i < card.buffers; i++) {
			buffers[i] = (struct buffer){ .map = card.map[i], .data = card.map[i], .file = -1, .dmabuf = -1,
						      .map_size = round_up(card.map_size[i], PAGE_BYTES) };
			make_pfns(&buffers[i]);
		}
		return;
	}
	if (scene.packed) {
		make_packed();
		return;
	}
	for (unsigned i = 0; i < scene.pool; i++) {
		buffers[i].shift = scene.v4l.offset;
		make_alone(&buffers[i]);
	}
}

void renew_buffer(struct buffer *b)
{
	if (!b->map && b->next) {
		b->map = b->next;
		b->data = b->map + b->shift;
		b->next = NULL;
	}
	if (!b->map)
		fail("buffer %u is not mapped, and there is nothing in its place", (unsigned)(b - buffers));
	if (scene.fill)
		memset(b->data, FILL, card.image_size);
}
