// SPDX-License-Identifier: GPL-2.0
/*
 * mkvm-top: shows what the VMs of mkvm do, on a terminal or as one frame of text.
 *
 * This file reads the command line, prints one frame (--once) or hands over to screen.c. Every
 * mistake that a user can make is refused here or in sample_open(), with one sentence and exit
 * status 2. Owns the signals. Read sample.c next.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "top.h"

static const char help_text[] =
"Usage: mkvm-top [OPTION]...\n"
"Shows what the VMs of mkvm do: their vCPUs' states, exits and interrupts per\n"
"second, and what blocks interrupts. Watching does not disturb the guests.\n"
"\n"
"  --once          print one frame of plain text and exit\n"
"  --interval S    seconds from one sample to the next (default 1)\n"
"  --vm VM         show this VM: its number, or PROCESS-NUMBER\n"
"  --vcpu ID       show this vCPU of it\n"
"  --sort KEY      order of vCPUs: id (default), exits, irqs\n"
"  --trace         count tracepoints as well: interrupts by vector and source, how\n"
"                  long they wait; slows the guests a little\n"
"  --debugfs DIR   where debugfs is (default " DEFAULT_DEBUGFS ")\n"
"  --help          print this text\n"
"  --version       print the version\n"
"\n"
"Keys: q quits, h helps. Exit status: 0; 2 if an argument is wrong or there is\n"
"nothing to show; 128 + N after signal N.\n";

const char *const sort_names[NR_SORTS] = { "id", "exits", "irqs" };

static const char *debugfs, *vm_name, *vcpu_name, *interval_text, *sort_name;
static bool once, trace;
static double interval = 1;
static volatile sig_atomic_t ended;

/* Prints one sentence and ends the program; trace.c's guardian removes its histograms. */
void fail(int status, const char *format, ...)
{
	va_list args;

	screen_give_back();
	fprintf(stderr, "mkvm-top: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int ended_by(void)
{
	return ended;
}

static void note_end(int number)
{
	ended = number;
}

/* Blocks the signals, which are delivered only in wait_until(). */
static void open_signals(void)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction action = { .sa_handler = note_end };
	sigset_t set;
	size_t i;

	sigemptyset(&set);
	for (i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		sigaction(ends[i], &action, NULL);
		sigaddset(&set, ends[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* Ends the program by the signal that asked for it. */
static void die(void)
{
	sigset_t set;

	if (!ended)
		return;
	signal(ended, SIG_DFL);
	raise(ended);
	sigemptyset(&set);
	sigaddset(&set, ended);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/*
 * wait_until - wait until a time, a signal, or input
 * @when: on the clock of seconds()
 * @fd: the input; -1: none
 *
 * Return: poll()'s events for fd.
 */
short wait_until(double when, int fd)
{
	double left = when - seconds();
	struct timespec time = { .tv_sec = left > 0 ? (time_t)left : 0 };
	struct pollfd poll = { .fd = fd, .events = POLLIN };
	sigset_t none;

	if (left > 0)
		time.tv_nsec = (long)((left - (double)time.tv_sec) * 1e9);
	sigemptyset(&none);
	return ppoll(&poll, 1, &time, &none) > 0 ? poll.revents : 0;
}

static const struct option long_options[] = {
	{ "once",	no_argument, NULL, 'o' },
	{ "interval",	required_argument, NULL, 'i' },
	{ "vm",		required_argument, NULL, 'v' },
	{ "vcpu",	required_argument, NULL, 'c' },
	{ "sort",	required_argument, NULL, 's' },
	{ "trace",	no_argument, NULL, 't' },
	{ "debugfs",	required_argument, NULL, 'd' },
	{ "help",	no_argument, NULL, 'h' },
	{ "version",	no_argument, NULL, 'V' },
	{ }
};

static void take_value(const char **value, const char *name)
{
	if (*value)
		fail(2, "--%s is given twice: give it once", name);
	if (!*optarg)
		fail(2, "--%s has an empty value: give one or leave the option out", name);
	*value = optarg;
}

static void apply_option(int id, const char *name)
{
	static const char **const values[] = {
		['i'] = &interval_text, ['v'] = &vm_name, ['c'] = &vcpu_name,
		['s'] = &sort_name,	['d'] = &debugfs,
	};

	switch (id) {
	case 'o':
		once = true;
		break;
	case 't':
		trace = true;
		break;
	case 'h':
		fputs(help_text, stdout);
		exit(fflush(stdout) ? 1 : 0);
	case 'V':
		puts("mkvm-top " MKVM_TOP_VERSION);
		exit(fflush(stdout) ? 1 : 0);
	default:
		take_value(values[id], name);
	}
}

static void parse_interval(void)
{
	char *end;

	if (!interval_text)
		return;
	interval = strtod(interval_text, &end);
	if (*interval_text < '0' || *interval_text > '9' || *end ||
	    !(interval >= 0.1 && interval <= 3600))
		fail(2, "--interval %s is not valid: give seconds from 0.1 to 3600", interval_text);
}

static void parse_sort(struct view *view)
{
	if (!sort_name)
		return;
	while (strcmp(sort_names[view->sort], sort_name))
		if (++view->sort == NR_SORTS)
			fail(2, "--sort %s is not valid: give id, exits or irqs", sort_name);
}

static void parse_arguments(int argc, char **argv)
{
	int index = 0, id;

	opterr = 0;
	while ((id = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
		if (id == ':')
			fail(2, "%s needs a value: see mkvm-top --help", argv[optind - 1]);
		if (id == '?')
			fail(2, "%s is not an option mkvm-top knows: see mkvm-top --help", argv[optind - 1]);
		apply_option(id, long_options[index].name);
	}
	if (optind < argc)
		fail(2, "%s is not expected here: options start with --, see mkvm-top --help", argv[optind]);
	parse_interval();
}

/* Parses a whole number, which must be the whole text. */
static bool parse_number(const char *text, unsigned int *number)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	*number = (unsigned int)value;
	return *text >= '0' && *text <= '9' && !*end && !errno && value <= INT32_MAX;
}

/* Lists the names of the existing VMs, for an error message. */
static const char *names_of(const struct sample *sample)
{
	static char text[200];
	size_t i, n = 0;

	for (i = 0; i < sample->nr && n < sizeof(text) - 32; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%d-%u", i ? ", " : "",
				      sample->vms[i].pid, sample->vms[i].number);
	if (i < sample->nr)
		snprintf(text + n, sizeof(text) - n, " and others");
	return text;
}

static const struct vm *find_vm(const struct sample *sample)
{
	const char *dash = vm_name ? strchr(vm_name, '-') : NULL;
	unsigned int number, pid = 0;
	char process[32] = "0";
	const struct vm *vm;

	if (!vm_name)
		return sample->nr == 1 ? &sample->vms[0] : NULL;
	if (dash)
		snprintf(process, sizeof(process), "%.*s", (int)(dash - vm_name), vm_name);
	if (!parse_number(process, &pid) || !parse_number(dash ? dash + 1 : vm_name, &number))
		fail(2, "--vm %s is not valid: give a VM's number or PROCESS-NUMBER, of %s", vm_name, names_of(sample));
	vm = sample_find(sample, (pid_t)pid, number);
	if (!vm)
		fail(2, "there is no VM %s: give one of %s", vm_name, names_of(sample));
	return vm;
}

/* Sets the view according to --vm and --vcpu; a single VM need not be named. */
static void choose(struct view *view, const struct sample *sample)
{
	const struct vm *vm;

	if (!sample->nr)
		fail(2, "no VM runs on mkvm: start one, for instance with mkvm-run");
	vm = find_vm(sample);
	if (vm) {
		view->level = SHOW_VM;
		view->pid = vm->pid;
		view->number = vm->number;
	}
	if (!vcpu_name)
		return;
	if (!vm)
		fail(2, "--vcpu needs a VM: add --vm and one of %s", names_of(sample));
	if (!parse_number(vcpu_name, &view->vcpu) ||
	    !by_id(list_of(vm->vcpus, "vcpus"), view->vcpu))
		fail(2, "VM %u has no vCPU %s: give the id of one that it has", vm->number, vcpu_name);
	view->level = SHOW_VCPU;
}

static void print_frame(const struct frame *frame)
{
	size_t i, n;

	for (i = 0; i < frame->nr; i++) {
		for (n = strlen(frame->lines[i].text); n && frame->lines[i].text[n - 1] == ' '; n--)
			;
		printf("%.*s\n", (int)n, frame->lines[i].text);
	}
	if (fflush(stdout))
		fail(1, "cannot write to standard output (%s): give it a reader or a file with room", strerror(errno));
}

/* Prints one frame of all VMs, or of the chosen one. */
static void run_once(const struct view *view)
{
	struct trace *old_trace = trace_take(), *new_trace;
	struct sample *old = sample_take(), *new;
	double end = seconds() + interval;
	struct frame frame = { };
	size_t i;

	while (!ended && seconds() < end)
		wait_until(end, -1);
	new_trace = trace_take();
	new = sample_take();
	if (!ended) {
		struct source source = { old, new, old_trace, new_trace };

		frame_draw(&frame, view, &source);
		for (i = 0; view->level == SHOW_VMS && i < new->nr; i++)
			frame_add_vm(&frame, view, &source, &new->vms[i]);
		print_frame(&frame);
	}
	frame_free(&frame);
	trace_free(old_trace);
	trace_free(new_trace);
	sample_free(old);
	sample_free(new);
}

int main(int argc, char **argv)
{
	struct view view = { };
	struct sample *sample;
	const char *problem;

	parse_arguments(argc, argv);
	parse_sort(&view);
	sample_open(debugfs ? debugfs : DEFAULT_DEBUGFS);
	sample = sample_take();
	choose(&view, sample);
	sample_free(sample);
	if (!once && (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)))
		fail(2, "standard input and output are not a terminal: use --once for one frame of text");
	open_signals();
	atexit(trace_stop);
	problem = trace ? trace_start() : NULL;
	if (problem)
		fail(2, "%s", problem);
	if (once)
		run_once(&view);
	else
		screen_run(&view, interval);
	trace_stop();
	die();
	return 0;
}
