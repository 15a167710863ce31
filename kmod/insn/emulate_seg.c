// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_seg.c - instructions that load or store segment and descriptor-table registers, and far
 * branches.
 *
 * Call gates are in emulate_gate.c, far returns in emulate_ret.c.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: AMD APM vol. 2, "Segmented Virtual Memory"; vol. 3, the instructions.
 *
 * Read next: emulate.c, which calls this file; descriptor.c, emulate_task.c.
 */
#include "descriptor.h"

/* Loads a null selector, which SS may have only in 64-bit mode below CPL 3. */
static enum mkvm_emu_result null_segment(struct mkvm_emu *c, int seg, u16 selector,
					 struct kvm_segment *s)
{
	*s = (struct kvm_segment){
		.selector = selector, .unusable = 1, .dpl = seg == MKVM_SS ? cpl(c) : 0,
	};
	if (seg == MKVM_SS && (!c->mode64 || cpl(c) == 3 || (selector & 3) != cpl(c)))
		return fault(c, GP_VECTOR);
	return MKVM_EMU_DONE;
}

/*
 * May the segment register hold this descriptor? AMD APM vol. 2, "Data-Access Privilege Checks" and
 * "Accessing Stacks".
 */
static bool data_segment_fits(const struct mkvm_emu *c, int seg, const struct mkvm_descriptor *d)
{
	unsigned int type = desc_type(d), rpl = d->selector & 3, dpl = desc_dpl(d);

	if (!(d->low & DESC_S))
		return false;
	if (seg == MKVM_SS)
		return rpl == cpl(c) && dpl == cpl(c) &&
		       (type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_WRITABLE;
	if ((type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_CODE)	/* code that is not readable */
		return false;
	if ((type & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING))
		return true;
	return rpl <= dpl && cpl(c) <= dpl;
}

/*
 * Reads and checks the segment that a selector names, for any register except CS. The caller writes
 * the register once the instruction can no longer fail.
 */
static enum mkvm_emu_result load_segment(struct mkvm_emu *c, int seg, u16 selector,
					 struct kvm_segment *s)
{
	enum mkvm_emu_result res;
	struct mkvm_descriptor d;

	if (!protected_mode(c)) {
		mkvm_emu_real_segment(c, seg, selector, s);
		return MKVM_EMU_DONE;
	}
	if (!(selector & ~3))
		return null_segment(c, seg, selector, s);
	res = mkvm_emu_read_descriptor(c, selector, false, &d);
	if (res)
		return res;
	if (!data_segment_fits(c, seg, &d))
		return selector_fault(c, GP_VECTOR, selector);
	if (!(d.low & DESC_P))
		return selector_fault(c, seg == MKVM_SS ? SS_VECTOR : NP_VECTOR, selector);
	res = mkvm_emu_set_type_bits(c, &d, TYPE_ACCESSED);
	*s = mkvm_emu_segment_of(&d);
	return res;
}

static void put_segment(struct mkvm_emu *c, int seg, const struct kvm_segment *s)
{
	mkvm_emu_set_segment(c, seg, s);
	c->ss_loaded = seg == MKVM_SS;
}

/* ---- MOV, PUSH, POP, LDS and the like ---- */

static enum mkvm_emu_result run_mov_from_segment(struct mkvm_emu *c)
{
	struct kvm_segment s;
	u64 val;

	mkvm_emu_get_segment(c, c->reg & 7, &s);	/* REX.R is ignored */
	val = s.selector;
	return mkvm_emu_rm(c, MKVM_EMU_WRITE, c->mod == 3 ? c->size : 2, &val);
}

static enum mkvm_emu_result run_mov_to_segment(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	struct kvm_segment s;
	u64 val = 0;

	res = mkvm_emu_rm(c, MKVM_EMU_READ, 2, &val);
	if (!res)
		res = load_segment(c, c->reg & 7, val, &s);
	if (!res)
		put_segment(c, c->reg & 7, &s);
	return res;
}

/* Opcodes 06 to 1F name the segment in bits 4:3, 0F A0 to 0F A9 in bit 3. */
static int segment_in_opcode(const struct mkvm_emu *c)
{
	return c->opcode >= 0xa0 ? MKVM_FS + (c->opcode >> 3 & 1) : c->opcode >> 3 & 3;
}

static enum mkvm_emu_result run_push_segment(struct mkvm_emu *c)
{
	struct mkvm_stack st = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res;
	struct kvm_segment s;

	mkvm_emu_get_segment(c, segment_in_opcode(c), &s);
	res = mkvm_emu_push(c, &st, s.selector);
	if (!res)
		mkvm_emu_stack_end(c, &st);
	return res;
}

static enum mkvm_emu_result run_pop_segment(struct mkvm_emu *c)
{
	struct mkvm_stack st = mkvm_emu_stack_begin(c);
	int seg = segment_in_opcode(c);
	enum mkvm_emu_result res;
	struct kvm_segment s;
	u64 val;

	res = mkvm_emu_pop(c, &st, &val);
	if (!res)
		res = load_segment(c, seg, val, &s);
	if (res)
		return res;
	mkvm_emu_stack_end(c, &st);
	put_segment(c, seg, &s);
	return MKVM_EMU_DONE;
}

/* Reads a far pointer: an offset of the operand's size, then a selector. */
static enum mkvm_emu_result read_pointer(struct mkvm_emu *c, u64 *off, u64 *selector)
{
	enum mkvm_emu_result res;

	*off = *selector = 0;
	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, c->size, off);
	if (!res)
		res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, (c->ea + c->size) & size_mask(c->ad),
				   2, selector);
	return res;
}

static enum mkvm_emu_result run_load_pointer(struct mkvm_emu *c)
{
	int seg = c->opcode - 0xb2 + MKVM_SS;	/* LSS, LFS, LGS */
	enum mkvm_emu_result res;
	struct kvm_segment s;
	u64 off, selector;

	if (c->opcode == 0xc4 || c->opcode == 0xc5)
		seg = c->opcode == 0xc4 ? MKVM_ES : MKVM_DS;
	res = read_pointer(c, &off, &selector);
	if (!res)
		res = load_segment(c, seg, selector, &s);
	if (res)
		return res;
	put_segment(c, seg, &s);
	c->ss_loaded = false;		/* LSS causes no interrupt shadow */
	reg_write(c, c->reg, c->size, off);
	return MKVM_EMU_DONE;
}

/* ---- far CALL and JMP within a level ---- */

/* Reads and checks the code segment of a direct far branch. UNHANDLED: it is a system segment. */
static enum mkvm_emu_result load_target(struct mkvm_emu *c, u16 selector, u64 off,
					struct kvm_segment *cs)
{
	enum mkvm_emu_result res;
	struct mkvm_descriptor d;
	unsigned int type;

	if (!protected_mode(c)) {
		mkvm_emu_real_segment(c, MKVM_CS, selector, cs);
		return off > cs->limit ? fault(c, GP_VECTOR) : MKVM_EMU_DONE;
	}
	if (!(selector & ~3))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_read_descriptor(c, selector, false, &d);
	if (res)
		return res;
	type = desc_type(&d);
	if (!(d.low & DESC_S))
		return MKVM_EMU_UNHANDLED;
	if (!(type & TYPE_CODE) || (long_mode(c) && (d.low & DESC_L) && (d.low & DESC_DB)) ||
	    (type & TYPE_CONFORMING ? desc_dpl(&d) > cpl(c)
				    : desc_dpl(&d) != cpl(c) || (selector & 3) > cpl(c)))
		return selector_fault(c, GP_VECTOR, selector);
	if (!(d.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	*cs = mkvm_emu_segment_of(&d);
	if (long_mode(c) && cs->l ? !canonical(off) : off > cs->limit)
		return fault(c, GP_VECTOR);
	cs->selector = (selector & ~3) | cpl(c);
	res = mkvm_emu_set_type_bits(c, &d, TYPE_ACCESSED);
	cs->type |= TYPE_ACCESSED;
	return res;
}

/* Executes far CALL and JMP; the pointer is in c->imm16 and c->imm, or in memory. */
static enum mkvm_emu_result run_far_branch(struct mkvm_emu *c)
{
	struct mkvm_stack st = mkvm_emu_stack_begin(c);
	u64 off = c->imm & size_mask(c->size), selector = c->imm16;
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	struct kvm_segment cs, old;

	if (c->d.src == RM)
		res = read_pointer(c, &off, &selector);
	if (!res)
		res = load_target(c, selector, off, &cs);
	if (res == MKVM_EMU_UNHANDLED) {
		res = mkvm_emu_branch_to_task(c, selector);
		return res == MKVM_EMU_UNHANDLED ? mkvm_emu_branch_by_gate(c, selector) : res;
	}
	if (!res && c->d.op == OP_CALL_FAR) {
		mkvm_emu_get_segment(c, MKVM_CS, &old);
		res = mkvm_emu_push(c, &st, old.selector);
		if (!res)
			res = mkvm_emu_push(c, &st, c->next_rip);
	}
	if (res)
		return res;
	if (c->d.op == OP_CALL_FAR)
		mkvm_emu_stack_end(c, &st);
	put_segment(c, MKVM_CS, &cs);
	c->next_rip = off;
	return MKVM_EMU_DONE;
}

/* ---- system registers ---- */

/* Executes SLDT, STR and SMSW, which CR4.UMIP forbids above CPL 0. */
static enum mkvm_emu_result run_store_system(struct mkvm_emu *c)
{
	struct kvm_segment s;
	u64 val = c->mode.cr0;

	if ((c->mode.cr4 & X86_CR4_UMIP) && cpl(c))
		return fault(c, GP_VECTOR);
	if (c->d.op != OP_SMSW) {
		mkvm_emu_get_segment(c, c->d.op == OP_STR ? MKVM_EMU_TR : MKVM_EMU_LDTR, &s);
		val = s.selector;
	}
	if (c->mod == 3)	/* of SMSW alone: all of CR0 that the register holds */
		return mkvm_emu_rm(c, MKVM_EMU_WRITE, c->size, &val);
	return mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, c->ea, 2, &val);
}

/* LMSW loads the lowest four bits of CR0; it can set PE but not clear it. */
static enum mkvm_emu_result run_lmsw(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	u64 val = 0;

	if (cpl(c))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_rm(c, MKVM_EMU_READ, 2, &val);
	if (res)
		return res;
	val = (c->mode.cr0 & ~0xeULL) | (val & 0xf);
	return mkvm_emu_set_cr(c, 0, val) ? fault(c, GP_VECTOR) : MKVM_EMU_DONE;
}

/* SGDT and SIDT store the limit, then a base of 4 or 8 bytes. */
static enum mkvm_emu_result run_store_table(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	struct kvm_dtable dt;
	u64 limit;

	if ((c->mode.cr4 & X86_CR4_UMIP) && cpl(c))
		return fault(c, GP_VECTOR);
	mkvm_emu_dt(c, c->d.op == OP_SIDT, &dt, false);
	limit = dt.limit;
	res = mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, c->ea, 2, &limit);
	if (res)
		return res;
	return mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, (c->ea + 2) & size_mask(c->ad),
			    c->mode64 ? 8 : 4, &dt.base);
}

/* LGDT and LIDT: with 16-bit operands the base has 24 bits. */
static enum mkvm_emu_result run_load_table(struct mkvm_emu *c)
{
	struct kvm_dtable dt = { 0 };
	enum mkvm_emu_result res;
	u64 limit = 0, base = 0;

	if (cpl(c))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, 2, &limit);
	if (!res)
		res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, (c->ea + 2) & size_mask(c->ad),
				   c->mode64 ? 8 : 4, &base);
	if (res)
		return res;
	if (c->mode64 && !canonical(base))
		return fault(c, GP_VECTOR);
	dt.base = !c->mode64 && c->size == 2 ? base & 0xffffff : base;
	dt.limit = limit;
	mkvm_emu_dt(c, c->d.op == OP_LIDT, &dt, true);
	return MKVM_EMU_DONE;
}

/* May LTR or LLDT load the descriptor? In long mode the type in its upper half must be 0. */
static bool system_fits(const struct mkvm_emu *c, const struct mkvm_descriptor *d)
{
	unsigned int type = desc_type(d);

	if ((d->selector & 4) || (d->low & DESC_S) || (d->high >> 32 & 0x1f00))
		return false;
	if (c->d.op == OP_LLDT)
		return type == LDT;
	return type == TSS || (type == TSS_16 && !long_mode(c));
}

static enum mkvm_emu_result run_load_system(struct mkvm_emu *c)
{
	int seg = c->d.op == OP_LTR ? MKVM_EMU_TR : MKVM_EMU_LDTR;
	struct kvm_segment s = { .unusable = 1 };
	enum mkvm_emu_result res;
	struct mkvm_descriptor d;
	u64 selector = 0;

	if (cpl(c))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_rm(c, MKVM_EMU_READ, 2, &selector);
	if (res)
		return res;
	if (selector & ~3ULL) {
		res = mkvm_emu_read_descriptor(c, selector, true, &d);
		if (res)
			return res;
		if (!system_fits(c, &d))
			return selector_fault(c, GP_VECTOR, selector);
		if (!(d.low & DESC_P))
			return selector_fault(c, NP_VECTOR, selector);
		s = mkvm_emu_segment_of(&d);
		if (long_mode(c) && !canonical(s.base))
			return selector_fault(c, GP_VECTOR, selector);
		if (seg == MKVM_EMU_TR)
			res = mkvm_emu_set_type_bits(c, &d, TSS_BUSY);
		if (res)
			return res;
		if (seg == MKVM_EMU_TR)
			s.type |= TSS_BUSY;
	} else if (seg == MKVM_EMU_TR) {
		return fault(c, GP_VECTOR);
	}
	s.selector = selector;
	mkvm_emu_set_segment(c, seg, &s);
	return MKVM_EMU_DONE;
}

/* ---- VERR, VERW, LAR, LSL: checks of a selector ---- */

static bool accessible(const struct mkvm_emu *c, const struct mkvm_descriptor *d)
{
	/*
	 * A bit for each type: LAR accepts TSSs, LDTs and gates, LSL only those with a limit. Long
	 * mode has fewer types.
	 */
	static const u16 lar[] = { 0x1a3e, 0x1a04 }, lsl[] = { 0x0a0e, 0x0a04 };
	unsigned int type = desc_type(d);
	bool code = type & TYPE_CODE;

	if (!(d->low & DESC_S)) {
		if (c->d.op == OP_VERR || c->d.op == OP_VERW)
			return false;
		if (!((c->d.op == OP_LAR ? lar : lsl)[long_mode(c)] >> type & 1))
			return false;
	} else if (c->d.op == OP_VERW ? code || !(type & TYPE_WRITABLE) :
		   c->d.op == OP_VERR && code && !(type & TYPE_WRITABLE)) {
		return false;
	} else if (code && (type & TYPE_CONFORMING)) {
		return true;
	}
	return cpl(c) <= desc_dpl(d) && (d->selector & 3) <= desc_dpl(d);
}

static enum mkvm_emu_result run_verify(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	struct mkvm_descriptor d;
	u64 selector = 0;
	bool ok;

	res = mkvm_emu_rm(c, MKVM_EMU_READ, 2, &selector);
	if (res)
		return res;
	if (selector & ~3ULL) {
		res = mkvm_emu_read_descriptor(c, selector, false, &d);
		if (res && !(res == MKVM_EMU_FAULT && c->fault.vector == GP_VECTOR))
			return res;
	} else {
		res = MKVM_EMU_FAULT;
	}
	ok = !res && accessible(c, &d);
	c->flags = (c->flags & ~(u64)X86_EFLAGS_ZF) | (ok ? X86_EFLAGS_ZF : 0);
	if (ok && c->d.op == OP_LAR)
		reg_write(c, c->reg, c->size, d.low >> 32 & 0x00ffff00);
	else if (ok && c->d.op == OP_LSL)
		reg_write(c, c->reg, c->size, mkvm_emu_segment_of(&d).limit);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_run_segment(struct mkvm_emu *c)
{
	switch (c->d.op) {
	case OP_MOV_FROM_SEG:
		return run_mov_from_segment(c);
	case OP_MOV_TO_SEG:
		return run_mov_to_segment(c);
	case OP_PUSH_SEG:
		return run_push_segment(c);
	case OP_POP_SEG:
		return run_pop_segment(c);
	case OP_LOAD_POINTER:
		return run_load_pointer(c);
	case OP_CALL_FAR: case OP_JMP_FAR:
		return run_far_branch(c);
	case OP_RET_FAR:
		return mkvm_emu_ret_far(c);
	case OP_IRET:
		return mkvm_emu_iret(c);
	case OP_SGDT: case OP_SIDT:
		return run_store_table(c);
	case OP_LGDT: case OP_LIDT:
		return run_load_table(c);
	case OP_SLDT: case OP_STR: case OP_SMSW:
		return run_store_system(c);
	case OP_LMSW:
		return run_lmsw(c);
	case OP_LTR: case OP_LLDT:
		return run_load_system(c);
	}
	return run_verify(c);
}
