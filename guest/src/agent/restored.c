// SPDX-License-Identifier: GPL-2.0-or-later
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SEED = 256 };

static int set_clock(const uint64_t *now)
{
	struct timespec time = { .tv_sec = (time_t)now[0], .tv_nsec = (long)now[1] };

	return clock_settime(CLOCK_REALTIME, &time);
}

/* Credits the seed, then has every generator make its key anew: mixing alone would wait for the next reseed. */
static int add_entropy(const uint8_t *seed, size_t length)
{
	struct {
		struct rand_pool_info info;
		uint8_t bytes[MOST_SEED];
	} pool = { .info = { .entropy_count = (int)length * 8, .buf_size = (int)length } };
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	int error;

	if (fd < 0)
		return -1;
	memcpy(pool.info.buf, seed, length);
	error = ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG) ? errno : 0;
	close(fd);
	errno = error;
	return error ? -1 : 0;
}

void on_restored(uint32_t id, const uint8_t *payload, size_t length)
{
	uint64_t now[2];

	if (length <= sizeof(now) || length - sizeof(now) > MOST_SEED) {
		send_error(id, EINVAL, "time and seed");
		return;
	}
	memcpy(now, payload, sizeof(now));
	if (set_clock(now))
		send_error(id, errno, "clock");
	else if (add_entropy(payload + sizeof(now), length - sizeof(now)))
		send_error(id, errno, "random numbers");
	else
		send_frame(id, DONE, NULL, 0);
}
