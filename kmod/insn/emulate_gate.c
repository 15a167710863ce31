// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_gate.c - far CALL and JMP through call gates.
 *
 * Everything is read and checked before anything is written, as in emulate_event.c: a branch that
 * meets a device on the new stack can be abandoned.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: Intel SDM vol. 2, "CALL" and "JMP", whose order of checks this follows; AMD APM vol. 2,
 * "Control Transfers Through Call Gates".
 *
 * Read next: emulate_seg.c, which calls this file; emulate_event.c.
 */
#include "descriptor.h"

#define MAX_PARAMETERS	31

struct gate_branch {
	bool call;
	struct mkvm_descriptor gate, code;
	unsigned int width;		/* of each pushed word, in bytes */
	bool inner;			/* the privilege level changes */
	unsigned int cpl;		/* of the code that is entered */
	struct kvm_segment cs;
	u64 rip;
	struct mkvm_inner_stack to;	/* or the current stack, unless inner */
	unsigned int sp_width;		/* of rSP, in bytes */
	u64 frame[4 + MAX_PARAMETERS];
	unsigned int nr;
};

/*
 * Reads the gate and checks that the program may use it. UNHANDLED: it is a task's, whose switch
 * cannot be emulated.
 */
static enum mkvm_emu_result read_call_gate(struct mkvm_emu *c, u16 selector, struct gate_branch *b)
{
	enum mkvm_emu_result res;

	res = mkvm_emu_read_descriptor(c, selector, true, &b->gate);
	if (res)
		return res;
	if (!long_mode(c) && (desc_type(&b->gate) == TASK_GATE ||
			      (desc_type(&b->gate) & ~(TSS_BUSY | 8)) == TSS_16))
		return MKVM_EMU_UNHANDLED;
	if (desc_type(&b->gate) == CALL_GATE)
		b->width = long_mode(c) ? 8 : 4;
	else if (desc_type(&b->gate) == CALL_GATE_16 && !long_mode(c))
		b->width = 2;
	/* The upper half of a gate of 16 bytes has a type of its own, 0. */
	if (!b->width || (b->gate.low & DESC_S) || (b->gate.high >> 40 & 31) ||
	    desc_dpl(&b->gate) < cpl(c) || desc_dpl(&b->gate) < (selector & 3))
		return selector_fault(c, GP_VECTOR, selector);
	return b->gate.low & DESC_P ? MKVM_EMU_DONE : selector_fault(c, NP_VECTOR, selector);
}

/* Finds the code segment, its privilege level and the instruction that the gate names. */
static enum mkvm_emu_result load_gate_code(struct mkvm_emu *c, struct gate_branch *b)
{
	u16 selector = b->gate.low >> 16;
	enum mkvm_emu_result res;
	bool conforming;
	unsigned int dpl;

	b->rip = (b->gate.low & 0xffff) | (b->width > 2 ? b->gate.low >> 32 & 0xffff0000 : 0) |
		 b->gate.high << 32;
	if (!(selector & ~3))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_read_descriptor(c, selector, false, &b->code);
	if (res)
		return res;
	dpl = desc_dpl(&b->code);
	conforming = desc_type(&b->code) & TYPE_CONFORMING;
	if (!(b->code.low & DESC_S) || !(desc_type(&b->code) & TYPE_CODE) || dpl > cpl(c) ||
	    (!b->call && !conforming && dpl != cpl(c)) ||
	    (long_mode(c) && (b->code.low & (DESC_L | DESC_DB)) != DESC_L))
		return selector_fault(c, GP_VECTOR, selector);
	if (!(b->code.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	b->inner = b->call && !conforming && dpl < cpl(c);
	b->cpl = b->inner ? dpl : cpl(c);
	b->cs = mkvm_emu_segment_of(&b->code);
	b->cs.selector = (selector & ~3) | b->cpl;
	b->cs.type |= TYPE_ACCESSED;
	return MKVM_EMU_DONE;
}

/* Computes what a CALL pushes: an inner level's stack also gets the old stack and parameters. */
static enum mkvm_emu_result make_gate_frame(struct mkvm_emu *c, struct gate_branch *b)
{
	struct mkvm_stack from = mkvm_emu_stack_begin(c);
	unsigned int i, nr = long_mode(c) ? 0 : b->gate.low >> 32 & MAX_PARAMETERS;
	enum mkvm_emu_result res;
	struct kvm_segment s;

	if (b->inner) {
		mkvm_emu_get_segment(c, MKVM_SS, &s);
		b->frame[b->nr++] = s.selector;
		b->frame[b->nr++] = c->regs[MKVM_RSP];
		c->size = b->width;	/* of each parameter; the last one was pushed last */
		for (i = nr; i-- > 0;) {
			res = mkvm_emu_pop(c, &from, &b->frame[b->nr + i]);
			if (res)
				return res;
		}
		b->nr += nr;
	}
	mkvm_emu_get_segment(c, MKVM_CS, &s);
	b->frame[b->nr++] = s.selector;
	b->frame[b->nr++] = c->next_rip;
	return MKVM_EMU_DONE;
}

/* Finds the stack that the code gets. */
static enum mkvm_emu_result load_gate_stack(struct mkvm_emu *c, struct gate_branch *b)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	if (b->inner) {
		res = mkvm_emu_inner_stack(c, b->cpl, &b->to);
	} else {
		mkvm_emu_get_segment(c, MKVM_SS, &b->to.ss);
		b->to.sp = c->regs[MKVM_RSP];
	}
	b->sp_width = b->to.ss.db ? 4 : 2;
	if (long_mode(c))
		b->sp_width = 8;
	return res;
}

/* Probes the place of the frame, or writes the frame there, with the rights of the new level. */
static enum mkvm_emu_result put_gate_frame(struct mkvm_emu *c, struct gate_branch *b,
					   enum mkvm_emu_how how)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	unsigned int i;
	u64 sp, la;

	if (!b->call)		/* JMP has no frame and keeps its stack */
		return MKVM_EMU_DONE;
	sp = b->to.sp & size_mask(b->sp_width);
	for (i = 0; i < b->nr && !res; i++) {
		sp = (sp - b->width) & size_mask(b->sp_width);
		res = mkvm_emu_linearize_in(c, &b->to.ss, MKVM_SS, sp, b->width, true, &la);
		if (res)
			return fault_with(c, SS_VECTOR, b->inner ? b->to.ss.selector & ~3 : 0);
		res = mkvm_emu_access(c, la, &b->frame[i], b->width, how);
	}
	if (how == MKVM_EMU_WRITE)
		b->to.sp = sp;
	return res;
}

/* Makes the last checks, writes, and loads the registers. */
static enum mkvm_emu_result enter_gate(struct mkvm_emu *c, struct gate_branch *b)
{
	enum mkvm_emu_result res;

	c->mode.cpl = b->cpl;
	c->mode64 = long_mode(c);
	c->mode.cs_l = long_mode(c);
	res = put_gate_frame(c, b, MKVM_EMU_PROBE);
	if (res)
		return res;
	if (long_mode(c) ? !canonical(b->rip) : b->rip > b->cs.limit)
		return fault(c, GP_VECTOR);
	res = mkvm_emu_set_type_bits(c, &b->code, TYPE_ACCESSED);
	if (!res && b->to.desc.selector)
		res = mkvm_emu_set_type_bits(c, &b->to.desc, TYPE_ACCESSED);
	if (!res)
		res = put_gate_frame(c, b, MKVM_EMU_WRITE);
	if (res)
		return res;
	mkvm_emu_set_segment(c, MKVM_CS, &b->cs);
	if (b->inner)
		mkvm_emu_set_segment(c, MKVM_SS, &b->to.ss);
	if (b->call)
		reg_write(c, MKVM_RSP, b->sp_width, b->to.sp);
	c->next_rip = b->rip;
	return MKVM_EMU_DONE;
}

/* Executes a far branch whose selector names a system descriptor (descriptor.h). */
enum mkvm_emu_result mkvm_emu_branch_by_gate(struct mkvm_emu *c, u16 selector)
{
	struct gate_branch b = { .call = c->d.op == OP_CALL_FAR };
	enum mkvm_emu_result res;

	res = read_call_gate(c, selector, &b);
	if (!res)
		res = load_gate_code(c, &b);
	if (!res && b.call)
		res = load_gate_stack(c, &b);
	if (!res && b.call)
		res = make_gate_frame(c, &b);
	return res ? res : enter_gate(c, &b);
}
