// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_event.c - the delivery of an interrupt or exception to its handler.
 *
 * CPUs deliver events themselves. They cannot do so if the stack, or a descriptor whose accessed
 * bit must be set, is in read-only memory: second-level paging turns a write that a bus would
 * simply drop into an exit. This file then performs the whole delivery from its beginning, and
 * drops the write.
 *
 * Everything is read and checked before anything is written, so a delivery that meets a device can
 * be abandoned as if it had never begun.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: Intel SDM vol. 2, "INT n/INTO/INT3/INT1", whose order of checks this follows; AMD APM
 * vol. 2, "Exceptions and Interrupts".
 *
 * Read next: mkvm_run_delivery in run_insn.c, which calls this file; emulate_seg.c.
 */
#include "descriptor.h"

#define ERROR_IDT	2	/* error code: the index is that of an IDT gate */

#define IO_MAP_BASE	102	/* of the I/O bitmap's offset in a TSS */

#define MAX_FRAME	10	/* words, from virtual-8086 mode and with an error code */

struct delivery {
	const struct mkvm_emu_event *ev;
	struct mkvm_descriptor gate, code, stack;
	unsigned int width;		/* of each pushed word, in bytes */
	bool is_task;			/* it is a task gate; the fields below are unset */
	bool redirected;		/* CR4.VME: to a handler in virtual-8086 mode */
	bool inner;			/* the privilege level changes */
	unsigned int cpl;		/* the handler's */
	struct kvm_segment cs, ss;
	u64 rip, rflags;		/* the handler's */
	u64 sp;
	unsigned int sp_width;		/* of rSP, in bytes */
	u64 frame[MAX_FRAME];
	unsigned int nr;
};

/* Reads the vector's gate and checks that the event may use it. */
static enum mkvm_emu_result read_gate(struct mkvm_emu *c, struct delivery *d)
{
	u32 error = d->ev->vector << 3 | ERROR_IDT, size = long_mode(c) ? 16 : 8;
	enum mkvm_emu_result res;
	struct kvm_dtable idt;
	u64 la;

	mkvm_emu_dt(c, true, &idt, false);
	if (d->ev->vector * size + size - 1 > idt.limit)
		return fault_with(c, GP_VECTOR, error);
	la = idt.base + d->ev->vector * size;
	if (!long_mode(c))
		la = (u32)la;
	res = mkvm_emu_system(c, la, &d->gate.low, 8, MKVM_EMU_READ);
	if (!res && size == 16)
		res = mkvm_emu_system(c, la + 8, &d->gate.high, 8, MKVM_EMU_READ);
	if (res)
		return res;
	switch (desc_type(&d->gate)) {
	case INTERRUPT_GATE: case TRAP_GATE:
		d->width = long_mode(c) ? 8 : 4;
		break;
	case INTERRUPT_GATE_16: case TRAP_GATE_16: case TASK_GATE:
		d->width = long_mode(c) ? 0 : 2;
		break;
	}
	if (!d->width || (d->gate.low & DESC_S) || (d->ev->soft && desc_dpl(&d->gate) < cpl(c)))
		return fault_with(c, GP_VECTOR, error);
	return d->gate.low & DESC_P ? MKVM_EMU_DONE : fault_with(c, NP_VECTOR, error);
}

/* Finds the handler's code segment, its privilege level and its first instruction. */
static enum mkvm_emu_result load_handler(struct mkvm_emu *c, struct delivery *d)
{
	u16 selector = d->gate.low >> 16;
	bool vm86 = c->rflags & X86_EFLAGS_VM;
	enum mkvm_emu_result res;
	unsigned int dpl;

	d->rip = (d->gate.low & 0xffff) | (d->width > 2 ? d->gate.low >> 32 & 0xffff0000 : 0) |
		 d->gate.high << 32;
	if (!(selector & ~3))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_read_descriptor(c, selector, false, &d->code);
	if (res)
		return res;
	dpl = desc_dpl(&d->code);
	if (!(d->code.low & DESC_S) || !(desc_type(&d->code) & TYPE_CODE) || dpl > cpl(c) ||
	    (long_mode(c) && (d->code.low & (DESC_L | DESC_DB)) != DESC_L))
		return selector_fault(c, GP_VECTOR, selector);
	d->inner = !(desc_type(&d->code) & TYPE_CONFORMING) && dpl < cpl(c);
	if (vm86 && (!d->inner || dpl))
		return selector_fault(c, GP_VECTOR, selector);
	if (!(d->code.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	d->cpl = d->inner ? dpl : cpl(c);
	d->cs = mkvm_emu_segment_of(&d->code);
	d->cs.selector = (selector & ~3) | d->cpl;
	d->cs.type |= TYPE_ACCESSED;
	if (long_mode(c) ? !canonical(d->rip) : d->rip > d->cs.limit)
		return fault(c, GP_VECTOR);
	return MKVM_EMU_DONE;
}

/* Reads len bytes at offset off of the current TSS. */
static enum mkvm_emu_result read_tss(struct mkvm_emu *c, unsigned int off, unsigned int len,
				     u64 *val)
{
	struct kvm_segment tr;
	u64 la;

	*val = 0;
	mkvm_emu_get_segment(c, MKVM_EMU_TR, &tr);
	if (off + len - 1 > tr.limit)
		return selector_fault(c, TS_VECTOR, tr.selector);
	la = tr.base + off;
	return mkvm_emu_system(c, long_mode(c) ? la : (u32)la, val, len, MKVM_EMU_READ);
}

/*
 * Long mode: the stack comes from the TSS if an IST is used or the privilege level changes; else it
 * stays. SS becomes null if the level changes.
 */
static enum mkvm_emu_result long_stack(struct mkvm_emu *c, struct delivery *d)
{
	unsigned int ist = d->gate.low >> 32 & 7;
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	if (ist || d->inner) {
		res = read_tss(c, ist ? 28 + ist * 8 : 4 + d->cpl * 8, 8, &d->sp);
		if (!res && !canonical(d->sp))
			return fault(c, SS_VECTOR);
	}
	d->sp &= ~15ULL;
	d->sp_width = 8;
	if (d->inner)
		d->ss = (struct kvm_segment){ .selector = d->cpl, .unusable = 1, .dpl = d->cpl };
	return res;
}

/* Legacy mode: the TSS holds the stack of an inner level, as SS and ESP or SP. */
static enum mkvm_emu_result inner_stack(struct mkvm_emu *c, struct delivery *d)
{
	unsigned int width;
	enum mkvm_emu_result res;
	struct kvm_segment tr;
	u64 selector;

	mkvm_emu_get_segment(c, MKVM_EMU_TR, &tr);
	width = tr.type & 8 ? 4 : 2;
	res = read_tss(c, d->cpl * 2 * width + width, width, &d->sp);
	if (!res)
		res = read_tss(c, d->cpl * 2 * width + 2 * width, 2, &selector);
	if (res)
		return res;
	if (!(selector & ~3ULL))
		return fault(c, TS_VECTOR);
	res = mkvm_emu_read_descriptor(c, selector, false, &d->stack);
	if (res == MKVM_EMU_FAULT && c->fault.vector == GP_VECTOR)
		return selector_fault(c, TS_VECTOR, selector);
	if (res)
		return res;
	if ((selector & 3) != d->cpl || desc_dpl(&d->stack) != d->cpl || !(d->stack.low & DESC_S) ||
	    (desc_type(&d->stack) & (TYPE_CODE | TYPE_WRITABLE)) != TYPE_WRITABLE)
		return selector_fault(c, TS_VECTOR, selector);
	if (!(d->stack.low & DESC_P))
		return selector_fault(c, SS_VECTOR, selector);
	d->ss = mkvm_emu_segment_of(&d->stack);
	d->ss.type |= TYPE_ACCESSED;
	return MKVM_EMU_DONE;
}

/* Finds the stack of an inner level for a call gate, which aligns nothing (descriptor.h). */
enum mkvm_emu_result mkvm_emu_inner_stack(struct mkvm_emu *c, unsigned int level,
					  struct mkvm_inner_stack *s)
{
	struct delivery d = { .cpl = level, .inner = true };
	enum mkvm_emu_result res;

	if (long_mode(c)) {
		res = read_tss(c, 4 + level * 8, 8, &d.sp);
		if (!res && !canonical(d.sp))
			return fault(c, SS_VECTOR);
		d.ss = (struct kvm_segment){ .selector = level, .unusable = 1, .dpl = level };
	} else {
		res = inner_stack(c, &d);
	}
	s->sp = d.sp;
	s->ss = d.ss;
	s->desc = d.stack;
	return res;
}

/* Finds the handler's stack. */
static enum mkvm_emu_result load_stack(struct mkvm_emu *c, struct delivery *d)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	d->sp = c->regs[MKVM_RSP];
	mkvm_emu_get_segment(c, MKVM_SS, &d->ss);
	if (long_mode(c))
		return long_stack(c, d);
	if (d->inner)
		res = inner_stack(c, d);
	d->sp_width = d->ss.db ? 4 : 2;
	return res;
}

static void push(struct delivery *d, u64 val)
{
	d->frame[d->nr++] = val;
}

static u16 selector_of(struct mkvm_emu *c, int seg)
{
	struct kvm_segment s;

	mkvm_emu_get_segment(c, seg, &s);
	return s.selector;
}

/* A handler in virtual-8086 mode below IOPL 3 sees VIF as its IF, and an IOPL of 3. */
static void redirected_frame(struct mkvm_emu *c, struct delivery *d)
{
	u64 flags = d->ev->rflags, interrupt = X86_EFLAGS_IF;

	if ((flags & X86_EFLAGS_IOPL) != X86_EFLAGS_IOPL) {
		interrupt = X86_EFLAGS_VIF;
		flags = (flags & ~(u64)X86_EFLAGS_IF) | X86_EFLAGS_IOPL |
			(flags & X86_EFLAGS_VIF ? X86_EFLAGS_IF : 0);
	}
	push(d, flags);
	push(d, selector_of(c, MKVM_CS));
	push(d, d->ev->rip);
	d->rflags = c->rflags & ~(X86_EFLAGS_TF | X86_EFLAGS_RF | interrupt);
}

/* Computes the frame that the handler finds on its stack, and the handler's flags. */
static void make_frame(struct mkvm_emu *c, struct delivery *d)
{
	const struct mkvm_emu_event *ev = d->ev;
	u64 clear = X86_EFLAGS_TF | X86_EFLAGS_RF;
	int seg;

	if (d->redirected) {
		redirected_frame(c, d);
		return;
	}
	if (c->rflags & X86_EFLAGS_VM) {
		for (seg = MKVM_GS; seg >= MKVM_DS; seg--)
			push(d, selector_of(c, seg));
		push(d, selector_of(c, MKVM_ES));
	}
	if (d->inner || long_mode(c)) {
		push(d, selector_of(c, MKVM_SS));
		push(d, c->regs[MKVM_RSP]);
	}
	push(d, ev->rflags);
	push(d, selector_of(c, MKVM_CS));
	push(d, ev->rip);
	if (!(c->mode.cr0 & X86_CR0_PE)) {
		d->rflags = c->rflags & ~(u64)(clear | X86_EFLAGS_IF | X86_EFLAGS_AC);
		return;
	}
	if (ev->has_error)
		push(d, ev->error);
	clear |= X86_EFLAGS_VM | X86_EFLAGS_NT;
	if (!(desc_type(&d->gate) & 1))		/* an interrupt gate */
		clear |= X86_EFLAGS_IF;
	d->rflags = c->rflags & ~clear;
}

/* Probes the place of the frame on the stack, or writes the frame there. */
static enum mkvm_emu_result put_frame(struct mkvm_emu *c, struct delivery *d, enum mkvm_emu_how how)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	u64 sp = d->sp & size_mask(d->sp_width), la;
	unsigned int i;

	for (i = 0; i < d->nr && !res; i++) {
		sp = (sp - d->width) & size_mask(d->sp_width);
		res = mkvm_emu_linearize_in(c, &d->ss, MKVM_SS, sp, d->width, true, &la);
		if (res)
			return fault_with(c, SS_VECTOR, d->inner ? d->ss.selector & ~3 : 0);
		res = mkvm_emu_access(c, la, &d->frame[i], d->width, how);
	}
	if (how == MKVM_EMU_WRITE)
		d->sp = sp;
	return res;
}

/* Enters the handler's mode, as far as accesses to its stack depend on it. */
static void enter_mode(struct mkvm_emu *c, const struct delivery *d)
{
	c->rflags = d->rflags;
	if (!d->redirected)
		c->mode.cpl = d->cpl;
	c->mode64 = long_mode(c);
	c->mode.cs_l = long_mode(c);
}

/* Loads the handler's registers; no step can fail from here on. */
static void enter_handler(struct mkvm_emu *c, const struct delivery *d)
{
	struct kvm_segment null = { .unusable = 1 };
	int seg;

	mkvm_emu_set_segment(c, MKVM_CS, &d->cs);
	if (d->inner)
		mkvm_emu_set_segment(c, MKVM_SS, &d->ss);
	if ((d->ev->rflags & X86_EFLAGS_VM) && !d->redirected) {
		mkvm_emu_set_segment(c, MKVM_ES, &null);
		for (seg = MKVM_DS; seg <= MKVM_GS; seg++)
			mkvm_emu_set_segment(c, seg, &null);
	}
	reg_write(c, MKVM_RSP, d->sp_width, d->sp);
	c->rip = d->rip;
}

/* Reads the handler's far pointer from a table of such pointers. */
static enum mkvm_emu_result far_handler(struct mkvm_emu *c, struct delivery *d, u64 table)
{
	u64 pointer = 0;
	enum mkvm_emu_result res;

	res = mkvm_emu_system(c, (u32)(table + d->ev->vector * 4), &pointer, 4, MKVM_EMU_READ);
	d->width = 2;
	d->rip = pointer & 0xffff;
	mkvm_emu_get_segment(c, MKVM_CS, &d->cs);
	d->cs.selector = pointer >> 16;
	d->cs.base = d->cs.selector << 4;
	return res;
}

/*
 * In real mode the IDT holds far pointers. AMD APM vol. 2, "Real-Mode Interrupt Control Transfers".
 */
static enum mkvm_emu_result real_mode_handler(struct mkvm_emu *c, struct delivery *d)
{
	struct kvm_dtable idt;

	mkvm_emu_dt(c, true, &idt, false);
	if (d->ev->vector * 4 + 3 > idt.limit)
		return fault(c, GP_VECTOR);
	return far_handler(c, d, idt.base);
}

/*
 * Virtual-8086 mode with CR4.VME: a bitmap below the TSS's I/O bitmap decides which INT n has its
 * handler there, by the table of far pointers at address 0. INT3 and INTO never have. AMD APM vol.
 * 2, "Virtual-8086 Mode Interrupts"; Intel SDM vol. 3, "Class 3 - Software Interrupt Handling in
 * Virtual-8086 Mode".
 */
static enum mkvm_emu_result redirect(struct mkvm_emu *c, struct delivery *d)
{
	u64 map = 0, bits = 0;
	enum mkvm_emu_result res;
	unsigned int off;
	struct kvm_segment tr;

	mkvm_emu_get_segment(c, MKVM_EMU_TR, &tr);
	if (tr.limit < IO_MAP_BASE + 1)
		return fault(c, GP_VECTOR);
	res = read_tss(c, IO_MAP_BASE, 2, &map);
	if (res)
		return res;
	off = map - 32 + d->ev->vector / 8;
	if (off > tr.limit)
		return fault(c, GP_VECTOR);
	res = read_tss(c, off, 1, &bits);
	if (res)
		return res;
	d->redirected = !(bits >> d->ev->vector % 8 & 1);
	if (d->redirected)
		return far_handler(c, d, 0);
	if ((c->rflags & X86_EFLAGS_IOPL) != X86_EFLAGS_IOPL)
		return fault(c, GP_VECTOR);
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result find_handler(struct mkvm_emu *c, struct delivery *d)
{
	enum mkvm_emu_result res;

	if (!(c->mode.cr0 & X86_CR0_PE))
		return real_mode_handler(c, d);
	if (d->ev->int_n && (c->rflags & X86_EFLAGS_VM) && (c->mode.cr4 & X86_CR4_VME)) {
		res = redirect(c, d);
		if (res || d->redirected)
			return res;
	}
	res = read_gate(c, d);
	d->is_task = !res && desc_type(&d->gate) == TASK_GATE;
	return res || d->is_task ? res : load_handler(c, d);
}

/* Delivers the event through a task gate. */
static enum mkvm_emu_result switch_task(struct mkvm_emu *c, const struct delivery *d)
{
	const struct mkvm_emu_event *ev = d->ev;
	struct mkvm_task_switch t = {
		.why = MKVM_TASK_GATE,
		.selector = d->gate.low >> 16,
		.external = !ev->soft,
		.has_error = ev->has_error,
		.error = ev->error,
		.rip = ev->rip,
		.rflags = ev->rflags,
	};
	enum mkvm_emu_result res = mkvm_emu_task_switch(c, &t);

	if (!res) {
		c->rip = c->next_rip;
		c->rflags = c->flags;
	}
	return res;
}

enum mkvm_emu_result mkvm_emu_deliver(struct mkvm_emu *c, const struct mkvm_emu_event *ev)
{
	struct delivery d = { .ev = ev };
	enum mkvm_emu_result res;

	c->fault_after = false;
	c->rf_loaded = false;
	res = find_handler(c, &d);
	if (d.is_task)
		return switch_task(c, &d);
	if (!res)
		res = load_stack(c, &d);
	if (!res) {
		make_frame(c, &d);
		enter_mode(c, &d);
		res = put_frame(c, &d, MKVM_EMU_PROBE);
	}
	if (!res && d.code.selector)
		res = mkvm_emu_set_type_bits(c, &d.code, TYPE_ACCESSED);
	if (!res && d.stack.selector)
		res = mkvm_emu_set_type_bits(c, &d.stack, TYPE_ACCESSED);
	if (!res)
		res = put_frame(c, &d, MKVM_EMU_WRITE);
	if (res == MKVM_EMU_FAULT)
		mark_external(c, !ev->soft);
	if (!res)
		enter_handler(c, &d);
	return res;
}
