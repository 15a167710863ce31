// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_vec.c - moves between memory and vector registers, and x87 and MMX instructions with
 * an operand in memory.
 *
 * This file executes moves of SSE, AVX and AVX-512 itself. The CPU executes an x87 instruction,
 * on a copy of the guest's registers with a buffer for its operand; the copy becomes the
 * guest's after memory has been accessed. Moves under a mask, other vector instructions, and
 * saves and loads of a whole FPU state stay UNHANDLED.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: AMD APM vol. 4 and 5; Intel SDM vol. 1, "Programming with the x87 FPU".
 *
 * Read next: emulate.c, which calls this file; guest_fpu.c, the registers.
 */
#include <linux/string.h>

#include "decode.h"

#define XCR0_AVX	0x06ULL		/* and SSE */
#define XCR0_AVX512	0xe6ULL
#define FSW_PENDING	0x80		/* an exception that is not masked */
#define FSW_NO_STORE	0x19		/* IE, OE, UE: not masked, they leave the destination as it is */

/* Which register has the vector operand? */
static unsigned int vec_register(const struct mkvm_emu *c)
{
	return c->reg + (c->vex.upper ? 16 : 0);
}

/* Is the vector extension there, and has the guest's kernel switched it on? */
static bool vec_enabled(struct mkvm_emu *c)
{
	if (!c->vex.kind)
		return !(c->mode.cr0 & X86_CR0_EM) && (c->mode.cr4 & X86_CR4_OSFXSR);
	if (!(c->mode.cr4 & X86_CR4_OSXSAVE) || !mkvm_emu_has(c, X86_FEATURE_AVX))
		return false;
	if (c->vex.kind != EVEX_BYTES)
		return (mkvm_emu_xcr0(c) & XCR0_AVX) == XCR0_AVX;
	if ((mkvm_emu_xcr0(c) & XCR0_AVX512) != XCR0_AVX512 ||
	    !mkvm_emu_has(c, X86_FEATURE_AVX512F))
		return false;
	return c->vex.length == 2 || c->d.width || (c->d.flags & BY_W) ||
	       mkvm_emu_has(c, X86_FEATURE_AVX512VL);
}

/* #UD, #NM, or none. */
static enum mkvm_emu_result vec_check(struct mkvm_emu *c)
{
	if (!vec_enabled(c))
		return fault(c, UD_VECTOR);
	return c->mode.cr0 & X86_CR0_TS ? fault(c, NM_VECTOR) : MKVM_EMU_DONE;
}

static unsigned int vec_bytes(const struct mkvm_emu *c)
{
	if (c->d.flags & BY_W)
		return c->vex.w || (!c->vex.kind && (c->prefix[REX] & 8)) ? 8 : 4;
	return c->d.width ?: 16 << c->vex.length;
}

/* As much of a register as the instruction's encoding reaches: writes clear what is above, legacy ones keep it. */
static unsigned int reach(const struct mkvm_emu *c)
{
	if (!c->vex.kind)
		return 16;
	return c->vex.kind == EVEX_BYTES ? 64 : 32;
}

/* Loads clear the rest of the register. AMD APM vol. 4, the instructions' tables of exceptions. */
static enum mkvm_emu_result run_move(struct mkvm_emu *c)
{
	bool load = c->d.dst == VEC;
	unsigned int size = vec_bytes(c);
	struct mkvm_vec val = { { 0 } };
	enum mkvm_emu_result res;
	u64 la;

	res = mkvm_emu_linearize(c, c->seg, c->ea, size, !load, &la);
	if (res)
		return res;
	if ((c->d.flags & ALIGNED) && (la & (size - 1)))
		return fault(c, GP_VECTOR);
	if (!load)
		mkvm_emu_vec(c, vec_register(c), &val, reach(c), false);
	res = mkvm_emu_access(c, la, val.q, size, load ? MKVM_EMU_READ : MKVM_EMU_WRITE);
	if (!res && load)
		mkvm_emu_vec(c, vec_register(c), &val, reach(c), true);
	return res;
}

/* MOVLPS, MOVHPS and their like: a half; VEX takes the other one from a second register. */
static enum mkvm_emu_result run_half(struct mkvm_emu *c)
{
	unsigned int half = c->opcode >= 0x16, other = c->vex.kind ? c->vex.vvvv : vec_register(c);
	struct mkvm_vec val = { { 0 } }, old = { { 0 } };
	enum mkvm_emu_result res;

	if (c->d.dst != VEC) {
		mkvm_emu_vec(c, vec_register(c), &val, reach(c), false);
		return mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, c->ea, 8, &val.q[half]);
	}
	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, 8, &val.q[half]);
	if (res)
		return res;
	mkvm_emu_vec(c, other, &old, reach(c), false);
	val.q[!half] = old.q[!half];
	mkvm_emu_vec(c, vec_register(c), &val, reach(c), true);
	return MKVM_EMU_DONE;
}

/* LDMXCSR and STMXCSR. */
static enum mkvm_emu_result run_mxcsr(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	struct mkvm_fx fx;
	u64 val;

	mkvm_emu_fx(c, &fx, false);
	val = fx.mxcsr;
	if (c->d.dst == RM)
		return mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, c->ea, 4, &val);
	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, 4, &val);
	if (res)
		return res;
	if ((u32)val & ~(fx.mxcsr_mask ?: 0xffbf))
		return fault(c, GP_VECTOR);
	fx.mxcsr = val;
	mkvm_emu_fx(c, &fx, true);
	return MKVM_EMU_DONE;
}

/* ---- x87 and MMX ---- */

/* Bytes of the operand by opcode and ModRM.reg, negative where it is written; 0: none, or a whole state. */
static const s8 x87_bytes[8][8] = {
	{4, 4, 4, 4, 4, 4, 4, 4},	 /* D8: arithmetic with a short real */
	{4, 0, -4, -4, 0, 2, 0, -2},	 /* FLD, FST, FSTP, FLDENV, FLDCW, FNSTENV, FNSTCW */
	{4, 4, 4, 4, 4, 4, 4, 4},	 /* with a short integer */
	{4, -4, -4, -4, 0, 10, 0, -10},	 /* FILD, FISTTP, FIST, FISTP, FLD, FSTP */
	{8, 8, 8, 8, 8, 8, 8, 8},	 /* with a long real */
	{8, -8, -8, -8, 0, 0, 0, -2},	 /* FLD, FISTTP, FST, FSTP, FRSTOR, FNSAVE, FNSTSW */
	{2, 2, 2, 2, 2, 2, 2, 2},	 /* with a word integer */
	{2, -2, -2, -2, 10, 8, -10, -8}, /* FILD, FISTTP, FIST, FISTP, FBLD, FILD, FBSTP, FISTP */
};

/* FNSTCW and FNSTSW do not wait for a pending exception. */
static bool waits(const struct mkvm_emu *c)
{
	return c->d.op == OP_MMX || (c->reg & 7) != 7 || (c->opcode != 0xd9 && c->opcode != 0xdd);
}

static enum mkvm_emu_result run_on_buffer(struct mkvm_emu *c, unsigned int size, bool store)
{
	u64 buf[2] = { 0 };
	enum mkvm_emu_result res;
	struct mkvm_fx fx;

	mkvm_emu_fx(c, &fx, false);
	if (waits(c) && (fx.fsw & FSW_PENDING))
		return fault(c, MF_VECTOR);
	if (!store) {
		res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, size, buf);
		if (res)
			return res;
	}
	mkvm_emu_x87(c, &fx, buf);
	/* An exception that is not masked keeps the CPU from storing; none was pending before. */
	if (store && !(waits(c) && (fx.fsw & FSW_PENDING) && (fx.fsw & ~fx.fcw & FSW_NO_STORE))) {
		res = mkvm_emu_mem(c, MKVM_EMU_WRITE, c->seg, c->ea, size, buf);
		if (res)
			return res;
	}
	mkvm_emu_fx(c, &fx, true);
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result run_x87(struct mkvm_emu *c)
{
	int bytes = x87_bytes[c->opcode & 7][c->reg & 7];

	if (c->mode.cr0 & (X86_CR0_EM | X86_CR0_TS))
		return fault(c, NM_VECTOR);
	if (!bytes)
		return MKVM_EMU_UNHANDLED;
	if ((c->reg & 7) == 1 && bytes < 0 && !mkvm_emu_has(c, X86_FEATURE_XMM3))	/* FISTTP */
		return fault(c, UD_VECTOR);
	return run_on_buffer(c, abs(bytes), bytes < 0);
}

static enum mkvm_emu_result run_mmx(struct mkvm_emu *c)
{
	if (c->mode.cr0 & X86_CR0_EM)
		return fault(c, UD_VECTOR);
	if (c->mode.cr0 & X86_CR0_TS)
		return fault(c, NM_VECTOR);
	return run_on_buffer(c, vec_bytes(c), c->d.dst == RM);
}

enum mkvm_emu_result mkvm_emu_run_vec(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;

	if (c->d.op == OP_X87)
		return run_x87(c);
	if (c->d.op == OP_MMX)
		return run_mmx(c);
	res = vec_check(c);
	if (res)
		return res;
	if (c->d.op == OP_MXCSR)
		return run_mxcsr(c);
	return c->d.op == OP_VEC_HALF ? run_half(c) : run_move(c);
}
