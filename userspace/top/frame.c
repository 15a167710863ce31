// SPDX-License-Identifier: GPL-2.0
/*
 * Formats a page as lines of text: the VMs, one VM's vCPUs, or one vCPU, and below that the counts
 * of its tracepoints. Rates are differences of two samples; "-" is a rate that is not known yet.
 *
 * Owns no state. Read screen.c next.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "top.h"

#define UNKNOWN		(-1.0)
#define WRAP		78	/* columns, which every terminal has */

/* Columns beside the totals: exits by reason, and NMIs. */
static const struct {
	const char *title, *counter;
} reasons[] = {
	{ "IO", "io_exits" },
	{ "MMIO", "mmio_exits" },
	{ "MSR", "msr_exits" },
	{ "CPUID", "cpuid_exits" },
	{ "HLT", "halt_exits" },
	{ "INTR", "irq_exits" },
	{ "WINDOW", "irq_window_exits" },
	{ "FAULT", "pf_taken" },
	{ "EMUL", "insn_emulation" },
	{ "SIGNAL", "signal_exits" },
	{ "NMI", "nmi_injections" },
};

#define NR_REASONS (sizeof(reasons) / sizeof(reasons[0]))

/* The counters of one vCPU or VM in both samples. */
struct counters {
	const struct json *old, *new;
	double seconds;
};

static __attribute__((format(printf, 2, 3))) struct line *add(struct frame *frame,
							      const char *format, ...)
{
	struct line *lines = realloc(frame->lines, (frame->nr + 1) * sizeof(*lines));
	va_list args;

	if (!lines)
		fail(2, "no memory left: free some on this machine");
	frame->lines = lines;
	lines += frame->nr++;
	memset(lines, 0, sizeof(*lines));
	va_start(args, format);
	vsnprintf(lines->text, sizeof(lines->text), format, args);
	va_end(args);
	return lines;
}

void frame_free(struct frame *frame)
{
	free(frame->lines);
	*frame = (struct frame){ };
}

/* ---- rates ---- */

static struct counters counters_of(const struct source *source, const struct vm *vm,
				   const char *list, unsigned int id)
{
	const struct vm *old = sample_find(source->old, vm->pid, vm->number);
	struct counters c = { .new = by_id(list_of(vm->stats, list), id) };

	if (old) {
		c.old = by_id(list_of(old->stats, list), id);
		c.seconds = vm->time - old->time;
	}
	return c;
}

static double rate(const struct counters *c, const char *name)
{
	int64_t old = json_number(c->old, name, -1), new = json_number(c->new, name, -1);

	return old < 0 || new < old || c->seconds <= 0 ? UNKNOWN : (double)(new - old) / c->seconds;
}

/* Formats a number. The result stays valid for the next 31 calls. */
static const char *number(double value)
{
	static char text[32][24];
	static unsigned int next;
	char *to = text[next++ % 32];

	if (value < 0)
		return "-";
	snprintf(to, sizeof(text[0]), value > 0 && value < 9.95 ? "%.1f" : "%.0f", value);
	return to;
}

/* Sums a counter's rate over all vCPUs, except those that are new. */
static double sum_of(const struct source *source, const struct vm *vm, const char *counter)
{
	const struct json *vcpu;
	double sum = UNKNOWN;

	for (vcpu = list_of(vm->stats, "vcpus"); vcpu; vcpu = vcpu->next) {
		struct counters c = counters_of(source, vm, "vcpus", (unsigned int)json_number(vcpu, "id", 0));
		double one = rate(&c, counter);

		if (one >= 0)
			sum = sum < 0 ? one : sum + one;
	}
	return sum;
}

/* ---- a vCPU ---- */

static const char *state_of(const struct json *vcpu)
{
	const char *mp_state = json_string(vcpu, "mp_state", "?");

	if (strcmp(json_string(vcpu, "where", ""), "outside"))
		return json_true(vcpu, "in_smm") ? "running SMM" : "running";
	if (!strcmp(mp_state, "HALTED"))
		return "halted";
	if (!strcmp(mp_state, "UNINITIALIZED"))
		return "wait-for-INIT";
	if (!strcmp(mp_state, "INIT_RECEIVED"))
		return "wait-for-SIPI";
	if (strcmp(mp_state, "RUNNABLE"))
		return mp_state;
	return json_number(vcpu, "cpu", -1) < 0 ? "outside" : "in kernel";
}

static void waits_of(char *to, size_t size, const struct json *vcpu)
{
	const char *waiting = json_string(vcpu, "waiting", NULL);

	if (waiting)
		snprintf(to, size, "%s: %s", waiting, json_string(vcpu, "why", "?"));
	else
		snprintf(to, size, "-");
}

static void cpu_of(char *to, size_t size, const struct json *vcpu)
{
	int64_t cpu = json_number(vcpu, "cpu", -1);

	if (cpu < 0)
		snprintf(to, size, "-");
	else
		snprintf(to, size, "%d", (int)cpu);
}

static void add_vcpu(struct frame *frame, const struct view *view, const struct source *source,
		     const struct vm *vm, const struct json *vcpu)
{
	unsigned int id = (unsigned int)json_number(vcpu, "id", 0);
	struct counters c = counters_of(source, vm, "vcpus", id);
	char cpu[16], waits[40], rates[NR_REASONS * 9 + 1] = "";
	struct line *line;
	size_t i, n = 0;

	cpu_of(cpu, sizeof(cpu), vcpu);
	waits_of(waits, sizeof(waits), vcpu);
	for (i = 0; i < NR_REASONS; i++)
		n += (size_t)snprintf(rates + n, sizeof(rates) - n, " %7.8s",
				      number(rate(&c, reasons[i].counter)));
	line = add(frame, "%4u %-13s %3s %8s %7s  %-10s %-20s%s", id, state_of(vcpu), cpu,
		   number(rate(&c, "exits")), number(rate(&c, "irq_injections")),
		   json_string(vcpu, "last_exit", "?"), waits, rates);
	line->is_row = true;
	line->number = id;
	line->chosen = view->vcpu == id;
}

static void list_strings(char *to, size_t size, const struct json *list, const char *none)
{
	const struct json *item = list ? list->child : NULL;
	size_t n = 0;

	snprintf(to, size, "%s", none);
	for (; item && n < size; item = item->next)
		n += (size_t)snprintf(to + n, size - n, "%s%s", n ? " " : "", item->string ? item->string : "?");
}

static void add_lapic(struct frame *frame, const struct vm *vm, unsigned int id)
{
	static const char *const names[] = { "tpr", "ppr", "timer", "lint0", "lint1" };
	const struct json *lapic = by_id(list_of(vm->irqchip, "lapics"), id);
	char text[200] = "";
	size_t i, n = 0;

	if (!lapic) {
		add(frame, "  local APIC   in userspace");
		return;
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s %.20s", i ? ", " : "",
				      names[i], json_string(lapic, names[i], "?"));
	add(frame, "  local APIC   %s", text);
	list_strings(text, sizeof(text), json_get(lapic, "irr"), "none");
	add(frame, "  requested    %s", text);
	list_strings(text, sizeof(text), json_get(lapic, "isr"), "none");
	add(frame, "  in service   %s", text);
}

static void add_counters(struct frame *frame, const struct counters *c)
{
	const struct json *counter;

	add(frame, "%s", "");
	add(frame, "  %-20s %12s %10s", "COUNTER", "TOTAL", "/s")->title = true;
	for (counter = c->new ? c->new->child : NULL; counter; counter = counter->next)
		if (strcmp(counter->key, "id"))
			add(frame, "  %-20s %12llu %10s", counter->key,
			    (unsigned long long)counter->number, number(rate(c, counter->key)));
}

/* Adds the page of one vCPU. */
static void add_vcpu_page(struct frame *frame, const struct view *view, const struct source *source,
			  const struct vm *vm)
{
	const struct json *vcpu = by_id(list_of(vm->vcpus, "vcpus"), view->vcpu);
	struct counters c = counters_of(source, vm, "vcpus", view->vcpu);
	char cpu[16], text[200];

	if (!vcpu) {
		add(frame, "There is no vCPU %u.", view->vcpu);
		return;
	}
	cpu_of(cpu, sizeof(cpu), vcpu);
	add(frame, "vCPU %u of VM %u (%s, process %d)", view->vcpu, vm->number, vm->command, vm->pid)->title = true;
	add(frame, "  state        %s (%s, %s), CPU %s", state_of(vcpu), json_string(vcpu, "mp_state", "?"),
	    json_string(vcpu, "where", "?"), cpu);
	add(frame, "  last exit    %s, rip %s, rflags %s", json_string(vcpu, "last_exit", "?"),
	    json_string(vcpu, "rip", "?"), json_string(vcpu, "rflags", "?"));
	list_strings(text, sizeof(text), json_get(vcpu, "pending"), "nothing");
	add(frame, "  pending      %s (word %s)", text, json_string(vcpu, "word", "?"));
	add(frame, "  in delivery  %s", json_string(vcpu, "in_delivery", "none"));
	waits_of(text, sizeof(text), vcpu);
	add(frame, "  waits        %s", text);
	add_lapic(frame, vm, view->vcpu);
	add_counters(frame, &c);
}

/* ---- a VM ---- */

static unsigned int count_state(const struct vm *vm, const char *state)
{
	const struct json *vcpu;
	unsigned int n = 0;

	for (vcpu = list_of(vm->vcpus, "vcpus"); vcpu; vcpu = vcpu->next)
		n += !state || !strncmp(state_of(vcpu), state, strlen(state));
	return n;
}

static double mapped_mib(const struct vm *vm)
{
	const struct json *counters = list_of(vm->stats, "vm");

	return (double)json_number(counters, "pages_4k", 0) / 256 + (double)json_number(counters, "pages_2m", 0) * 2;
}

static void add_vm_row(struct frame *frame, const struct view *view, const struct source *source,
		       const struct vm *vm)
{
	struct line *line = add(frame, "%4u %8d %-15s %5u %7u %6u %8s %7s %10.1f", vm->number,
				vm->pid, vm->command, count_state(vm, NULL),
				count_state(vm, "running"), count_state(vm, "halted"),
				number(sum_of(source, vm, "exits")),
				number(sum_of(source, vm, "irq_injections")), mapped_mib(vm));

	line->is_row = true;
	line->pid = vm->pid;
	line->number = vm->number;
	line->chosen = view->pid == vm->pid && view->number == vm->number;
}

struct order {
	const struct json *vcpu;
	double key;
};

static int compare_order(const void *a, const void *b)
{
	const struct order *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? 1 : -1;
	return json_number(x->vcpu, "id", 0) < json_number(y->vcpu, "id", 0) ? -1 : 1;
}

static void add_vcpus(struct frame *frame, const struct view *view, const struct source *source,
		      const struct vm *vm)
{
	static const char *const keys[NR_SORTS] = {
		[SORT_EXITS] = "exits", [SORT_IRQS] = "irq_injections"
	};
	struct order *order = calloc(count_state(vm, NULL) + 1, sizeof(*order));
	const struct json *vcpu;
	size_t i, nr = 0;

	if (!order)
		fail(2, "no memory left: free some on this machine");
	for (vcpu = list_of(vm->vcpus, "vcpus"); vcpu; vcpu = vcpu->next) {
		struct counters c = counters_of(source, vm, "vcpus", (unsigned int)json_number(vcpu, "id", 0));

		order[nr++] =
			(struct order){ vcpu, keys[view->sort] ? rate(&c, keys[view->sort]) : 0 };
	}
	qsort(order, nr, sizeof(*order), compare_order);
	for (i = 0; i < nr; i++)
		add_vcpu(frame, view, source, vm, order[i].vcpu);
	free(order);
}

/* Adds the sums of all columns, on as many lines as needed, since columns may be off the screen. */
static void add_sums(struct frame *frame, const struct source *source, const struct vm *vm)
{
	char text[WRAP + 1] = "all:", item[40];
	size_t i;

	for (i = 0; i < NR_REASONS; i++) {
		double sum = sum_of(source, vm, reasons[i].counter);

		if (sum <= 0)
			continue;
		snprintf(item, sizeof(item), "  %s %s/s", reasons[i].title, number(sum));
		if (strlen(text) + strlen(item) > WRAP) {
			add(frame, "%s", text);
			snprintf(text, sizeof(text), "    ");
		}
		strncat(text, item, sizeof(text) - strlen(text) - 1);
	}
	if (strlen(text) > 4)
		add(frame, "%s", text);
}

static void add_vm_page(struct frame *frame, const struct view *view, const struct source *source,
			const struct vm *vm)
{
	char titles[NR_REASONS * 9 + 1] = "";
	size_t i, n = 0;

	for (i = 0; i < NR_REASONS; i++)
		n += (size_t)snprintf(titles + n, sizeof(titles) - n, " %7s", reasons[i].title);
	add(frame, "VM %u: %s, process %d, %u vCPUs, %.1f MiB mapped, %s exits/s, %s interrupts/s",
	    vm->number, vm->command, vm->pid, count_state(vm, NULL), mapped_mib(vm),
	    number(sum_of(source, vm, "exits")), number(sum_of(source, vm, "irq_injections")));
	add(frame, "%4s %-13s %3s %8s %7s  %-10s %-20s%s", "VCPU", "STATE", "CPU", "EXITS/s", "IRQS/s", "LAST EXIT",
	    "WAITS", titles)->title = true;
	add_vcpus(frame, view, source, vm);
	add_sums(frame, source, vm);
}

/* ---- counts of tracepoints ---- */

static const struct hits *find_hits(const struct trace *trace, const struct hits *like,
				    enum what what)
{
	size_t i;

	for (i = 0; i < trace->nr; i++) {
		const struct hits *hits = &trace->hits[i];

		if (hits->what == what && hits->vm == like->vm && hits->vcpu == like->vcpu &&
		    hits->number == like->number && !strcmp(hits->name, like->name))
			return hits;
	}
	return NULL;
}

/* Returns the hits since the older sample, and in *us their total time. */
static uint64_t gained(const struct source *source, const struct hits *like, enum what what,
		       uint64_t *us)
{
	const struct hits *new = find_hits(source->new_trace, like, what);
	const struct hits *old = find_hits(source->old_trace, like, what);

	if (us)
		*us = (new ? new->us : 0) - (old ? old->us : 0);
	return (new ? new->count : 0) - (old ? old->count : 0);
}

static void add_hits(struct frame *frame, const struct source *source, const struct hits *hits,
		     uint64_t times)
{
	double seconds = source->new_trace->time - source->old_trace->time,
	       per_second = (double)times / seconds;
	const struct hits *worst;
	uint64_t us, waited;
	char vcpu[16] = "pin";

	if (hits->vcpu >= 0)
		snprintf(vcpu, sizeof(vcpu), "%d", hits->vcpu);
	switch (hits->what) {
	case INJECTED:
		worst = find_hits(source->new_trace, hits, WORST);
		waited = gained(source, hits, WAITED, &us);
		add(frame, "%6s %6s0x%02x %10s %10s %10s %10s", vcpu, "",
		    (unsigned int)hits->number & 0xff,
		    number((double)gained(source, hits, ACCEPTED, NULL) / seconds),
		    number(per_second), number(waited ? (double)us / (double)waited : UNKNOWN),
		    number(worst ? (double)worst->us : UNKNOWN));
		break;
	case RAISED:
		if (hits->number >= 0)
			snprintf(vcpu, sizeof(vcpu), "%d", hits->number);
		add(frame, "  %-16s %4s %10s", hits->name, hits->number >= 0 ? vcpu : "-", number(per_second));
		break;
	default:
		add(frame, "%6s  %-15s %10s", vcpu, hits->name, number(per_second));
	}
}

struct gain {
	const struct hits *hits;
	uint64_t times;
};

static int compare_gains(const void *a, const void *b)
{
	const struct gain *x = a, *y = b;

	if (x->times != y->times)
		return x->times < y->times ? 1 : -1;
	return x->hits > y->hits ? 1 : -1;
}

/* Adds a table of the hits since the older sample, the most frequent first. */
static void add_table(struct frame *frame, const struct view *view, const struct source *source,
		      const struct vm *vm, enum what what, const char *title)
{
	const struct trace *trace = source->new_trace;
	struct gain *gains = calloc(trace->nr + 1, sizeof(*gains));
	size_t i, nr = 0;

	if (!gains)
		fail(2, "no memory left: free some on this machine");
	for (i = 0; i < trace->nr; i++) {
		const struct hits *hits = &trace->hits[i];

		if (hits->what == what && hits->vm == vm->number &&
		    (view->level != SHOW_VCPU || what == RAISED || hits->vcpu == (int)view->vcpu)) {
			gains[nr].hits = hits;
			gains[nr].times = gained(source, hits, what, NULL);
			nr += gains[nr].times > 0;
		}
	}
	qsort(gains, nr, sizeof(*gains), compare_gains);
	if (nr) {
		add(frame, "%s", "");
		add(frame, "%s", title)->title = true;
	}
	for (i = 0; i < nr; i++)
		add_hits(frame, source, gains[i].hits, gains[i].times);
	free(gains);
}

static void add_trace(struct frame *frame, const struct view *view, const struct source *source,
		      const struct vm *vm)
{
	if (!source->new_trace)
		return;
	if (!source->old_trace) {
		add(frame, "%s", "");
		add(frame, "Tracing has begun.");
		return;
	}
	add_table(frame, view, source, vm, INJECTED,
		  "  VCPU     VECTOR ACCEPTED/s INJECTED/s    MEAN us   WORST us");
	add_table(frame, view, source, vm, RAISED, "  RAISED BY         GSI         /s");
	add_table(frame, view, source, vm, HELD_BACK, "  VCPU  HELD BACK BY            /s");
	add_table(frame, view, source, vm, EXITS, "  VCPU  EXIT                    /s");
	if (source->new_trace->dropped)
		add(frame, "The kernel's table was full: %llu events are not counted.",
		    (unsigned long long)source->new_trace->dropped);
}

/* ---- whole pages ---- */

/* Adds the page of a VM, or of its vCPU. */
void frame_add_vm(struct frame *frame, const struct view *view, const struct source *source,
		  const struct vm *vm)
{
	if (view->level == SHOW_VMS)
		add(frame, "%s", "");
	if (view->level == SHOW_VCPU)
		add_vcpu_page(frame, view, source, vm);
	else
		add_vm_page(frame, view, source, vm);
	add_trace(frame, view, source, vm);
}

static void add_head(struct frame *frame, const struct view *view, const struct source *source)
{
	time_t now = time(NULL);
	unsigned int vcpus = 0;
	struct tm local;
	char clock[16];
	size_t i;

	for (i = 0; i < source->new->nr; i++)
		vcpus += count_state(&source->new->vms[i], NULL);
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &local));
	add(frame, "mkvm-top %s   VMs: %zu   vCPUs: %u   by %s%s", clock, source->new->nr, vcpus,
	    sort_names[view->sort], source->new_trace ? "   tracing" : "");
	add(frame, "%s", "");
}

void frame_draw(struct frame *frame, const struct view *view, const struct source *source)
{
	const struct vm *vm = sample_find(source->new, view->pid, view->number);
	size_t i;

	add_head(frame, view, source);
	if (view->level != SHOW_VMS && vm) {
		frame_add_vm(frame, view, source, vm);
	} else if (view->level != SHOW_VMS) {
		add(frame, "VM %u has ended.", view->number);
	} else if (!source->new->nr) {
		add(frame, "No VM runs on mkvm.");
	} else {
		add(frame, "%4s %8s %-15s %5s %7s %6s %8s %7s %10s", "VM", "PROCESS", "COMMAND", "VCPUS", "RUNNING",
		    "HALTED", "EXITS/s", "IRQS/s", "MAPPED MiB")->title = true;
		for (i = 0; i < source->new->nr; i++)
			add_vm_row(frame, view, source, &source->new->vms[i]);
	}
}
