// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the control channel: runs commands, moves files, streams the kernel log.
 *
 * It talks over one virtio-serial port (docs/agent.md describes the frames; vcapdev/vm/agent.py is the other
 * end). One thread, one poll loop, no allocation after start-up: all memory is static and locked, so that the
 * agent keeps answering while the guest swaps, and it is the last process that the OOM killer would take.
 */
#define _GNU_SOURCE
#include "agent/agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PORT_NAME "vcap.agent"
#define PROTOCOL_VERSION 1

enum { IN_SIZE = 128 * 1024 };

static uint8_t in[IN_SIZE];
static size_t in_have;
static int port = -1, kmsg = -1, greeted;

/* ---- kernel log ---- */

static void serve_kmsg(void)
{
	static char record[8192];

	while (room_for_chunk()) {
		ssize_t n = read(kmsg, record, sizeof(record));

		if (n > 0)
			send_frame(0, KMSG, record, (size_t)n);
		else if (n < 0 && errno == EPIPE)
			send_frame(0, KMSG_LOST, NULL, 0);
		else
			return;
	}
}

/* ---- receiving ---- */

static void on_hello(uint32_t id)
{
	char text[512];
	struct utsname u;
	int n;

	uname(&u);
	n = snprintf(text, sizeof(text), "{\"version\": %d, \"release\": \"%s\", \"machine\": \"%s\"}",
		     PROTOCOL_VERSION, u.release, u.machine);
	send_frame(id, HELLO, text, (size_t)n);
	greeted = 1;
}

static void dispatch(const struct header *h, uint8_t *payload)
{
	switch (h->type) {
	case HELLO: on_hello(h->id); break;
	case SPAWN: on_spawn(h->id, (char *)payload, h->length); break;
	case SIGNAL: on_signal(h->id, payload, h->length); break;
	case PUSH: on_push(h->id, (char *)payload, h->length); break;
	case DATA: on_push_data(h->id, payload, h->length); break;
	case END: on_push_end(h->id); break;
	case PULL: on_pull(h->id, (char *)payload, h->length); break;
	case RESTORED: on_restored(h->id, payload, h->length); break;
	default: send_error(h->id, ENOSYS, "unknown request");
	}
}

/* Handles all complete frames; whatever is not a header is skipped byte by byte until one is found. */
static void parse(void)
{
	static uint8_t payload[MAX_PAYLOAD + 1];
	size_t at = 0;
	struct header h;

	while (in_have - at >= sizeof(h)) {
		memcpy(&h, in + at, sizeof(h));
		if (h.magic != MAGIC || h.length > MAX_PAYLOAD || h.check != header_check(&h)) {
			at++;
			continue;
		}
		if (in_have - at < sizeof(h) + h.length)
			break;
		memcpy(payload, in + at + sizeof(h), h.length);
		payload[h.length] = 0;
		dispatch(&h, payload);
		at += sizeof(h) + h.length;
	}
	memmove(in, in + at, in_have - at);
	in_have -= at;
}

static void receive(void)
{
	ssize_t n = read(port, in + in_have, sizeof(in) - in_have);

	if (n > 0) {
		in_have += (size_t)n;
		parse();
	}
}

/* ---- start-up and loop ---- */

/* Opens the virtio-serial port of our name; returns -1 while there is none. */
static int open_port(void)
{
	const char *base = "/sys/class/virtio-ports";
	DIR *dir = opendir(base);
	struct dirent *entry;
	int found = -1;

	while (dir && found < 0 && (entry = readdir(dir))) {
		char path[600], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "%s/%s/name", base, entry->d_name);
		if (!(file = fopen(path, "re")))
			continue;
		if (fgets(name, sizeof(name), file) && !strcmp(strtok(name, "\n") ? name : "", PORT_NAME)) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		}
		fclose(file);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int add_poll(struct pollfd *set, int n, int fd, short events)
{
	set[n] = (struct pollfd){ .fd = fd, .events = events };
	return n + 1;
}

/* What to wait for; nothing more to read while there is no room for it. */
static int fill_poll(struct pollfd *set, int signals, int port_gone, int *busy)
{
	int n = add_poll(set, 0, signals, POLLIN);

	*busy = 0;
	if (!port_gone)
		n = add_poll(set, n, port, (short)(POLLIN | (queue_empty() ? 0 : POLLOUT)));
	if (!room_for_chunk())
		return n;
	if (greeted && kmsg >= 0)
		n = add_poll(set, n, kmsg, POLLIN);
	*busy = pulling();
	return poll_processes(set, n, busy);
}

static int port_hung_up(const struct pollfd *set, int n)
{
	for (int i = 0; i < n; i++)
		if (set[i].fd == port)
			return !!(set[i].revents & POLLHUP);
	return 0;
}

static void serve_all(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) > 0)
		;
	receive();
	if (greeted && kmsg >= 0)
		serve_kmsg();
	serve_processes();
	serve_pulls();
	flush_queue(port);
}

int main(void)
{
	static struct pollfd set[2 * MAX_PROCESSES + 4];
	sigset_t mask;
	int signals, gone = 0, busy;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	write_file("/proc/self/oom_score_adj", "-1000");
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		perror("vcap-agent: mlockall");
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	for (int tries = 0; (port = open_port()) < 0; tries++) {
		if (tries == 3000) {
			fprintf(stderr, "vcap-agent: no virtio-serial port named " PORT_NAME "\n");
			return 1;
		}
		usleep(10000);
	}
	for (;;) {
		int n = fill_poll(set, signals, gone, &busy);

		poll(set, (nfds_t)n, busy ? 0 : gone ? 100 : -1);
		gone = port_hung_up(set, n);
		serve_all(signals);
	}
}
