// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGS = 256 };

struct process {
	uint32_t id;
	pid_t pid; /* 0: slot free */
	int out, err; /* -1: closed */
	int reaped, status;
};

static struct process processes[MAX_PROCESSES];

static struct process *find_process(uint32_t id)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (processes[i].pid && processes[i].id == id)
			return &processes[i];
	return NULL;
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

void on_spawn(uint32_t id, char *text, size_t length)
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

void on_signal(uint32_t id, const uint8_t *payload, size_t length)
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

void serve_processes(void)
{
	reap();
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (processes[i].pid)
			serve_process(&processes[i]);
}

int poll_processes(struct pollfd *set, int n, int *busy)
{
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *p = &processes[i];

		if (!p->pid)
			continue;
		if (p->out >= 0)
			set[n++] = (struct pollfd){ .fd = p->out, .events = POLLIN };
		if (p->err >= 0)
			set[n++] = (struct pollfd){ .fd = p->err, .events = POLLIN };
		*busy |= p->reaped;
	}
	return n;
}
