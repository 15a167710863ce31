// SPDX-License-Identifier: GPL-2.0
/*
 * emulate.c - the instruction emulator: executes what decode.c has decoded.
 *
 * It executes instructions that can access memory, INS and OUTS, and MOV to control registers.
 * Documentation/abi.rst lists what stays UNHANDLED. The bytes may have changed since the exit,
 * so the emulator assumes nothing because of the exit.
 *
 * State: only struct mkvm_emu; the guest's registers are written only when nothing can fail any
 * more.
 *
 * Manuals: AMD APM vol. 3, Intel SDM vol. 2.
 *
 * Read next: emulate.h, the contract; decode.c; the other emulate_*.c, one for each subject;
 * access.c, which supplies the memory accesses.
 */
#include "decode.h"

/* ---- operands ---- */

static enum mkvm_emu_result operand(struct mkvm_emu *c, unsigned int where, enum mkvm_emu_how how,
				    unsigned int size, u64 *val)
{
	unsigned int reg = MKVM_RAX;

	if (where == REG)
		reg = c->reg;
	else if (where == SECOND)
		reg = c->vex.vvvv;
	switch (where) {
	case REG: case ACC: case SECOND:
		if (how >= MKVM_EMU_WRITE)
			reg_write(c, reg, size, *val);
		else
			*val = reg_read(c, reg, size);
		return MKVM_EMU_DONE;
	case SI:
		return mkvm_emu_mem(c, how, c->seg, c->regs[MKVM_RSI] & size_mask(c->ad), size,
				    val);
	case DI:
		return mkvm_emu_mem(c, how, MKVM_ES, c->regs[MKVM_RDI] & size_mask(c->ad), size,
				    val);
	case CL: case ONE:
		*val = where == CL ? c->regs[MKVM_RCX] & 0xff : 1;
		return MKVM_EMU_DONE;
	case PORT:
		return mkvm_emu_pio(c, c->regs[MKVM_RDX], size, 1, val);
	}
	return mkvm_emu_mem(c, how, c->seg, c->ea, size, val);
}

/* ---- running ---- */

/* Computes a + b + carry or a - b - carry, and all six flags. */
static u64 arith(struct mkvm_emu *c, u64 a, u64 b, bool sub, bool carry)
{
	unsigned int sign = 8 * c->size - 1;
	u64 r = sub ? a - b - carry : a + b + carry;
	u64 x = sub ? ~a : a;
	u64 cf = ((x & b) | ((x | b) & (sub ? r : ~r))) >> sign & 1;
	u64 of = (sub ? (a ^ b) & (a ^ r) : (a ^ r) & (b ^ r)) >> sign & 1;

	cf = cf * X86_EFLAGS_CF | of * X86_EFLAGS_OF;
	return mkvm_emu_set_flags(c, r, cf | ((a ^ b ^ r) & X86_EFLAGS_AF));
}

static u64 bit_op(struct mkvm_emu *c, u64 dst, u64 bit)
{
	u64 mask = 1ULL << (bit & (8 * c->size - 1));

	c->flags &= ~(u64)X86_EFLAGS_CF;
	if (dst & mask)
		c->flags |= X86_EFLAGS_CF;
	if (c->d.op == OP_BTS)
		return dst | mask;
	return c->d.op == OP_BTR ? dst & ~mask : dst ^ mask;
}

/*
 * Returns the bit that a shift or rotate by one moves into its operand v; the instructions differ
 * only in this bit. more: the second operand of SHLD and SHRD.
 */
static bool shifted_in(unsigned int op, u64 v, u64 sign, bool carry, u64 more)
{
	switch (op) {
	case OP_ROL: case OP_SAR:
		return v & sign;
	case OP_ROR:
		return v & 1;
	case OP_RCL: case OP_RCR:
		return carry;
	case OP_SHLD:
		return more & sign;
	case OP_SHRD:
		return more & 1;
	default:
		return false;
	}
}

/* Shifts or rotates v bit by bit. */
static u64 shift(struct mkvm_emu *c, u64 v, unsigned int count)
{
	bool left = c->d.op == OP_ROL || c->d.op == OP_RCL || c->d.op == OP_SHL ||
		    c->d.op == OP_SHLD;
	u64 sign = 1ULL << (8 * c->size - 1), more = reg_read(c, c->reg, c->size);
	bool carry = c->flags & X86_EFLAGS_CF, in, of;

	count &= c->size == 8 ? 63 : 31;
	if (!count)
		return v;
	while (count--) {
		in = shifted_in(c->d.op, v, sign, carry, more);
		carry = left ? v & sign : v & 1;
		more = left ? more << 1 : more >> 1;
		if (left)
			v = v << 1 | in;
		else
			v = (v >> 1) | (in ? sign : 0);
	}
	v &= size_mask(c->size);
	of = !!(v & sign) ^ (left ? carry : !!(v & (sign >> 1)));
	if (c->d.op >= OP_SHL)
		mkvm_emu_set_flags(c, v, 0);
	c->flags &= ~(u64)(X86_EFLAGS_CF | X86_EFLAGS_OF);
	c->flags |= carry * X86_EFLAGS_CF | of * X86_EFLAGS_OF;
	return v;
}

/* Returns the new destination and updates the flags. */
static u64 compute(struct mkvm_emu *c, u64 dst, u64 src)
{
	u64 carry = c->flags & X86_EFLAGS_CF;

	switch (c->d.op) {
	case OP_ADD: case OP_ADC: case OP_XADD:
		return arith(c, dst, src, false, carry && c->d.op == OP_ADC);
	case OP_SUB: case OP_SBB: case OP_CMP:
		return arith(c, dst, src, true, carry && c->d.op == OP_SBB);
	case OP_OR:
		return mkvm_emu_set_flags(c, dst | src, 0);
	case OP_AND: case OP_TEST:
		return mkvm_emu_set_flags(c, dst & src, 0);
	case OP_XOR:
		return mkvm_emu_set_flags(c, dst ^ src, 0);
	case OP_NOT:
		return ~dst;
	case OP_NEG:
		return arith(c, 0, dst, true, false);
	case OP_INC: case OP_DEC:
		dst = arith(c, dst, 1, c->d.op == OP_DEC, false);
		c->flags = (c->flags & ~(u64)X86_EFLAGS_CF) | carry;
		return dst;
	case OP_CMPXCHG:
		arith(c, reg_read(c, MKVM_RAX, c->size), dst, true, false);
		return c->flags & X86_EFLAGS_ZF ? src : dst;
	case OP_BT: case OP_BTS: case OP_BTR: case OP_BTC:
		return bit_op(c, dst, src);
	case OP_ROL ... OP_SHRD:
		return shift(c, dst, src);
	case OP_CMOV ... OP_LAST_PLAIN:
		return mkvm_emu_compute_bits(c, dst, src);
	}
	return src;			/* XCHG, MOVSX */
}

/* BSF and BSR of 0 keep the whole destination register, as AMD documents and Intel's CPUs do. */
static bool keeps_destination(const struct mkvm_emu *c, u64 src)
{
	return (c->d.op == OP_BSF || c->d.op == OP_BSR) && !src;
}

/* Executes the instructions that have a destination and a source. */
static enum mkvm_emu_result run_plain(struct mkvm_emu *c)
{
	unsigned int src_size = c->size;
	u64 dst = 0, src = c->imm, new;
	enum mkvm_emu_result res = MKVM_EMU_DONE;

	if (c->d.src >= RM8 && c->d.src <= RM32)
		src_size = min_t(u8, c->size, 1 << (c->d.src - RM8));
	if (c->d.src != NO && c->d.src < IMM8) {
		src = 0;
		res = operand(c, c->d.src, MKVM_EMU_READ, src_size, &src);
	}
	if (c->d.op == OP_MOVSX)
		src = sign_extend(src, src_size);
	else if (c->d.op == OP_CRC32)	/* 66 changes only the source's size */
		c->size = max_t(u8, c->size, 4);
	/* A bit offset in a register may reach beyond the operand. */
	if (c->d.op >= OP_BT && c->d.op <= OP_BTC && c->d.src == REG)
		c->ea = (c->ea + (sign_extend(src, c->size) >> 3 & -(s64)c->size)) &
			size_mask(c->ad);
	if (!res && (c->d.flags & RD))
		res = operand(c, c->d.dst, c->d.flags & WR ? MKVM_EMU_MODIFY : MKVM_EMU_READ,
			      c->size, &dst);
	if (res)
		return res;
	new = likely(c->d.op == OP_MOV) ? src : compute(c, dst, src);
	if (unlikely(keeps_destination(c, src)))
		return MKVM_EMU_DONE;
	c->was[0] = dst;
	if (c->d.flags & WR)
		res = operand(c, c->d.dst, c->d.flags & RD ? MKVM_EMU_REPLACE : MKVM_EMU_WRITE,
			      c->size, &new);
	if (res)
		return res;
	if (c->d.op == OP_XCHG || c->d.op == OP_XADD)
		reg_write(c, c->reg, c->size, dst);
	else if (c->d.op == OP_CMPXCHG && !(c->flags & X86_EFLAGS_ZF))
		reg_write(c, MKVM_RAX, c->size, dst);
	return MKVM_EMU_DONE;
}

/* Reads up to *n elements at once, as many as fit, and returns their number in *n. */
static enum mkvm_emu_result run_ins(struct mkvm_emu *c, u64 *n)
{
	u64 off = c->regs[MKVM_RDI] & size_mask(c->ad);
	enum mkvm_emu_result res;

	/* Each count is one less than what fits, so that none of them is 2^64. */
	*n = min3(*n - 1, 4096ULL / c->size - 1, (size_mask(c->ad) - off) / c->size) + 1;
	if ((c->flags & X86_EFLAGS_DF) || c->one_by_one)
		*n = 1;
	if (c->ins_taken) {	/* a replay must store exactly what the device has supplied */
		*n = min_t(u64, *n, c->ins_taken);
		res = MKVM_EMU_DONE;
	} else {
		res = mkvm_emu_mem(c, MKVM_EMU_PROBE, MKVM_ES, off, *n * c->size, NULL);
		if (res && *n > 1) {
			*n = 1;
			res = mkvm_emu_mem(c, MKVM_EMU_PROBE, MKVM_ES, off, c->size, NULL);
		}
	}
	if (!res)
		res = mkvm_emu_pio(c, c->regs[MKVM_RDX], c->size, *n, NULL);
	return res ? res : mkvm_emu_mem(c, MKVM_EMU_WRITE, MKVM_ES, off, *n * c->size, c->ins_buf);
}

static bool io_allowed(const struct mkvm_emu *c)
{
	return c->io_checked || !(c->mode.cr0 & X86_CR0_PE) ||
	       (protected_mode(c) && c->mode.cpl <= iopl(c));
}

/* Executes a string instruction for one element, or for as many as possible with INS. */
static enum mkvm_emu_result run_string(struct mkvm_emu *c)
{
	u64 count = c->regs[MKVM_RCX] & size_mask(c->ad), n = 1, step;
	u8 dst = c->d.dst, src = c->d.src, rep = c->prefix[REP];
	enum mkvm_emu_result res;

	if (rep && !count)
		return MKVM_EMU_DONE;
	if ((src == PORT || dst == PORT) && !io_allowed(c))
		return fault(c, GP_VECTOR);
	if (src == PORT) {
		n = rep ? count : 1;
		res = run_ins(c, &n);
	} else {
		res = run_plain(c);
	}
	if (res)
		return res;
	step = c->flags & X86_EFLAGS_DF ? -n * c->size : n * c->size;
	if (dst == SI || src == SI)
		reg_write(c, MKVM_RSI, c->ad, c->regs[MKVM_RSI] + step);
	if (dst == DI || src == DI)
		reg_write(c, MKVM_RDI, c->ad, c->regs[MKVM_RDI] + step);
	if (!rep)
		return MKVM_EMU_DONE;
	count -= n;
	reg_write(c, MKVM_RCX, c->ad, count);
	/* F3 repeats while ZF is 1, F2 while it is 0. */
	if (!count || (c->d.op == OP_CMP && !(c->flags & X86_EFLAGS_ZF) == (rep == 0xf3)))
		return MKVM_EMU_DONE;
	c->rflags = c->flags;
	return MKVM_EMU_AGAIN;
}

/* Executes MOV to and from a control register. */
static enum mkvm_emu_result run_cr(struct mkvm_emu *c)
{
	unsigned int nr = c->prefix[LOCK] ? 8 : c->reg, size = c->mode64 ? 8 : 4;

	if (c->mode.cpl)
		return fault(c, GP_VECTOR);
	if (c->d.op == OP_GET_CR)
		reg_write(c, c->rm, size, mkvm_emu_get_cr(c, nr));
	else if (mkvm_emu_set_cr(c, nr, reg_read(c, c->rm, size)))
		return fault(c, GP_VECTOR);
	return MKVM_EMU_DONE;
}

/*
 * Executes MOV to and from a debug register. With CR4.DE clear, DR4 and DR5 are aliases of DR6 and
 * DR7.
 */
static enum mkvm_emu_result run_dr(struct mkvm_emu *c)
{
	unsigned int nr = c->reg == 4 || c->reg == 5 ? c->reg + 2 : c->reg,
		     size = c->mode64 ? 8 : 4;
	bool write = c->d.op == OP_SET_DR;
	u64 val = write ? reg_read(c, c->rm, size) : 0;

	if (c->mode.cpl || (nr >= 6 && val >> 32))
		return fault(c, GP_VECTOR);
	mkvm_emu_dr(c, nr, &val, write);
	if (!write)
		reg_write(c, c->rm, size, val);
	return MKVM_EMU_DONE;
}

/* May the instruction have a LOCK prefix? AMD APM vol. 3, "Lock Prefix". */
static bool lockable(const struct mkvm_emu *c)
{
	return (c->d.flags & RMW) == RMW && c->d.dst == RM &&
	       (c->d.op < OP_ROL || c->d.op == OP_CMPXCHG_PAIR);
}

/*
 * Is the encoding undefined, whatever its operands hold? On AMD's CPUs MOV to and from CR0 with a
 * LOCK prefix accesses CR8.
 */
static bool undefined(const struct mkvm_emu *c)
{
	if (c->d.op == OP_GET_CR || c->d.op == OP_SET_CR)
		return c->prefix[LOCK] ? c->reg : !(0x11d >> c->reg & 1);
	if (c->d.op == OP_GET_DR || c->d.op == OP_SET_DR)
		return c->prefix[LOCK] || c->reg > 7 ||
		       ((c->reg & 6) == 4 && (c->mode.cr4 & X86_CR4_DE));
	/* These exist only in protected mode; MOV cannot load CS. */
	if ((c->d.op == OP_ARPL || (c->d.op >= OP_SLDT && c->d.op <= OP_LSL)) && !protected_mode(c))
		return true;
	if (c->d.op == OP_MOV_FROM_SEG || c->d.op == OP_MOV_TO_SEG)
		return c->prefix[LOCK] || (c->reg & 7) > MKVM_GS ||
		       (c->d.op == OP_MOV_TO_SEG && (c->reg & 7) == MKVM_CS);
	if ((c->d.op == OP_VEC_BY_BYTE && c->mod != 3) || (c->d.op == OP_KMOV && c->reg > 7))
		return true;
	return c->prefix[LOCK] && !lockable(c);
}

/*
 * Does CPUID show the feature that the instruction needs? CPUs without TZCNT and LZCNT execute them
 * as BSF and BSR. CMPXCHG16B has a CPUID bit of its own.
 */
static noinline bool has_feature(struct mkvm_emu *c)
{
	if (c->d.op == OP_CMPXCHG_PAIR && c->size == 8)
		return mkvm_emu_has(c, X86_FEATURE_CX16);
	if (mkvm_emu_has(c, c->d.feature))
		return true;
	if (c->d.op != OP_TZCNT && c->d.op != OP_LZCNT)
		return false;
	c->d.op = c->d.op == OP_TZCNT ? OP_BSF : OP_BSR;
	return true;
}

static enum mkvm_emu_result run(struct mkvm_emu *c)
{
	if (undefined(c) || (unlikely(c->d.feature) && !has_feature(c)))
		return fault(c, UD_VECTOR);
	if (c->d.flags & STRING)
		return run_string(c);
	if (likely(c->d.op <= OP_LAST_PLAIN))
		return run_plain(c);
	switch (c->d.op) {
	case OP_VEC ... OP_X87:
		return mkvm_emu_run_vec(c);
	case OP_MULX ... OP_CLFLUSH:
		return mkvm_emu_run_bits(c);
	case OP_PUSH ... OP_RET:
		return mkvm_emu_run_stack(c);
	case OP_MOV_FROM_SEG ... OP_LSL:
		return mkvm_emu_run_segment(c);
	case OP_GET_CR: case OP_SET_CR:
		return run_cr(c);
	case OP_GET_DR: case OP_SET_DR:
		return run_dr(c);
	}
	return MKVM_EMU_UNHANDLED;
}

enum mkvm_emu_result mkvm_emulate(struct mkvm_emu *c)
{
	enum mkvm_emu_result res = mkvm_decode(c);

	if (res)
		return res;
	c->next_rip = c->rip + c->pos;
	if (!c->mode64)
		c->next_rip = (u32)c->next_rip;	/* in 16-bit code, too: CS's limit counts */
	else if (!canonical(c->next_rip))	/* past the lower half */
		return fault(c, GP_VECTOR);
	c->flags = c->rflags;
	c->ss_loaded = false;
	c->fault_after = false;
	c->rf_loaded = false;
	res = run(c);
	if (res == MKVM_EMU_DONE) {
		c->rip = c->next_rip;
		c->rflags = c->rf_loaded ? c->flags : c->flags & ~(u64)X86_EFLAGS_RF;
	}
	return res;
}
