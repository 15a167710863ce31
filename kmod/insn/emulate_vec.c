// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_vec.c - moves between memory and vector registers, and x87 and MMX instructions with
 * an operand in memory.
 *
 * This file executes moves of SSE, AVX and AVX-512 itself, including those that repeat, insert or
 * extract a part of a register, and those under a mask. Under a mask only the elements that it
 * names are accessed, in ascending order, in the largest pieces of up to 8 bytes that are aligned
 * within the operand. The CPU executes an x87 instruction, on a copy of the guest's registers with
 * a buffer for its operand; the copy becomes the guest's after memory has been accessed. Other
 * vector instructions, and XSAVE and XRSTOR, stay UNHANDLED.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: AMD APM vol. 4 and 5; Intel SDM vol. 1, "Programming with the x87 FPU".
 *
 * Read next: emulate.c, which calls this file; guest_fpu.c, the registers.
 */
#include <linux/string.h>

#include "decode.h"

#define XCR0_AVX	0x06ULL		/* AVX and SSE */
#define XCR0_AVX512	0xe6ULL
#define FSW_PENDING	0x80		/* an unmasked exception is pending */
#define FSW_NO_STORE	0x19		/* IE, OE, UE: if unmasked, nothing is stored */

/* Returns the number of the vector register in ModRM.reg. */
static unsigned int vec_register(const struct mkvm_emu *c)
{
	return c->reg + (c->vex.upper ? 16 : 0);
}

/* Does the guest have the vector extension, and has its kernel enabled it? */
static bool vec_enabled(struct mkvm_emu *c)
{
	if (!c->vex.kind)
		return !(c->mode.cr0 & X86_CR0_EM) && (c->mode.cr4 & X86_CR4_OSFXSR);
	if (!(c->mode.cr4 & X86_CR4_OSXSAVE) || !mkvm_emu_has(c, X86_FEATURE_AVX))
		return false;
	if (c->vex.kind != EVEX_BYTES && c->d.op != OP_KMOV)
		return (mkvm_emu_xcr0(c) & XCR0_AVX) == XCR0_AVX;
	if ((mkvm_emu_xcr0(c) & XCR0_AVX512) != XCR0_AVX512 ||
	    !mkvm_emu_has(c, X86_FEATURE_AVX512F))
		return false;
	return c->vex.length == 2 || (c->d.op == OP_VEC && c->d.width) ||
	       (c->d.flags & (BY_W | VEX_128)) || mkvm_emu_has(c, X86_FEATURE_AVX512VL);
}

/* Raises #UD if the extension is unavailable, #NM if CR0.TS is set. */
static enum mkvm_emu_result vec_check(struct mkvm_emu *c)
{
	if (!vec_enabled(c))
		return fault(c, UD_VECTOR);
	return c->mode.cr0 & X86_CR0_TS ? fault(c, NM_VECTOR) : MKVM_EMU_DONE;
}

/*
 * Returns how many bytes of a register the encoding reaches. Writes clear the bytes above the
 * operand up to there; legacy encodings keep the rest.
 */
static unsigned int reach(const struct mkvm_emu *c)
{
	if (!c->vex.kind)
		return 16;
	return c->vex.kind == EVEX_BYTES ? 64 : 32;
}

static enum mkvm_emu_result mem_operand(struct mkvm_emu *c, enum mkvm_emu_how how, unsigned int len,
					void *buf)
{
	return mkvm_emu_mem(c, how, c->seg, c->ea, len, buf);
}

/* ---- elements ---- */

static u64 ones(unsigned int n)
{
	return n < 64 ? BIT_ULL(n) - 1 : ~0ULL;
}

/* Returns the size in bytes of the elements that a mask's bits select. */
static unsigned int element_bytes(const struct mkvm_emu *c)
{
	if (c->d.flags & NARROW)
		return c->vex.w ? 2 : 1;
	if (c->d.width && (c->d.width <= 2 || c->d.op == OP_VEC_DUP || c->d.op == OP_VEC_BY_SIGN))
		return c->d.width;
	return c->vex.w ? 8 : 4;
}

/* Returns a bit for each of len bytes that EVEX's mask selects; all if there is no mask. */
static u64 masked_bytes(struct mkvm_emu *c, unsigned int len)
{
	unsigned int size = element_bytes(c), at;
	u64 mask, bytes = 0;

	if (!c->vex.mask)
		return ones(len);
	mkvm_emu_mask(c, c->vex.mask, &mask, false);
	for (at = 0; at < len; at += size, mask >>= 1)
		if (mask & 1)
			bytes |= ones(size) << at;
	return bytes;
}

/* Does the same for a mask that consists of the sign bits of another register's elements. */
static u64 signed_bytes(struct mkvm_emu *c, unsigned int n, unsigned int size, unsigned int len)
{
	struct mkvm_vec signs = { { 0 } };
	unsigned int at;
	u64 bytes = 0;

	mkvm_emu_vec(c, n, &signs, reach(c), false);
	for (at = 0; at < len; at += size)
		if (((u8 *)signs.q)[at + size - 1] & 0x80)
			bytes |= ones(size) << at;
	return bytes;
}

/* Accesses only the selected bytes of the operand, so no others fault or appear on a bus. */
static enum mkvm_emu_result access_named(struct mkvm_emu *c, enum mkvm_emu_how how,
					 struct mkvm_vec *vec, u64 named)
{
	enum mkvm_emu_result res;
	unsigned int at, n;
	u64 la, val = 0;

	for (; named; named &= ~(ones(n) << at)) {
		at = __ffs(named);
		for (n = 8; (at & (n - 1)) || (named >> at & ones(n)) != ones(n); n /= 2)
			;
		memcpy(&val, (u8 *)vec->q + at, n);
		res = mkvm_emu_linearize(c, c->seg, (c->ea + at) & size_mask(c->ad), n,
					 how != MKVM_EMU_READ, &la);
		if (!res)
			res = mkvm_emu_access(c, la, &val, n, how);
		if (res)
			return res;
		memcpy((u8 *)vec->q + at, &val, n);
	}
	return MKVM_EMU_DONE;
}

/* Stores the selected bytes; all are probed before the first one is written. */
static enum mkvm_emu_result store_named(struct mkvm_emu *c, struct mkvm_vec *vec, u64 named)
{
	enum mkvm_emu_result res = access_named(c, MKVM_EMU_PROBE, vec, named);

	return res ? res : access_named(c, MKVM_EMU_WRITE, vec, named);
}

/* Writes vec to the register under EVEX's mask. Bytes of vec above len are 0. */
static void write_result(struct mkvm_emu *c, struct mkvm_vec *vec, unsigned int len)
{
	u64 named = masked_bytes(c, len);
	struct mkvm_vec old = { { 0 } };
	unsigned int i;

	if (!c->vex.zero && named != ones(len))
		mkvm_emu_vec(c, vec_register(c), &old, reach(c), false);
	for (i = 0; i < len; i++)
		if (!(named >> i & 1))
			((u8 *)vec->q)[i] = ((u8 *)old.q)[i];
	mkvm_emu_vec(c, vec_register(c), vec, reach(c), true);
}

/* Moves under EVEX's mask. The whole operand must be aligned, whatever the mask selects. */
static enum mkvm_emu_result run_masked(struct mkvm_emu *c)
{
	unsigned int len = vec_bytes(c);
	struct mkvm_vec vec = { { 0 } };
	u64 named = masked_bytes(c, len), base = 0;
	enum mkvm_emu_result res;
	struct kvm_segment s;

	if (!c->mode64 || c->seg >= MKVM_FS) {
		mkvm_emu_get_segment(c, c->seg, &s);
		base = s.base;
	}
	if ((c->d.flags & ALIGNED) && ((base + c->ea) & (len - 1)))
		return fault(c, GP_VECTOR);
	if (c->d.dst != VEC) {
		mkvm_emu_vec(c, vec_register(c), &vec, reach(c), false);
		return store_named(c, &vec, named);
	}
	res = access_named(c, MKVM_EMU_READ, &vec, named);
	if (!res)
		write_result(c, &vec, len);
	return res;
}

/* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ: elements outside the mask are loaded as 0. */
static enum mkvm_emu_result run_by_sign(struct mkvm_emu *c)
{
	unsigned int len = vec_bytes(c);
	u64 named = signed_bytes(c, c->vex.vvvv, element_bytes(c), len);
	struct mkvm_vec vec = { { 0 } };
	enum mkvm_emu_result res;

	if (c->d.dst != VEC) {
		mkvm_emu_vec(c, vec_register(c), &vec, reach(c), false);
		return store_named(c, &vec, named);
	}
	res = access_named(c, MKVM_EMU_READ, &vec, named);
	if (!res)
		mkvm_emu_vec(c, vec_register(c), &vec, reach(c), true);
	return res;
}

/* MASKMOVDQU stores to DS:rDI the bytes whose sign bits are set in another register. */
static enum mkvm_emu_result run_by_byte(struct mkvm_emu *c)
{
	struct mkvm_vec vec = { { 0 } };

	c->ea = c->regs[MKVM_RDI] & size_mask(c->ad);
	mkvm_emu_vec(c, vec_register(c), &vec, reach(c), false);
	return store_named(c, &vec, signed_bytes(c, c->rm, 1, 16));
}

/*
 * VBROADCAST and VPBROADCAST repeat an element or a block of elements. With a mask of 0 nothing is
 * read.
 */
static enum mkvm_emu_result run_repeat(struct mkvm_emu *c)
{
	unsigned int len = 16 << c->vex.length, size = vec_bytes(c), at;
	struct mkvm_vec vec = { { 0 } };
	u64 named = masked_bytes(c, len), wanted = 0;
	enum mkvm_emu_result res;

	for (at = 0; at < len; at += size)
		wanted |= named >> at & ones(size);
	if (wanted == ones(size))
		res = mem_operand(c, MKVM_EMU_READ, size, vec.q);
	else
		res = access_named(c, MKVM_EMU_READ, &vec, wanted);
	if (res)
		return res;
	for (at = size; at < len; at++)
		((u8 *)vec.q)[at] = ((u8 *)vec.q)[at - size];
	memset((u8 *)vec.q + len, 0, sizeof(vec) - len);
	write_result(c, &vec, len);
	return MKVM_EMU_DONE;
}

/* MOVDDUP, MOVSLDUP and MOVSHDUP duplicate each even-numbered or odd-numbered element. */
static enum mkvm_emu_result run_dup(struct mkvm_emu *c)
{
	unsigned int len = 16 << c->vex.length, size = c->d.width, at;
	unsigned int odd = c->opcode == 0x16 ? size : 0;
	struct mkvm_vec vec = { { 0 } };
	enum mkvm_emu_result res;
	u8 *bytes = (u8 *)vec.q;
	u64 la;

	res = mkvm_emu_linearize(c, c->seg, c->ea, vec_bytes(c), false, &la);
	if (res)
		return res;
	if (!c->vex.kind && vec_bytes(c) == 16 && (la & 15))
		return fault(c, GP_VECTOR);
	res = mem_operand(c, MKVM_EMU_READ, vec_bytes(c), vec.q);
	if (res)
		return res;
	for (at = 0; at < len; at += 2 * size)
		memcpy(bytes + at + size - odd, bytes + at + odd, size);
	write_result(c, &vec, len);
	return MKVM_EMU_DONE;
}

/* Returns the offset in bytes of the part of a vector that the immediate selects. */
static unsigned int part(const struct mkvm_emu *c, unsigned int size, unsigned int len)
{
	return (c->imm & (len / size - 1)) * size;
}

/* PINSRB, INSERTPS, VINSERTF128 and similar: the rest comes from the second source. */
static enum mkvm_emu_result run_insert(struct mkvm_emu *c)
{
	unsigned int size = vec_bytes(c), len = 16 << c->vex.length, at = part(c, size, len), i;
	struct mkvm_vec val = { { 0 } }, vec = { { 0 } };
	enum mkvm_emu_result res = mem_operand(c, MKVM_EMU_READ, size, val.q);

	if (res)
		return res;
	mkvm_emu_vec(c, c->vex.kind ? c->vex.vvvv : vec_register(c), &vec, reach(c), false);
	memset((u8 *)vec.q + len, 0, sizeof(vec) - len);
	if (c->d.op == OP_VEC_INSERTPS)
		at = c->imm >> 2 & 12;
	memcpy((u8 *)vec.q + at, val.q, size);
	for (i = 0; i < 4 && c->d.op == OP_VEC_INSERTPS; i++)
		if (c->imm >> i & 1)
			memset((u8 *)vec.q + 4 * i, 0, 4);
	write_result(c, &vec, len);
	return MKVM_EMU_DONE;
}

/* Executes PEXTRB, EXTRACTPS, VEXTRACTF128 and similar. */
static enum mkvm_emu_result run_extract(struct mkvm_emu *c)
{
	unsigned int size = vec_bytes(c), at = part(c, size, 16 << c->vex.length);
	struct mkvm_vec val = { { 0 } }, vec = { { 0 } };

	mkvm_emu_vec(c, vec_register(c), &vec, reach(c), false);
	memcpy(val.q, (u8 *)vec.q + at, size);
	if (c->vex.mask)
		return store_named(c, &val, masked_bytes(c, size));
	return mem_operand(c, MKVM_EMU_WRITE, size, val.q);
}

/* KMOV: a load clears the rest of the mask register. */
static enum mkvm_emu_result run_kmov(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	u64 val = 0;

	if (c->d.dst == RM) {
		mkvm_emu_mask(c, c->reg, &val, false);
		return mem_operand(c, MKVM_EMU_WRITE, c->d.width, &val);
	}
	res = mem_operand(c, MKVM_EMU_READ, c->d.width, &val);
	if (!res)
		mkvm_emu_mask(c, c->reg, &val, true);
	return res;
}

/* ---- whole registers ---- */

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
	res = mem_operand(c, load ? MKVM_EMU_READ : MKVM_EMU_WRITE, size, val.q);
	if (!res && load)
		mkvm_emu_vec(c, vec_register(c), &val, reach(c), true);
	return res;
}

/* MOVLPS, MOVHPS and similar move a half; VEX forms take the other half from a second register. */
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

/* Executes LDMXCSR and STMXCSR. */
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

/*
 * Size in bytes of the operand, by opcode and ModRM.reg; negative if it is written. 0: undefined.
 * Environments and whole states have 14 and 94 bytes with 16-bit operands.
 */
#define X87_ENV		28
#define X87_STATE	108

static const s8 x87_bytes[8][8] = {
	{4, 4, 4, 4, 4, 4, 4, 4},	 /* D8: arithmetic with a short real */
	/* FLD, FST, FSTP, FLDENV, FLDCW, FNSTENV, FNSTCW */
	{4, 0, -4, -4, X87_ENV, 2, -X87_ENV, -2},
	{4, 4, 4, 4, 4, 4, 4, 4},	 /* with a short integer */
	{4, -4, -4, -4, 0, 10, 0, -10},	 /* FILD, FISTTP, FIST, FISTP, FLD, FSTP */
	{8, 8, 8, 8, 8, 8, 8, 8},	 /* with a long real */
	/* FLD, FISTTP, FST, FSTP, FRSTOR, FNSAVE, FNSTSW */
	{8, -8, -8, -8, X87_STATE, 0, -X87_STATE, -2},
	{2, 2, 2, 2, 2, 2, 2, 2},	 /* with a word integer */
	{2, -2, -2, -2, 10, 8, -10, -8}, /* FILD, FISTTP, FIST, FISTP, FBLD, FILD, FBSTP, FISTP */
};

/* FNSTCW, FNSTSW, FNSTENV and FNSAVE do not wait for a pending exception. */
static bool waits(const struct mkvm_emu *c)
{
	return c->d.op == OP_MMX || (c->reg & 7) < 6 || (c->opcode != 0xd9 && c->opcode != 0xdd);
}

/* The head of a state, as the CPU stores it in 32-bit protected mode; only FOP shares a word. */
struct x87_env {
	u32 fcw, fsw, ftw, fip, fop, fdp, fds;
};

/*
 * Converts the head of a state to the format of the guest's mode, in place, and returns its size.
 * In real and virtual-8086 mode the upper bits of the pointers replace the selectors. The selectors
 * are 0, as on current CPUs. AMD APM vol. 2, "x87 Environment".
 */
static unsigned int pack_env(const struct mkvm_emu *c, void *image)
{
	struct x87_env env = *(struct x87_env *)image;
	u32 fop = env.fop >> 16 & 0x7ff, *wide = image;
	bool real = !protected_mode(c);
	u16 *narrow = image;

	if (c->size == 2) {
		narrow[0] = env.fcw;
		narrow[1] = env.fsw;
		narrow[2] = env.ftw;
		narrow[3] = env.fip;
		narrow[4] = real ? (env.fip >> 4 & 0xf000) | fop : 0;
		narrow[5] = env.fdp;
		narrow[6] = real ? env.fdp >> 4 & 0xf000 : 0;
		return 14;
	}
	wide[4] = fop << 16;
	wide[6] = env.fds & 0xffff0000;
	if (real) {
		wide[3] = (env.fds & 0xffff0000) | (u16)env.fip;
		wide[4] = (env.fip >> 16) << 12 | fop;
		wide[5] = (env.fds & 0xffff0000) | (u16)env.fdp;
		wide[6] = (env.fdp >> 16) << 12;
	}
	return X87_ENV;
}

/* Does the opposite; registers, if any, move behind the larger head. */
static void unpack_env(const struct mkvm_emu *c, void *image)
{
	bool real = !protected_mode(c);
	struct x87_env env = *(struct x87_env *)image;
	const u16 *narrow = image;

	if (c->size == 2) {
		env = (struct x87_env){
			.fcw = narrow[0],
			.fsw = narrow[1],
			.ftw = narrow[2],
			.fip = narrow[3] | (real ? (narrow[4] & 0xf000U) << 4 : 0),
			.fop = real ? (narrow[4] & 0x7ffU) << 16 : 0,
			.fdp = narrow[5] | (real ? (narrow[6] & 0xf000U) << 4 : 0),
		};
		memmove(image + X87_ENV, image + 14, X87_STATE - X87_ENV);
	} else if (real) {
		env.fip = (u16)env.fip | (env.fop >> 12 & 0xffff) << 16;
		env.fop = (env.fop & 0x7ff) << 16;
		env.fdp = (u16)env.fdp | (env.fds >> 12 & 0xffff) << 16;
	}
	env.fop &= 0x7ff0000;		/* without the selectors */
	env.fds = 0;
	*(struct x87_env *)image = env;
}

/* FLDENV, FNSTENV, FRSTOR and FNSAVE; bytes: size of the operand with 32-bit operands. */
static enum mkvm_emu_result run_x87_state(struct mkvm_emu *c, unsigned int bytes, bool store)
{
	unsigned int head = c->size == 2 ? 14 : X87_ENV, len = bytes - X87_ENV + head;
	u8 image[X87_STATE] __aligned(4) = { 0 };
	enum mkvm_emu_result res;
	struct mkvm_fx fx;

	mkvm_emu_fx(c, &fx, false);
	if (!store && (fx.fsw & FSW_PENDING))
		return fault(c, MF_VECTOR);
	if (!store) {
		res = mem_operand(c, MKVM_EMU_READ, len, image);
		if (res)
			return res;
		unpack_env(c, image);
	}
	mkvm_emu_x87(c, &fx, image, !store);
	if (store) {
		memmove(image + pack_env(c, image), image + X87_ENV, bytes - X87_ENV);
		res = mem_operand(c, MKVM_EMU_WRITE, len, image);
		if (res)
			return res;
	}
	mkvm_emu_fx(c, &fx, true);
	return MKVM_EMU_DONE;
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
	mkvm_emu_x87(c, &fx, buf, !store);
	/* The CPU does not store if an unmasked exception occurs; none was pending before. */
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
	if (abs(bytes) >= X87_ENV)
		return run_x87_state(c, abs(bytes), bytes < 0);
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

/* ---- FXSAVE and FXRSTOR ---- */

#define FX_XMM		160		/* offset of the XMM registers in the image */

/* Returns the size of the used image; AMD's EFER.FFXSR omits the XMM registers at CPL 0. */
static unsigned int fx_bytes(const struct mkvm_emu *c)
{
	if (c->mode64 && !c->mode.cpl && (c->mode.efer & EFER_FFXSR))
		return FX_XMM;
	return FX_XMM + 16 * (c->mode64 ? 16 : 8);
}

/* Without REX.W the pointers have 32 bits; their selectors are 0, as on current CPUs. */
static void shorten_pointers(const struct mkvm_emu *c, struct mkvm_fx *fx)
{
	if (c->mode64 && (c->prefix[REX] & 8))
		return;
	fx->rip = (u32)fx->rip;
	fx->rdp = (u32)fx->rdp;
}

/*
 * Executes FXSAVE and FXRSTOR; the unused rest of the image is neither written nor read. AMD APM
 * vol. 2, "FXSAVE and FXRSTOR Instructions".
 */
static enum mkvm_emu_result run_fx(struct mkvm_emu *c)
{
	bool save = c->d.op == OP_FXSAVE;
	unsigned int len = fx_bytes(c);
	struct mkvm_fx fx = { 0 }, image;	/* the CPU leaves reserved bytes as they are */
	enum mkvm_emu_result res;
	u64 la;

	if (c->mode.cr0 & (X86_CR0_EM | X86_CR0_TS))
		return fault(c, NM_VECTOR);
	res = mkvm_emu_linearize(c, c->seg, c->ea, len, save, &la);
	if (res)
		return res;
	if (la & 15)
		return fault(c, GP_VECTOR);
	mkvm_emu_fx(c, &fx, false);
	if (save) {
		shorten_pointers(c, &fx);
		return mem_operand(c, MKVM_EMU_WRITE, len, &fx);
	}
	res = mem_operand(c, MKVM_EMU_READ, len, &image);
	if (res)
		return res;
	if (image.mxcsr & ~(fx.mxcsr_mask ?: 0xffbf))
		return fault(c, GP_VECTOR);
	shorten_pointers(c, &image);
	image.mxcsr_mask = fx.mxcsr_mask;
	memcpy(&fx, &image, len);
	mkvm_emu_fx(c, &fx, true);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_run_vec(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;

	if (c->d.op == OP_X87)
		return run_x87(c);
	if (c->d.op == OP_FXSAVE || c->d.op == OP_FXRSTOR)
		return run_fx(c);
	if (c->d.op == OP_MMX)
		return run_mmx(c);
	res = vec_check(c);
	if (res)
		return res;
	switch (c->d.op) {
	case OP_MXCSR:
		return run_mxcsr(c);
	case OP_VEC_HALF:
		return run_half(c);
	case OP_VEC_REPEAT:
		return run_repeat(c);
	case OP_VEC_DUP:
		return run_dup(c);
	case OP_VEC_INSERT: case OP_VEC_INSERTPS:
		return run_insert(c);
	case OP_VEC_EXTRACT:
		return run_extract(c);
	case OP_VEC_BY_SIGN:
		return run_by_sign(c);
	case OP_VEC_BY_BYTE:
		return run_by_byte(c);
	case OP_KMOV:
		return run_kmov(c);
	}
	return c->vex.mask ? run_masked(c) : run_move(c);
}
