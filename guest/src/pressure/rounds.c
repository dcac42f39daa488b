// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pressure in rounds: every so many milliseconds one act on the memory of others.
 *
 * "pageout" asks the kernel to reclaim everything that the programs with an open capture device have mapped
 * (process_madvise(2) with MADV_PAGEOUT, Linux 5.10): as deterministic as reclaim can be, and the programs
 * need not help.
 */
#define _GNU_SOURCE
#include "rounds.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, AT_ONCE = 256, SECOND_MS = 1000 };

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

struct tally {
	unsigned long rounds, programs;
	uint64_t pages; /* asked for; the kernel takes what it can */
};

static int has_device_open(const char *pid)
{
	char path[64], target[64];
	struct dirent *entry;
	int found = 0;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	if (!(fds = opendir(path)))
		return 0;
	while (!found && (entry = readdir(fds))) {
		ssize_t n = readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1);

		target[n > 0 ? n : 0] = 0;
		found = !strncmp(target, "/dev/video", 10) || !strncmp(target, "/dev/vbi", 8);
	}
	closedir(fds);
	return found;
}

static void advise(int pidfd, struct iovec *pieces, size_t count, struct tally *t)
{
	for (size_t done = 0; done < count;) {
		ssize_t n = syscall(SYS_process_madvise, pidfd, pieces + done, count - done, MADV_PAGEOUT, 0);

		/* It ends at the first mapping that it cannot advise: go on behind that one. */
		t->pages += n > 0 ? (uint64_t)n / PAGE : 0;
		while (n > 0 && done < count && (size_t)n >= pieces[done].iov_len)
			n -= (ssize_t)pieces[done++].iov_len;
		done += done < count;
	}
}

static void page_out(int pidfd, const char *pid, struct tally *t)
{
	struct iovec pieces[AT_ONCE];
	char line[512], path[64];
	size_t count = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%.20s/maps", pid);
	if (!(maps = fopen(path, "re")))
		return;
	while (fgets(line, sizeof(line), maps)) {
		uint64_t from, to;
		char rights[8];

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, rights) != 3 || rights[1] != 'w' ||
		    strstr(line, "/dev/video"))
			continue;
		pieces[count++] = (struct iovec){ (void *)(uintptr_t)from, to - from };
		if (count == AT_ONCE) {
			advise(pidfd, pieces, count, t);
			count = 0;
		}
	}
	fclose(maps);
	advise(pidfd, pieces, count, t);
}

static void pageout_all(struct tally *t)
{
	struct dirent *entry;
	DIR *proc = opendir("/proc");

	while (proc && (entry = readdir(proc))) {
		int pid = atoi(entry->d_name), pidfd;

		if (pid <= 1 || pid == getpid() || !has_device_open(entry->d_name))
			continue;
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (pidfd < 0)
			continue;
		t->programs++;
		page_out(pidfd, entry->d_name, t);
		close(pidfd);
	}
	if (proc)
		closedir(proc);
}

static void compact(struct tally *t)
{
	(void)t;
	write_file("/proc/sys/vm/compact_memory", "1");
}

static void drop_caches(struct tally *t)
{
	(void)t;
	write_file("/proc/sys/vm/drop_caches", "3");
}

static void write_back(struct tally *t)
{
	(void)t;
	sync();
}

static const struct {
	const char *name;
	void (*act)(struct tally *);
} acts[] = {
	{ "pageout", pageout_all }, { "compact", compact }, { "drop-caches", drop_caches }, { "sync", write_back },
};

int known_round(const char *what)
{
	for (size_t i = 0; i < sizeof(acts) / sizeof(*acts); i++)
		if (!strcmp(acts[i].name, what))
			return 1;
	return 0;
}

static void tell(const char *event, const struct tally *t)
{
	printf("{\"event\": \"%s\", \"rounds\": %lu, \"programs\": %lu, \"pages\": %" PRIu64 "}\n", event, t->rounds,
	       t->programs, t->pages);
}

int rounds(const char *what, unsigned every_ms)
{
	struct timespec pause = { every_ms / SECOND_MS, (long)(every_ms % SECOND_MS) * 1000000 };
	struct tally t = { 0 };
	size_t which = 0;

	while (strcmp(acts[which].name, what))
		which++;
	while (!stop) {
		acts[which].act(&t);
		t.rounds++;
		tell("progress", &t);
		nanosleep(&pause, NULL);
	}
	tell("end", &t);
	return 0;
}
