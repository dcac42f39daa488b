// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory pressure: a hog that holds more memory than is free and keeps touching it, so that the kernel must
 * swap; or an act every so many milliseconds (pressure/rounds.c).
 *
 * The hog is two processes: one offers itself to the OOM killer first of all, and a watcher tells what became of
 * it. Output: one JSON object a line. Exit status: 0 ended by SIGTERM or SIGINT, 1 the hog was killed (out of
 * memory), 2 usage, 3 a call failed.
 */
#define _GNU_SOURCE
#include "pressure/rounds.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RANDOM_BYTES = 1024, PAGES_PER_MIB = 256 };

/* Shared by both processes. */
struct progress {
	volatile uint64_t touched; /* pages */
	volatile uint64_t passes;
};

static const char usage[] =
	"usage: vcap-pressure --hog MIB | --fill PERCENT | --pageout | --compact | --drop-caches | --sync\n"
	"  --hog MIB       hold so much memory\n"
	"  --fill PERCENT  hold that share of the memory that is available now (more than 100 forces swapping)\n"
	"  --pageout       in rounds: reclaim the memory of all programs that have a capture device open\n"
	"  --compact, --drop-caches, --sync   in rounds: what the kernel has for it\n"
	"  --every MS      between two rounds (50)\n";

volatile sig_atomic_t stop;

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static void die(int status, const char *what)
{
	printf("{\"event\": \"error\", \"text\": \"%s: %s\"}\n", what, strerror(errno));
	exit(status);
}

/* A line such as "MemAvailable:   123 kB" of a file in /proc; 0 when it is not there. */
static uint64_t proc_kib(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	char line[256];
	unsigned long long value = 0;

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)) && sscanf(line + strlen(name), ": %llu", &value) == 1)
			break;
	if (file)
		fclose(file);
	return value;
}

void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	if (!file || fputs(text, file) < 0 || fclose(file))
		die(3, path);
}

/* A quarter of each page is noise: compressed swap then holds about three times its size, as real data does. */
static void fill_page(uint64_t *page, uint64_t *seed)
{
	for (int i = 0; i < RANDOM_BYTES / 8; i++) {
		*seed ^= *seed << 13;
		*seed ^= *seed >> 7;
		*seed ^= *seed << 17;
		page[i] = *seed;
	}
}

static void __attribute__((noreturn)) hog(uint64_t pages, struct progress *p)
{
	uint64_t seed = 0x9e3779b97f4a7c15u, sum = 0;
	uint64_t *memory;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	write_file("/proc/self/oom_score_adj", "1000");
	/* The capture program shall feel the want of memory more than that of CPU time. */
	if (nice(5) < 0)
		die(3, "nice");
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die(3, "mmap");
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < pages; i++, p->touched++)
		fill_page(memory + i * (PAGE / 8), &seed);
	for (p->passes = 1;; p->passes++)
		for (uint64_t i = 0; i < pages; i++, p->touched++) {
			uint64_t *word = memory + i * (PAGE / 8);

			if ((i + p->passes) % 2)
				*word += sum | 1;
			else
				sum += *word;
		}
}

static void report(const char *event, pid_t pid, const struct progress *p)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	printf("{\"event\": \"%s\", \"resident_mib\": %llu, \"swapped_mib\": %llu, \"touched_pages\": %llu, "
	       "\"passes\": %llu}\n", event, (unsigned long long)proc_kib(path, "VmRSS") / 1024,
	       (unsigned long long)proc_kib(path, "VmSwap") / 1024, (unsigned long long)p->touched,
	       (unsigned long long)p->passes);
}

static int watch(pid_t pid, const struct progress *p)
{
	struct timespec second = { 1, 0 };
	int status;

	while (!stop) {
		if (waitpid(pid, &status, WNOHANG) == pid) {
			if (WIFEXITED(status))
				return WEXITSTATUS(status);
			printf("{\"event\": \"killed\", \"signal\": %d, \"touched_pages\": %llu}\n",
			       WTERMSIG(status), (unsigned long long)p->touched);
			return 1;
		}
		report("progress", pid, p);
		nanosleep(&second, NULL);
	}
	report("end", pid, p);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return 0;
}

struct wish {
	uint64_t mib;
	const char *rounds;
	unsigned every_ms;
};

static void __attribute__((noreturn)) wrong(void)
{
	fputs(usage, stderr);
	exit(2);
}

static struct wish parse(int argc, char **argv)
{
	static const struct option names[] = {
		{ "hog", required_argument, NULL, 'h' },     { "fill", required_argument, NULL, 'f' },
		{ "pageout", no_argument, NULL, 'r' },	     { "compact", no_argument, NULL, 'r' },
		{ "drop-caches", no_argument, NULL, 'r' },   { "sync", no_argument, NULL, 'r' },
		{ "every", required_argument, NULL, 'e' },   { NULL, 0, NULL, 0 },
	};
	struct wish wish = { .every_ms = 50 };
	int option, index = 0;
	uint64_t value = 0;
	char *end;

	while ((option = getopt_long(argc, argv, "", names, &index)) != -1) {
		if (option == 'r') {
			wish.rounds = names[index].name;
			continue;
		}
		value = optarg ? strtoul(optarg, &end, 10) : 0;
		if (!optarg || *end || !value || value > 1000000)
			wrong();
		if (option == 'e')
			wish.every_ms = (unsigned)value;
		else
			wish.mib = option == 'h' ? value : proc_kib("/proc/meminfo", "MemAvailable") / 1024 * value / 100;
	}
	if (!wish.mib == !wish.rounds || optind < argc || (wish.rounds && !known_round(wish.rounds)))
		wrong();
	return wish;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct wish wish = parse(argc, argv);
	struct progress *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	setvbuf(stdout, NULL, _IOLBF, 4096);
	if (p == MAP_FAILED)
		die(3, "mmap");
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (wish.rounds)
		return rounds(wish.rounds, wish.every_ms);
	printf("{\"event\": \"start\", \"mib\": %llu, \"pid\": %d}\n", (unsigned long long)wish.mib, getpid());
	pid = fork();
	if (pid < 0)
		die(3, "fork");
	if (!pid) {
		signal(SIGTERM, SIG_DFL);
		signal(SIGINT, SIG_DFL);
		hog(wish.mib * PAGES_PER_MIB, p);
	}
	/* The watcher tells the end of the story: it must not be chosen in the hog's stead. */
	write_file("/proc/self/oom_score_adj", "-900");
	return watch(pid, p);
}
