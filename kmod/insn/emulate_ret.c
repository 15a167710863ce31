// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_ret.c - far returns: RETF and IRET within a level, to an outer level, in real mode, and
 * to and in virtual-8086 mode.
 *
 * Everything is popped and checked before anything is written; what is written to memory are the
 * accessed bits of two descriptors. IRET with NT set is a task switch (emulate_task.c).
 *
 * State: none, as in emulate.c.
 *
 * Manuals: Intel SDM vol. 2, "IRET/IRETD/IRETQ" and "RET"; AMD APM vol. 3, "IRET, IRETD, IRETQ" and
 * "RET (Far)".
 *
 * Read next: emulate_seg.c, descriptor.c.
 */
#include "descriptor.h"

#define VM86_FLAGS	0x3f7fd5	/* the others are reserved and 0, but for bit 1 */

/* A return in protected mode. */
struct far_return {
	struct mkvm_stack from;		/* behind what has been popped */
	u64 rip, cs_selector, flags;
	u64 sp, ss_selector;		/* if has_stack: the stack changes, too */
	bool has_stack;
	struct mkvm_descriptor code, stack;
	struct kvm_segment cs, ss;
	unsigned int cpl;		/* of the code that is returned to */
};

static enum mkvm_emu_result pop_words(struct mkvm_emu *c, struct mkvm_stack *s, u64 *to,
				      unsigned int nr)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	unsigned int i;

	for (i = 0; i < nr && !res; i++)
		res = mkvm_emu_pop(c, s, &to[i]);
	return res;
}

/* ---- real and virtual-8086 mode ---- */

static enum mkvm_emu_result return_in_real_mode(struct mkvm_emu *c, const struct mkvm_stack *s,
						u64 off, u16 selector)
{
	struct kvm_segment cs;

	mkvm_emu_real_segment(c, MKVM_CS, selector, &cs);
	if (off > cs.limit)
		return fault(c, GP_VECTOR);
	mkvm_emu_set_segment(c, MKVM_CS, &cs);
	mkvm_emu_stack_end(c, s);
	c->next_rip = off;
	return MKVM_EMU_DONE;
}

/* From level 0 to virtual-8086 mode; the stack also holds ESP and the other segments. */
static enum mkvm_emu_result return_to_vm86(struct mkvm_emu *c, struct mkvm_stack *s, u64 off,
					   u16 selector, u64 flags)
{
	static const u8 order[] = { MKVM_SS, MKVM_ES, MKVM_DS, MKVM_FS, MKVM_GS };
	struct kvm_segment seg = {
		.limit = 0xffff, .type = TYPE_WRITABLE | TYPE_ACCESSED, .s = 1, .dpl = 3,
		.present = 1,
	};
	enum mkvm_emu_result res;
	unsigned int i;
	u64 more[6];

	res = pop_words(c, s, more, ARRAY_SIZE(more));
	if (!res && off > seg.limit)
		return fault(c, GP_VECTOR);
	if (res)
		return res;
	seg.selector = selector;
	seg.base = selector << 4;
	mkvm_emu_set_segment(c, MKVM_CS, &seg);
	for (i = 0; i < ARRAY_SIZE(order); i++) {
		seg.selector = more[i + 1];
		seg.base = seg.selector << 4;
		mkvm_emu_set_segment(c, order[i], &seg);
	}
	reg_write(c, MKVM_RSP, 4, more[0]);
	c->flags = (flags & VM86_FLAGS) | X86_EFLAGS_FIXED;
	c->next_rip = off;
	return MKVM_EMU_DONE;
}

/* ---- protected mode ---- */

/* Reads and checks the code segment, which decides about the level. */
static enum mkvm_emu_result load_return_code(struct mkvm_emu *c, struct far_return *r)
{
	u16 selector = r->cs_selector;
	enum mkvm_emu_result res;
	unsigned int type, dpl;

	if (!(selector & ~3))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_read_descriptor(c, selector, false, &r->code);
	if (res)
		return res;
	type = desc_type(&r->code);
	dpl = desc_dpl(&r->code);
	r->cpl = selector & 3;
	if (!(r->code.low & DESC_S) || !(type & TYPE_CODE) || r->cpl < cpl(c) ||
	    (type & TYPE_CONFORMING ? dpl > r->cpl : dpl != r->cpl) ||
	    (long_mode(c) && (r->code.low & DESC_L) && (r->code.low & DESC_DB)))
		return selector_fault(c, GP_VECTOR, selector);
	if (!(r->code.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	r->cs = mkvm_emu_segment_of(&r->code);
	r->cs.type |= TYPE_ACCESSED;
	return MKVM_EMU_DONE;
}

static bool returns_to_64bit(const struct mkvm_emu *c, const struct far_return *r)
{
	return long_mode(c) && r->cs.l;
}

/* Reads and checks the stack segment, which may be null for 64-bit code below level 3. */
static enum mkvm_emu_result load_return_stack(struct mkvm_emu *c, struct far_return *r)
{
	u16 selector = r->ss_selector;
	enum mkvm_emu_result res;

	if (!(selector & ~3)) {
		r->ss = (struct kvm_segment){ .selector = selector, .unusable = 1, .dpl = r->cpl };
		if (!returns_to_64bit(c, r) || r->cpl == 3 || selector != r->cpl)
			return fault(c, GP_VECTOR);
		return MKVM_EMU_DONE;
	}
	res = mkvm_emu_read_descriptor(c, selector, false, &r->stack);
	if (res)
		return res;
	if ((selector & 3) != r->cpl || desc_dpl(&r->stack) != r->cpl || !(r->stack.low & DESC_S) ||
	    (desc_type(&r->stack) & (TYPE_CODE | TYPE_WRITABLE)) != TYPE_WRITABLE)
		return selector_fault(c, GP_VECTOR, selector);
	if (!(r->stack.low & DESC_P))
		return selector_fault(c, SS_VECTOR, selector);
	r->ss = mkvm_emu_segment_of(&r->stack);
	r->ss.type |= TYPE_ACCESSED;
	return MKVM_EMU_DONE;
}

/* Data segments that an outer level may not access become null. */
static void drop_segments(struct mkvm_emu *c, unsigned int cpl)
{
	static const u8 data[] = { MKVM_ES, MKVM_DS, MKVM_FS, MKVM_GS };
	struct kvm_segment s;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(data); i++) {
		mkvm_emu_get_segment(c, data[i], &s);
		if (s.unusable || !s.present || s.dpl >= cpl ||
		    (s.type & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING))
			continue;
		s.selector = 0;
		s.unusable = 1;
		mkvm_emu_set_segment(c, data[i], &s);
	}
}

/* Makes the last checks, and loads the registers but for the flags. */
static enum mkvm_emu_result enter_code(struct mkvm_emu *c, struct far_return *r)
{
	bool code64 = returns_to_64bit(c, r);
	enum mkvm_emu_result res;

	if (code64 ? !canonical(r->rip) : r->rip > r->cs.limit)
		return fault(c, GP_VECTOR);
	res = mkvm_emu_set_type_bits(c, &r->code, TYPE_ACCESSED);
	if (!res && r->stack.selector)
		res = mkvm_emu_set_type_bits(c, &r->stack, TYPE_ACCESSED);
	if (res)
		return res;
	mkvm_emu_set_segment(c, MKVM_CS, &r->cs);
	if (r->has_stack) {
		unsigned int width = r->ss.db ? 4 : 2;

		mkvm_emu_set_segment(c, MKVM_SS, &r->ss);
		reg_write(c, MKVM_RSP, code64 ? 8 : width, r->sp);
	} else {
		mkvm_emu_stack_end(c, &r->from);
	}
	if (r->cpl > cpl(c))
		drop_segments(c, r->cpl);
	c->next_rip = r->rip;
	return MKVM_EMU_DONE;
}

/* ---- RETF ---- */

enum mkvm_emu_result mkvm_emu_ret_far(struct mkvm_emu *c)
{
	struct far_return r = { .from = mkvm_emu_stack_begin(c) };
	enum mkvm_emu_result res;
	u64 words[2];

	res = pop_words(c, &r.from, words, 2);
	if (res)
		return res;
	r.from.sp = (r.from.sp + c->imm16) & size_mask(r.from.width);
	if (!protected_mode(c))
		return return_in_real_mode(c, &r.from, words[0], words[1]);
	r.rip = words[0];
	r.cs_selector = words[1];
	res = load_return_code(c, &r);
	if (!res && r.cpl > cpl(c)) {
		r.has_stack = true;
		res = pop_words(c, &r.from, words, 2);
		r.sp = words[0] + c->imm16;
		r.ss_selector = words[1];
		if (!res)
			res = load_return_stack(c, &r);
	}
	return res ? res : enter_code(c, &r);
}

/* ---- IRET ---- */

/* The flags after IRET; RF is loaded as well, unless the operands have 16 bits. */
static u64 popped_flags(const struct mkvm_emu *c, u64 popped)
{
	u64 own = mkvm_emu_own_flags(c);

	if (c->size > 2)
		own |= X86_EFLAGS_RF;
	if (c->size > 2 && protected_mode(c) && !cpl(c))
		own |= X86_EFLAGS_VIF | X86_EFLAGS_VIP;
	return (c->rflags & ~(own | X86_EFLAGS_RF)) | (popped & own);
}

/*
 * Virtual-8086 mode with IOPL below 3 and CR4.VME: IF is virtual. What Intel's manual leaves out
 * its CPUs do as AMD's manual has it.
 */
static enum mkvm_emu_result pop_virtual_flags(struct mkvm_emu *c, u64 popped)
{
	if ((popped & X86_EFLAGS_TF) || ((popped & X86_EFLAGS_IF) && (c->rflags & X86_EFLAGS_VIP)))
		return fault(c, GP_VECTOR);
	c->flags = popped_flags(c, popped) & ~(u64)X86_EFLAGS_VIF;
	if (popped & X86_EFLAGS_IF)
		c->flags |= X86_EFLAGS_VIF;
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result iret_in_real_mode(struct mkvm_emu *c, const struct mkvm_stack *s,
					      const u64 *words)
{
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	if ((c->rflags & X86_EFLAGS_VM) && iopl(c) != 3)
		res = pop_virtual_flags(c, words[2]);
	else
		c->flags = popped_flags(c, words[2]);
	return res ? res : return_in_real_mode(c, s, words[0], words[1]);
}

static enum mkvm_emu_result iret_in_protected_mode(struct mkvm_emu *c, struct mkvm_stack *s,
						   u64 *words)
{
	struct far_return r = {
		.rip = words[0], .cs_selector = words[1], .flags = popped_flags(c, words[2]),
	};
	enum mkvm_emu_result res = load_return_code(c, &r);

	/* 64-bit code always pops a stack. */
	if (!res && (c->mode64 || r.cpl > cpl(c))) {
		r.has_stack = true;
		res = pop_words(c, s, words, 2);
		r.sp = words[0];
		r.ss_selector = words[1];
		if (!res)
			res = load_return_stack(c, &r);
	}
	r.from = *s;
	if (!res)
		res = enter_code(c, &r);
	if (!res)
		c->flags = r.flags;
	return res;
}

enum mkvm_emu_result mkvm_emu_iret(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res;
	u64 words[3];

	if (protected_mode(c) && (c->rflags & X86_EFLAGS_NT))
		return long_mode(c) ? fault(c, GP_VECTOR) : mkvm_emu_return_to_task(c);
	if ((c->rflags & X86_EFLAGS_VM) && iopl(c) != 3 &&
	    !((c->mode.cr4 & X86_CR4_VME) && c->size == 2))
		return fault(c, GP_VECTOR);
	res = pop_words(c, &s, words, ARRAY_SIZE(words));
	if (res)
		return res;
	if (!protected_mode(c))
		res = iret_in_real_mode(c, &s, words);
	else if ((words[2] & X86_EFLAGS_VM) && !long_mode(c) && !cpl(c))
		res = return_to_vm86(c, &s, words[0], words[1], words[2]);
	else
		res = iret_in_protected_mode(c, &s, words);
	c->rf_loaded = true;
	return res;
}
