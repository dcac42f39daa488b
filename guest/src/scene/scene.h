// SPDX-License-Identifier: GPL-2.0-or-later
/* What the parts of vcap-scene share: the options, the buffers, and what is done to them. */
#ifndef SCENE_SCENE_H
#define SCENE_SCENE_H

#include "capture/card.h"
#include "capture/options.h"
#include "capture/verify.h"

#include <stddef.h>
#include <stdint.h>

/*
 * When an act is performed, in the life of one buffer:
 *
 *   BEFORE -> QBUF -> QUEUED -> ACTIVE (its first line is there, its last is not) -> DQBUF -> DONE -> ...
 *   -> STREAMOFF and close -> OFF
 *
 * ALWAYS: again and again from a thread of its own, on all buffers in turn.
 */
enum moment { BEFORE, QUEUED, ACTIVE, DONE, OFF, ALWAYS, MOMENTS };
extern const char *const moment_names[];

enum memory { ANON, THP, HUGETLB, SHMEM, MEMFD, MEMFD_HUGE, SHARED_FILE, PRIVATE_FILE, UDMABUF, MEMORIES };
extern const char *const memory_names[];

enum {
	MOST_BUFFERS = 32,
	MOST_TASKS = 16,
	MOST_WATCHED = 8,
	HUGE_BYTES = 2 << 20,
	FILL = 0xa5, /* what buffers hold before the card writes: never a valid tag */
	NOT_OFFERED = 4, /* exit status */
};

/* What pagemap and kpageflags say of a buffer's pages: how many of them are so. */
struct view {
	unsigned pages, present, swapped, absent; /* of the mapping's entries */
	unsigned same, moved;                     /* present and the page that was queued, or another one */
	unsigned exclusive, write_protected;      /* pagemap bits 56 and 57 */
	unsigned high;                            /* above 4 GiB, where a 32-bit device cannot reach */
	unsigned flags[32];                       /* KPF_* of include/uapi/linux/kernel-page-flags.h */
};

struct buffer {
	uint8_t *map; /* page aligned; NULL while it is not mapped */
	size_t map_size;
	uint8_t *next;   /* memory that takes the place of an unmapped one: never at the same address */
	uint8_t *data;   /* what the driver is given: behind the start of `map` by `shift` bytes */
	size_t shift;
	int file, dmabuf; /* or -1 */
	uint64_t *pfn;    /* of its pages when they were queued, 0: not present */
	struct view before, queued, acted, done, device;
	uint32_t frame; /* the card's count of the last frame in it, 0: none */
	unsigned slot, sequence, index;
	int caught; /* the moment ACTIVE was met */
	int during; /* an act at ACTIVE ended before the last line came */
	unsigned write_protected; /* pages that userfaultfd was seen to protect, in all */
};

struct act {
	const char *name;
	/* Returns 0 or an errno, if at all. */
	int (*run)(struct buffer *b, const char *argument);
};

struct task {
	const struct act *act;
	const char *argument; /* or NULL */
	enum moment at;
	unsigned done, refused;
	int error; /* the last one */
};

struct scene {
	struct options v4l; /* what card_open() wants */
	enum memory memory;
	const char *file, *cgroup;
	unsigned pool, from, times;
	int fill, packed, scatter, export;
	struct task task[MOST_TASKS];
	unsigned tasks;
	char *watch[MOST_WATCHED]; /* PATH or PATH:KEY */
	unsigned watched;
};

extern struct scene scene;
extern struct card card;
extern struct expected expected;
extern struct buffer buffers[MOST_BUFFERS];

int64_t now_ms(void);
void parse_scene(struct scene *s, int argc, char **argv);

/* ---- memory.c: user memory of each kind ---- */

void make_buffers(void);
/* Before it is queued: memory in place of what was unmapped, and new content if it is wanted. */
void renew_buffer(struct buffer *b);
/* Memory of the buffer's kind, at `place` or anywhere (NULL); MAP_FAILED with errno. */
void *map_memory(struct buffer *b, void *place);

/* ---- look.c ---- */

void look_open(void);
/* Learns which pages the buffer has now. */
void learn_pages(struct buffer *b);
/* What the buffer's mapping leads to now. */
void look_mapping(const struct buffer *b, struct view *v);
/* What the pages are now that the buffer had when it was queued: `present` and flags only. */
void look_device(const struct buffer *b, struct view *v);

/* ---- readback.c ---- */

enum outcome { IS_INTACT, IS_PARTIAL, IS_LOST, IS_MIXED /* whole fields, not of one frame */, IS_UNMAPPED };
extern const char *const outcome_names[];

struct readback {
	enum outcome outcome;
	uint32_t frame;      /* the card's count, of the newer field; 0 when none could be told */
	unsigned pages, bad; /* pages with content of the frame; those which are not what was sent */
	unsigned half;       /* one field is all there, nothing of the other */
	char list[200];      /* the bad ones, such as "0-3,9"; cut off with "..." */
};

/* Returns NULL, or what is wrong with the file. */
const char *load_expect(const char *path);
/*
 * Compares what the program reads with what the card sent as frame `want`, or (0) as some frame after `last`.
 * `shift` is the number of bytes by which data lies behind a page's start.
 */
void read_back(const struct expected *e, const uint8_t *data, size_t shift, uint32_t want, uint32_t last,
	       struct readback *r);
/* Whether the buffer's first line (or its last one) is of another frame than before. */
int line_came(const struct buffer *b, int last);

/* ---- acts*.c ---- */

extern const struct act memory_acts[], uffd_acts[], process_acts[], system_acts[]; /* each ends with a NULL name */
const struct act *find_act(const char *name);
/* Acts that the main loop performs: it looks at these after each task. */
extern int wants_close, wants_restart;
/* Writes to every page without changing it. */
void touch(struct buffer *b);
/* Writes text into a file of the kernel's; 0 or an errno. */
int write_text(const char *path, const char *text);
/* Ends what acts left behind: children, pins. */
void end_acts(void);

/* ---- tell.c: the output, one JSON object a line ---- */

void tell_start(void);
void tell_act(const struct task *t, const struct buffer *b, int error);
void tell_frame(const struct buffer *b, const struct readback *r, const char *event);
void tell_summary(void);
/* This kernel does not have it, or refuses it: ends the program with status 4. */
void __attribute__((noreturn)) not_offered(const char *what, int error);
/* Notes /proc/vmstat and what --watch names: the summary tells what has become of them. */
void take_counters(void);

struct totals {
	unsigned frames, errors, outcome[IS_UNMAPPED + 1], again[IS_UNMAPPED + 1], missed;
};
extern struct totals totals;

#endif
