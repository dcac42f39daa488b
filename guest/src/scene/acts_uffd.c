// SPDX-License-Identifier: GPL-2.0-or-later
/* Acts with userfaultfd: pages that are protected, or brought, by the program itself. */
#define _GNU_SOURCE
#include "scene.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Write-protects the range and lets it go again. */
static int act_uffd_wp(struct buffer *b, const char *argument)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register range = { { (uintptr_t)b->map, b->map_size }, UFFDIO_REGISTER_MODE_WP, 0 };
	struct uffdio_writeprotect protect = { range.range, UFFDIO_WRITEPROTECT_MODE_WP };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), error = 0;
	struct view seen;

	(void)argument;
	if (fd < 0)
		return errno;
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range) ||
	    ioctl(fd, UFFDIO_WRITEPROTECT, &protect))
		error = errno;
	look_mapping(b, &seen); /* the bit is gone when the range is let go */
	b->write_protected += seen.write_protected;
	protect.mode = 0;
	if (!error && (ioctl(fd, UFFDIO_WRITEPROTECT, &protect) || ioctl(fd, UFFDIO_UNREGISTER, &range.range)))
		error = errno;
	close(fd);
	return error;
}

static int asked = -1; /* the userfaultfd whose pages are brought by a thread */

/* Brings each page that is asked for, as long as the program lives. */
static void *bring(void *unused)
{
	static uint8_t page[4096] __attribute__((aligned(4096)));
	struct uffd_msg question;

	(void)unused;
	memset(page, FILL, sizeof(page));
	while (read(asked, &question, sizeof(question)) == (ssize_t)sizeof(question)) {
		struct uffdio_copy copy = { .src = (uintptr_t)page, .len = sizeof(page) };

		if (question.event != UFFD_EVENT_PAGEFAULT)
			continue;
		copy.dst = question.arg.pagefault.address & ~(sizeof(page) - 1);
		ioctl(asked, UFFDIO_COPY, &copy); /* EEXIST: it was asked for twice */
	}
	return NULL;
}

static int begin_to_bring(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	pthread_t thread;
	int error;

	asked = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (asked < 0)
		return errno;
	error = ioctl(asked, UFFDIO_API, &api) ? errno : pthread_create(&thread, NULL, bring, NULL);
	if (error) {
		close(asked);
		asked = -1;
	}
	return error;
}

/* Gives up the pages: whoever wants them next, the driver's get_user_pages() say, waits until they are brought. */
static int act_uffd_missing(struct buffer *b, const char *argument)
{
	struct uffdio_register range = { { (uintptr_t)b->map, b->map_size }, UFFDIO_REGISTER_MODE_MISSING, 0 };
	int error = asked < 0 ? begin_to_bring() : 0;

	(void)argument;
	if (error)
		return error;
	return ioctl(asked, UFFDIO_REGISTER, &range) || madvise(b->map, b->map_size, MADV_DONTNEED) ? errno : 0;
}

const struct act uffd_acts[] = { { "uffd-wp", act_uffd_wp }, { "uffd-missing", act_uffd_missing }, { NULL, NULL } };
