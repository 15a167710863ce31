/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Declarations shared by mkvm-top's files: samples of debugfs (sample.c) and of the kernel's counts
 * of tracepoints (trace.c), the lines to be shown (frame.c), and the terminal (screen.c). There is
 * one thread; main.c starts everything and is the file to read next.
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

/* What the user wants to see. A VM is identified by its process and number. */
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
int ended_by(void);			/* the signal that has asked for the end; 0: none */
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

/* Finds mkvm's directory in debugfs. If it cannot be read, ends the program with the remedy. */
void sample_open(const char *debugfs);
struct sample *sample_take(void);
void sample_free(struct sample *sample);
struct vm *sample_find(const struct sample *sample, pid_t pid, unsigned int number);
const struct json *list_of(const struct json *file, const char *name);
const struct json *by_id(const struct json *list, unsigned int id);

/* ---- trace.c ---- */

enum what { EXITS, RAISED, HELD_BACK, ACCEPTED, INJECTED, WAITED, WORST, NR_WHATS };

/* An entry of a histogram. */
struct hits {
	enum what what;
	unsigned int vm;
	int vcpu;			/* -1: a pin, which has no vCPU */
	char name[20];			/* EXITS: reason, RAISED: origin, HELD_BACK: reason */
	int number;			/* RAISED: GSI or -1; the others from ACCEPTED on: vector */
	uint64_t count;
	uint64_t us;			/* WAITED: sum, WORST: maximum */
};

struct trace {
	double time;
	struct hits *hits;
	size_t nr;
	uint64_t dropped;		/* events lost because the table was full */
};

/* Starts counting. Returns NULL, or a sentence with the problem and the remedy. */
const char *trace_start(void);
void trace_stop(void);
bool trace_running(void);
/* Samples the counts. Returns NULL if counting is not, or no longer, active. */
struct trace *trace_take(void);
void trace_free(struct trace *trace);

/* ---- frame.c ---- */

struct line {
	char text[256];
	bool title, chosen;		/* the line's style */
	bool is_row;			/* the line of a VM or vCPU, which can be chosen: */
	pid_t pid;
	unsigned int number;
};

struct frame {
	struct line *lines;
	size_t nr;
};

/*
 * Two samples of debugfs; the older one, for rates, may be NULL. Two samples of the counts of
 * tracepoints; both are NULL without --trace.
 */
struct source {
	const struct sample *old, *new;
	const struct trace *old_trace, *new_trace;
};

void frame_draw(struct frame *frame, const struct view *view, const struct source *source);
void frame_add_vm(struct frame *frame, const struct view *view, const struct source *source,
		  const struct vm *vm);
void frame_free(struct frame *frame);

/* ---- screen.c ---- */

/* Restores the terminal, if that has not been done. */
void screen_give_back(void);

/* Shows frames until the user quits or a signal arrives; interval is in seconds. */
void screen_run(struct view *view, double interval);

#endif
