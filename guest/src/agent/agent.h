// SPDX-License-Identifier: GPL-2.0-or-later
/* What the parts of the agent share: the queue of frames to the host, processes, file transfers. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

enum {
	MAGIC = 0x31414356, /* "VCA1" */
	MAX_PAYLOAD = 32768,
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
	RESTORED = 8, /* u64 seconds, u64 nanoseconds, random bytes; answered by DONE or ERROR */
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

uint16_t header_check(const struct header *h);

/* ---- queue.c: frames on their way to the host ---- */

/* Whether a chunk of MAX_PAYLOAD fits. Producers ask before they read anything that they would have to keep. */
int room_for_chunk(void);
int queue_empty(void);
void send_frame(uint32_t id, enum frame_type type, const void *payload, size_t length);
void send_error(uint32_t id, int error, const char *what);
/* Writes as much as the port takes now. */
void flush_queue(int port);

/* ---- processes.c ---- */

void on_spawn(uint32_t id, char *text, size_t length);
void on_signal(uint32_t id, const uint8_t *payload, size_t length);
/* Takes in who has ended, and forwards what the others print. */
void serve_processes(void);
/* Adds the outputs to poll; *busy when one is to be served without waiting. Gives the new length of the set. */
int poll_processes(struct pollfd *set, int n, int *busy);

/* ---- files.c ---- */

void on_push(uint32_t id, char *payload, size_t length);
void on_push_data(uint32_t id, const uint8_t *data, size_t length);
void on_push_end(uint32_t id);
void on_pull(uint32_t id, char *path, size_t length);
/* Sends the next piece of each file that is pulled. */
void serve_pulls(void);
int pulling(void);

void write_file(const char *path, const char *text);

/* ---- restored.c ---- */

/* The guest goes on from a snapshot: what time it is, and something that no other guest knows. */
void on_restored(uint32_t id, const uint8_t *payload, size_t length);

#endif
