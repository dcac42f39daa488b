// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the control channel: runs commands, moves files, streams the kernel log.
 *
 * It talks over one virtio-serial port (docs/agent.md describes the frames; vcapdev/vm/agent.py is the other
 * end). One thread, one poll loop, no allocation after start-up: all memory is static and locked, so that the
 * agent keeps answering while the guest swaps, and it is the last process that the OOM killer would take.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT_NAME "vcap.agent"
#define PROTOCOL_VERSION 1

enum {
	MAGIC = 0x31414356, /* "VCA1" */
	MAX_PAYLOAD = 32768,
	OUT_SIZE = 512 * 1024,
	IN_SIZE = 128 * 1024,
	MAX_ARGS = 256,
	MAX_PROCESSES = 32,
	MAX_FILES = 8,
};

enum frame_type {
	HELLO = 1,    /* both ways; the guest's carries JSON */
	SPAWN = 2,    /* host: NUL-terminated argv strings */
	SIGNAL = 3,   /* host: u32 signal number, sent to the process group */
	PUSH = 4,     /* host: u32 mode, path; then DATA ..., END; answered by DONE or ERROR */
	PULL = 5,     /* host: path; answered by DATA ..., END or ERROR */
	DATA = 6,
	END = 7,
	SPAWNED = 16, /* u32 pid */
	STDOUT = 17,
	STDERR = 18,
	EXITED = 19,  /* s32: exit status, or minus the signal that ended it */
	DONE = 20,
	ERROR = 21,   /* u32 errno, text */
	KMSG = 22,    /* one record of /dev/kmsg as read */
	KMSG_LOST = 23,
};

struct header {
	uint32_t magic;
	uint32_t length; /* of the payload */
	uint32_t id;     /* chosen by the host, names a process or a file transfer */
	uint16_t type;
	uint16_t check;
};

struct process {
	uint32_t id;
	pid_t pid; /* 0: slot free */
	int out, err; /* -1: closed */
	int reaped, status;
};

struct file {
	uint32_t id;
	int used, fd, error, pulling;
};

static uint8_t out[OUT_SIZE];
static size_t out_start, out_end;
static uint8_t in[IN_SIZE];
static size_t in_have;
static struct process processes[MAX_PROCESSES];
static struct file files[MAX_FILES];
static int port = -1, kmsg = -1, greeted;

static uint16_t header_check(const struct header *h)
{
	uint32_t x = h->length ^ (h->id * 0x9e3779b1u) ^ ((uint32_t)h->type << 8) ^ 0x5643;

	return (uint16_t)(x ^ (x >> 16));
}

/* ---- sending ---- */

static size_t room(void)
{
	return OUT_SIZE - (out_end - out_start);
}

/* Producers ask before they read anything that they would have to keep. */
static int room_for_chunk(void)
{
	return room() >= 2 * (MAX_PAYLOAD + sizeof(struct header));
}

static void append(const void *data, size_t size)
{
	if (out_end + size > OUT_SIZE) {
		memmove(out, out + out_start, out_end - out_start);
		out_end -= out_start;
		out_start = 0;
	}
	memcpy(out + out_end, data, size);
	out_end += size;
}

static void send_frame(uint32_t id, enum frame_type type, const void *payload, size_t length)
{
	struct header h = { MAGIC, (uint32_t)length, id, (uint16_t)type, 0 };

	if (room() < sizeof(h) + length)
		return; /* only reached by small answers behind a full queue of a host that stopped reading */
	h.check = header_check(&h);
	append(&h, sizeof(h));
	append(payload, length);
}

static void send_error(uint32_t id, int error, const char *what)
{
	uint8_t payload[512];
	uint32_t number = (uint32_t)error;
	int n;

	memcpy(payload, &number, 4);
	n = snprintf((char *)payload + 4, sizeof(payload) - 4, "%s: %s", what, strerror(error));
	if (n > (int)sizeof(payload) - 5)
		n = (int)sizeof(payload) - 5;
	send_frame(id, ERROR, payload, 4 + (size_t)n);
}

static void flush_out(void)
{
	while (out_start < out_end) {
		ssize_t n = write(port, out + out_start, out_end - out_start);

		if (n <= 0)
			return;
		out_start += (size_t)n;
	}
	out_start = out_end = 0;
}

/* ---- processes ---- */

static struct process *find_process(uint32_t id)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (processes[i].pid && processes[i].id == id)
			return &processes[i];
	return NULL;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "vcap-agent: %s: %s\n", path, strerror(errno));
	close(fd);
}

static void child(char **argv, int out_fd, int err_fd, int report_fd)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	write_file("/proc/self/oom_score_adj", "0");
	if (null < 0 || dup2(null, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(err_fd, 2) < 0)
		_exit(126);
	execvp(argv[0], argv);
	int error = errno;
	if (write(report_fd, &error, sizeof(error)) < 0)
		_exit(126);
	_exit(127);
}

static int split_arguments(char *text, size_t length, char **argv)
{
	int argc = 0;

	if (!length || text[length - 1])
		return 0;
	for (size_t at = 0; at < length && argc < MAX_ARGS; at += strlen(text + at) + 1)
		argv[argc++] = text + at;
	argv[argc] = NULL;
	return argc;
}

static struct process *free_process(void)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (!processes[i].pid)
			return &processes[i];
	return NULL;
}

/* Starts argv; returns 0 or the errno of what failed, exec included. */
static int start_process(struct process *p, uint32_t id, char **argv)
{
	int o[2] = { -1, -1 }, e[2] = { -1, -1 }, r[2] = { -1, -1 }, error = 0;
	pid_t pid = -1;

	if (pipe2(o, O_CLOEXEC) || pipe2(e, O_CLOEXEC) || pipe2(r, O_CLOEXEC) || (pid = fork()) < 0)
		error = errno;
	if (pid == 0)
		child(argv, o[1], e[1], r[1]);
	close(o[1]), close(e[1]), close(r[1]);
	if (!error && read(r[0], &error, sizeof(error)) != (ssize_t)sizeof(error))
		error = 0; /* end of file: exec worked */
	close(r[0]);
	if (error) {
		close(o[0]), close(e[0]);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return error;
	}
	fcntl(o[0], F_SETFL, O_NONBLOCK);
	fcntl(e[0], F_SETFL, O_NONBLOCK);
	*p = (struct process){ .id = id, .pid = pid, .out = o[0], .err = e[0] };
	return 0;
}

static void on_spawn(uint32_t id, char *text, size_t length)
{
	char *argv[MAX_ARGS + 1];
	struct process *p = free_process();
	int error;

	if (!split_arguments(text, length, argv)) {
		send_error(id, EINVAL, "malformed argument list");
		return;
	}
	error = find_process(id) ? EEXIST : !p ? EAGAIN : start_process(p, id, argv);
	if (error) {
		send_error(id, error, argv[0]);
		return;
	}
	uint32_t pid = (uint32_t)p->pid;
	send_frame(id, SPAWNED, &pid, sizeof(pid));
}

static void on_signal(uint32_t id, const uint8_t *payload, size_t length)
{
	struct process *p = find_process(id);
	uint32_t number = 0;

	if (length == 4)
		memcpy(&number, payload, 4);
	if (p && !p->reaped && number > 0 && number <= 64)
		kill(-p->pid, (int)number);
}

/* Forwards what the descriptor has to offer, as far as there is room; closes it at its end. */
static void forward(struct process *p, int *fd, enum frame_type type)
{
	static uint8_t chunk[MAX_PAYLOAD];

	while (*fd >= 0 && room_for_chunk()) {
		ssize_t n = read(*fd, chunk, sizeof(chunk));

		if (n > 0) {
			send_frame(p->id, type, chunk, (size_t)n);
			continue;
		}
		/* A reaped process whose pipe is still open left a descendant in the background: not waited for. */
		if (n < 0 && (errno == EAGAIN || errno == EINTR) && !p->reaped)
			return;
		close(*fd);
		*fd = -1;
	}
}

static void serve_process(struct process *p)
{
	int32_t status;

	forward(p, &p->out, STDOUT);
	forward(p, &p->err, STDERR);
	if (!p->reaped || p->out >= 0 || p->err >= 0)
		return;
	status = WIFSIGNALED(p->status) ? -WTERMSIG(p->status) : WEXITSTATUS(p->status);
	send_frame(p->id, EXITED, &status, sizeof(status));
	p->pid = 0;
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < MAX_PROCESSES; i++)
			if (processes[i].pid == pid && !processes[i].reaped) {
				processes[i].reaped = 1;
				processes[i].status = status;
			}
}

/* ---- files ---- */

static struct file *find_file(uint32_t id)
{
	for (int i = 0; i < MAX_FILES; i++)
		if (files[i].used && files[i].id == id)
			return &files[i];
	return NULL;
}

static struct file *new_file(uint32_t id)
{
	for (int i = 0; i < MAX_FILES; i++)
		if (!files[i].used) {
			files[i] = (struct file){ .id = id, .used = 1, .fd = -1 };
			return &files[i];
		}
	send_error(id, EMFILE, "too many transfers at once");
	return NULL;
}

static void end_file(struct file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->used = 0;
}

static void on_push(uint32_t id, char *payload, size_t length)
{
	struct file *f;
	uint32_t mode;

	if (length < 6 || payload[length - 1] || !(f = new_file(id)))
		return;
	memcpy(&mode, payload, 4);
	f->fd = open(payload + 4, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (f->fd < 0 || fchmod(f->fd, mode & 07777))
		f->error = errno;
}

static void on_push_data(uint32_t id, const uint8_t *data, size_t length)
{
	struct file *f = find_file(id);

	while (f && !f->pulling && !f->error && length) {
		ssize_t n = write(f->fd, data, length);

		if (n < 0) {
			f->error = errno;
			return;
		}
		data += n;
		length -= (size_t)n;
	}
}

static void on_push_end(uint32_t id)
{
	struct file *f = find_file(id);

	if (!f || f->pulling)
		return;
	if (f->error)
		send_error(id, f->error, "push");
	else
		send_frame(id, DONE, NULL, 0);
	end_file(f);
}

static void on_pull(uint32_t id, char *path, size_t length)
{
	struct file *f;

	if (length < 2 || path[length - 1] || !(f = new_file(id)))
		return;
	f->pulling = 1;
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0) {
		send_error(id, errno, path);
		end_file(f);
	}
}

static void serve_pull(struct file *f)
{
	static uint8_t chunk[MAX_PAYLOAD];
	ssize_t n;

	if (!room_for_chunk())
		return;
	n = read(f->fd, chunk, sizeof(chunk));
	if (n > 0) {
		send_frame(f->id, DATA, chunk, (size_t)n);
		return;
	}
	if (n < 0)
		send_error(f->id, errno, "pull");
	else
		send_frame(f->id, END, NULL, 0);
	end_file(f);
}

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

static int fill_poll(struct pollfd *set, int signals, int port_gone, int *busy)
{
	int n = add_poll(set, 0, signals, POLLIN);

	*busy = 0;
	if (!port_gone)
		n = add_poll(set, n, port, (short)(POLLIN | (out_end > out_start ? POLLOUT : 0)));
	if (!room_for_chunk())
		return n;
	if (greeted && kmsg >= 0)
		n = add_poll(set, n, kmsg, POLLIN);
	for (int i = 0; i < MAX_PROCESSES; i++) {
		if (processes[i].pid && processes[i].out >= 0)
			n = add_poll(set, n, processes[i].out, POLLIN);
		if (processes[i].pid && processes[i].err >= 0)
			n = add_poll(set, n, processes[i].err, POLLIN);
		*busy |= processes[i].pid && processes[i].reaped;
	}
	for (int i = 0; i < MAX_FILES; i++)
		*busy |= files[i].used && files[i].pulling;
	return n;
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
	reap();
	receive();
	if (greeted && kmsg >= 0)
		serve_kmsg();
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (processes[i].pid)
			serve_process(&processes[i]);
	for (int i = 0; i < MAX_FILES; i++)
		if (files[i].used && files[i].pulling)
			serve_pull(&files[i]);
	flush_out();
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
