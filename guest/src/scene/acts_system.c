// SPDX-License-Identifier: GPL-2.0-or-later
/* What happens to the whole machine, or is asked of it: reclaim, compaction, KSM, swap, limits. */
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define KSM "/sys/kernel/mm/ksm/"

enum { KSM_PATIENCE_MS = 20000, SWAP_PATIENCE_MS = 90000, TWINS = 64 /* pages */ };

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0)
		return errno;
	if (write(fd, text, strlen(text)) < 0)
		error = errno;
	close(fd);
	return error;
}

static unsigned long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long value = 0;

	if (file && fscanf(file, "%lu", &value) != 1)
		value = 0;
	if (file)
		fclose(file);
	return value;
}

static int act_compact(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	return write_text("/proc/sys/vm/compact_memory", "1");
}

static int act_drop_caches(struct buffer *b, const char *argument)
{
	(void)b;
	return write_text("/proc/sys/vm/drop_caches", argument ? argument : "3");
}

static int act_sync(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	sync();
	return 0;
}

static int act_clear_refs(struct buffer *b, const char *argument)
{
	(void)b;
	return write_text("/proc/self/clear_refs", argument ? argument : "4");
}

static unsigned long swapped_out(void)
{
	FILE *file = fopen("/proc/vmstat", "re");
	char line[128];
	unsigned long value = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "pswpout %lu", &value) == 1)
			break;
	if (file)
		fclose(file);
	return value;
}

/* Waits until somebody's want of memory has driven so many pages to swap. */
static int act_wait_swap(struct buffer *b, const char *argument)
{
	unsigned long until = swapped_out() + (argument ? strtoul(argument, NULL, 10) : 1000);
	int64_t end = now_ms() + SWAP_PATIENCE_MS;

	(void)b;
	while (swapped_out() < until) {
		if (now_ms() > end)
			return ETIME;
		usleep(20000);
	}
	return 0;
}

/* The device of the first line of /proc/swaps that names one. */
static int first_swap(char *path, size_t size)
{
	FILE *file = fopen("/proc/swaps", "re");
	char line[256];
	int found = 0;

	while (file && !found && fgets(line, sizeof(line), file))
		if (line[0] == '/') {
			snprintf(path, size, "%.*s", (int)strcspn(line, " \t"), line);
			found = 1;
		}
	if (file)
		fclose(file);
	return found;
}

static int act_swapoff(struct buffer *b, const char *argument)
{
	static char path[256]; /* what was switched off is switched on again by the next act */

	(void)b;
	if (!argument && !first_swap(path, sizeof(path)))
		return path[0] ? (swapon(path, 0) ? errno : 0) : ENOENT;
	return swapoff(argument ? argument : path) ? errno : 0;
}

/* One limit for the group that --cgroup names: memory.max of version 2. */
static int act_limit(struct buffer *b, const char *argument)
{
	char path[256];

	(void)b;
	if (!scene.cgroup)
		return ENOENT;
	snprintf(path, sizeof(path), "%s/memory.max", scene.cgroup);
	return write_text(path, argument ? argument : "max");
}

/* Has the group's memory reclaimed, so many bytes of it (Linux 5.19). */
static int act_reclaim(struct buffer *b, const char *argument)
{
	char path[256];
	int error;

	(void)b;
	if (!scene.cgroup)
		return ENOENT;
	snprintf(path, sizeof(path), "%s/memory.reclaim", scene.cgroup);
	error = write_text(path, argument ? argument : "1M");
	return error == EAGAIN ? 0 : error; /* fewer than asked for: pinned pages are none */
}

/* Leaves the group and removes it: our pages stay charged to a group that is gone. */
static int act_leave_cgroup(struct buffer *b, const char *argument)
{
	char path[256], pid[16];
	int error;

	(void)b;
	(void)argument;
	if (!scene.cgroup)
		return ENOENT;
	snprintf(path, sizeof(path), "%s/../cgroup.procs", scene.cgroup);
	snprintf(pid, sizeof(pid), "%d", getpid());
	error = write_text(path, pid);
	return error ? error : rmdir(scene.cgroup) ? errno : 0;
}

static int act_sleep(struct buffer *b, const char *argument)
{
	(void)b;
	usleep((useconds_t)(argument ? strtoul(argument, NULL, 10) : 50) * 1000);
	return 0;
}

/* Has the kernel scan until it has been through everything twice. */
static int wait_scans(void)
{
	unsigned long from = read_number(KSM "full_scans");
	int64_t end = now_ms() + KSM_PATIENCE_MS;

	while (read_number(KSM "full_scans") < from + 2) {
		if (now_ms() > end)
			return ETIME;
		usleep(5000);
	}
	return 0;
}

/* A range of equal pages that shows that merging works at all: pages_shared is not 0 after it. */
static int make_twins(void)
{
	static uint8_t *twins;

	if (twins)
		return 0;
	twins = mmap(NULL, TWINS * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (twins == MAP_FAILED)
		return errno;
	memset(twins, FILL ^ 0xff, TWINS * PAGE_BYTES);
	return madvise(twins, TWINS * PAGE_BYTES, MADV_MERGEABLE) ? errno : 0;
}

static int act_ksm(struct buffer *b, const char *argument)
{
	int error = make_twins();

	(void)argument;
	if (!error && madvise(b->map, b->map_size, MADV_MERGEABLE))
		error = errno;
	if (!error)
		error = write_text(KSM "pages_to_scan", "2000");
	if (!error)
		error = write_text(KSM "sleep_millisecs", "2");
	if (!error)
		error = write_text(KSM "run", "1");
	if (!error)
		error = wait_scans();
	return error ? error : read_number(KSM "pages_shared") ? 0 : ENODATA;
}

static int act_unmerge(struct buffer *b, const char *argument)
{
	(void)argument;
	return madvise(b->map, b->map_size, MADV_UNMERGEABLE) ? errno : 0;
}

/* Takes memory, writes to it, gives it back: reclaim has to find pages elsewhere. Argument: MiB. */
static int act_hog(struct buffer *b, const char *argument)
{
	size_t size = (size_t)(argument ? strtoul(argument, NULL, 10) : 64) << 20;
	pid_t pid = fork();
	int status;

	(void)b;
	if (pid < 0)
		return errno;
	if (!pid) {
		uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (map == MAP_FAILED || write_text("/proc/self/oom_score_adj", "1000"))
			_exit(1);
		madvise(map, size, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < size; at += 512)
			map[at] = (uint8_t)(at * 2654435761u >> 11 | 1);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return status ? ENOMEM : 0;
}

/* Writes the buffer to a file past the page cache: another device reads its pages meanwhile. */
static int act_write_direct(struct buffer *b, const char *argument)
{
	int fd = argument ? open(argument, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600) : -1, error = 0;

	if (fd < 0)
		return argument ? errno : EINVAL;
	if (write(fd, b->map, b->map_size) != (ssize_t)b->map_size)
		error = errno ? errno : EIO;
	close(fd);
	return error;
}

const struct act system_acts[] = {
	{ "compact", act_compact },	{ "drop-caches", act_drop_caches },
	{ "sync", act_sync },		{ "clear-refs", act_clear_refs },
	{ "swapoff", act_swapoff },	{ "limit", act_limit },
	{ "ksm", act_ksm },		{ "unmerge", act_unmerge },
	{ "hog", act_hog },		{ "write-direct", act_write_direct },
	{ "reclaim", act_reclaim },	{ "leave-cgroup", act_leave_cgroup },
	{ "sleep", act_sleep },		{ "wait-swap", act_wait_swap },
	{ NULL, NULL },
};
