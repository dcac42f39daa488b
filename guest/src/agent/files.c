// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct file {
	uint32_t id;
	int used, fd, error, pulling;
};

static struct file files[MAX_FILES];

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

void on_push(uint32_t id, char *payload, size_t length)
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

void on_push_data(uint32_t id, const uint8_t *data, size_t length)
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

void on_push_end(uint32_t id)
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

void on_pull(uint32_t id, char *path, size_t length)
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

void serve_pulls(void)
{
	for (int i = 0; i < MAX_FILES; i++)
		if (files[i].used && files[i].pulling)
			serve_pull(&files[i]);
}

int pulling(void)
{
	for (int i = 0; i < MAX_FILES; i++)
		if (files[i].used && files[i].pulling)
			return 1;
	return 0;
}

void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "vcap-agent: %s: %s\n", path, strerror(errno));
	close(fd);
}
