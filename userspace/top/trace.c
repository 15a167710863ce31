// SPDX-License-Identifier: GPL-2.0
/*
 * Counts interrupts by vector, source and reason, and measures how long they wait. The kernel does
 * the counting, in histograms of mkvm's tracepoints (Documentation/tracepoints.rst; the kernel's
 * document on histograms describes their syntax). No trace is recorded.
 *
 * The histograms are in a separate tracing instance, so they do not disturb other users of tracing;
 * waiting times need a synthetic event. A second process, the guardian, removes both when this one
 * ends, however it ends: it waits for the closing of a pipe whose other end only this process has.
 * Both keep the device open, because the module must not be unloaded while its tracepoints have
 * histograms.
 *
 * State: the instance's name, the pipe, the guardian. Read frame.c next.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "top.h"

#define RETRIES		500		/* 20 ms each: a file of the instance may be in use */

static const char tracing[] = "/sys/kernel/tracing";
static char instance[100], waits[40];
static int guard_pipe = -1, device = -1;
static pid_t guardian;

/*
 * They are created in this order and removed in reverse, because some refer to earlier ones. WAITS
 * stands for the name of the synthetic event.
 */
#define INTO "onmatch(mkvm.apic_accept).trace(WAITS,vm,vcpu,vector,$us):onmax($us).save(vm)"
static const struct {
	enum what what;
	const char *event, *trigger;
} counted[] = {
	{ EXITS, "mkvm/exit", "hist:keys=vm,vcpu,reason:size=8192" },
	{ RAISED, "mkvm/raise", "hist:keys=vm,origin,gsi:size=8192" },
	{ HELD_BACK, "mkvm/block", "hist:keys=vm,vcpu,why:size=8192" },
	{ ACCEPTED, "mkvm/apic_accept", "hist:keys=vm,vcpu,vector:since=common_timestamp.usecs:size=8192" },
	{ INJECTED, "mkvm/inject", "hist:keys=vm,vcpu,vector:size=8192 if kind == \"interrupt\"" },
	{ WORST, "mkvm/inject",
	  "hist:keys=vm,vcpu,vector:us=common_timestamp.usecs-$since:size=8192:" INTO " if kind == \"interrupt\"" },
	{ WAITED, "synthetic/WAITS", "hist:keys=vm,vcpu,vector:vals=us:size=8192" },
};

#define NR_COUNTED ((int)(sizeof(counted) / sizeof(counted[0])))

/* Copies the text with WAITS replaced by the event's name. */
static void with_name(char *to, size_t size, const char *text)
{
	const char *found = strstr(text, "WAITS");

	if (found)
		snprintf(to, size, "%.*s%s%s", (int)(found - text), text, waits, found + strlen("WAITS"));
	else
		snprintf(to, size, "%s", text);
}

static void event_path(char *path, size_t size, int i, const char *file)
{
	char event[64];

	with_name(event, sizeof(event), counted[i].event);
	snprintf(path, size, "%s/events/%s/%s", instance, event, file);
}

/* Appends to a file: truncating it would remove the entries of others. */
static bool add_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

/* Removes the instance and the event; harmless if they do not exist. */
static void take_away(void)
{
	char path[300], text[64];
	int i, fd;

	for (i = NR_COUNTED - 1; i >= 0; i--) {
		event_path(path, sizeof(path), i, "trigger");
		/* Truncating removes the histograms of this event. */
		fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
		if (fd >= 0)
			close(fd);
	}
	for (i = 0; rmdir(instance) && errno == EBUSY && i < RETRIES; i++)
		usleep(20000);
	snprintf(text, sizeof(text), "!%s", waits);
	snprintf(path, sizeof(path), "%s/synthetic_events", tracing);
	add_to(path, text);
}

static void take_name(int pid)
{
	snprintf(instance, sizeof(instance), "%s/instances/mkvm-top-%d", tracing, pid);
	snprintf(waits, sizeof(waits), "mkvm_top_%d", pid);
}

/* Removes the instances of processes that were killed together with their guardians. */
static void take_away_of_the_dead(void)
{
	char path[100];
	struct dirent *entry;
	DIR *dir;
	int pid;

	snprintf(path, sizeof(path), "%s/instances", tracing);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, "mkvm-top-%d", &pid) != 1 || !kill(pid, 0) ||
		    errno != ESRCH)
			continue;
		take_name(pid);
		take_away();
	}
	if (dir)
		closedir(dir);
}

/* Runs the guardian, which signals to the main process must not end. */
static void guard(int end)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP };
	char byte;
	size_t i;
	int null, fd;

	for (i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	setsid();
	null = open("/dev/null", O_RDWR);
	for (fd = 0; fd < 3; fd++)
		dup2(null, fd);
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
	take_away();
	_exit(0);
}

static bool start_guardian(void)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return false;
	guardian = fork();
	if (!guardian) {
		close(ends[1]);
		guard(ends[0]);
	}
	close(ends[0]);
	if (guardian < 0) {
		close(ends[1]);
		return false;
	}
	guard_pipe = ends[1];
	return true;
}

/* Opens the device, which keeps the module loaded. */
static bool open_device(void)
{
	char name[64] = "", path[100];
	FILE *f = fopen("/sys/module/mkvm/parameters/devname", "re");

	if (f && fscanf(f, "%63s", name) != 1)
		*name = 0;
	if (f)
		fclose(f);
	snprintf(path, sizeof(path), "/dev/%s", *name ? name : "mkvm");
	device = open(path, O_RDWR | O_CLOEXEC);
	return device >= 0;
}

static const char *make_all(void)
{
	char path[300], text[400];
	int i;

	if (mkdir(instance, 0700))
		return "cannot make a tracing instance: run mkvm-top as root, with tracefs at /sys/kernel/tracing";
	snprintf(path, sizeof(path), "%s/synthetic_events", tracing);
	snprintf(text, sizeof(text), "%s u32 vm; int vcpu; int vector; u64 us", waits);
	if (!add_to(path, text))
		return "this kernel has no synthetic events (CONFIG_SYNTH_EVENTS): leave out --trace";
	for (i = 0; i < NR_COUNTED; i++) {
		event_path(path, sizeof(path), i, "trigger");
		with_name(text, sizeof(text), counted[i].trigger);
		if (!add_to(path, text))
			return "this kernel cannot count events of mkvm (CONFIG_HIST_TRIGGERS): leave out --trace";
	}
	return NULL;
}

const char *trace_start(void)
{
	const char *problem;

	take_away_of_the_dead();
	take_name(getpid());
	if (!open_device())
		return "cannot open mkvm's device, which tracing needs: run mkvm-top as root";
	problem = start_guardian() ? make_all() : "cannot start a process: free some on this machine";
	if (problem)
		trace_stop();
	return problem;
}

void trace_stop(void)
{
	if (guard_pipe >= 0) {
		close(guard_pipe);
		waitpid(guardian, NULL, 0);
		/* The guardian may have been killed. */
		take_away();
	}
	if (device >= 0)
		close(device);
	guard_pipe = device = -1;
}

bool trace_running(void)
{
	return guard_pipe >= 0;
}

/* ---- reading ---- */

/* Stores one "name: value" of a line; values are padded with blanks. */
static void note_item(struct hits *hits, const char *name, const char *value)
{
	long long number = (long long)strtoull(value, NULL, 10); /* -1 is shown as 2^64 - 1 */

	if (!strcmp(name, "vm"))
		hits->vm = (unsigned int)number;
	else if (!strcmp(name, "vcpu"))
		hits->vcpu = (int)number;
	else if (!strcmp(name, "vector") || !strcmp(name, "gsi"))
		hits->number = (int)number;
	else if (!strcmp(name, "hitcount"))
		hits->count = (uint64_t)number;
	else if (!strcmp(name, "us"))
		hits->us = (uint64_t)number;
	else
		snprintf(hits->name, sizeof(hits->name), "%s", value);
}

/*
 * Parses a line such as "{ vm: 1, origin: ipi   , gsi: 4 } hitcount: 3  us: 70". After the bracket
 * there are only numbers, without commas between them.
 */
static void parse_line(struct hits *hits, char *line)
{
	char *item, *value, *end;

	for (item = strtok(line, ",{}\n"); item; item = strtok(NULL, ",{}\n")) {
		while ((value = strchr(item, ':'))) {
			*value++ = 0;
			item += strspn(item, " ");
			value += strspn(value, " ");
			end = value + strlen(value);
			while (end > value && end[-1] == ' ')
				*--end = 0;
			if (*value >= '0' && *value <= '9')
				end = value + strcspn(value, " ");
			if (*end)
				*end++ = 0;
			note_item(hits, item, value);
			item = end;
		}
	}
}

static struct hits *add_hits(struct trace *trace, enum what what)
{
	struct hits *hits = realloc(trace->hits, (trace->nr + 1) * sizeof(*hits));

	if (!hits)
		fail(2, "no memory left: free some on this machine");
	trace->hits = hits;
	hits += trace->nr++;
	*hits = (struct hits){ .what = what, .vcpu = -1, .number = -1 };
	return hits;
}

/* Reads the histograms of one event. "inject" has two, distinguished by their definitions. */
static void read_histograms(struct trace *trace, int i, FILE *f)
{
	enum what what = counted[i].what;
	char line[512];
	unsigned long long n;

	while (fgets(line, sizeof(line), f)) {
		if (what == INJECTED && strstr(line, "trigger info:") && strstr(line, "onmax"))
			what = WORST;
		else if (what == WORST && strstr(line, "trigger info:") && !strstr(line, "onmax"))
			what = INJECTED;
		else if (*line == '{')
			parse_line(add_hits(trace, what), line);
		else if (sscanf(line, " max: %llu", &n) == 1 && trace->nr)
			trace->hits[trace->nr - 1].us = n;
		else if (sscanf(line, " Dropped: %llu", &n) == 1)
			trace->dropped += n;
	}
}

struct trace *trace_take(void)
{
	struct trace *trace;
	char path[300];
	FILE *f;
	int i;

	if (guard_pipe < 0)
		return NULL;
	trace = calloc(1, sizeof(*trace));
	if (!trace)
		fail(2, "no memory left: free some on this machine");
	trace->time = seconds();
	for (i = 0; i < NR_COUNTED; i++) {
		event_path(path, sizeof(path), i, "hist");
		f = counted[i].what == WORST ? NULL : fopen(path, "re"); /* read with INJECTED */
		if (f) {
			read_histograms(trace, i, f);
			fclose(f);
		}
	}
	return trace;
}

void trace_free(struct trace *trace)
{
	if (trace)
		free(trace->hits);
	free(trace);
}
