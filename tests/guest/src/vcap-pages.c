// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For tests: maps pages of several kinds and prints what the kernel says of each, then waits to be killed.
 * A line: name, user address, page frame, /proc/kpageflags word, /proc/kpagecount.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static uint64_t word(const char *path, uint64_t index)
{
	uint64_t value;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || pread(fd, &value, 8, (off_t)(8 * index)) != 8) {
		perror(path);
		exit(3);
	}
	close(fd);
	return value;
}

static void tell(const char *name, const volatile char *page)
{
	uint64_t entry = word("/proc/self/pagemap", (uintptr_t)page / 4096);
	uint64_t pfn = entry & ((1ULL << 55) - 1);

	if (!(entry >> 63)) {
		fprintf(stderr, "%s is not present\n", name);
		exit(3);
	}
	printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", name, (uint64_t)(uintptr_t)page, pfn,
	       word("/proc/kpageflags", pfn), word("/proc/kpagecount", pfn));
}

static volatile char *map(int flags)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED) {
		perror("mmap");
		exit(3);
	}
	return page;
}

/* Pushes a page out to swap; prints its address, and the swap type and offset that the kernel tells. */
static void swap_out(void)
{
	volatile char *page = map(MAP_PRIVATE);
	uint64_t entry = 0;

	for (int i = 0; i < 4096; i++)
		page[i] = (char)(i * i >> 3);
	for (int i = 0; i < 600 && !(entry >> 62 & 1); i++) {
		madvise((void *)page, 4096, MADV_PAGEOUT);
		usleep(20000);
		entry = word("/proc/self/pagemap", (uintptr_t)page / 4096);
	}
	if (!(entry >> 62 & 1)) {
		fprintf(stderr, "the page is not swapped out\n");
		exit(3);
	}
	printf("swapped %" PRIu64 " %" PRIu64 " %" PRIu64 " 0\n", (uint64_t)(uintptr_t)page, entry & 31,
	       (uint64_t)(entry >> 5 & ((1ULL << 50) - 1)));
}

int main(void)
{
	volatile char *zero = map(MAP_PRIVATE), *anon = map(MAP_PRIVATE), *locked = map(MAP_PRIVATE);
	volatile char *forked = map(MAP_PRIVATE), *shared = map(MAP_SHARED);
	pid_t parent = getpid();
	char sum;

	*forked = *shared = 1;
	if (!fork()) {
		sum = *shared; /* a second mapping of it */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(sum);
	}
	*anon = *locked = 1;
	if (mlock((const void *)locked, 4096)) {
		perror("mlock");
		return 3;
	}
	sum = *zero;
	usleep(200000); /* the child comes to its reading */
	swap_out();
	tell("zero", zero);
	tell("anon", anon);
	tell("locked", locked);
	tell("forked", forked);
	tell("shared", shared);
	printf("ready %d 0 0 0\n", parent + sum);
	fflush(stdout);
	for (;;)
		pause();
}
