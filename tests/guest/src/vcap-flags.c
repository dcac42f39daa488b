// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For tests: reads N pages' words of /proc/kpageflags, says so, reads them again when SIGUSR1 comes, and leaves
 * both in /tmp/flags.
 *
 * Its memory is there and locked before, and nothing is carried out of the guest while it reads: what carries a
 * large file takes pages and gives them back, each time the same ones.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void check(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(3);
	}
}

static void read_all(char *to, size_t length)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	ssize_t got = 1;

	check(fd >= 0, "/proc/kpageflags");
	for (; length && got > 0; to += got, length -= (size_t)got)
		got = read(fd, to, length);
	check(!length, "a page that the kernel does not have");
	close(fd);
}

int main(int argc, char **argv)
{
	size_t half = argc > 1 ? 8 * strtoul(argv[1], NULL, 10) : 0;
	char *data = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	sigset_t told;
	int number, fd;

	check(data != MAP_FAILED && !mlockall(MCL_CURRENT), "memory");
	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigprocmask(SIG_BLOCK, &told, NULL);
	read_all(data, half);
	puts("once");
	fflush(stdout);
	sigwait(&told, &number);
	read_all(data + half, half);
	fd = open("/tmp/flags", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	check(fd >= 0 && write(fd, data, 2 * half) == (ssize_t)(2 * half), "/tmp/flags");
	return 0;
}
