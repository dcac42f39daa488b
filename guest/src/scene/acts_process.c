// SPDX-License-Identifier: GPL-2.0-or-later
/* What a process does: it forks, ends, is killed, runs out of memory; and another holder of its pages. */
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_CHILDREN = 64, STORM = 16 };

int wants_close, wants_restart;
static pid_t held[MOST_CHILDREN];
static unsigned holding;
static int ring = -1;

static unsigned number(const char *argument, unsigned otherwise, unsigned most)
{
	unsigned long n = argument ? strtoul(argument, NULL, 10) : otherwise;

	return n < 1 ? 1 : n > most ? most : (unsigned)n;
}

/* A child that writes to all pages of its copy, tells that it has, and then ends or waits for `wait`. */
static pid_t child(struct buffer *b, int writes, int told, int wait)
{
	pid_t pid = fork();
	uint8_t byte = 0;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (writes)
		touch(b);
	if (told >= 0 && write(told, &byte, 1) != 1)
		_exit(1);
	if (wait >= 0 && read(wait, &byte, 1) < 0)
		_exit(1);
	if (wait == -2)
		for (;;)
			pause();
	_exit(0);
}

static int reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return status ? ECHILD : 0;
}

static int act_fork_child(struct buffer *b, const char *argument)
{
	pid_t pid = child(b, 1, -1, -1);

	(void)argument;
	return pid < 0 ? errno : reap(pid);
}

/* The parent writes first, while the child that shares the pages lives. */
static int act_fork_parent(struct buffer *b, const char *argument)
{
	int pipes[2];
	pid_t pid;

	(void)argument;
	if (pipe(pipes))
		return errno;
	pid = child(b, 0, -1, pipes[0]);
	if (pid > 0)
		touch(b);
	if (write(pipes[1], "", 1) != 1)
		return errno;
	close(pipes[0]);
	close(pipes[1]);
	return pid < 0 ? errno : reap(pid);
}

/* Many at once, each with a copy of its own. */
static int act_fork_storm(struct buffer *b, const char *argument)
{
	pid_t pids[MOST_CHILDREN];
	unsigned count = number(argument, STORM, MOST_CHILDREN);
	int error = 0;

	for (unsigned i = 0; i < count; i++)
		pids[i] = child(b, 1, -1, -1);
	for (unsigned i = 0; i < count; i++) {
		int bad = pids[i] < 0 ? EAGAIN : reap(pids[i]);

		error = bad ? bad : error;
	}
	return error;
}

/* A child that keeps its copy until the program ends. */
static int act_fork_hold(struct buffer *b, const char *argument)
{
	int pipes[2];
	uint8_t byte;
	pid_t pid;

	(void)argument;
	if (holding >= MOST_CHILDREN)
		return 0;
	if (pipe(pipes))
		return errno;
	pid = child(b, 1, pipes[1], -2);
	close(pipes[1]);
	if (pid > 0) {
		held[holding++] = pid;
		if (read(pipes[0], &byte, 1) != 1)
			pid = -1;
	}
	close(pipes[0]);
	return pid < 0 ? ECHILD : 0;
}

static int act_exit(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	tell_summary();
	_exit(0);
}

static int act_kill(struct buffer *b, const char *argument)
{
	(void)b;
	tell_summary();
	fflush(stdout);
	kill(getpid(), (int)number(argument, SIGKILL, 64));
	return 0;
}

static void *take_memory(void *unused)
{
	/* The other thread goes first: its buffers shall be on their way at the end. */
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	for (;;) {
		uint8_t *map = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (map == MAP_FAILED)
			return unused;
		for (size_t at = 0; at < HUGE_BYTES; at += 64)
			map[at] = (uint8_t)(at * 2654435761u >> 13 | 1);
	}
}

/* Takes memory, while frames are captured, until the kernel kills this process, and no other, for it. */
static int act_oom(struct buffer *b, const char *argument)
{
	static int begun;
	pthread_t thread;
	int error;

	(void)b;
	(void)argument;
	if (begun)
		return 0;
	begun = 1;
	error = write_text("/proc/self/oom_score_adj", "1000");
	if (error)
		return error;
	tell_summary();
	fflush(stdout);
	setvbuf(stdout, NULL, _IOLBF, 0); /* it may be killed any time, and what it says must be whole lines */
	return pthread_create(&thread, NULL, take_memory, NULL);
}

static int act_close(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	wants_close = 1;
	return 0;
}

static int act_restart(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	wants_restart = 1;
	return 0;
}

/* Another long-lived holder: fixed buffers of io_uring are pinned until its end. */
static int act_ring_pin(struct buffer *b, const char *argument)
{
	struct io_uring_params parameters = { 0 };
	struct iovec range = { b->map, b->map_size };

	(void)argument;
	if (ring >= 0)
		return 0; /* one buffer is enough */
	ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
	if (ring < 0)
		return errno;
	return syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &range, 1) ? errno : 0;
}

static int act_ring_unpin(struct buffer *b, const char *argument)
{
	(void)b;
	(void)argument;
	if (ring < 0)
		return 0;
	if (syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0))
		return errno;
	close(ring);
	ring = -1;
	return 0;
}

void end_acts(void)
{
	for (unsigned i = 0; i < holding; i++) {
		kill(held[i], SIGKILL);
		waitpid(held[i], NULL, 0);
	}
	holding = 0;
	act_ring_unpin(NULL, NULL);
}

const struct act process_acts[] = {
	{ "fork-child", act_fork_child }, { "fork-parent", act_fork_parent }, { "fork-storm", act_fork_storm },
	{ "fork-hold", act_fork_hold },	  { "exit", act_exit },		      { "kill", act_kill },
	{ "oom", act_oom },		  { "close", act_close },	      { "restart", act_restart },
	{ "ring-pin", act_ring_pin },	  { "ring-unpin", act_ring_unpin },   { NULL, NULL },
};
