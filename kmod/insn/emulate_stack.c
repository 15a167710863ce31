// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_stack.c - instructions that use the stack: PUSH and POP in all forms, ENTER and
 * LEAVE, near calls and returns.
 *
 * State: none, as in emulate.c. rSP is written last, when no access can fail any more.
 *
 * Manuals: AMD APM vol. 3; Intel SDM vol. 2.
 *
 * Read next: emulate.c, which calls this file.
 */
#include "decode.h"

/* Returns the width of the stack pointer in bytes. */
static unsigned int stack_width(struct mkvm_emu *c)
{
	struct kvm_segment ss;

	if (c->mode64)
		return 8;
	mkvm_emu_get_segment(c, MKVM_SS, &ss);
	return ss.db ? 4 : 2;
}

/* Returns a copy of the stack pointer, for an instruction that may still fail. */
struct mkvm_stack mkvm_emu_stack_begin(struct mkvm_emu *c)
{
	unsigned int width = stack_width(c);

	return (struct mkvm_stack){ .width = width, .sp = c->regs[MKVM_RSP] & size_mask(width) };
}

void mkvm_emu_stack_end(struct mkvm_emu *c, const struct mkvm_stack *s)
{
	reg_write(c, MKVM_RSP, s->width, s->sp);
}

enum mkvm_emu_result mkvm_emu_push(struct mkvm_emu *c, struct mkvm_stack *s, u64 val)
{
	s->sp = (s->sp - c->size) & size_mask(s->width);
	return mkvm_emu_mem(c, MKVM_EMU_WRITE, MKVM_SS, s->sp, c->size, &val);
}

enum mkvm_emu_result mkvm_emu_pop(struct mkvm_emu *c, struct mkvm_stack *s, u64 *val)
{
	enum mkvm_emu_result res;

	*val = 0;
	res = mkvm_emu_mem(c, MKVM_EMU_READ, MKVM_SS, s->sp, c->size, val);
	s->sp = (s->sp + c->size) & size_mask(s->width);
	return res;
}

static enum mkvm_emu_result run_push(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	u64 val = c->imm;

	if (c->d.src == RM)
		res = mkvm_emu_rm(c, MKVM_EMU_READ, c->size, &val);
	if (!res)
		res = mkvm_emu_push(c, &s, val);
	if (!res)
		mkvm_emu_stack_end(c, &s);
	return res;
}

/* An rSP-based address of the destination uses the value of rSP after the pop. */
static enum mkvm_emu_result run_pop(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res;
	u64 val;

	res = mkvm_emu_pop(c, &s, &val);
	if (res)
		return res;
	if (c->mod == 3) {
		mkvm_emu_stack_end(c, &s);
		return mkvm_emu_rm(c, MKVM_EMU_WRITE, c->size, &val);
	}
	if (c->sp_based)
		c->ea = (c->ea + c->size) & size_mask(c->ad);
	res = mkvm_emu_rm(c, MKVM_EMU_WRITE, c->size, &val);
	if (!res)
		mkvm_emu_stack_end(c, &s);
	return res;
}

static enum mkvm_emu_result run_pusha(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	unsigned int n;

	for (n = 0; n < 8 && !res; n++)
		res = mkvm_emu_push(c, &s, reg_read(c, n, c->size));
	if (!res)
		mkvm_emu_stack_end(c, &s);
	return res;
}

/* POPA skips rSP. */
static enum mkvm_emu_result run_popa(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	u64 val[8];
	int n;

	for (n = 7; n >= 0 && !res; n--)
		res = mkvm_emu_pop(c, &s, &val[n]);
	if (res)
		return res;
	for (n = 0; n < 8; n++)
		if (n != MKVM_RSP)
			reg_write(c, n, c->size, val[n]);
	mkvm_emu_stack_end(c, &s);
	return MKVM_EMU_DONE;
}

/*
 * In virtual-8086 mode PUSHF and POPF raise #GP if IOPL is below 3. The mode's extensions (CR4.VME)
 * are not emulated.
 */
static enum mkvm_emu_result may_use_flags(struct mkvm_emu *c)
{
	if (!(c->rflags & X86_EFLAGS_VM) || iopl(c) == 3)
		return MKVM_EMU_DONE;
	return c->mode.cr4 & X86_CR4_VME ? MKVM_EMU_UNHANDLED : fault(c, GP_VECTOR);
}

static enum mkvm_emu_result run_pushf(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res = may_use_flags(c);

	if (!res)
		res = mkvm_emu_push(c, &s, c->rflags & ~(u64)(X86_EFLAGS_VM | X86_EFLAGS_RF));
	if (!res)
		mkvm_emu_stack_end(c, &s);
	return res;
}

/* Returns the flags that code at this CPL, with this operand size, may change. */
u64 mkvm_emu_own_flags(const struct mkvm_emu *c)
{
	u64 own = X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF | X86_EFLAGS_SF |
		  X86_EFLAGS_TF | X86_EFLAGS_DF | X86_EFLAGS_OF | X86_EFLAGS_NT | X86_EFLAGS_AC |
		  X86_EFLAGS_ID;
	unsigned int cpl = c->mode.cr0 & X86_CR0_PE ? c->mode.cpl : 0;

	if (cpl <= iopl(c))
		own |= X86_EFLAGS_IF;
	if (!cpl)
		own |= X86_EFLAGS_IOPL;
	return own & size_mask(c->size);
}

static enum mkvm_emu_result run_popf(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res = may_use_flags(c);
	u64 val, own = mkvm_emu_own_flags(c);

	if (!res)
		res = mkvm_emu_pop(c, &s, &val);
	if (res)
		return res;
	c->flags = (c->flags & ~own) | (val & own);
	mkvm_emu_stack_end(c, &s);
	return MKVM_EMU_DONE;
}

/* ENTER: imm16 is the size of the frame in bytes, imm the nesting level. */
static enum mkvm_emu_result run_enter(struct mkvm_emu *c)
{
	unsigned int level = c->imm & 31, i;
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	u64 bp = c->regs[MKVM_RBP] & size_mask(s.width), frame, val;
	enum mkvm_emu_result res;

	res = mkvm_emu_push(c, &s, reg_read(c, MKVM_RBP, c->size));
	frame = s.sp;
	for (i = 1; i < level && !res; i++) {
		bp = (bp - c->size) & size_mask(s.width);
		val = 0;
		res = mkvm_emu_mem(c, MKVM_EMU_READ, MKVM_SS, bp, c->size, &val);
		if (!res)
			res = mkvm_emu_push(c, &s, val);
	}
	if (!res && level)
		res = mkvm_emu_push(c, &s, frame);
	s.sp = (s.sp - (u16)c->imm16) & size_mask(s.width);
	/* The new top of the stack must be writable. */
	if (!res)
		res = mkvm_emu_mem(c, MKVM_EMU_PROBE, MKVM_SS, s.sp, c->size, NULL);
	if (res)
		return res;
	reg_write(c, MKVM_RBP, s.width, frame);
	mkvm_emu_stack_end(c, &s);
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result run_leave(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res;
	u64 val;

	s.sp = c->regs[MKVM_RBP] & size_mask(s.width);
	res = mkvm_emu_pop(c, &s, &val);
	if (res)
		return res;
	mkvm_emu_stack_end(c, &s);
	reg_write(c, MKVM_RBP, c->size, val);
	return MKVM_EMU_DONE;
}

/* Branches to target, if it is within CS. */
static enum mkvm_emu_result branch(struct mkvm_emu *c, u64 target)
{
	struct kvm_segment cs;

	target &= size_mask(c->size);
	if (c->mode64) {
		if (!canonical(target))
			return fault(c, GP_VECTOR);
	} else {
		mkvm_emu_get_segment(c, MKVM_CS, &cs);
		if (target > cs.limit)
			return fault(c, GP_VECTOR);
	}
	c->next_rip = target;
	return MKVM_EMU_DONE;
}

/* Executes near CALL and JMP, relative or through an operand. */
static enum mkvm_emu_result run_branch(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	u64 back = c->next_rip, target = back + c->imm;
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	if (c->d.op != OP_CALL_REL)
		res = mkvm_emu_rm(c, MKVM_EMU_READ, c->size, &target);
	if (!res)
		res = branch(c, target);
	if (res || c->d.op == OP_JMP)
		return res;
	res = mkvm_emu_push(c, &s, back);
	if (!res)
		mkvm_emu_stack_end(c, &s);
	return res;
}

static enum mkvm_emu_result run_ret(struct mkvm_emu *c)
{
	struct mkvm_stack s = mkvm_emu_stack_begin(c);
	enum mkvm_emu_result res;
	u64 target;

	res = mkvm_emu_pop(c, &s, &target);
	if (!res)
		res = branch(c, target);
	if (res)
		return res;
	s.sp = (s.sp + c->imm16) & size_mask(s.width);
	mkvm_emu_stack_end(c, &s);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_run_stack(struct mkvm_emu *c)
{
	switch (c->d.op) {
	case OP_PUSH:
		return run_push(c);
	case OP_POP:
		return run_pop(c);
	case OP_PUSHA:
		return run_pusha(c);
	case OP_POPA:
		return run_popa(c);
	case OP_PUSHF:
		return run_pushf(c);
	case OP_POPF:
		return run_popf(c);
	case OP_ENTER:
		return run_enter(c);
	case OP_LEAVE:
		return run_leave(c);
	case OP_RET:
		return run_ret(c);
	}
	return run_branch(c);
}
