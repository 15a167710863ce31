/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mkvm-top's files share: a sample of what debugfs has of all VMs (sample.c), a sample of what
 * the kernel has counted of tracepoints (trace.c), the lines to be shown (frame.c), and the terminal
 * (screen.c). One thread; main.c starts everything and is the file to read next.
 */
#ifndef MKVM_TOP_H
#define MKVM_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "json.h"

#define MKVM_TOP_VERSION	"0.1"
#define DEFAULT_DEBUGFS		"/sys/kernel/debug"

enum sort { SORT_ID, SORT_EXITS, SORT_IRQS, NR_SORTS };

enum level { SHOW_VMS, SHOW_VM, SHOW_VCPU };

/* What is to be seen. A VM is known by its process and number. */
struct view {
	enum level level;
	pid_t pid;
	unsigned int number;
	unsigned int vcpu;
	enum sort sort;
};

/* main.c */
void fail(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
double seconds(void);
int ended_by(void);			/* the signal that asks for the end, 0: none has */
short wait_until(double when, int fd);
extern const char *const sort_names[NR_SORTS];

/* ---- sample.c ---- */

struct vm {
	pid_t pid;
	unsigned int number;
	char command[20];
	double time;			/* when its counters were read, in seconds() */
	char *text[3];			/* of the trees, in their order */
	struct json *vcpus, *stats, *irqchip;
};

struct sample {
	struct vm *vms;			/* by number */
	size_t nr;
};

/* Ends the program, with the remedy, when there is nothing to read from. */
void sample_open(const char *debugfs);
struct sample *sample_take(void);
void sample_free(struct sample *sample);
struct vm *sample_find(const struct sample *sample, pid_t pid, unsigned int number);
const struct json *list_of(const struct json *file, const char *name);
const struct json *by_id(const struct json *list, unsigned int id);

/* ---- trace.c ---- */

enum what { EXITS, RAISED, HELD_BACK, ACCEPTED, INJECTED, WAITED, WORST, NR_WHATS };

/* One line of a histogram. */
struct hits {
	enum what what;
	unsigned int vm;
	int vcpu;			/* -1: none, a pin */
	char name[20];			/* EXITS: reason, RAISED: origin, HELD_BACK: why */
	int number;			/* RAISED: GSI or -1; the others from ACCEPTED on: vector */
	uint64_t count;
	uint64_t us;			/* WAITED: sum, WORST: maximum */
};

struct trace {
	double time;
	struct hits *hits;
	size_t nr;
	uint64_t dropped;		/* hits that found the table full */
};

/* NULL: counting has begun; else a sentence that says why not, and the remedy. */
const char *trace_start(void);
void trace_stop(void);
bool trace_running(void);
/* NULL: it is not counted, or no longer. */
struct trace *trace_take(void);
void trace_free(struct trace *trace);

/* ---- frame.c ---- */

struct line {
	char text[256];
	bool title, chosen;		/* how it looks */
	bool is_row;			/* of a VM or vCPU that can be chosen: */
	pid_t pid;
	unsigned int number;
};

struct frame {
	struct line *lines;
	size_t nr;
};

/* Two samples, the older one for rates (NULL: there are none yet), likewise of the trace (both NULL: none is). */
struct source {
	const struct sample *old, *new;
	const struct trace *old_trace, *new_trace;
};

void frame_draw(struct frame *frame, const struct view *view, const struct source *source);
void frame_add_vm(struct frame *frame, const struct view *view, const struct source *source, const struct vm *vm);
void frame_free(struct frame *frame);

/* ---- screen.c ---- */

/* The terminal is as it was found. Does nothing when it is already. */
void screen_give_back(void);

/* Until the user quits or a signal comes. */
void screen_run(struct view *view, double interval);

#endif
