// SPDX-License-Identifier: GPL-2.0-or-later
#include "agent.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OUT_SIZE = 512 * 1024 };

static uint8_t out[OUT_SIZE];
static size_t out_start, out_end;

uint16_t header_check(const struct header *h)
{
	uint32_t x = h->length ^ (h->id * 0x9e3779b1u) ^ ((uint32_t)h->type << 8) ^ 0x5643;

	return (uint16_t)(x ^ (x >> 16));
}

static size_t room(void)
{
	return OUT_SIZE - (out_end - out_start);
}

int room_for_chunk(void)
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

int queue_empty(void)
{
	return out_start == out_end;
}

void send_frame(uint32_t id, enum frame_type type, const void *payload, size_t length)
{
	struct header h = { MAGIC, (uint32_t)length, id, (uint16_t)type, 0 };

	if (room() < sizeof(h) + length)
		return; /* only reached by small answers behind a full queue of a host that stopped reading */
	h.check = header_check(&h);
	append(&h, sizeof(h));
	append(payload, length);
}

void send_error(uint32_t id, int error, const char *what)
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

void flush_queue(int port)
{
	while (out_start < out_end) {
		ssize_t n = write(port, out + out_start, out_end - out_start);

		if (n <= 0)
			return;
		out_start += (size_t)n;
	}
	out_start = out_end = 0;
}
